//! Consensus as the house uses it: its store, its members, and the channel that it waits on.
#![allow(clippy::unwrap_used, reason = "a test may end where it stands")]

mod cluster;
mod disk;
mod runtime;
mod storage;
mod watch;

use pg_replica::control::{Command, Member, MemberKind, Settings};
use pg_replica::ids::{Incarnation, NodeId};

/// The first entry of a cluster of three.
fn founding() -> Command {
    let member = |id: u64| Member {
        kind: MemberKind::Data,
        address: format!("n{id}"),
        postgres: format!("p{id}"),
        incarnation: Incarnation(id),
        priority: 100,
        no_failover: false,
    };
    Command::Found {
        cluster: "blue".into(),
        members: (1..=3).map(|id| (NodeId(id), member(id))).collect(),
        settings: Settings::default(),
        adopts: None,
    }
}
