//! The database server of this machine, as verbs.
//!
//! One contract, two implementations: the real server and the simulator's model run the same
//! contract suite. There is no `query(&str)`: what the node may do to Postgres is listed here.
//!
//! Where the contract asks for something in particular, a real server was seen to behave otherwise:
//! `docs/postgres.md` has what was measured and what an implementation does about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Lsn, NodeId, SystemId, Timeline, WalPosition};

/// How long a look may take: a server that has not answered by then is `Process::Hung`. The other
/// verbs have their limits in `ha::patience`, which ends them by a stop.
pub const OBSERVE_WITHIN: Duration = Duration::from_millis(800);
/// How long `clone_from` and `rewind` wait for a source that says nothing.
pub const SOURCE_WITHIN: Duration = Duration::from_secs(5);
/// A standby hears from its running primary at least this often, whatever that one's manager does:
/// it may be dead while its Postgres is well, and that a standby still hears it is the second of
/// two signals. A walsender says so little by itself that the standby has to ask.
pub const KEEPALIVE: Duration = Duration::from_millis(300);
/// `wal_sender_timeout`: a standby that has not answered for so long is given up by its walsender,
/// and its slot is free for its next connection. Long enough for a network that loses messages.
pub const STANDBY_SILENT_FOR_MAX: Duration = Duration::from_millis(2_500);

/// How a verb ended. The ambiguous end is a first-class one: the core observes again before it
/// concludes anything from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It happened and is as durable as the verb promises.
    Done(T),
    /// It did not happen, for this reason.
    Failed(PostgresError),
    /// It may have happened, in part or in whole.
    Unknown,
}

/// Why a verb failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// Trying again later may succeed: the other side is not there, a limit was reached.
    #[error("{0}")]
    Transient(String),
    /// Trying the same again will fail again: the histories have no common ancestor, the needed
    /// log was recycled, the directory belongs to another cluster.
    #[error("{0}")]
    Permanent(String),
    /// Nothing is known about the effect: the deadline passed in the middle.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

impl PostgresError {
    /// Whether trying again later may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient(_) | Self::Unknown(_))
    }

    /// Whether the verb may have had its effect.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// What the server's process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Process {
    /// No process. `clean` says that it was shut down and wrote its last checkpoint.
    Down {
        /// Whether the control file says that it was shut down.
        clean: bool,
    },
    /// Started, and not yet consistent: it recovers what its own disk holds, or streams what it
    /// lacks. It answers nobody and cannot be promoted.
    Starting,
    /// Answers.
    Up,
    /// A stop was asked for and is under way.
    Stopping,
    /// A process exists and does not answer within its deadline.
    Hung,
}

/// Which side of replication a server is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// Out of recovery: it writes.
    Primary,
    /// In recovery (`standby.signal` where it is down).
    Standby,
}

/// One line of a data directory's history: on which timeline it continued, from where, and under
/// whose primacy that timeline was created.
///
/// The server knows number and beginning; the epoch is the manager's. It is durable before the
/// timeline can exist, and whoever gets the timeline, by streaming, copy or rewind, gets it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TimelineBirth {
    /// The timeline.
    pub timeline: Timeline,
    /// The epoch whose holder created it. Epoch 0 says that no holder of this cluster did, or that
    /// nobody can tell: such a timeline is nowhere on record.
    pub born: Epoch,
    /// Its first position: where it left its parent.
    pub begins: Lsn,
}

/// A standby's receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverState {
    /// The server it streams from.
    pub upstream: NodeId,
    /// The epoch in the name under which it attached.
    pub epoch: Epoch,
    /// How long ago the upstream was last heard: a message of the stream, or an answer to a
    /// question put to it outside of the stream (see [`KEEPALIVE`]).
    pub silent_for: Duration,
}

/// A primary's view of one standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// The standby.
    pub node: NodeId,
    /// The epoch in the name under which it attached.
    pub epoch: Epoch,
    /// What it confirmed to be on its disk.
    pub flushed: Lsn,
}

/// `synchronous_standby_names`: `confirmations` of `standbys`, by the names of one epoch only. No
/// confirmations means asynchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SyncNames {
    /// The epoch in the names. A standby that attached under another epoch's name does not count.
    pub epoch: Epoch,
    /// `ANY k`: how many confirmations a commit waits for.
    pub confirmations: u32,
    /// The standbys whose confirmations count.
    pub standbys: BTreeSet<NodeId>,
}

impl fmt::Display for SyncNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.confirmations == 0 {
            return f.write_str("async");
        }
        let names: Vec<String> = self.standbys.iter().map(ToString::to_string).collect();
        write!(f, "any {} ({}) of {}", self.confirmations, names.join(","), self.epoch)
    }
}

/// Whom to copy from or to follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// The primary.
    pub node: NodeId,
    /// Its Postgres address.
    pub address: String,
    /// The epoch of its primacy: it becomes part of the name under which this server attaches.
    pub epoch: Epoch,
}

/// How to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAs {
    /// As the primary of `epoch`, with this synchronous configuration in force before the first
    /// session, and closed to clients until `admit`.
    Primary {
        /// The primacy.
        epoch: Epoch,
        /// The configuration.
        sync: SyncNames,
    },
    /// In recovery.
    Standby {
        /// Whom to stream from as soon as the log on its own disk is replayed. A directory that is
        /// not `complete` reaches consistency in no other way; any other can do without, and
        /// `follow` comes after.
        upstream: Option<Upstream>,
    },
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopHow {
    /// Checkpoint, end the sessions, ship everything to the attached standbys, write the shutdown
    /// checkpoint.
    Fast,
    /// At once, children first; the next start recovers.
    Immediate,
}

/// What a rewind did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewindReport {
    /// The first position that only the rewound directory had.
    pub diverged_from: Lsn,
    /// The end of what only it had. The log between the two was set aside. Equal to the beginning
    /// where the tool found nothing to do.
    pub diverged_to: Lsn,
}

/// Everything there is to see of a server without asking it to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The cluster that the data directory belongs to; `None` where the directory is empty.
    pub system: Option<SystemId>,
    /// Whether the server ever left single-user hands: a directory that `initdb` made and nothing
    /// else happened to holds no data of anybody.
    pub ever_started: bool,
    /// The process.
    pub process: Process,
    /// In recovery or not.
    pub side: Side,
    /// It is in recovery and was told to end it, in this epoch: it becomes primary once it has
    /// replayed all that it has, whether or not whoever told it lives to see that.
    pub promoting: Option<Epoch>,
    /// The directory's timelines, oldest first.
    pub history: Vec<TimelineBirth>,
    /// Whether the log on this disk reaches the point from which the directory is consistent. It
    /// does not after a rewind, until the log that the source wrote meanwhile has been streamed.
    pub complete: bool,
    /// The end of what is on disk, in whole records as far as these can be told; `None` where only
    /// a recovery can tell. That is so while it is down, unless a primary was shut down cleanly;
    /// while it is starting; and, of a standby, for as long as the log that it had on its disk when
    /// it started is not replayed. A position that is too small loses commits; none costs time.
    pub flushed: Option<Lsn>,
    /// What has been replayed; equals `flushed` on a primary.
    pub replayed: Option<Lsn>,
    /// The receiver, where one is attached.
    pub receiver: Option<ReceiverState>,
    /// Why the upstream that this server was told to follow will never stream to it, in its own
    /// words: the log that is needed was removed, or this server's position is not in its history.
    /// `None` while it streams, and while it does not only because the upstream is out of reach,
    /// starting up, or not a primary: waiting helps there, and a copy would not.
    pub starved: Option<String>,
    /// The standbys attached to this server.
    pub streams: Vec<StreamState>,
    /// The synchronous configuration in force: every walsender obeys it.
    pub sync: SyncNames,
    /// Whether clients are let in.
    pub admits: bool,
    /// The parameters of the cluster's that it was given last.
    pub parameters: BTreeMap<String, String>,
    /// Those whose new values wait for a restart.
    pub pending_restart: Vec<String>,
}

impl Observation {
    /// What an empty directory shows.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self {
            system: None,
            ever_started: false,
            process: Process::Down { clean: true },
            side: Side::Standby,
            promoting: None,
            history: Vec::new(),
            complete: true,
            flushed: None,
            replayed: None,
            receiver: None,
            starved: None,
            streams: Vec::new(),
            sync: SyncNames::default(),
            admits: false,
            parameters: BTreeMap::new(),
            pending_restart: Vec::new(),
        }
    }

    /// Where the directory ends, where that is known without a recovery and stays so.
    #[must_use]
    pub fn position(&self) -> Option<WalPosition> {
        let last = self.history.last().filter(|_| self.promoting.is_none())?;
        Some(WalPosition { born: last.born, timeline: last.timeline, flushed: self.flushed? })
    }

    /// Whether a process exists that is out of recovery, or may come out of it: it can acknowledge.
    #[must_use]
    pub fn may_write(&self) -> bool {
        let writes = self.side == Side::Primary || self.promoting.is_some();
        writes && !matches!(self.process, Process::Down { .. })
    }
}

/// The server of this machine. Verbs are called one at a time, except `observe` and `keep_log_for`
/// at any time and `stop`, which may come in the middle of any other and wins: the other then
/// fails.
pub trait Postgres: Clone + Send + Sync + 'static {
    /// Looks. Changes nothing; a server that does not answer in time is `Process::Hung`.
    ///
    /// The order of reading matters, and is: `sync`, then `receiver`, then `flushed`. Whoever finds
    /// a configuration in force takes `flushed` for the end of what was acknowledged before it; and
    /// whoever finds no receiver takes it for the end of what was ever confirmed.
    fn observe(&self) -> impl Future<Output = Result<Observation, PostgresError>> + Send;

    /// Creates a new database cluster in an empty directory; refuses any other. Durable when it
    /// returns. Cancelled or cut short, it leaves the directory empty.
    fn initialise(
        &self,
        epoch: Epoch,
    ) -> impl Future<Output = Result<SystemId, PostgresError>> + Send;

    /// Replaces the directory with a copy of `source`, in recovery and not started. The old
    /// directory, if there was one, is moved aside at the very end and never removed (I7).
    /// Cancelled or cut short, it leaves the directory as it was.
    fn clone_from(
        &self,
        source: &Upstream,
    ) -> impl Future<Output = Result<(), PostgresError>> + Send;

    /// Takes the directory of a stopped server back to where its history and the source's part,
    /// and makes it a standby. Recovers first after a crash; asks the source for a
    /// checkpoint first. What only this directory had is set aside (I7). Cut short, it leaves one
    /// that is unusable and says so: only `clone_from` mends it.
    ///
    /// The tool compares timelines by number. It is never called where one number names two births
    /// in the two histories: there it finds nothing to do, or the wrong place. Afterwards the
    /// directory is `complete` only if the source wrote nothing meanwhile.
    fn rewind(
        &self,
        source: &Upstream,
    ) -> impl Future<Output = Result<RewindReport, PostgresError>> + Send;

    /// Starts the server. Whatever upstream the configuration still named is replaced by the given
    /// one, or by none, durably and before the process exists, and a standby forgets timelines that
    /// it was only told of. Returns when it answers: a primary has recovered then, a standby is
    /// consistent and may still replay.
    fn start(&self, how: &StartAs) -> impl Future<Output = Result<(), PostgresError>> + Send;

    /// Replays everything that was received, and ends recovery there on a new timeline, which
    /// carries `epoch` as its birth certificate. The configuration that `set_sync` has put in force
    /// before holds from the first write on; where it asks for confirmations, clients are shut out
    /// until `admit`. Refused while a receiver is attached or an upstream is configured. Calling
    /// twice with the same epoch yields the same birth.
    ///
    /// No timeline begins elsewhere than where the one before it was left: a standby that was told
    /// of one and has not come there is started anew to forget it. Then this fails, and what
    /// `set_sync` had put in force has to be said again first.
    ///
    /// The epoch is on disk before the server is asked, so that no crash leaves a timeline without
    /// one, and with the timeline before this returns, so that no standby gets the one without the
    /// other.
    fn promote(
        &self,
        epoch: Epoch,
    ) -> impl Future<Output = Result<TimelineBirth, PostgresError>> + Send;

    /// Makes a running standby stream from `upstream`, under a name that contains the epoch. Where
    /// it was told of another line than its upstream is on, it is started anew to forget that,
    /// which takes as long as a recovery.
    /// Nothing else can be done meanwhile, so it does not wait longer than a look for words over
    /// the network that have to come first: it fails then, they go on, and the next call for the
    /// same upstream waits for the same words. A `start` with an upstream likewise.
    /// Returns when the configuration is in force; the stream itself shows in `observe`, and begins
    /// when the log on this disk is replayed. Survives no restart: `start` replaces it.
    fn follow(&self, upstream: &Upstream)
    -> impl Future<Output = Result<(), PostgresError>> + Send;

    /// Clears the upstream durably, ends the receiver, whatever replay does, and returns when it is
    /// gone for certain and what it had received is flushed: nothing is confirmed any more. Calling
    /// twice is harmless.
    fn detach(&self) -> impl Future<Output = Result<(), PostgresError>> + Send;

    /// Puts the synchronous configuration in force and returns when everything obeys it that
    /// acknowledges commits: sessions and walsenders go by copies of their own, and what the
    /// server's settings say is no proof. On a primary that may take as long as its disk is busy;
    /// on a standby it does not. `observe` shows it from then on, not earlier. Calling it twice is
    /// harmless. Cancelled, either may be in force, or one under which nothing is acknowledged.
    fn set_sync(&self, sync: &SyncNames) -> impl Future<Output = Result<(), PostgresError>> + Send;

    /// Gives the server these parameters of the cluster's, and takes away those that it had from an
    /// earlier call: durably, and in force when this returns where the server runs and can take
    /// them up; `observe` names those that wait for a restart. A value that it does not take is
    /// refused, and everything stays as it was. Calling twice is harmless.
    fn configure(
        &self,
        parameters: &BTreeMap<String, String>,
    ) -> impl Future<Output = Result<(), PostgresError>> + Send;

    /// Keeps of the log what these members may still need if they are to stream from here next, or
    /// to be rewound to what is here, and lets go of what was kept for others. A standby keeps what
    /// its upstream keeps for them, so it is called again and again; it comes at any time, and
    /// where no server answers nothing changes. There is a bound to what is kept.
    fn keep_log_for(
        &self,
        members: &BTreeSet<NodeId>,
    ) -> impl Future<Output = Result<(), PostgresError>> + Send;

    /// Lets clients in. Calling twice is harmless; a restart shuts them out again.
    fn admit(&self) -> impl Future<Output = Result<(), PostgresError>> + Send;

    /// Tells the commit fence, where one is loaded, until when commits may be acknowledged.
    /// `false` where there is none. Calling with an earlier deadline changes nothing.
    fn extend_lease(
        &self,
        epoch: Epoch,
        until: crate::ids::Moment,
    ) -> impl Future<Output = Result<bool, PostgresError>> + Send;

    /// Ends the server. When it returns, no process of it exists and none can acknowledge.
    /// `Fast` may take long or for ever (it waits for the standbys): the caller follows with
    /// `Immediate`. A control file that says "shut down" is no proof that the process has ended.
    /// Calling it on a stopped server is harmless.
    fn stop(&self, how: StopHow) -> impl Future<Output = Result<(), PostgresError>> + Send;
}
