//! Disks that lose what was not synced.
//!
//! A file has two faces: what processes see (the page cache) and what a power loss leaves. Between
//! them lies a journal of writes and of barriers: a barrier is a sync that the work has issued and
//! whose time has not passed. The disk does not know what is in its files.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pg_replica::env::{Disk, DiskError};
use tokio::sync::Notify;

use crate::clock::{sleep_until_true, true_now};
use crate::streams::{Stream, lock};

/// "Input/output error".
const EIO: i32 = 5;
/// "Bad file descriptor".
const EBADF: i32 = 9;
/// "No space left on device".
const ENOSPC: i32 = 28;

/// A machine's disk. Its clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Inner>);

/// A handle to a file. It belongs to the process that opened it and is dead when that is.
pub struct SimFile {
    disk: SimDisk,
    name: String,
    process: u64,
}

struct Inner {
    stream: Stream,
    state: Mutex<State>,
    unstalled: Notify,
}

struct State {
    files: BTreeMap<String, Bytes>,
    /// Counts the processes that used this disk: a handle of an older one is refused, because what
    /// a destructor writes after a crash never happened.
    process: u64,
    /// The sum of what the work under way costs, while it is under way.
    bill: Option<Bill>,
    /// When the syncs that were issued before are done: the next one queues behind them.
    busy_until: Duration,
    next_barrier: u64,
    faults: Faults,
}

#[derive(Default)]
struct Bill {
    cost: Duration,
    barriers: Vec<(String, u64)>,
}

struct Faults {
    stalled: bool,
    stalls: u64,
    slow: f64,
    full: bool,
    failing_writes: bool,
    failing_syncs: bool,
}

#[derive(Default)]
struct Bytes {
    seen: Vec<u8>,
    durable: Vec<u8>,
    journal: VecDeque<Entry>,
}

enum Entry {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    Length(usize),
    /// Everything before it is durable before anything after it happens.
    Barrier(u64),
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        let faults = Faults {
            stalled: false,
            stalls: 0,
            slow: 1.0,
            full: false,
            failing_writes: false,
            failing_syncs: false,
        };
        let state = State {
            files: BTreeMap::new(),
            process: 0,
            bill: None,
            busy_until: Duration::ZERO,
            next_barrier: 0,
            faults,
        };
        Self(Arc::new(Inner { stream, state: Mutex::new(state), unstalled: Notify::new() }))
    }

    /// Syncs do not end while the disk is stalled.
    pub fn set_stalled(&self, stalled: bool) {
        let faults = &mut self.state().faults;
        faults.stalls += u64::from(stalled && !faults.stalled);
        faults.stalled = stalled;
        if !stalled {
            self.0.unstalled.notify_waiters();
        }
    }

    /// Syncs take `factor` times as long as they usually do.
    pub fn set_slow(&self, factor: f64) {
        self.state().faults.slow = factor.max(0.0);
    }

    /// No file can grow while the disk is full.
    pub fn set_full(&self, full: bool) {
        self.state().faults.full = full;
    }

    /// Writes fail, syncs fail, or both. After a failed sync what was to be synced may be on disk
    /// or not, and no later sync will tell: this is what Linux does.
    pub fn set_failing(&self, writes: bool, syncs: bool) {
        let mut state = self.state();
        state.faults.failing_writes = writes;
        state.faults.failing_syncs = syncs;
    }

    /// Ends every fault.
    pub fn heal(&self) {
        self.set_failing(false, false);
        self.set_full(false);
        self.set_slow(1.0);
        self.set_stalled(false);
    }

    /// The process that used the disk is dead. The page cache survives it; its handles do not.
    pub fn process_crash(&self) {
        let mut state = self.state();
        state.process += 1;
        state.busy_until = Duration::ZERO;
    }

    /// The machine lost its power. What was durable stays; of everything else any part may have
    /// reached the disk, whole or torn, except what waited for a sync that did not end.
    pub fn power_loss(&self) {
        self.process_crash();
        let stream = &self.0.stream;
        for bytes in self.state().files.values_mut() {
            bytes.power_loss(stream);
        }
    }

    /// Writes a small file that no model of a process reads back: how that ends.
    pub async fn scribble(&self) -> io::Result<()> {
        self.wait_while_stalled().await;
        let faults = &self.state().faults;
        if faults.full {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        if faults.failing_writes { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    /// The number of the stall in which whoever writes now waits, where there is one.
    #[must_use]
    pub fn stall(&self) -> Option<u64> {
        let faults = &self.state().faults;
        faults.stalled.then_some(faults.stalls)
    }

    /// The disk was replaced by an empty one.
    pub fn wipe(&self) {
        self.process_crash();
        self.state().files.clear();
    }

    /// What a process would read in `name` now; `None` where there is no such file.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.state().files.get(name).map(|bytes| bytes.seen.clone())
    }

    /// What is certain to survive a power loss of `name`.
    #[must_use]
    pub fn durable_contents(&self, name: &str) -> Option<Vec<u8>> {
        self.state().files.get(name).map(|bytes| bytes.durable.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Runs the work at once and returns its result with the instant at which its syncs end.
    fn execute<T>(&self, work: impl FnOnce() -> T) -> (T, u64, Option<Duration>, Bill) {
        let process = {
            let mut state = self.state();
            state.bill = Some(Bill::default());
            state.process
        };
        let result = work();
        let mut state = self.state();
        let bill = state.bill.take().unwrap_or_default();
        if bill.barriers.is_empty() {
            return (result, process, None, bill);
        }
        let cost = bill.cost.mul_f64(state.faults.slow);
        state.busy_until = state.busy_until.max(true_now()) + cost;
        (result, process, Some(state.busy_until), bill)
    }

    async fn wait_while_stalled(&self) {
        while self.state().faults.stalled {
            // Nothing can come between the look and the wait: there is one thread.
            self.0.unstalled.notified().await;
        }
    }

    /// The syncs have ended: what they covered is durable.
    fn settle(&self, process: u64, bill: &Bill) {
        let mut state = self.state();
        if state.process != process {
            return;
        }
        for (name, barrier) in &bill.barriers {
            if let Some(bytes) = state.files.get_mut(name) {
                bytes.settle(*barrier);
            }
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn open(&self, name: &str) -> Result<SimFile, DiskError> {
        let mut state = self.state();
        state.files.entry(name.to_owned()).or_default();
        Ok(SimFile { disk: self.clone(), name: name.to_owned(), process: state.process })
    }

    fn run<T, F>(&self, work: F) -> impl Future<Output = T> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let disk = self.clone();
        async move {
            let (result, process, done_at, bill) = disk.execute(work);
            if let Some(done_at) = done_at {
                sleep_until_true(done_at).await;
                disk.wait_while_stalled().await;
                disk.settle(process, &bill);
            }
            result
        }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl SimFile {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut Bytes, &Faults) -> io::Result<T>,
    ) -> Result<T, io::Error> {
        let mut state = self.disk.state();
        if state.process != self.process {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        let State { files, faults, .. } = &mut *state;
        let bytes = files.get_mut(&self.name).expect("only a wipe removes files, and ends handles");
        act(bytes, faults)
    }

    fn charge(&self, cost: Duration) {
        if let Some(bill) = &mut self.disk.state().bill {
            bill.cost += cost;
        }
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.name)
    }
}

impl redb::StorageBackend for SimFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.with(|bytes, _| Ok(bytes.seen.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.with(|bytes, _| {
            let start = position(offset)?;
            let end = start.saturating_add(out.len());
            let part = bytes.seen.get(start..end);
            out.copy_from_slice(part.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        self.with(|bytes, faults| {
            let length = position(length)?;
            faults.check_write(length > bytes.seen.len())?;
            bytes.seen.resize(length, 0);
            bytes.journal.push_back(Entry::Length(length));
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        const TYPICAL: Duration = Duration::from_micros(2_500);
        const WORST: Duration = Duration::from_millis(60);
        let stream = &self.disk.0.stream;
        let cost = stream.long_tail(TYPICAL, WORST);
        let barrier = {
            let mut state = self.disk.state();
            state.next_barrier += 1;
            state.next_barrier
        };
        self.with(|bytes, faults| {
            if faults.failing_syncs {
                bytes.lose_track(stream);
                return Err(io::Error::from_raw_os_error(EIO));
            }
            bytes.journal.push_back(Entry::Barrier(barrier));
            Ok(())
        })?;
        let mut state = self.disk.state();
        match &mut state.bill {
            Some(bill) => {
                bill.cost += cost;
                bill.barriers.push((self.name.clone(), barrier));
            }
            // Outside of `run` nobody waits, so nothing can be lost while they do.
            None => {
                if let Some(bytes) = state.files.get_mut(&self.name) {
                    bytes.settle(barrier);
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        const PER_WRITE: Duration = Duration::from_micros(10);
        self.with(|bytes, faults| {
            let start = position(offset)?;
            faults.check_write(start + data.len() > bytes.seen.len())?;
            put(&mut bytes.seen, start, data);
            bytes.journal.push_back(Entry::Write { offset: start, data: data.to_vec() });
            Ok(())
        })?;
        self.charge(PER_WRITE);
        Ok(())
    }
}

impl Faults {
    fn check_write(&self, grows: bool) -> io::Result<()> {
        if self.failing_writes {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if self.full && grows {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }
}

impl Bytes {
    /// Makes everything before `barrier` durable; nothing where a later one did so already.
    fn settle(&mut self, barrier: u64) {
        let is_it = |entry: &Entry| matches!(entry, Entry::Barrier(number) if *number == barrier);
        let Some(end) = self.journal.iter().position(is_it) else { return };
        for entry in self.journal.drain(..=end) {
            entry.reach(&mut self.durable);
        }
    }

    /// A sync failed: each write since the last one is on disk or never will be, and the page
    /// cache forgets that it owes it.
    fn lose_track(&mut self, stream: &Stream) {
        let last = self.journal.iter().rposition(|entry| matches!(entry, Entry::Barrier(_)));
        let owed = self.journal.split_off(last.map_or(0, |last| last + 1));
        let kept = owed.into_iter().filter(|_| stream.chance(0.5));
        self.journal.extend(kept);
    }

    /// Draws how many of the syncs under way had ended, and what became of the writes that the
    /// next one was to cover. Whatever waited behind that was never issued.
    fn power_loss(&mut self, stream: &Stream) {
        let barriers =
            self.journal.iter().filter(|entry| matches!(entry, Entry::Barrier(_))).count() as u64;
        let mut ended = stream.below(barriers + 1);
        for entry in std::mem::take(&mut self.journal) {
            match entry {
                Entry::Barrier(_) if ended == 0 => break,
                Entry::Barrier(_) => ended -= 1,
                Entry::Write { .. } | Entry::Length(_) if ended > 0 => {
                    entry.reach(&mut self.durable);
                }
                Entry::Write { .. } | Entry::Length(_) => match stream.below(3) {
                    0 => {}
                    1 => entry.reach(&mut self.durable),
                    _ => entry.torn(stream).reach(&mut self.durable),
                },
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

impl Entry {
    fn reach(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => put(bytes, offset, &data),
            Self::Length(length) => bytes.resize(length, 0),
            Self::Barrier(_) => {}
        }
    }

    /// The first part of a write; a length is changed or not.
    fn torn(self, stream: &Stream) -> Self {
        match self {
            Self::Write { offset, mut data } => {
                let kept = stream.below(data.len() as u64 + 1);
                data.truncate(usize::try_from(kept).expect("it is at most a length"));
                Self::Write { offset, data }
            }
            Self::Length(_) | Self::Barrier(_) => self,
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
