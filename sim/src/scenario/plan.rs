//! A plan: one run, spelled out. What shrinking, the corpus and replays work on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use pg_replica::control::{Mode, Timing};
use pg_replica::ids::NodeId;
use pg_replica::sabotage::Saboteur;

use crate::sometimes::Sometimes;

use super::fault::{Fault, Order};
use super::read::{Document, read};
use super::write::plan_table;

/// The version of the format that this program writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The scenario's or the profile's name.
    pub name: String,
    /// What the run proves.
    pub claim: String,
    /// Every random choice that the plan leaves open follows from it.
    pub seed: u64,
    /// It came out of a random budget: an event of it may find nobody whom it could concern. In a
    /// written one every event has to find somebody.
    pub drawn: bool,
    /// Why it says nothing in the worlds that have TCP, where it does not.
    pub messages_only: Option<String>,
    /// Why it says nothing in the messages world, where it does not.
    pub sockets_only: Option<String>,
    /// The cluster.
    pub cluster: Cluster,
    /// The clients.
    pub workload: Workload,
    /// What happens, in order of time.
    pub events: Vec<PlanEvent>,
    /// When the faults are over: everything heals then.
    pub duration: Duration,
    /// What must come of it.
    pub expect: Expect,
    /// The rule that this run breaks, to prove a check.
    pub sabotage: Option<Saboteur>,
}

/// The cluster that a run begins with. Members are numbered from one, witnesses last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Members that keep data.
    pub nodes: u64,
    /// Members that only vote.
    pub witnesses: u64,
    /// When commits are acknowledged.
    pub mode: Mode,
    /// Whether the commit fence is loaded into Postgres.
    pub commit_fence: bool,
    /// Whether the plan begins when the machines are switched on, and not once there is a cluster.
    pub unborn: bool,
    /// Whose machines hold a database from before, on which the cluster is founded.
    pub existing: BTreeSet<NodeId>,
    /// The durations.
    pub timing: Timing,
    /// The bound on loss.
    pub max_lag_bytes: u64,
    /// After how many entries of the consensus log a snapshot follows.
    pub snapshot_every: u64,
    /// Priorities other than the usual one.
    pub priorities: BTreeMap<NodeId, u32>,
    /// Members that automatic failover passes over.
    pub no_failover: BTreeSet<NodeId>,
}

/// The clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Clients that write rows.
    pub writers: u32,
    /// Clients that read them.
    pub readers: u32,
    /// How many of the writers hold on to the server that they know for as long as it answers.
    pub stale: u32,
    /// How long a client waits between two transactions.
    pub think: Duration,
}

impl Workload {
    /// How many clients there are; they are numbered from zero, the writers first.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.writers + self.readers
    }
}

/// Something at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanEvent {
    /// When, in true time since the clients began: once the cluster is whole, or at once where it
    /// begins unborn.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// For how long; `None` is until the end, where that has a meaning.
    pub lasts: Option<Duration>,
}

/// What must come of a run, beyond the invariants, which always hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// After the first event, clients never wait longer than this for a commit somewhere.
    pub writable_within: Option<Duration>,
    /// Once everything has healed, a commit is acknowledged within this time.
    pub writable_after: Option<Duration>,
    /// In these spans nothing is acknowledged.
    pub silent: Vec<(Duration, Duration)>,
    /// At most so many acknowledged rows are missing in the end.
    pub lost_acknowledged: Option<u64>,
    /// For how long two servers may be willing at a time.
    pub overlap: Overlap,
    /// Who is primary in the end.
    pub primary: Option<EndPrimary>,
    /// How many primacies were given after the first.
    pub failovers: Option<Bounds>,
    /// How many rewinds were done.
    pub rewinds: Option<Bounds>,
    /// How many clones were made after the first.
    pub clones: Option<Bounds>,
    /// Rare states that must have been reached.
    pub sometimes: BTreeSet<Sometimes>,
    /// The first violation of the run must be this one, and no other outcome will do: the number
    /// of an invariant, `expect`, `client`, `health`, `log` or `panic`.
    pub violation: Option<String>,
}

/// For how long two servers may be willing at a time, in a cell of the guarantee that is a dash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// The run stays within the guarantee: never.
    #[default]
    None,
    /// No longer than this.
    AtMost(Duration),
    /// However long: it is measured.
    Reported,
}

/// Who is primary in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndPrimary {
    /// Who was in the beginning.
    Same,
    /// Anybody else.
    Other,
    /// This one.
    Node(NodeId),
}

/// From here to there, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The least.
    pub least: u64,
    /// The most.
    pub most: u64,
}

impl Bounds {
    /// Whether `number` lies within.
    #[must_use]
    pub fn holds(self, number: u64) -> bool {
        (self.least..=self.most).contains(&number)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.most {
            write!(f, "{}", self.least)
        } else {
            write!(f, "{}..{}", self.least, self.most)
        }
    }
}

impl Cluster {
    /// Every member's number.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        (1..=self.nodes + self.witnesses).map(NodeId)
    }

    /// Whether this member keeps data.
    #[must_use]
    pub fn keeps_data(&self, node: NodeId) -> bool {
        (1..=self.nodes).contains(&node.0)
    }
}

impl Plan {
    /// The servers whose addresses clients know: those of the members that keep data, and of the
    /// machines that the plan adds later.
    #[must_use]
    pub fn servers_of_clients(&self) -> Vec<NodeId> {
        let data = self.cluster.members().filter(|node| self.cluster.keeps_data(*node));
        data.chain(self.newcomers().filter(|(_, witness)| !witness).map(|(node, _)| node)).collect()
    }

    /// The machines that the plan adds later, and whether each only votes as far as the plan says.
    pub fn newcomers(&self) -> impl Iterator<Item = (NodeId, bool)> + '_ {
        self.events.iter().filter_map(|event| match &event.fault {
            Fault::ReplaceMachine { node, .. } => Some((*node, false)),
            Fault::Order { order: Order::Add { node, witness }, .. } => Some((*node, *witness)),
            Fault::Order { .. }
            | Fault::Partition { .. }
            | Fault::Link { .. }
            | Fault::Crash { .. }
            | Fault::CrashLoop { .. }
            | Fault::Pause { .. }
            | Fault::PowerLoss { .. }
            | Fault::ClockRate { .. }
            | Fault::ClockJump { .. }
            | Fault::Disk { .. }
            | Fault::Postgres { .. }
            | Fault::Sockets { .. } => None,
        })
    }

    /// The plan as a file that reads back as the same plan.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(&plan_table(self, true)).expect("a table of plain values is written")
    }

    /// Whether its file reads back as what it is: what a file could not hold could not be replayed.
    #[must_use]
    pub fn reads_back(&self) -> bool {
        let again = read(&self.name, &self.to_toml());
        matches!(again, Ok(Document::Plan(again)) if *again == *self)
    }

    /// A number for what is planned, whatever the seed: the same on every machine.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let text =
            toml::to_string(&plan_table(self, false)).expect("a table of plain values is written");
        fnv1a(text.as_bytes())
    }
}

/// FNV-1a: stable across versions and machines, which the standard library's hasher is not.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
