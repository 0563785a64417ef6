//! The durable part of consensus on one member: log, vote, identity and the applied state.
//!
//! One redb file holds all of it. What Raft reads often is mirrored in memory and changes there
//! only after the transaction that changed the file is durable. Committed positions are not kept
//! of their own: the applied state is durable before anybody sees it, and says the same.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use openraft_rt::AsyncRuntime;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::control::{self, ControlState};
use crate::env::Disk;
use crate::ids::{Incarnation, NodeId};
use crate::sabotage::{Sabotage, Saboteur};

use super::error::OpenError;
use super::file::{self, Found, Gate, MARKER};
use super::types::{Entry, LogId, StoredMembership, TypeConfig, Vote};

/// The file's name on the member's disk.
pub const FILE: &str = "raft.redb";
/// The layout that this version writes, and the newest that it reads. It is raised with anything
/// that an older version could not read, an entry of the log among others.
const FORMAT: u32 = 1;

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const IDENTITY: &str = "identity";
const VOTE: &str = "vote";
const PURGED: &str = "purged";
const APPLIED: &str = "applied";
const CONTROL: &str = "control";

/// Whose store is to be opened.
#[derive(Clone, Debug)]
pub struct StoreOwner {
    /// The member.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: String,
    /// What a new store is to be known by; an existing one keeps what it has.
    pub fresh: Incarnation,
}

/// How far the log was applied, and the membership as of then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) last_applied: Option<LogId>,
    pub(super) membership: StoredMembership,
}

/// What the state machine starts from.
#[derive(Debug)]
pub struct Resumed {
    pub(super) progress: Progress,
    pub(super) control: ControlState,
}

/// The store. Clones share everything.
#[derive(Debug)]
pub struct Store<D: Disk> {
    disk: D,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` only while it is being dropped.
    database: Option<Database>,
    gate: Gate,
    mirror: Mutex<Mirror>,
    incarnation: Incarnation,
    sabotage: Sabotage,
}

#[derive(Debug, Default)]
struct Mirror {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    purged: Option<LogId>,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    marker: String,
    format: u32,
    cluster: String,
    node: NodeId,
    incarnation: Incarnation,
}

#[derive(Deserialize)]
struct Envelope {
    format: u32,
}

/// What a sound file holds.
struct Contents {
    identity: Identity,
    mirror: Mirror,
    resumed: Resumed,
}

impl<D: Disk> Store<D> {
    /// Opens the store, or creates it on a disk that has none. A file that is refused stays as it
    /// was found.
    pub async fn open(
        disk: &D,
        owner: StoreOwner,
        sabotage: Sabotage,
    ) -> Result<(Self, Resumed), OpenError> {
        let file = disk.open(FILE)?;
        let (shared, resumed) = disk.run(move || open_file(file, &owner, sabotage)).await?;
        Ok((Self { disk: disk.clone(), shared: Arc::new(shared) }, resumed))
    }

    /// What this store is known by.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// Makes the applied state durable; `control` is `None` where it did not change.
    pub(super) async fn save_applied(
        &self,
        progress: &Progress,
        control: Option<Vec<u8>>,
    ) -> io::Result<()> {
        let progress = serde_json::to_vec(progress)?;
        self.transact(Durability::Immediate, move |transaction| {
            let mut meta = transaction.open_table(META)?;
            meta.insert(APPLIED, progress.as_slice())?;
            if let Some(control) = control {
                meta.insert(CONTROL, control.as_slice())?;
            }
            Ok(())
        })
        .await
    }

    async fn transact<F>(&self, durability: Durability, work: F) -> io::Result<()>
    where
        F: FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    {
        let shared = self.shared.clone();
        self.disk.run(move || shared.gate.pass(|| commit(&shared.database, durability, work))).await
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.shared.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self { disk: self.disk.clone(), shared: self.shared.clone() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // redb may panic when it is closed after a panic of its own, and a panic that meets
        // another one ends the process. What closing would write does not pass the gate anyway.
        let _ = file::caught(|| drop(self.database.take()));
    }
}

impl<D: Disk, Rt: AsyncRuntime + Send + Sync> RaftLogReader<TypeConfig<Rt>> for Store<D> {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        Ok(self.mirror().entries.range(bounds).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.mirror().vote)
    }
}

impl<D: Disk, Rt: AsyncRuntime + Send + Sync> RaftLogStorage<TypeConfig<Rt>> for Store<D> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig<Rt>>> {
        let mirror = self.mirror();
        let last = mirror.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: mirror.purged, last_log_id: last.or(mirror.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        if !self.shared.sabotage.is(Saboteur::ForgetVote) {
            let bytes = serde_json::to_vec(&vote)?;
            self.transact(Durability::Immediate, move |transaction| {
                transaction.open_table(META)?.insert(VOTE, bytes.as_slice())?;
                Ok(())
            })
            .await?;
        }
        self.mirror().vote = Some(vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<Rt>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut rows = Vec::with_capacity(entries.len());
        for entry in &entries {
            rows.push((entry.log_id.index, serde_json::to_vec(entry)?));
        }
        let durability = if self.shared.sabotage.is(Saboteur::AckLogBeforeSync) {
            Durability::None
        } else {
            Durability::Immediate
        };
        self.transact(durability, move |transaction| {
            let mut log = transaction.open_table(LOG)?;
            for (index, row) in &rows {
                log.insert(index, row.as_slice())?;
            }
            Ok(())
        })
        .await?;
        self.mirror().entries.extend(entries.into_iter().map(|e| (e.log_id.index, e)));
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let first_gone = last_log_id.map_or(0, |id| id.index + 1);
        self.transact(Durability::Immediate, move |transaction| {
            transaction.open_table(LOG)?.retain_in(first_gone.., |_, _| false)?;
            Ok(())
        })
        .await?;
        self.mirror().entries.split_off(&first_gone);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let purged = serde_json::to_vec(&log_id)?;
        let first_kept = log_id.index + 1;
        self.transact(Durability::Immediate, move |transaction| {
            transaction.open_table(META)?.insert(PURGED, purged.as_slice())?;
            transaction.open_table(LOG)?.retain_in(..first_kept, |_, _| false)?;
            Ok(())
        })
        .await?;
        let mut mirror = self.mirror();
        mirror.entries = mirror.entries.split_off(&first_kept);
        mirror.purged = Some(log_id);
        Ok(())
    }
}

fn commit<F>(
    database: &Option<Database>,
    durability: Durability,
    work: F,
) -> Result<(), redb::Error>
where
    F: FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
{
    let database = database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    work(&transaction)?;
    transaction.commit()?;
    Ok(())
}

fn open_file<F: redb::StorageBackend>(
    file: F,
    owner: &StoreOwner,
    sabotage: Sabotage,
) -> Result<(Shared, Resumed), OpenError> {
    let unusable = |cause| OpenError::Unusable { file: FILE, cause };
    let found = file::inspect(&file).map_err(unusable)?;
    let (new, known) = match found {
        Found::New => (true, None),
        Found::Damaged(cause) => return Err(OpenError::Damaged { file: FILE, cause }),
        // A panic of redb while it reads means the same as an error that it returns.
        Found::Sound(copy) => {
            let contents = file::caught(|| read(copy))
                .unwrap_or_else(|cause| Err(ReadError::Damaged(cause.to_string())));
            (false, contents.map_err(OpenError::from)?)
        }
    };
    if let Some(contents) = &known {
        check_owner(&contents.identity, owner)?;
    }
    let gate = Gate::default();
    let database = Some(file::open(file, new, &gate).map_err(unusable)?);
    let contents = match known {
        Some(contents) => contents,
        None => gate.pass(|| found_store(&database, owner)).map_err(unusable)?,
    };
    let shared = Shared {
        database,
        gate,
        mirror: Mutex::new(contents.mirror),
        incarnation: contents.identity.incarnation,
        sabotage,
    };
    Ok((shared, contents.resumed))
}

/// Writes the identity into a store that has none yet.
fn found_store(database: &Option<Database>, owner: &StoreOwner) -> Result<Contents, redb::Error> {
    let identity = Identity {
        marker: MARKER.to_owned(),
        format: FORMAT,
        cluster: owner.cluster.clone(),
        node: owner.node,
        incarnation: owner.fresh,
    };
    let bytes = serde_json::to_vec(&identity)
        .map_err(|cause| redb::Error::Io(std::io::Error::other(cause)))?;
    commit(database, Durability::Immediate, |transaction| {
        transaction.open_table(LOG)?;
        transaction.open_table(META)?.insert(IDENTITY, bytes.as_slice())?;
        Ok(())
    })?;
    let resumed = Resumed { progress: Progress::default(), control: ControlState::default() };
    Ok(Contents { identity, mirror: Mirror::default(), resumed })
}

fn check_owner(identity: &Identity, owner: &StoreOwner) -> Result<(), OpenError> {
    if identity.cluster != owner.cluster {
        return Err(OpenError::OtherCluster {
            found: identity.cluster.clone(),
            expected: owner.cluster.clone(),
        });
    }
    if identity.node != owner.node {
        return Err(OpenError::OtherNode { found: identity.node, expected: owner.node });
    }
    Ok(())
}

enum ReadError {
    Damaged(String),
    Newer(String),
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(cause) => Self::Damaged { file: FILE, cause },
            ReadError::Newer(what) => Self::Newer(what),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Damaged(error.into().to_string())
    }
}

/// Reads everything; `None` where no identity was ever written, which means that nothing was.
fn read(database: Database) -> Result<Option<Contents>, ReadError> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let envelope: Option<Envelope> = value(&meta, IDENTITY)?;
    match envelope {
        Some(Envelope { format }) if format > FORMAT => {
            return Err(ReadError::Newer(format!(
                "it has layout {format} and this version reads up to {FORMAT}"
            )));
        }
        Some(_) => {}
        None => return Err(ReadError::Damaged("it does not say whose it is".into())),
    }
    let Some(identity) = value(&meta, IDENTITY)? else {
        return Err(ReadError::Damaged("it does not say whose it is".into()));
    };
    let mut entries = BTreeMap::new();
    for row in transaction.open_table(LOG)?.iter()? {
        let (index, bytes) = row?;
        entries.insert(index.value(), parse("a log entry", bytes.value())?);
    }
    let control = match meta.get(CONTROL)? {
        Some(bytes) => control::decode(bytes.value()).map_err(|error| match error {
            control::SnapshotError::Newer { .. } => ReadError::Newer(error.to_string()),
            control::SnapshotError::Damaged(_) => ReadError::Damaged(error.to_string()),
        })?,
        None => ControlState::default(),
    };
    let resumed = Resumed { progress: value(&meta, APPLIED)?.unwrap_or_default(), control };
    let mirror = Mirror { entries, vote: value(&meta, VOTE)?, purged: value(&meta, PURGED)? };
    Ok(Some(Contents { identity, mirror, resumed }))
}

fn value<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<T>, ReadError> {
    match meta.get(key)? {
        Some(bytes) => parse(key, bytes.value()).map(Some),
        None => Ok(None),
    }
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ReadError> {
    serde_json::from_slice(bytes).map_err(|cause| ReadError::Damaged(format!("{what}: {cause}")))
}
