//! The node's own files: the consensus log, the vote and the control state.

use std::future::Future;

/// Why a file could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The operating system refused.
    #[error("cannot open {file}: {cause}")]
    Open {
        /// The file's name.
        file: String,
        /// What the system said.
        cause: String,
    },
}

/// A machine's disk.
pub trait Disk: Clone + Send + Sync + 'static {
    /// One file, in the form that the embedded store writes to: read, write at an offset, set the
    /// length, sync. What was written is durable after the sync that follows it, and not before;
    /// a crash keeps any part of what was not synced, torn at any byte.
    type File: redb::StorageBackend;

    /// Opens `name`, creating an empty file where there is none. Opening twice yields two handles
    /// to the same bytes; the store above takes care that it happens once per process.
    fn open(&self, name: &str) -> Result<Self::File, DiskError>;

    /// Runs work that reads, writes and syncs files, and returns when the syncs in it have taken
    /// the time that they take. The work must not be assumed durable before this returns. Work
    /// whose future is dropped may have happened or not.
    fn run<T, F>(&self, work: F) -> impl Future<Output = T> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static;
}
