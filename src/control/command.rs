//! The commands. Each names what it expects; `apply` refuses it where that is not so.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::env::{SyncNames, TimelineBirth};
use crate::ids::{CommandId, Epoch, NodeId, SystemId, WalPosition};

use super::settings::{Settings, SettingsChange};
use super::state::{Member, OrderOutcome};

/// Why a primacy ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VacateReason {
    /// No renewal for so long, and no standby hears its Postgres either.
    Silent,
    /// It is heard, and cannot renew its lease: the answers do not reach it.
    CannotRenew,
    /// It got primacy and did not become primary in time.
    NotPromoted,
    /// Its Postgres cannot be brought back in time.
    PostgresFailed(String),
    /// An operator asked for it.
    Operator,
}

impl fmt::Display for VacateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("silent, and no standby hears its Postgres"),
            Self::CannotRenew => f.write_str("cannot renew its lease"),
            Self::NotPromoted => f.write_str("did not become primary in time"),
            Self::PostgresFailed(why) => write!(f, "its Postgres failed: {why}"),
            Self::Operator => f.write_str("an operator asked for it"),
        }
    }
}

/// What makes it certain that the former holder acknowledges nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Clearance {
    /// L5: too few standbys are left for it to gather its confirmations. No clock is involved.
    Quorum,
    /// L4: its lease is over by the proposer's clock.
    LeaseOver,
    /// It was seen to have ended: the former holder is among the reports.
    Stopped,
}

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Hand primacy over without losing anything.
    Switchover {
        /// To whom; `None` lets the ranking choose.
        to: Option<NodeId>,
    },
    /// Take primacy away from a holder that does not cooperate.
    Failover {
        /// To whom; `None` lets the ranking choose.
        to: Option<NodeId>,
        /// Accept what the chosen member lacks.
        accept_data_loss: bool,
    },
    /// No automatic failover until `Resume`.
    Pause,
    /// Automatic failover again.
    Resume,
    /// Change settings.
    Configure(SettingsChange),
    /// Admit a member.
    AddMember {
        /// Its number.
        node: NodeId,
        /// What it is.
        member: Member,
    },
    /// Remove a member for ever.
    RemoveMember {
        /// Its number.
        node: NodeId,
    },
    /// Change a member's tags.
    TagMember {
        /// Its number.
        node: NodeId,
        /// Its new priority.
        priority: u32,
        /// Whether automatic failover passes it over.
        no_failover: bool,
    },
}

/// An entry of the consensus log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of all.
    Found {
        /// The cluster's name.
        cluster: String,
        /// Its first members.
        members: BTreeMap<NodeId, Member>,
        /// Its first settings.
        settings: Settings,
        /// The Postgres cluster that it takes over; without one it makes a new one.
        #[serde(default)]
        adopts: Option<SystemId>,
    },
    /// Ends a primacy: renewals of it are refused from here on.
    Vacate {
        /// The epoch that ends.
        epoch: Epoch,
        /// Why.
        why: VacateReason,
    },
    /// The holder gives its primacy back: its Postgres was seen to end.
    Release {
        /// The epoch that ends.
        epoch: Epoch,
        /// Why.
        why: VacateReason,
    },
    /// Gives the next primacy.
    Elect {
        /// The epoch that ended; the new one follows it.
        after: Epoch,
        /// The new holder.
        holder: NodeId,
        /// The synchronous configuration of the new epoch.
        sync: SyncNames,
        /// The version of the synchronous configurations that the evidence was measured against.
        sync_version: u64,
        /// Who reported, detached, and where its log ends (`None`: it has no data).
        reports: BTreeMap<NodeId, Option<WalPosition>>,
        /// Why the former holder is harmless.
        clearance: Clearance,
    },
    /// The holder became primary.
    Born {
        /// Its epoch.
        epoch: Epoch,
        /// The Postgres cluster.
        system: SystemId,
        /// Its whole history, the new timeline last.
        history: Vec<TimelineBirth>,
    },
    /// Adds a synchronous configuration as the target.
    ProposeSync {
        /// The epoch that it belongs to.
        epoch: Epoch,
        /// The version that it replaces.
        version: u64,
        /// The new target.
        target: SyncNames,
    },
    /// Drops every configuration but the target: it covers everything now.
    SettleSync {
        /// The epoch that it belongs to.
        epoch: Epoch,
        /// The version that was proven.
        version: u64,
    },
    /// A newcomer streams from the primary and is near its end: its confirmations count from here
    /// on.
    Join {
        /// The epoch in which it streams.
        epoch: Epoch,
        /// The newcomer.
        node: NodeId,
    },
    /// Notes how far the primary has got.
    NoteProgress {
        /// Its epoch.
        epoch: Epoch,
        /// Its position.
        position: WalPosition,
    },
    /// An operator's order.
    Operate {
        /// Its name: the same name again is the same order. Names grow with time.
        id: CommandId,
        /// What is asked.
        order: Order,
    },
    /// Ends a handover that cannot be carried out.
    EndHandover {
        /// The order.
        id: CommandId,
        /// How it ended.
        outcome: OrderOutcome,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { cluster, members, .. } => {
                write!(f, "found {cluster} with {} members", members.len())
            }
            Self::Vacate { epoch, why } => write!(f, "vacate {epoch}: {why}"),
            Self::Release { epoch, why } => write!(f, "release {epoch}: {why}"),
            Self::Elect { after, holder, sync, clearance, reports, .. } => write!(
                f,
                "elect {holder} for {} ({sync}; {clearance:?}; {} reports)",
                after.next(),
                reports.len()
            ),
            Self::Born { epoch, history, .. } => match history.last() {
                Some(birth) => write!(f, "born {} of {epoch} at {}", birth.timeline, birth.begins),
                None => write!(f, "born nothing of {epoch}"),
            },
            Self::ProposeSync { target, .. } => write!(f, "propose sync {target}"),
            Self::SettleSync { version, .. } => write!(f, "settle sync v{version}"),
            Self::Join { node, .. } => write!(f, "{node} joins"),
            Self::NoteProgress { position, .. } => write!(f, "progress {position}"),
            Self::Operate { id, order } => write!(f, "order {id}: {order:?}"),
            Self::EndHandover { id, outcome } => write!(f, "end handover {id}: {outcome:?}"),
        }
    }
}
