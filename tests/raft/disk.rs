//! A disk in memory that can be looked at, cut off, damaged and broken.

use std::io;
use std::sync::{Arc, Mutex};

use pg_replica::env::{Disk, DiskError};
use pg_replica::runtime::raft::FILE;

/// One call that changes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Length(u64),
    Write(u64, Vec<u8>),
    Sync,
}

impl Change {
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length as usize, 0),
            Self::Write(offset, data) => {
                let start = *offset as usize;
                let end = start + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(data);
            }
            Self::Sync => {}
        }
    }
}

#[derive(Debug, Default)]
struct FileState {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    changes: Vec<Change>,
    broken: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryFile(Arc<Mutex<FileState>>);

impl MemoryFile {
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        let synced = bytes.clone();
        Self(Arc::new(Mutex::new(FileState { synced, bytes, ..FileState::default() })))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    pub(crate) fn synced(&self) -> Vec<u8> {
        self.0.lock().unwrap().synced.clone()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap().changes.clone()
    }

    pub(crate) fn break_down(&self) {
        self.0.lock().unwrap().broken = true;
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.broken {
            return Err(io::Error::other("the disk is broken"));
        }
        change.apply(&mut state.bytes);
        if matches!(change, Change::Sync) {
            state.synced = state.bytes.clone();
        }
        state.changes.push(change);
        Ok(())
    }
}

impl redb::StorageBackend for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let start = offset as usize;
        let found = state.bytes.get(start..start + out.len());
        out.copy_from_slice(found.ok_or_else(|| io::Error::other("read beyond the end"))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Change::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }
}

/// A disk with the one file that the store uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(pub(crate) MemoryFile);

impl MemoryDisk {
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        Self(MemoryFile::holding(bytes))
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn open(&self, name: &str) -> Result<MemoryFile, DiskError> {
        assert_eq!(name, FILE);
        Ok(self.0.clone())
    }

    async fn run<T, F>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        work()
    }
}
