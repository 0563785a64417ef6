//! What the members are, noted whenever somebody looks: for coverage in every run, and for a
//! recording where one was asked for. Nothing here draws a number or waits, so that a run takes
//! the same course with it and without it.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_replica::ha::Core;
use pg_replica::ids::{Moment, NodeId};

use crate::clock::true_now;
use crate::coverage::Coverage;
use crate::host::{Host, ProcessKind};
use crate::invariants::{Oracle, WorldView};
use crate::place::Place;
use crate::postgres::Server;
use crate::recording::{Recording, Strike};
use crate::seen::{LeasePhase, Life, Seen};
use crate::streams::lock;

use super::cluster::{Machine, World};

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Sight {
    members: BTreeMap<NodeId, Seen>,
    leases: BTreeMap<NodeId, Lease>,
    coverage: Coverage,
    recording: Option<Box<Recording>>,
}

/// A lease by its holder's own clock.
#[derive(Clone, Copy, Debug)]
struct Lease {
    fence_at: Moment,
    until: Moment,
}

impl Sight {
    pub(super) fn new(record: bool) -> Self {
        Self { recording: record.then(Box::default), ..Self::default() }
    }

    /// A node has processed an event. Its server is looked at from above, and soon enough.
    pub(super) fn stepped(&mut self, core: &Core, now: Moment, oracle: &Oracle) {
        let timing = &core.control().settings.timing;
        let lease =
            core.lease().map(|own| Lease { fence_at: own.fence_at(timing), until: own.until });
        match lease {
            Some(lease) => drop(self.leases.insert(core.me(), lease)),
            None => drop(self.leases.remove(&core.me())),
        }
        let before = self.members.get(&core.me()).copied().unwrap_or_default();
        let seen = Seen {
            machine: Life::Runs,
            manager: Life::Runs,
            role: Some(core.role()),
            leads: core.raft().leads,
            epoch: core.control().primacy.epoch,
            term: core.raft().term,
            lease: phase(lease, now),
            lease_truly: self.recording.is_some() && is_leased(oracle, core.me()),
            ..before
        };
        self.note(core.me(), seen);
    }

    /// Somebody has looked at a machine from above.
    fn looked(&mut self, host: &Host, server: &Server, willing: bool, oracle: &Oracle) {
        let node = host.node();
        let before = self.members.get(&node).copied().unwrap_or_default();
        let has_node = host.is_running(ProcessKind::Manager);
        let mut seen = Seen {
            role: before.role.filter(|_| has_node),
            leads: before.leads && has_node,
            lease: phase(self.leases.get(&node).copied(), host.clock().now()),
            server: server.phase(willing),
            ..before
        };
        if let Some(recording) = &mut self.recording {
            seen.manager = life(host, ProcessKind::Manager);
            seen.guard = life(host, ProcessKind::Guard);
            seen.machine = match (host.is_frozen(), seen.manager, seen.guard) {
                (true, _, _) => Life::Still,
                (false, Life::Gone, Life::Gone) => Life::Gone,
                (false, _, _) => Life::Runs,
            };
            seen.lease_truly = is_leased(oracle, node);
            if let Some(end) = server.position() {
                recording.note_position(true_now(), node, end.timeline, end.flushed);
            }
        }
        self.note(node, seen);
    }

    fn note(&mut self, node: NodeId, seen: Seen) {
        if self.members.insert(node, seen) == Some(seen) {
            return;
        }
        self.coverage.note(node, seen);
        if let Some(recording) = &mut self.recording {
            recording.note(true_now(), node, seen);
        }
    }

    /// The numbers of the states that were seen.
    pub(super) fn states(&self) -> std::collections::BTreeSet<u64> {
        self.coverage.states().clone()
    }
}

impl World {
    /// Everything is looked at from above.
    pub(super) fn note_sight(&self, view: &WorldView) {
        let own =
            |machine: &Machine| (machine.host.clone(), machine.server.clone(), machine.destroyed);
        let machines: Vec<_> = lock(&self.machines).values().map(own).collect();
        let mut sight = lock(&self.sight);
        for (host, server, destroyed) in machines {
            let node = host.node();
            if destroyed {
                sight.leases.remove(&node);
                sight.note(node, Seen::default());
                sight.coverage.forget(node);
                continue;
            }
            let shown = view.servers.iter().find(|shown| shown.node == node);
            let willing = shown.is_some_and(|shown| shown.could_acknowledge);
            sight.looked(&host, &server, willing, &self.oracle);
        }
    }

    /// One of the plan's events takes effect.
    pub(super) fn note_strike(&self, event: usize, nodes: &[NodeId], ways: &[(Place, Place)]) {
        if let Some(recording) = &mut lock(&self.sight).recording {
            let (nodes, ways) = (nodes.to_vec(), ways.to_vec());
            recording.strikes.push(Strike { event, at: true_now(), healed: None, nodes, ways });
        }
    }

    /// One of the plan's events is over.
    pub(super) fn note_healed(&self, event: usize) {
        if let Some(recording) = &mut lock(&self.sight).recording {
            recording.note_healed(true_now(), event);
        }
    }

    /// The recording, where one was asked for.
    pub(super) fn recording(&self, ended: Duration) -> Option<Box<Recording>> {
        let mut recording = lock(&self.sight).recording.take()?;
        recording.began = *lock(&self.began);
        recording.ended = ended;
        recording.operations = self.clients.history(|history| history.operations().to_vec());
        recording.lines = lock(&self.trace).lines().to_vec();
        Some(recording)
    }
}

fn is_leased(oracle: &Oracle, node: NodeId) -> bool {
    oracle.lease_end(node).is_some_and(|end| true_now() <= end)
}

fn life(host: &Host, kind: ProcessKind) -> Life {
    match (host.is_running(kind), host.is_paused(kind)) {
        (false, _) => Life::Gone,
        (true, true) => Life::Still,
        (true, false) => Life::Runs,
    }
}

fn phase(lease: Option<Lease>, now: Moment) -> LeasePhase {
    match lease {
        None => LeasePhase::None,
        Some(lease) if now < lease.fence_at => LeasePhase::Held,
        Some(lease) if now < lease.until => LeasePhase::Margin,
        Some(_) => LeasePhase::Over,
    }
}
