//! What a server is made of: what survives its process, and what does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pg_replica::env::{Side, SyncNames, TimelineBirth, Upstream};
use pg_replica::ids::{Epoch, Lsn, Moment, NodeId};
use tokio::sync::{Notify, oneshot};

use super::control::Reply;
use super::durable::{Directory, SetAside};
use super::wire::{Input, Link};
use crate::scenario::PostgresFlaw;
use crate::witness::{Row, Untold};

/// How much longer a slow start or stop takes.
const SLUGGISH: Duration = Duration::from_secs(4);

/// Everything about one server.
#[derive(Default)]
pub(super) struct State {
    /// The data directory; `None` where it is empty.
    pub(super) directory: Option<Directory>,
    /// The cluster's parameters that it was given.
    pub(super) parameters: BTreeMap<String, String>,
    /// Those that wait for a restart.
    pub(super) pending: Vec<String>,
    /// What was moved out of its way.
    pub(super) aside: Vec<SetAside>,
    /// The process, where one exists.
    pub(super) running: Option<Running>,
    /// Dropped by a stop, it ends the tool (`initdb`, `pg_rewind`, `pg_basebackup`) at work.
    pub(super) tool: Option<oneshot::Sender<()>>,
    /// The machine has no power: not even resets leave it.
    pub(super) dark: bool,
    /// What is wrong with it.
    pub(super) flaws: Flaws,
}

impl State {
    /// The line that a standby was only told of.
    pub(super) fn hearsay(&self) -> Option<(&Directory, &[TimelineBirth])> {
        let run = self.running.as_ref()?;
        // What was asked for already goes by what was known then.
        let stays = run.side == Side::Standby && run.promotion.is_none();
        let directory = self.directory.as_ref().filter(|_| stays)?;
        Some((directory, directory.hearsay()?))
    }
}

/// What was injected and not taken back yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Flaws(pub(super) BTreeSet<PostgresFlaw>);

impl Flaws {
    pub(super) fn has(&self, flaw: PostgresFlaw) -> bool {
        self.0.contains(&flaw)
    }

    /// How much longer something takes that this flaw makes slow.
    pub(super) fn slowness(&self, flaw: PostgresFlaw) -> Duration {
        if self.has(flaw) { SLUGGISH } else { Duration::ZERO }
    }

    /// How much longer it takes to replay what there is, after a crash and before a promotion.
    pub(super) fn slow_replay(&self) -> Duration {
        self.slowness(PostgresFlaw::SlowRecovery) * 5
    }
}

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Recovering.
    Starting,
    /// Answering.
    Up,
    /// Shutting down. `checkpointed` says that only the standbys are waited for.
    Stopping { checkpointed: bool },
}

/// What ends with the process.
pub(super) struct Running {
    /// Which life of the machine's Postgres process this is.
    pub(super) generation: u64,
    pub(super) phase: Phase,
    pub(super) side: Side,
    /// The primacy that this server writes under, where it is a primary.
    pub(super) epoch: Epoch,
    /// Whom commits wait for.
    pub(super) sync: SyncNames,
    /// Whom they are to wait for, where the sessions do not know it yet.
    pub(super) told_sync: Option<(SyncNames, Option<Reply<()>>)>,
    pub(super) admits: bool,
    /// The cluster's parameters that it was started with.
    pub(super) parameters: BTreeMap<String, String>,
    /// What the commit fence knows.
    pub(super) lease: Option<(Epoch, Moment)>,
    /// What has arrived and not been read.
    pub(super) inbox: VecDeque<Input>,
    pub(super) wake: Arc<Notify>,
    pub(super) timers: Timers,
    /// Whether the last shutdown was clean.
    pub(super) was_clean: bool,
    /// Set by a handler: the process ends after it.
    pub(super) ending: Option<Ending>,

    pub(super) sessions: BTreeMap<u64, Link>,
    /// Commits in the order of the log that have not been answered yet.
    pub(super) commits: VecDeque<Commit>,
    pub(super) flushing: Option<Lsn>,
    /// The end of the last commit that readers see, and how many rows there are up to it.
    pub(super) visible: Lsn,
    pub(super) visible_rows: u64,
    /// Rows that readers see and no client was told about.
    pub(super) unacknowledged: Vec<Untold>,

    pub(super) walsenders: BTreeMap<u64, Walsender>,
    pub(super) receiver: Option<Receiver>,
    /// The timelines that a standby goes by: its own, and those that it expects to come to. It
    /// changes its mind for their children only, until it ends.
    pub(super) line: Vec<TimelineBirth>,
    /// When what was received has been replayed; what is not listed has been.
    pub(super) replay: VecDeque<(Duration, Lsn)>,
    pub(super) replayed: Lsn,
    /// When a standby will have replayed what was on its disk at its start; `None` once it has.
    /// Until then it streams nothing, and does not know where its log ends.
    pub(super) own_log_replayed_at: Option<Duration>,

    pub(super) promotion: Option<Promotion>,
    pub(super) detaching: Vec<Reply<()>>,
    pub(super) starting: Vec<oneshot::Sender<()>>,
    /// Dropped with the process, so that a waiting stop learns that it is gone.
    pub(super) stop_waiters: Vec<oneshot::Sender<()>>,
}

/// A promotion under way.
pub(super) struct Promotion {
    pub(super) epoch: Epoch,
    /// From when on the new timeline is being opened: everything has been replayed.
    pub(super) opens_at: Duration,
    pub(super) waiting: Vec<Reply<TimelineBirth>>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) clean: bool,
    pub(super) by: &'static str,
}

/// A commit on its way to its client.
pub(super) struct Commit {
    pub(super) lsn: Lsn,
    pub(super) row: Row,
    /// The row before it, which a client of the register is told of.
    pub(super) found: Option<Row>,
    /// The session, while it exists.
    pub(super) link: Option<Link>,
    pub(super) request: u64,
}

/// A standby attached to this server.
pub(super) struct Walsender {
    pub(super) standby: NodeId,
    pub(super) epoch: Epoch,
    pub(super) link: Link,
    pub(super) sent: Lsn,
    pub(super) flushed: Lsn,
    pub(super) last_sent: Duration,
    pub(super) last_reply: Duration,
    /// It asked the standby for a word, and has had none since.
    pub(super) asked: bool,
    /// Its standby is gone, and it is stuck and has not noticed.
    pub(super) closed: bool,
}

/// This standby's way to its upstream.
pub(super) struct Receiver {
    pub(super) upstream: Upstream,
    pub(super) stream: Stream,
    pub(super) last_heard: Duration,
    /// What is sent from here on is not on the line that the server goes by: it asks again and
    /// again for something else, and takes nothing.
    pub(super) parts_at: Option<Lsn>,
    /// Why the upstream last refused.
    pub(super) refusal: Option<String>,
    /// Whether that was its last word, and will not change.
    pub(super) for_good: bool,
}

/// Where the receiver is.
pub(super) enum Stream {
    /// Not connected; a timer tries again.
    Idle,
    /// The upstream has not answered yet.
    Connecting(Link),
    /// Streaming from an upstream with these timelines.
    Open(Link, Vec<TimelineBirth>),
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The server has recovered.
    Recovered,
    /// A standby has replayed the log that it had on its disk.
    OwnLogReplayed,
    /// The promotion is complete.
    Promoted,
    /// A flush of the log returns.
    Flushed,
    /// Walsenders say that they live, and look whether their standbys do.
    Keepalive,
    /// The receiver looks whether its upstream lives.
    Silence,
    /// The receiver tries again.
    Reconnect,
    /// The shutdown's checkpoint is written.
    Checkpointed,
}

/// Timers in the order of their deadlines, and of their creation where these are equal.
#[derive(Default)]
pub(super) struct Timers {
    queue: BTreeMap<(Duration, u64), Timer>,
    created: u64,
}

impl Timers {
    /// Fires at `at`, once.
    pub(super) fn add(&mut self, at: Duration, timer: Timer) {
        self.created += 1;
        self.queue.insert((at, self.created), timer);
    }

    /// Forgets every timer of this kind.
    pub(super) fn cancel(&mut self, timer: Timer) {
        self.queue.retain(|_, queued| *queued != timer);
    }

    /// The next timer that is due.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<Timer> {
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }
}

impl Running {
    /// The end of what a standby has replayed.
    pub(super) fn advance_replay(&mut self, now: Duration, stuck: bool) -> Lsn {
        while let Some((_, lsn)) = self.replay.pop_front_if(|(at, _)| !stuck && *at <= now) {
            self.replayed = lsn;
        }
        self.replayed
    }
}

impl Stream {
    /// The connection, where there is one.
    pub(super) fn link(&self) -> Option<&Link> {
        match self {
            Self::Idle => None,
            Self::Connecting(link) | Self::Open(link, _) => Some(link),
        }
    }
}
