//! What a node is told before it starts.

use std::collections::BTreeMap;

use crate::control::{MemberKind, Settings};
use crate::ids::{NodeId, SystemId};
use crate::sabotage::Sabotage;

/// After how many entries a snapshot usually follows: each entry holds a small command.
pub const SNAPSHOT_EVERY: u64 = 500;

/// A member of a cluster that is yet to be founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundingMember {
    /// What it contributes.
    pub kind: MemberKind,
    /// Where its node listens.
    pub address: String,
    /// Where its Postgres listens.
    pub postgres: String,
    /// Among equally advanced candidates the highest priority wins.
    pub priority: u32,
    /// Never chosen by an automatic failover.
    pub no_failover: bool,
}

/// A node's configuration.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This member.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: String,
    /// The members that found the cluster, this one among them; empty for a node that joins one.
    pub founding: BTreeMap<NodeId, FoundingMember>,
    /// The settings that the cluster is founded with. Later ones live in the control state.
    pub settings: Settings,
    /// The Postgres cluster that it is founded on; without one it makes a new one.
    pub adopts: Option<SystemId>,
    /// How often Raft's leader is heard, in milliseconds.
    pub raft_heartbeat_ms: u64,
    /// The shortest and the longest silence after which a voter stands for election.
    pub raft_election_ms: (u64, u64),
    /// A snapshot of the control state follows after so many entries of the log.
    pub raft_snapshot_every: u64,
    /// The broken rule, in simulation.
    pub sabotage: Sabotage,
}
