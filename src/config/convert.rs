//! The configuration in the words of those who work by it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::control::Settings;
use crate::os::guard::GuardPlan;
use crate::os::net::Identity;
use crate::runtime::{FoundingMember, NodeConfig, SNAPSHOT_EVERY};
use crate::sabotage::Sabotage;

use super::Config;

impl Config {
    /// What the runtime is told. A node that joins has an empty founding list.
    #[must_use]
    pub fn node_config(&self) -> NodeConfig {
        let founding = self.members.iter().filter(|_| !self.join).map(|(node, member)| {
            let founding = FoundingMember {
                kind: member.kind,
                address: member.peers.to_string(),
                postgres: member.postgres.as_ref().map(ToString::to_string).unwrap_or_default(),
                priority: member.priority,
                no_failover: member.no_failover,
            };
            (*node, founding)
        });
        NodeConfig {
            node: self.node,
            cluster: self.cluster.clone(),
            founding: founding.collect(),
            settings: Settings { parameters: self.parameters(), ..self.settings.clone() },
            adopts: self.adopt,
            raft_heartbeat_ms: self.raft.heartbeat_ms,
            raft_election_ms: (self.raft.election_min_ms, self.raft.election_max_ms),
            raft_snapshot_every: SNAPSHOT_EVERY,
            sabotage: Sabotage::NONE,
        }
    }

    /// The parameters that the cluster begins with.
    fn parameters(&self) -> BTreeMap<String, String> {
        self.postgres.as_ref().map(|postgres| postgres.parameters.clone()).unwrap_or_default()
    }

    /// Who this member is to the others.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { node: self.node, cluster: self.cluster.clone() }
    }

    /// The folder of the node's own store, for `OsDisk`.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.state_dir.join("raft")
    }

    /// The folder of what the server needs besides its data directory.
    #[must_use]
    pub fn home_dir(&self) -> PathBuf {
        self.state_dir.join("home")
    }

    /// Where the guard listens.
    #[must_use]
    pub fn guard_socket(&self) -> PathBuf {
        self.state_dir.join("guard.sock")
    }

    /// What the guard is told; a witness has nothing to guard.
    #[must_use]
    pub fn guard_plan(&self) -> Option<GuardPlan> {
        let postgres = self.postgres.as_ref()?;
        Some(GuardPlan {
            socket: self.guard_socket(),
            data: postgres.data_dir.clone(),
            watchdog: self.watchdog.clone(),
            with_manager: false,
        })
    }
}
