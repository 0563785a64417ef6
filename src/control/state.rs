//! The control state: who is a member, who holds primacy, which history is the true one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::control::settings::Settings;
use crate::env::{SyncNames, TimelineBirth};
use crate::ids::{CommandId, Epoch, Incarnation, NodeId, SystemId, WalPosition};

use super::command::{Order, VacateReason};

/// How many lines of history are kept: enough for a person to see the last months.
pub(super) const HISTORY_MAX: usize = 200;
/// How many orders are kept with their outcomes: an operator who asks later than that is told
/// "unknown".
pub(super) const ORDERS_MAX: usize = 64;
/// How many timelines are kept: a member that slept through more of them is cloned anew.
pub(super) const TIMELINES_MAX: usize = 256;

/// What a member contributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberKind {
    /// Votes, and keeps a copy of the data.
    Data,
    /// Votes only.
    Witness,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it contributes.
    pub kind: MemberKind,
    /// Where its node listens.
    pub address: String,
    /// Where its Postgres listens.
    pub postgres: String,
    /// The store that it was admitted with. The same number on another store is another machine.
    pub incarnation: Incarnation,
    /// Among equally advanced candidates the highest priority wins.
    pub priority: u32,
    /// Never chosen by an automatic failover. A primary that gets this tag stays primary: the tag
    /// says to whom primacy may go, and takes it from nobody.
    pub no_failover: bool,
}

impl Member {
    /// The priority of a member of which nobody says another.
    pub const USUAL_PRIORITY: u32 = 100;
}

/// The right to be primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primacy {
    /// The last epoch that was given; zero before the first.
    pub epoch: Epoch,
    /// Its holder; `None` once it was vacated or released.
    pub holder: Option<NodeId>,
    /// Who held it last, also after the end.
    pub last_holder: Option<NodeId>,
    /// Why it ended, where it has.
    pub vacated: Option<VacateReason>,
}

/// The recorded birth of an epoch's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRecord {
    /// Whose primacy created it.
    pub holder: NodeId,
    /// The timeline, its epoch and its first position.
    pub birth: TimelineBirth,
}

/// The synchronous configurations that acknowledged commits may rest on.
///
/// The last one is the target that Postgres is to obey; the ones before it are still in force as
/// far as an election is concerned, until the target is known to cover everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRecord {
    /// Grows with every change.
    pub version: u64,
    /// Oldest first, never empty once an epoch was given.
    pub configs: Vec<SyncNames>,
    /// The version of the control state that brought the target: what a member reported before it
    /// had applied that version says nothing about the target, not even where it names the same
    /// configuration. It may have been in force before, and another in between.
    pub since: u64,
}

impl SyncRecord {
    /// The configuration that Postgres is to obey.
    #[must_use]
    pub fn target(&self) -> Option<&SyncNames> {
        self.configs.last()
    }

    /// Whether every commit that was acknowledged is confirmed by standbys. Of configurations that
    /// count together, an asynchronous one acknowledges alone until it is settled away.
    #[must_use]
    pub fn relies_on_standbys(&self) -> bool {
        self.configs.iter().all(|config| config.confirmations > 0)
    }

    /// Whether a change is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.configs.len() > 1
    }
}

/// What an operator asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandoverKind {
    /// With the primary's cooperation, losing nothing.
    Switchover,
    /// Without it.
    Failover {
        /// The operator accepts what the chosen member lacks.
        accept_data_loss: bool,
    },
}

/// A handover under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The order.
    pub id: CommandId,
    /// What was asked.
    pub kind: HandoverKind,
    /// The epoch that it ends.
    pub from: Epoch,
    /// Who held primacy when it was asked for, or held it last.
    pub former: Option<NodeId>,
    /// The wanted successor; `None` leaves the choice to the ranking.
    pub to: Option<NodeId>,
    /// Whether anything was done for it: from here on the next primary tells how it ended.
    pub begun: bool,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderOutcome {
    /// It is being carried out.
    Pending,
    /// It was carried out, once.
    Done(String),
    /// It was not, and will not be.
    Refused(String),
    /// It may have been, or may still come about by itself; nobody follows it up any more. The
    /// sentence says what is known.
    Unknown(String),
}

/// An order, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Its name.
    pub id: CommandId,
    /// What was asked: the same name for anything else is a mistake of its sender.
    pub order: Order,
    /// What became of it.
    pub outcome: OrderOutcome,
}

impl OrderRecord {
    /// Whether nothing more will become of it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.outcome != OrderOutcome::Pending
    }
}

/// One line of history, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The epoch that the line is about.
    pub epoch: Epoch,
    /// What happened.
    pub what: String,
}

/// Everything that the members agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    /// Grows with every command that changed something.
    pub version: u64,
    /// The cluster's name; empty before it was founded.
    pub cluster: String,
    /// The members.
    pub members: BTreeMap<NodeId, Member>,
    /// The same, in the order of their admission.
    pub admitted: Vec<NodeId>,
    /// Data members that were admitted to a running cluster and do not hold its data yet.
    pub newcomers: BTreeSet<NodeId>,
    /// Numbers that were members once. They never come back.
    pub retired: BTreeSet<NodeId>,
    /// The settings.
    pub settings: Settings,
    /// Who holds primacy.
    pub primacy: Primacy,
    /// The Postgres cluster's identity: known from the first recorded birth on, and where one is
    /// taken over, from the founding.
    pub system: Option<SystemId>,
    /// The births by epoch. Epochs without a line never became primary, or died before it was
    /// recorded.
    pub timelines: BTreeMap<Epoch, TimelineRecord>,
    /// The true history: that of the last holder who became primary, oldest first. An epoch whose
    /// timeline a later election passed over is in `timelines` and not here.
    pub lineage: Vec<TimelineBirth>,
    /// The synchronous configurations.
    pub sync: SyncRecord,
    /// How far the primary was known to have got, noted when it advanced by a good part of
    /// `max_lag`, so that a leader that never met it can bound a loss.
    pub progress: Option<WalPosition>,
    /// A handover under way.
    pub handover: Option<Handover>,
    /// The last orders and how they ended, oldest first.
    pub orders: VecDeque<OrderRecord>,
    /// The greatest name among the orders that are not remembered any more. Names grow with time,
    /// so whatever is not greater than this one may have been carried out.
    pub forgotten: Option<CommandId>,
    /// What happened, oldest first.
    pub history: VecDeque<HistoryEntry>,
}

impl ControlState {
    /// Whether nobody holds primacy.
    #[must_use]
    pub fn is_vacant(&self) -> bool {
        self.primacy.holder.is_none()
    }

    /// Whether this cluster has ever had data that it must not lose.
    #[must_use]
    pub fn is_born(&self) -> bool {
        !self.timelines.is_empty()
    }

    /// Whether somebody holds primacy whose birth as a primary is on record.
    #[must_use]
    pub fn has_primary(&self) -> bool {
        !self.is_vacant() && self.current_timeline().is_some()
    }

    /// The recorded timeline of the present epoch, once its holder is primary.
    #[must_use]
    pub fn current_timeline(&self) -> Option<&TimelineRecord> {
        self.timelines.get(&self.primacy.epoch)
    }

    /// The newest recorded timeline.
    #[must_use]
    pub fn last_timeline(&self) -> Option<&TimelineRecord> {
        self.timelines.last_key_value().map(|(_, record)| record)
    }

    /// How an order ended, if it is still remembered.
    #[must_use]
    pub fn outcome_of(&self, id: CommandId) -> Option<&OrderOutcome> {
        self.orders.iter().find(|known| known.id == id).map(|known| &known.outcome)
    }
}
