//! The first start of a cluster.
//!
//! One member, the lowest number of the founding list, starts the consensus log, and only after
//! every other founding member has answered that it has none and means the same cluster. The others
//! wait to be told. A member that finds a cluster which knows it under another store has lost its
//! disk: it stops, because a voter that forgot its votes is worse than no voter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use crate::control::{Command, Member};
use crate::env::{Network, Peer};
use crate::ids::{Incarnation, NodeId};
use crate::sabotage::Saboteur;

use super::NodeEnv;
use super::node::{Input, Shared};
use super::raft::RaftNode;
use super::wire::{Request, Response};

/// How long a greeting may take.
const HELLO_DEADLINE: Duration = Duration::from_millis(500);
/// How long to wait before greeting again.
const HELLO_INTERVAL: Duration = Duration::from_millis(250);

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// It is a voter that forgot its votes.
    #[error(
        "cluster {cluster} knows {node} on another store than this empty one: its disk was lost; \
         remove the member and add this machine under a new number"
    )]
    StoreLost {
        /// The cluster.
        cluster: String,
        /// This member.
        node: NodeId,
    },
    /// It was admitted to a cluster that it is not configured for.
    #[error(
        "this machine is configured for cluster {own} and belongs to cluster {found}; correct the \
         name, or give it an empty store"
    )]
    OtherCluster {
        /// The name in its configuration.
        own: String,
        /// The name in the control state.
        found: String,
    },
}

/// Founds the cluster, if that is this member's part, or watches out for the sign that it must not.
pub(super) async fn found<E: NodeEnv>(shared: Arc<Shared<E>>) {
    let me = shared.config.node;
    let lenient = shared.config.sabotage.is(Saboteur::AcceptWipedVoter);
    let mut strangers = BTreeMap::new();
    while !shared.raft.is_initialised().await {
        let mut greeted = greet_all(&shared).await;
        // Whoever means another cluster is not there, as far as this one is concerned.
        let others =
            greeted.extract_if(.., |_, greeting| greeting.cluster != shared.config.cluster);
        for (node, Greeting { cluster, .. }) in others {
            if strangers.insert(node, cluster.clone()).as_ref() != Some(&cluster) {
                let own = &shared.config.cluster;
                tracing::warn!("{node} is configured for cluster {cluster}, and this is {own}");
            }
        }
        let lost = greeted.values().find(|greeting| {
            let known = greeting.members.get(&me);
            known.is_some_and(|known| *known != shared.raft.incarnation())
        });
        if let Some(greeting) = lost
            && !lenient
        {
            let error = FoundingError::StoreLost { cluster: greeting.cluster.clone(), node: me };
            let _ = shared.inbox.send(Input::Fatal(error.into())).await;
            return;
        }
        let first = shared.config.founding.keys().next() == Some(&me);
        let all_empty = greeted.len() + 1 == shared.config.founding.len()
            && greeted.values().all(|greeting| !greeting.initialised);
        if first && all_empty {
            initialise(&shared, &greeted).await;
        }
        E::Rt::sleep(HELLO_INTERVAL).await;
    }
}

struct Greeting {
    incarnation: Incarnation,
    cluster: String,
    initialised: bool,
    members: BTreeMap<NodeId, Incarnation>,
}

async fn greet_all<E: NodeEnv>(shared: &Shared<E>) -> BTreeMap<NodeId, Greeting> {
    let mut greeted = BTreeMap::new();
    for (node, member) in &shared.config.founding {
        if *node == shared.config.node {
            continue;
        }
        let address = member.address.clone();
        let peer = Peer { node: *node, address, incarnation: Incarnation::default() };
        let response = shared.env.network().call(&peer, Request::Hello, HELLO_DEADLINE).await;
        if let Ok(Response::Hello { incarnation, cluster, initialised, members }) = response {
            greeted.insert(*node, Greeting { incarnation, cluster, initialised, members });
        }
    }
    greeted
}

async fn initialise<E: NodeEnv>(shared: &Shared<E>, greeted: &BTreeMap<NodeId, Greeting>) {
    let members = shared.config.founding.iter().map(|(node, member)| {
        let incarnation =
            greeted.get(node).map_or_else(|| shared.raft.incarnation(), |g| g.incarnation);
        (*node, RaftNode { address: member.address.clone(), incarnation })
    });
    if let Err(why) = shared.raft.initialise(members.collect()).await {
        tracing::info!("the consensus log was not started: {why}");
    }
}

/// The first command of all, from whoever leads first.
pub(super) async fn propose_founding<E: NodeEnv>(shared: &Shared<E>) {
    if !shared.raft.control().cluster.is_empty() {
        return;
    }
    let nodes = shared.raft.nodes();
    let members = shared.config.founding.iter().map(|(node, founding)| {
        let incarnation = nodes.get(node).map(|n| n.incarnation).unwrap_or_default();
        let member = Member {
            kind: founding.kind,
            address: founding.address.clone(),
            postgres: founding.postgres.clone(),
            incarnation,
            priority: founding.priority,
            no_failover: founding.no_failover,
        };
        (*node, member)
    });
    let command = Command::Found {
        cluster: shared.config.cluster.clone(),
        members: members.collect(),
        settings: shared.config.settings.clone(),
        adopts: shared.config.adopts,
    };
    // Where another leader was faster this one is refused, and that is as good.
    let _ = shared.raft.propose(command).await;
}
