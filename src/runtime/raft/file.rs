//! The file beneath the store: what may be written to it, and what is looked at before.
//!
//! A file is judged on a copy in memory first. Only one that is sound, ours and of a known format
//! is opened for writing, so that whatever is refused stays as it was found. What was judged is
//! what the page cache shows; a sync that failed in an earlier life leaves the disk behind it, and
//! no later sync would tell. So the file is written again as it was read and synced before anything
//! is built on it: as long as the disk fails, the file is not opened. After that every
//! write belongs to a transaction: between transactions, and while the process goes down, the gate
//! is shut, and a stop of any kind looks the same as a crash to the next start.

use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redb::backends::InMemoryBackend;
use redb::{BackendError, Database, DatabaseError, StorageBackend};

/// What redb may keep in memory. The whole store is smaller than that in a quiet cluster.
const CACHE_BYTES: usize = 512 * 1024;

/// The first bytes of every redb file, written last when one is created.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// Written inside the store's identity: bytes that contain it were a store once.
pub(super) const MARKER: &str = "pg_replica store";

/// What a file turned out to be.
pub(super) enum Found {
    /// Nothing was ever kept in it.
    New,
    /// A sound database; this is a copy of it, in memory.
    Sound(Database),
    /// Something else; the sentence says what.
    Damaged(String),
}

/// Lets writes through while at least one transaction is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<AtomicUsize>);

impl Gate {
    /// Runs work with the gate open. A panic inside becomes an error: redb trusts what it reads,
    /// and the bytes may have been damaged under it.
    pub(super) fn pass<T>(&self, work: impl FnOnce() -> Result<T, redb::Error>) -> io::Result<T> {
        self.0.fetch_add(1, Ordering::AcqRel);
        let outcome = caught(work);
        self.0.fetch_sub(1, Ordering::AcqRel);
        outcome?.map_err(|cause| io::Error::other(cause.to_string()))
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Acquire) == 0 {
            return Err(io::Error::other("a write outside of any transaction"));
        }
        Ok(())
    }
}

/// Reads the whole file and says what it is, without writing to it.
pub(super) fn inspect(file: &impl StorageBackend) -> io::Result<Found> {
    let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read(0, &mut bytes)?;
    if bytes.is_empty() || creation_was_cut_short(&bytes) {
        return Ok(Found::New);
    }
    let copy = InMemoryBackend::new();
    copy.set_len(length as u64)?;
    copy.write(0, &bytes)?;
    let opened = caught(move || {
        redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(copy)
    });
    Ok(match opened {
        Ok(Ok(database)) => Found::Sound(database),
        Ok(Err(cause)) => Found::Damaged(cause.to_string()),
        Err(cause) => Found::Damaged(cause.to_string()),
    })
}

/// Opens a file that was found new or sound.
pub(super) fn open<F: StorageBackend>(file: F, new: bool, gate: &Gate) -> io::Result<Database> {
    let gated = Gated { file, gate: gate.clone() };
    gate.pass(move || {
        if new {
            gated.set_len(0).map_err(redb::StorageError::from)?;
        } else {
            write_again(&gated).map_err(redb::StorageError::from)?;
        }
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        builder.create_with_backend(gated).map_err(DatabaseError::into)
    })
}

/// Makes what the page cache shows durable, whatever became of the syncs before.
fn write_again(file: &impl StorageBackend) -> io::Result<()> {
    const PIECE: u64 = 64 * 1024;
    let length = file.len()?;
    for offset in (0..length).step_by(PIECE as usize) {
        let piece = PIECE.min(length - offset);
        let mut bytes = vec![0; usize::try_from(piece).map_err(io::Error::other)?];
        file.read(offset, &mut bytes)?;
        file.write(offset, &bytes)?;
    }
    file.sync_data()
}

/// Runs `work` and turns a panic into an error.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        io::Error::other("the embedded database found its own file inconsistent and gave up")
    })
}

/// Whether power was lost while redb laid the file out. The magic number comes last and may be
/// torn; a file with a broken magic number that ever held an identity is a damaged store instead.
fn creation_was_cut_short(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(MAGIC.len())];
    let complete = head.len() == MAGIC.len() && head == MAGIC;
    let torn = head.iter().zip(MAGIC).all(|(found, meant)| *found == 0 || *found == meant);
    torn && !complete && !contains(bytes, MARKER.as_bytes())
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A file behind its gate.
#[derive(Debug)]
struct Gated<F> {
    file: F,
    gate: Gate,
}

impl<F: StorageBackend> StorageBackend for Gated<F> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.gate.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.gate.check()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }
}
