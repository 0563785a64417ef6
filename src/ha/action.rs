//! Everything that the core can ask for. `Display` is the trace line.
//!
//! An action leaves nothing to choose. The driver executes them in order; those that take time are
//! started in order and end with an event.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use crate::control::Command;
use crate::env::{StartAs, StopHow, SyncNames, Upstream};
use crate::ids::{ActionId, Epoch, Lsn, Moment, NodeId};

use super::event::{Ask, HeartbeatAnswer, RequestId};
use super::lease::Lease;
use super::report::Report;

/// One thing to do to Postgres. At most one is under way; `Stop` may overtake any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Create a database in the empty directory.
    Initialise,
    /// Copy it from the primary.
    Clone(Upstream),
    /// Take it back to where its history parted from the primary's.
    Rewind(Upstream),
    /// Start it.
    Start(StartAs),
    /// Put the synchronous configuration in force, then end recovery.
    Promote(SyncNames),
    /// Stream from the primary.
    Follow(Upstream),
    /// Stop streaming.
    Detach,
    /// Put the synchronous configuration in force.
    SetSync(SyncNames),
    /// Let clients in.
    Admit,
    /// Give it the cluster's parameters.
    Configure(BTreeMap<String, String>),
    /// Stop it.
    Stop(StopHow),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Look at Postgres; ends with `Observed`.
    Observe {
        /// Its number.
        id: ActionId,
    },
    /// Do something to Postgres under `epoch`; ends with `VerbDone`.
    Postgres {
        /// Its number.
        id: ActionId,
        /// The epoch for which it was decided.
        epoch: Epoch,
        /// What.
        verb: Verb,
    },
    /// Move the guard's deadline, and the commit fence's with it; ends with `GuardArmed`.
    ArmGuard {
        /// Its number.
        id: ActionId,
        /// The epoch, and when its lease ends.
        lease: Lease,
        /// When the guard ends Postgres.
        deadline: Moment,
    },
    /// Take the guard's deadline away: this epoch's Postgres was seen to end.
    DisarmGuard {
        /// The epoch.
        epoch: Epoch,
    },
    /// Report to `to`; ends with `HeartbeatAnswered`. `to` passes it on where it does not lead.
    SendHeartbeat {
        /// The leader, or a member that may reach it.
        to: NodeId,
        /// The instant that a lease may be counted from.
        sent: Moment,
        /// The report.
        report: Box<Report>,
        /// What it asks for.
        ask: Ask,
    },
    /// ReadIndex; ends with `ReadConfirmed`.
    ConfirmLeadership {
        /// For which request.
        request: RequestId,
    },
    /// Answer a heartbeat.
    AnswerHeartbeat {
        /// Which.
        request: RequestId,
        /// How.
        answer: HeartbeatAnswer,
    },
    /// Answer an operator who asked something of this member's Postgres.
    AnswerChore {
        /// Which request.
        request: RequestId,
        /// What will be done, or why nothing is.
        answer: Result<String, String>,
    },
    /// Put a command to the consensus log; ends with `Proposed`.
    Propose {
        /// Its number.
        id: ActionId,
        /// Whether another leader may be asked. A holder speaks for its own Postgres and may go
        /// through anybody; what a coordinator concluded dies with its leadership.
        through_leader: bool,
        /// The command.
        command: Box<Command>,
    },
    /// Hand Raft's leadership to another voter.
    TransferLeadership {
        /// Which.
        to: NodeId,
    },
    /// Make these the voters, one change at a time, with the other members as learners.
    ChangeVoters {
        /// The voters.
        voters: BTreeSet<NodeId>,
    },
    /// One line for the log: a transition, with its reason.
    Say(String),
    /// I7: what the operator has to be told before the directory is taken back or replaced.
    Tell(Divergence),
}

/// A part of the log that only this member's directory has, and that is about to be set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Its first position.
    pub from: Lsn,
    /// Its end; `None` where only a recovery could tell.
    pub to: Option<Lsn>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log from {} to ", self.from)?;
        match self.to {
            Some(to) => write!(f, "{to}")?,
            None => f.write_str("its end")?,
        }
        f.write_str(" may be on this machine alone and is set aside")
    }
}

impl Verb {
    /// Whether a server that writes may come of it.
    #[must_use]
    pub fn makes_primary(&self) -> bool {
        match self {
            Self::Promote(_) | Self::Start(StartAs::Primary { .. }) => true,
            Self::Initialise
            | Self::Clone(_)
            | Self::Rewind(_)
            | Self::Start(StartAs::Standby { .. })
            | Self::Follow(_)
            | Self::Detach
            | Self::SetSync(_)
            | Self::Admit
            | Self::Configure(_)
            | Self::Stop(_) => false,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialise => f.write_str("initialise"),
            Self::Clone(from) => write!(f, "clone from {}", from.node),
            Self::Rewind(to) => write!(f, "rewind to {}", to.node),
            Self::Start(StartAs::Primary { epoch, sync }) => {
                write!(f, "start as primary of {epoch} ({sync})")
            }
            Self::Start(StartAs::Standby { upstream: None }) => f.write_str("start as standby"),
            Self::Start(StartAs::Standby { upstream: Some(from) }) => {
                write!(f, "start as standby of {} in {}", from.node, from.epoch)
            }
            Self::Promote(sync) => write!(f, "promote in {} ({sync})", sync.epoch),
            Self::Follow(upstream) => write!(f, "follow {} in {}", upstream.node, upstream.epoch),
            Self::Detach => f.write_str("detach"),
            Self::SetSync(sync) => write!(f, "set sync {sync}"),
            Self::Admit => f.write_str("admit clients"),
            Self::Configure(_) => f.write_str("set the cluster's parameters"),
            Self::Stop(how) => write!(f, "stop {how:?}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Observe { .. } => f.write_str("observe"),
            Self::Postgres { id, epoch, verb } => write!(f, "{id} {epoch}: {verb}"),
            Self::ArmGuard { lease, deadline, .. } => {
                write!(f, "arm guard for {} until {deadline}", lease.epoch)
            }
            Self::DisarmGuard { epoch } => write!(f, "disarm guard of {epoch}"),
            Self::SendHeartbeat { to, ask, .. } => match ask {
                Ask::Nothing => write!(f, "report to {to}"),
                Ask::Renewal(epoch) => write!(f, "renew {epoch} at {to}"),
                Ask::Currency => write!(f, "ask {to} what is in force"),
            },
            Self::ConfirmLeadership { .. } => f.write_str("confirm leadership"),
            Self::AnswerHeartbeat { answer, .. } => match (answer.renewed, answer.in_force) {
                (Some(epoch), _) => write!(f, "grant {epoch}"),
                (None, Some(version)) => write!(f, "answer that control v{version} is in force"),
                (None, None) => f.write_str("answer"),
            },
            Self::AnswerChore { answer: Ok(what) | Err(what), .. } => f.write_str(what),
            Self::Propose { id, command, .. } => write!(f, "{id} propose: {command}"),
            Self::TransferLeadership { to } => write!(f, "transfer leadership to {to}"),
            Self::ChangeVoters { voters } => write!(f, "change voters to {voters:?}"),
            Self::Say(line) => f.write_str(line),
            Self::Tell(divergence) => divergence.fmt(f),
        }
    }
}
