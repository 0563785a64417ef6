//! The node's own files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::env::{Disk, DiskError};

/// A directory that belongs to this node alone.
#[derive(Clone, Debug)]
pub struct OsDisk {
    folder: Arc<PathBuf>,
    /// Held for as long as the node lives; the kernel lets go of it with the process.
    _lock: Arc<File>,
}

impl OsDisk {
    /// The files below `folder`, which is created where it is missing. Refused where another node
    /// works in it.
    pub fn new(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::Error::other("another node runs there"),
            other => other.into(),
        })?;
        Ok(Self { folder: Arc::new(folder.to_owned()), _lock: Arc::new(lock) })
    }
}

impl Disk for OsDisk {
    type File = FileBackend;

    fn open(&self, name: &str) -> Result<FileBackend, DiskError> {
        let path = self.folder.join(name);
        let refused = |cause: String| DiskError::Open { file: path.display().to_string(), cause };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| refused(error.to_string()))?;
        // A file whose name is not on the disk is no file after a power loss.
        let folder = File::open(&*self.folder).map_err(|error| refused(error.to_string()))?;
        folder.sync_all().map_err(|error| refused(error.to_string()))?;
        FileBackend::new(file).map_err(|error| refused(error.to_string()))
    }

    async fn run<T, F>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down, and nobody will look at an answer any more.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
