//! Everything that can happen to the core. `Display` is the trace line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::control::{Applied, ControlState};
use crate::env::{Armed, Observation, Outcome, RewindReport};
use crate::ids::{ActionId, Epoch, Moment, NodeId, Term};

use super::lease::Lease;
use super::report::Report;

/// A member's request, numbered by the runtime, that waits for the core's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What an operator may ask of one member for its own Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chore {
    /// Stop it and start it again.
    Restart,
    /// Have it read its files again.
    Reload,
    /// Replace its data directory by a copy of the primary's.
    Reinitialise,
}

impl fmt::Display for Chore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Reinitialise => "fresh copy",
        })
    }
}

/// How many entries of the log a member may lack and still be handed leadership, or a vote: what a
/// busy leader has under way. A voter without the log would be of no use to the quorum it is in.
pub const NEAR_ENTRIES_MAX: u64 = 10;

/// What the consensus layer looks like from here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftView {
    /// The present term.
    pub term: Term,
    /// Who leads, as far as this member knows.
    pub leader: Option<NodeId>,
    /// Whether this member leads.
    pub leads: bool,
    /// The voters in force.
    pub voters: BTreeSet<NodeId>,
    /// Members that receive the log without voting.
    pub learners: BTreeSet<NodeId>,
    /// Where this member leads: how many entries each other member still lacks.
    pub behind: BTreeMap<NodeId, u64>,
    /// Whether a change of voters is under way.
    pub changing: bool,
}

/// What a finished verb brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Nothing but its effect, which the next look shows.
    Plain,
    /// A directory taken back.
    Rewound(RewindReport),
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The node starts: what its guard still holds from before.
    Started {
        /// The guard's deadline, if it has one.
        armed: Option<Armed>,
    },
    /// Time has passed: at least one timer is due.
    Wake,
    /// The control state changed. It is durable on this member: a restart cannot forget it.
    Control(Arc<ControlState>),
    /// The consensus layer changed.
    Raft(RaftView),
    /// This member leads, and has applied everything that was committed before it did.
    LeadershipReady {
        /// The term that it leads in.
        term: Term,
    },
    /// Postgres was looked at.
    Observed {
        /// Which look it was.
        id: ActionId,
        /// What was seen.
        outcome: Outcome<Observation>,
    },
    /// A verb ended.
    VerbDone {
        /// Which one.
        id: ActionId,
        /// How.
        outcome: Outcome<Finished>,
    },
    /// The guard was armed, or could not be.
    GuardArmed {
        /// Which word to it that was.
        id: ActionId,
        /// The lease that it enforces.
        lease: Lease,
        /// Whether it is in force.
        ok: bool,
    },
    /// A member reported, and may ask for something.
    Heartbeat {
        /// The request to answer.
        request: RequestId,
        /// The report.
        report: Box<Report>,
        /// What it asks for.
        ask: Ask,
    },
    /// The answer to this member's own heartbeat.
    HeartbeatAnswered {
        /// To whom it was sent.
        to: NodeId,
        /// When it was sent, noted before it left.
        sent: Moment,
        /// The answer; `None` when none came.
        answer: Option<HeartbeatAnswer>,
    },
    /// ReadIndex: a quorum has confirmed, after the request arrived, that this member leads, and
    /// everything committed by then is applied. Or it could not be confirmed.
    ReadConfirmed {
        /// The request that it was for.
        request: RequestId,
        /// The term in which it was confirmed; `None` when it was not.
        term: Option<Term>,
    },
    /// An operator asks something of this member's own Postgres.
    Chore {
        /// For the answer.
        request: RequestId,
        /// What.
        chore: Chore,
    },
    /// A proposal ended.
    Proposed {
        /// Which one.
        id: ActionId,
        /// What became of it; `None` when that is unknown.
        applied: Option<Applied>,
    },
}

/// What a heartbeat asks for, beyond being heard. Whoever asks for something is answered once a
/// quorum has confirmed the leader since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Nothing.
    Nothing,
    /// More time for this primacy.
    Renewal(Epoch),
    /// Which control state is in force: one that may be old is no ground to replace a directory.
    Currency,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HeartbeatAnswer {
    /// Who answers, or is believed to lead.
    pub leader: Option<NodeId>,
    /// Whether a leader has taken the report in.
    pub heard: bool,
    /// The epoch that was renewed, if one was.
    pub renewed: Option<Epoch>,
    /// For how long, from the moment the request was sent, in milliseconds.
    pub lease_ms: u64,
    /// The version of the control state that was in force when a quorum confirmed the leader, where
    /// that was asked for.
    pub in_force: Option<u64>,
}

impl HeartbeatAnswer {
    /// The answer of a member that grants nothing.
    #[must_use]
    pub fn nothing(leader: Option<NodeId>) -> Self {
        Self { leader, heard: false, renewed: None, lease_ms: 0, in_force: None }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { armed: Some(a) } => {
                write!(f, "started, guard armed for {} until {}", a.epoch, a.deadline)
            }
            Self::Started { armed: None } => f.write_str("started"),
            Self::Wake => f.write_str("wake"),
            Self::Control(c) => match c.primacy.holder {
                Some(holder) => {
                    write!(f, "control v{}: {holder} holds {}", c.version, c.primacy.epoch)
                }
                None => write!(f, "control v{}: {} is vacant", c.version, c.primacy.epoch),
            },
            Self::Raft(r) => match r.leader {
                Some(leader) => write!(f, "raft {}: {leader} leads", r.term),
                None => write!(f, "raft {}: nobody leads", r.term),
            },
            Self::LeadershipReady { term } => write!(f, "leads {term}"),
            Self::Observed { outcome: Outcome::Done(o), .. } => {
                write!(f, "sees {:?} {:?}", o.side, o.process)?;
                o.position().map_or(Ok(()), |p| write!(f, " {p}"))
            }
            Self::Observed { outcome: Outcome::Failed(why), .. } => write!(f, "cannot see: {why}"),
            Self::Observed { outcome: Outcome::Unknown, .. } => f.write_str("cannot see"),
            Self::VerbDone { id, outcome: Outcome::Done(_) } => write!(f, "{id} done"),
            Self::VerbDone { id, outcome: Outcome::Failed(why) } => write!(f, "{id} failed: {why}"),
            Self::VerbDone { id, outcome: Outcome::Unknown } => write!(f, "{id} ended unknown"),
            Self::GuardArmed { lease, ok: true, .. } => {
                write!(f, "guard armed for {} until {}", lease.epoch, lease.until)
            }
            Self::GuardArmed { lease, ok: false, .. } => {
                write!(f, "guard not armed for {}", lease.epoch)
            }
            Self::Heartbeat { report, ask, .. } => match ask {
                Ask::Nothing => write!(f, "{report}"),
                Ask::Renewal(epoch) => write!(f, "{report} renews {epoch}"),
                Ask::Currency => write!(f, "{report} asks what is in force"),
            },
            Self::HeartbeatAnswered { to, answer: Some(a), .. } => match (a.renewed, a.in_force) {
                (Some(epoch), _) => write!(f, "{to} renewed {epoch}"),
                (None, Some(version)) => write!(f, "{to}: control v{version} is in force"),
                (None, None) => write!(f, "{to} heard"),
            },
            Self::HeartbeatAnswered { to, answer: None, .. } => write!(f, "{to} silent"),
            Self::ReadConfirmed { term: Some(t), .. } => write!(f, "confirmed in {t}"),
            Self::ReadConfirmed { term: None, .. } => f.write_str("not confirmed"),
            Self::Chore { chore, .. } => write!(f, "an operator asks for a {chore}"),
            Self::Proposed { id, applied: Some(a) } => write!(f, "{id} {a}"),
            Self::Proposed { id, applied: None } => write!(f, "{id} outcome unknown"),
        }
    }
}
