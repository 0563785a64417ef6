//! What the nemesis can do to the machines, and how it is done to real ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use pg_replica::ids::NodeId;
use sim::fabric::{LinkFault, Port};
use sim::nemesis::{DiskFlaws, Machines};
use sim::place::Place;
use sim::scenario::{Answer, Order, PostgresFlaw, Process, Roles, SocketFlaw};
use sim::streams::lock;
use tokio::time::{Instant, sleep_until};

use super::World;
use super::machine::Machine;
use super::sql::Session;
use super::tale::Frozen;
use crate::impossible::{Means, means_of};
use crate::lab::{Cut, Disks, Loss, address};
use crate::subject::{Programs, Watched};

/// More files than a server of this size keeps for its log.
const LOG_FILES_MAX: u32 = 16;

/// What is wrong with the network.
#[derive(Debug, Default)]
pub(super) struct Wires {
    /// How many faults cut a direction.
    blocks: BTreeMap<(Place, Place, Option<Port>), u32>,
    losses: BTreeMap<(Place, Place), u32>,
    /// Machines that are down.
    silent: BTreeSet<NodeId>,
    /// What the switch was told last.
    shown: Cut,
}

impl Wires {
    fn cut(&self) -> Cut {
        let mut cut = Cut {
            silent: self.silent.iter().map(|node| address(Place::Host(*node))).collect(),
            ..Cut::default()
        };
        let way = |from: Place, to: Place| -> (Ipv4Addr, Ipv4Addr) { (address(from), address(to)) };
        for ((from, to, port), _) in self.blocks.iter().filter(|(_, count)| **count > 0) {
            let set = match port {
                None => &mut cut.all,
                Some(Port::Node) => &mut cut.node,
                Some(Port::Postgres) => &mut cut.postgres,
            };
            set.insert(way(*from, *to));
        }
        let losses = self.losses.iter();
        cut.lossy =
            losses.map(|((from, to), n)| Loss { way: way(*from, *to), per_mille: *n }).collect();
        cut
    }
}

impl World {
    /// Tells the switch what is cut now, where that has changed.
    pub(super) fn show_cuts(&self) {
        let mut wires = lock(&self.wires);
        let cut = wires.cut();
        if cut == wires.shown {
            return;
        }
        match self.lab.switch.cut(&cut) {
            Ok(()) => wires.shown = cut,
            Err(error) => self.trouble(&format!("the network could not be cut: {error}")),
        }
    }

    fn silence(&self, node: NodeId, silent: bool) {
        let mut wires = lock(&self.wires);
        if silent {
            wires.silent.insert(node);
        } else {
            wires.silent.remove(&node);
        }
        drop(wires);
        self.show_cuts();
    }

    pub(super) fn with_machine<T: Default>(
        &self,
        node: NodeId,
        act: impl FnOnce(&mut Machine) -> T,
    ) -> T {
        let mut machines = lock(&self.machines);
        let machine = machines.get_mut(&node).filter(|machine| !machine.destroyed);
        machine.map(act).unwrap_or_default()
    }

    /// Notes that a whole machine goes on which stood still; `until` is the instant before.
    fn thawed(&self, node: NodeId, since: Option<Duration>, until: Duration) {
        if let Some(since) = since {
            lock(&self.tale).frozen.push(Frozen { node, since, until });
        }
    }

    /// Makes a machine silent before it is ended: one that is down answers nobody, not even with a
    /// refusal.
    pub(super) fn take_down(&self, node: NodeId) -> bool {
        self.silence(node, true);
        self.end(node, Process::Host)
    }

    fn end(&self, node: NodeId, process: Process) -> bool {
        let stalls = self.with_machine(node, |machine| Some(machine.stalls())).unwrap_or_default();
        if stalls && process != Process::Postgres {
            self.remark(format!("the disk of {node} lets go for the end of its {process:?}"));
        }
        let ended = self.with_machine(node, |machine| Some(machine.crash(process)));
        ended.is_some_and(|ended| {
            ended.unwrap_or_else(|error| {
                self.trouble(&format!("{node} could not be ended: {error}"));
                false
            })
        })
    }

    /// What a server has of its log is as large as it will be for a long time: only the next file
    /// needs space, and this has it begun.
    async fn use_up_log(self: Arc<Self>, node: NodeId) {
        let (socket, keeper) = (self.subject.socket(node), &self.subject.ground().keeper);
        let Ok(session) = Session::at(&socket, keeper, "postgres").await else {
            return self.remark(format!("nobody at {node} has a log to be used up"));
        };
        let next = "select pg_logical_emit_message(false, 'chaos', 'a file of its own'), \
                    pg_switch_wal()";
        // One that has several in hand needs as many; a standby has no say in it.
        for _ in 0..LOG_FILES_MAX {
            if session.ask(next).await.is_err() {
                return;
            }
        }
        if self.with_machine(node, |machine| Some(machine.is_full())).unwrap_or_default() {
            self.trouble(&format!("the log of {node} found room for {LOG_FILES_MAX} files more"));
        }
    }

    fn heal_disks(&self, node: NodeId) {
        if let Some(Err(error)) = self.with_machine(node, |machine| Some(machine.heal_disks())) {
            self.trouble(&format!("the disks of {node} could not be healed: {error}"));
        }
    }

    /// Does something with the disks of a machine.
    fn with_disks(&self, node: NodeId, act: impl FnOnce(&mut Disks) -> io::Result<()>) {
        let done = self.with_machine(node, |machine| Some(machine.with_disks(act)));
        if let Some(Err(error)) = done {
            self.trouble(&format!("the disks of {node} could not be broken: {error}"));
        }
    }

    pub(super) fn come_back(&self, node: NodeId) {
        self.silence(node, false);
        let started = self.with_machine(node, |machine| Some(machine.restart(Process::Host)));
        if let Some(Err(error)) = started {
            self.trouble(&format!("{node} cannot be started: {error}"));
        }
    }
}

impl Machines for World {
    async fn sleep_until(&self, at: Duration) {
        self.show_cuts();
        sleep_until(Instant::from_std(self.started + at)).await;
    }

    fn roles(&self) -> Roles {
        let hosts = self.hosts();
        let exists = |node: &NodeId| hosts.contains(node);
        let members = self.members();
        let primary = self.primary().filter(exists);
        let before = lock(&self.tale);
        let mut former = before.acks.iter().rev().map(|ack| ack.server);
        let old_primary = former.find(|server| Some(*server) != primary).filter(exists);
        let newest = before.last_ack().map(|ack| ack.sync.standbys.clone()).unwrap_or_default();
        Roles {
            members: members.keys().copied().filter(exists).collect(),
            data: members.iter().filter(|(_, data)| **data).map(|(node, _)| *node).collect(),
            primary,
            old_primary,
            leader: self.leader().filter(exists),
            sync_standbys: newest.into_iter().filter(exists).collect(),
        }
    }

    fn draw(&self, event: usize, n: usize) -> usize {
        self.streams.draw(event, n)
    }

    fn keeps_data(&self, node: NodeId) -> bool {
        let known = self.members().get(&node).copied();
        // A machine that waits to be admitted has a Postgres in waiting as well.
        known.unwrap_or_else(|| self.plan.servers_of_clients().contains(&node))
    }

    fn hosts(&self) -> Vec<NodeId> {
        let machines = lock(&self.machines);
        machines.iter().filter(|(_, m)| !m.destroyed).map(|(node, _)| *node).collect()
    }

    fn clients(&self) -> Vec<u32> {
        (0..self.plan.workload.clients()).collect()
    }

    fn block(&self, from: Place, to: Place, port: Option<Port>) {
        *lock(&self.wires).blocks.entry((from, to, port)).or_default() += 1;
    }

    fn unblock(&self, from: Place, to: Place, port: Option<Port>) {
        let mut wires = lock(&self.wires);
        let count = wires.blocks.entry((from, to, port)).or_default();
        *count = count.saturating_sub(1);
    }

    fn set_link(&self, from: Place, to: Place, fault: LinkFault) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a thousand"
        )]
        let per_mille = (fault.loss * 1_000.0).round() as u32;
        lock(&self.wires).losses.insert((from, to), per_mille);
        self.lab.switch.disturb((address(from), address(to)), fault);
    }

    fn clear_link(&self, from: Place, to: Place) {
        lock(&self.wires).losses.remove(&(from, to));
        self.lab.switch.disturb((address(from), address(to)), LinkFault::default());
    }

    fn crash(&self, node: NodeId, process: Process) -> bool {
        if process == Process::Host {
            return self.take_down(node);
        }
        self.end(node, process)
    }

    fn power_loss(&self, _node: NodeId) {
        self.trouble("a power loss was asked for, and this world has none");
    }

    fn restart(&self, node: NodeId, process: Process) {
        if process == Process::Host {
            return self.come_back(node);
        }
        let started = self.with_machine(node, |machine| Some(machine.restart(process)));
        if let Some(Err(error)) = started {
            self.trouble(&format!("{node} cannot be started: {error}"));
        }
    }

    fn pause(&self, node: NodeId, process: Process, _with_clock: bool) -> bool {
        let now = self.now();
        self.with_machine(node, |machine| machine.pause(process, now))
    }

    fn resume(&self, node: NodeId, process: Process) {
        let until = self.now();
        let since = self.with_machine(node, |machine| machine.resume(process));
        self.thawed(node, since, until);
    }

    fn destroy(&self, node: NodeId) -> bool {
        self.take_down(node);
        self.heal_disks(node);
        lock(&self.tale).disks_lost.push((node, self.now()));
        if let Err(error) = self.subject.wipe(node) {
            self.trouble(&format!("the disk of {node} could not be lost: {error}"));
        }
        self.with_machine(node, |machine| machine.destroyed = true);
        true
    }

    fn replace(&self, old: NodeId, new: NodeId) {
        self.itself().replace_member(old, new);
    }

    fn set_clock_rate(&self, _node: NodeId, _ppm: i64) {
        self.trouble("a clock was to be bent, and this world has one clock");
    }

    fn jump_clock(&self, _node: NodeId, _by_ms: i64) {
        self.trouble("a clock was to be set, and this world has one clock");
    }

    fn set_disk(&self, node: NodeId, flaws: &DiskFlaws) {
        self.with_disks(node, |disks| {
            disks.store.set_full(flaws.full)?;
            disks.store.set_stalled(flaws.stalled)
        });
    }

    fn set_postgres(&self, node: NodeId, flaw: PostgresFlaw, on: bool) -> bool {
        let done = match means_of(flaw) {
            Ok(Means::Hang) if on => {
                *lock(&self.hangs).entry(node).or_default() += 1;
                return self.pause(node, Process::Postgres, false);
            }
            Ok(Means::Hang) => {
                // However many there were, they end together.
                let hangs = lock(&self.hangs).remove(&node).unwrap_or_default();
                (0..hangs).for_each(|_| self.resume(node, Process::Postgres));
                return true;
            }
            Ok(Means::Fill) => {
                self.with_disks(node, |disks| disks.data.set_full(on));
                if on {
                    drop(tokio::spawn(self.itself().use_up_log(node)));
                }
                return true;
            }
            Ok(Means::Fail(program)) => Programs::of(&self.subject.folder(node)).fail(program, on),
            Err(why) => Err(io::Error::other(why)),
        };
        if let Err(error) = done {
            self.trouble(&format!("{node} could not be given the flaw {}: {error}", flaw.name()));
        }
        true
    }

    fn set_sockets(&self, _node: NodeId, _flaw: SocketFlaw, _on: bool) -> bool {
        self.trouble("connections were to be meddled with, and here they are the kernel's own");
        false
    }

    fn order(&self, order: Order, answer: Answer, times: u32, name: Option<u32>) {
        self.itself().give_order(order, answer, times, name);
    }

    fn note(&self, line: String) {
        self.remark(line);
    }

    fn missed(&self, what: String) {
        if !self.plan.drawn {
            self.failed("expect", what);
        }
    }

    fn cut_off(&self, clients: BTreeSet<u32>) {
        lock(&self.tale).cut_off.insert(self.now(), clients);
    }

    fn heal_everything(&self) {
        lock(&self.hangs).clear();
        let mut wires = lock(&self.wires);
        let down = std::mem::take(&mut wires.silent);
        (wires.blocks, wires.losses) = (BTreeMap::new(), BTreeMap::new());
        drop(wires);
        self.show_cuts();
        self.lab.switch.calm();
        for node in self.hosts() {
            self.heal_disks(node);
            let until = self.now();
            let since = self.with_machine(node, Machine::resume_all);
            self.thawed(node, since, until);
            let programs = Programs::of(&self.subject.folder(node));
            for program in Watched::ALL {
                let _ = programs.fail(program, false);
            }
            let kept = self.with_machine(node, |machine| machine.is_kept_down(Process::Manager));
            self.with_machine(node, |machine| machine.restart(Process::Guard).ok());
            if kept || down.contains(&node) {
                self.with_machine(node, |machine| machine.restart(Process::Manager).ok());
                self.come_back(node);
            }
        }
    }
}
