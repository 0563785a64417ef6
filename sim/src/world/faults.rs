//! What the nemesis can do to the machines.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_replica::ids::NodeId;

use crate::clock::{sleep_until_true, true_now};
use crate::fabric::{LinkFault, Port};
use crate::host::ProcessKind;
use crate::nemesis::{DiskFlaws, Machines};
use crate::place::Place;
use crate::scenario::{Answer, Order, PostgresFlaw, Process, Roles, SocketFlaw};
use crate::sometimes::Sometimes;
use crate::streams::lock;

use super::cluster::{Machine, World};
use super::place;

/// What a sync takes on a healthy disk: the yardstick of a slow one.
const HEALTHY_SYNC: Duration = Duration::from_millis(2);

impl World {
    fn with_machine(&self, node: NodeId, act: impl FnOnce(&Machine)) {
        if let Some(machine) = self.machine(node) {
            act(&machine);
        }
    }

    /// A machine that is down answers nobody, not even with a refusal.
    fn silence(&self, node: NodeId, silent: bool) {
        let hosts = self.hosts_in_order().into_iter().filter(|other| *other != node).map(place);
        let clients = self.clients().into_iter().map(Place::Client);
        for other in hosts.chain(clients).chain([Place::Operator]) {
            for (from, to) in [(place(node), other), (other, place(node))] {
                if silent {
                    self.fabric.block(from, to, None);
                } else {
                    self.fabric.unblock(from, to, None);
                }
            }
        }
    }

    /// Returns whether it was not down already.
    fn go_down(&self, machine: &Machine) -> bool {
        let node = machine.host.node();
        let was_up = lock(&self.down).insert(node);
        if was_up {
            self.silence(node, true);
        }
        was_up
    }

    fn come_back(&self, node: NodeId) {
        if lock(&self.down).remove(&node) {
            self.silence(node, false);
        }
        self.start_machine(node);
    }

    /// Before its processes die: nobody is left to close what they had open.
    fn lose_connections(&self, node: NodeId) {
        if let Some(wires) = &self.wires {
            wires.lose(node);
        }
    }

    fn thaw(&self, machine: &Machine) {
        let (node, host) = (machine.host.node(), &machine.host);
        host.thaw();
        if host.is_frozen() {
            return;
        }
        if let Some(wires) = &self.wires {
            wires.thaw(node);
        }
        if let Some((since, with_clock)) = lock(&self.frozen).remove(&node) {
            self.oracle.thawed(node, since, with_clock);
        }
    }

    fn heal_machine(&self, machine: &Machine) {
        let host = &machine.host;
        while host.is_frozen() {
            self.thaw(machine);
        }
        for kind in ProcessKind::ALL {
            while host.is_paused(kind) {
                host.resume(kind);
            }
        }
        host.disk().heal();
        host.clock().set_rate_ppm(0);
        machine.server.heal();
        self.come_back(host.node());
    }
}

impl Machines for World {
    async fn sleep_until(&self, at: Duration) {
        sleep_until_true(at).await;
    }

    fn roles(&self) -> Roles {
        let newest = self.oracle.newest();
        let hosts = self.hosts_in_order();
        let exists = |node: &NodeId| hosts.contains(node);
        let primary =
            self.primary().or(newest.primacy.holder).or(newest.primacy.last_holder).filter(exists);
        let before = newest.timelines.values().rev().map(|record| record.holder);
        let target = newest.sync.target();
        Roles {
            members: newest.members.keys().copied().filter(exists).collect(),
            data: newest.data_members().filter(exists).collect(),
            primary,
            old_primary: before.into_iter().find(|holder| Some(*holder) != primary).filter(exists),
            leader: self.oracle.raft_leader().filter(exists),
            sync_standbys: target
                .map(|sync| sync.standbys.iter().copied().filter(exists).collect())
                .unwrap_or_default(),
        }
    }

    fn draw(&self, event: usize, n: usize) -> usize {
        self.streams.draw(event, n)
    }

    fn keeps_data(&self, node: NodeId) -> bool {
        // A machine that waits to be admitted has a Postgres in waiting as well.
        let waits = !self.plan.cluster.members().any(|member| member == node)
            && !self.oracle.newest().members.contains_key(&node);
        waits || self.oracle.newest().keeps_data(node) || self.plan.cluster.keeps_data(node)
    }

    fn hosts(&self) -> Vec<NodeId> {
        self.hosts_in_order()
    }

    fn clients(&self) -> Vec<u32> {
        (0..self.plan.workload.clients()).collect()
    }

    fn block(&self, from: Place, to: Place, port: Option<Port>) {
        self.fabric.block(from, to, port);
    }

    fn unblock(&self, from: Place, to: Place, port: Option<Port>) {
        self.fabric.unblock(from, to, port);
    }

    fn set_link(&self, from: Place, to: Place, fault: LinkFault) {
        self.fabric.set_link(from, to, fault);
    }

    fn clear_link(&self, from: Place, to: Place) {
        self.fabric.clear_link(from, to);
    }

    fn crash(&self, node: NodeId, process: Process) -> bool {
        let Some(machine) = self.machine(node) else { return false };
        let kill = |kind| {
            let ran = machine.host.is_running(kind);
            machine.host.kill(kind);
            ran
        };
        match process {
            Process::Manager => kill(ProcessKind::Manager),
            Process::Postgres => machine.server.kill_process("SIGKILL"),
            Process::Guard => kill(ProcessKind::Guard),
            Process::Host => {
                machine.server.kill_process("a crash of its host");
                self.lose_connections(node);
                machine.host.crash();
                self.go_down(&machine)
            }
        }
    }

    fn power_loss(&self, node: NodeId) {
        self.with_machine(node, |machine| {
            machine.server.power_loss();
            self.lose_connections(node);
            machine.host.power_loss();
            self.oracle.mark(Sometimes::PowerLossDroppedWrites);
            self.go_down(machine);
        });
    }

    fn restart(&self, node: NodeId, process: Process) {
        match process {
            Process::Manager => self.start_manager(node),
            Process::Guard => self.start_guard(node),
            Process::Host => self.come_back(node),
            Process::Postgres => {}
        }
    }

    fn pause(&self, node: NodeId, process: Process, with_clock: bool) -> bool {
        let Some(machine) = self.machine(node) else { return false };
        let runs = |kind| machine.host.is_running(kind);
        self.look.notify_one();
        match process {
            Process::Manager => {
                machine.host.pause(ProcessKind::Manager);
                runs(ProcessKind::Manager)
            }
            Process::Postgres => {
                machine.server.hang();
                runs(ProcessKind::Postgres)
            }
            Process::Guard => {
                machine.host.pause(ProcessKind::Guard);
                runs(ProcessKind::Guard)
            }
            Process::Host => {
                let mut frozen = lock(&self.frozen);
                let (_, clock) = frozen.entry(node).or_insert((true_now(), false));
                *clock |= with_clock;
                machine.host.freeze(with_clock);
                if let Some(wires) = &self.wires {
                    wires.freeze(node);
                }
                !lock(&self.down).contains(&node)
            }
        }
    }

    fn resume(&self, node: NodeId, process: Process) {
        self.with_machine(node, |machine| match process {
            Process::Manager => machine.host.resume(ProcessKind::Manager),
            Process::Postgres => machine.server.unhang(),
            Process::Guard => machine.host.resume(ProcessKind::Guard),
            Process::Host => self.thaw(machine),
        });
        self.look.notify_one();
    }

    fn destroy(&self, node: NodeId) -> bool {
        if !self.can_spare(node) {
            return false;
        }
        self.crash(node, Process::Host);
        self.with_machine(node, |machine| {
            machine.server.wipe();
            machine.host.disk().wipe();
        });
        self.oracle.store_lost(node);
        if let Some(machine) = lock(&self.machines).get_mut(&node) {
            machine.destroyed = true;
        }
        true
    }

    fn replace(&self, old: NodeId, new: NodeId) {
        self.replace_member(old, new);
    }

    fn set_clock_rate(&self, node: NodeId, ppm: i64) {
        self.with_machine(node, |machine| machine.host.clock().set_rate_ppm(ppm));
        let mut rates = lock(&self.rates);
        rates.insert(node, ppm);
        let fastest = rates.values().copied().max().unwrap_or_default().max(0);
        let slowest = rates.values().copied().min().unwrap_or_default().min(0);
        drop(rates);
        let bound = i64::try_from(self.plan.cluster.timing.clock_rate_ppm).unwrap_or(i64::MAX);
        if fastest - slowest > bound {
            self.oracle.clocks_beyond_rate();
        }
    }

    fn jump_clock(&self, node: NodeId, by_ms: i64) {
        self.with_machine(node, |machine| machine.host.clock().jump_wall_ms(by_ms));
    }

    fn set_disk(&self, node: NodeId, flaws: &DiskFlaws) {
        self.with_machine(node, |machine| {
            let disk = machine.host.disk();
            let factor = flaws.slow.map_or(1.0, |latency| {
                (latency.as_secs_f64() / HEALTHY_SYNC.as_secs_f64()).max(1.0)
            });
            disk.set_slow(factor);
            disk.set_full(flaws.full);
            disk.set_failing(flaws.failing_writes, flaws.failing_syncs);
            disk.set_stalled(flaws.stalled);
        });
    }

    fn set_postgres(&self, node: NodeId, flaw: PostgresFlaw, on: bool) -> bool {
        self.with_machine(node, |machine| machine.server.set_flaw(flaw, on));
        true
    }

    fn set_sockets(&self, node: NodeId, flaw: SocketFlaw, on: bool) -> bool {
        let Some(wires) = &self.wires else { return false };
        let began = on && !wires.has_flaw(node, flaw);
        let hit = wires.set_flaw(node, flaw, on);
        if began {
            self.send_strangers(node, flaw);
        }
        hit
    }

    fn order(&self, order: Order, answer: Answer, times: u32, name: Option<u32>) {
        self.give_order(order, answer, times, name);
    }

    fn note(&self, line: String) {
        self.trace_fault(format_args!("{line}"));
    }

    fn missed(&self, what: String) {
        if !self.plan.drawn {
            self.expectation_failed("expect", what);
        }
    }

    fn struck(&self, event: usize, nodes: &[NodeId], ways: &[(Place, Place)]) {
        self.note_strike(event, nodes, ways);
    }

    fn over(&self, event: usize) {
        self.note_healed(event);
    }

    fn cut_off(&self, clients: BTreeSet<u32>) {
        lock(&self.cut_off).insert(true_now(), clients);
    }

    fn heal_everything(&self) {
        if let Some(wires) = &self.wires {
            wires.heal();
        }
        lock(&self.down).clear();
        self.fabric.heal_all();
        lock(&self.rates).clear();
        for node in self.hosts_in_order() {
            self.with_machine(node, |machine| self.heal_machine(machine));
        }
    }
}
