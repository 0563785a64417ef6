//! Rare states that only somebody who sees everything can notice.

use pg_replica::ids::{Epoch, NodeId};

use crate::host::ProcessKind;
use crate::invariants::WorldView;
use crate::place::Place;
use crate::sometimes::Sometimes;
use crate::streams::lock;

use super::cluster::World;

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Before {
    epoch: Epoch,
    primary: Option<NodeId>,
    sync_lost: bool,
}

impl World {
    /// Looks, and marks what is there.
    pub(super) fn note_rare_states(&self, view: &WorldView) {
        let frozen = |node: &NodeId| {
            self.machine(*node).is_some_and(|machine| {
                machine.host.is_frozen() || machine.host.is_paused(ProcessKind::Manager)
            })
        };
        let paused = self.hosts_in_order().iter().filter(|node| frozen(node)).count();
        if paused + lock(&self.down).len() >= 2 {
            self.oracle.mark(Sometimes::DoubleFault);
        }
        let newest = view.servers.iter().filter_map(|server| server.primary_epoch).max();
        let newest = newest.unwrap_or_default();
        let mut before = lock(&self.before);
        if newest > before.epoch && before.epoch > Epoch::default() && paused > 0 {
            self.oracle.mark(Sometimes::FailoverDuringPause);
        }
        before.epoch = before.epoch.max(newest);
        self.note_lease(view, &mut before);
        self.note_sync_standbys(&mut before);
    }

    /// A primary that was cut off from a majority and is no primary any more: its lease has ended.
    fn note_lease(&self, view: &WorldView, before: &mut Before) {
        let primary = view.servers.iter().find(|server| server.primary_epoch.is_some());
        let primary = primary.map(|server| server.node);
        if let Some(was) = before.primary
            && primary != Some(was)
            && self.is_cut_off(was)
        {
            self.oracle.mark(Sometimes::LeaseEndedInPartition);
        }
        before.primary = primary;
    }

    fn is_cut_off(&self, node: NodeId) -> bool {
        let hosts = self.hosts_in_order();
        let unreachable = hosts.iter().filter(|other| {
            **other != node && self.fabric.is_blocked(Place::Host(node), Place::Host(**other), None)
        });
        unreachable.count() * 2 >= hosts.len() && !lock(&self.down).contains(&node)
    }

    fn note_sync_standbys(&self, before: &mut Before) {
        let control = self.oracle.newest();
        let lost = control.sync.target().is_some_and(|target| {
            let down = lock(&self.down);
            target.confirmations > 0 && target.standbys.iter().any(|node| down.contains(node))
        });
        let waits = |primary| self.machine(primary).is_some_and(|m| m.server.has_waiting_commits());
        let lost = lost && before.primary.is_some_and(waits);
        if lost && !before.sync_lost {
            self.oracle.mark(Sometimes::SyncStandbyLostMidCommit);
        }
        before.sync_lost = lost;
    }
}
