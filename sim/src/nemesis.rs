//! Makes a plan happen: an ordered list of times at which something breaks or heals.
//!
//! It knows when and to whom; how a machine is crashed or a link cut is the world's business, which
//! is reached through [`Machines`]. Faults may overlap: what two of them have broken heals when the
//! last of them is over.

mod cuts;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use pg_replica::ids::NodeId;

use crate::fabric::{LinkFault, Port};
use crate::place::Place;
use crate::scenario::{
    Answer, DiskFlaw, Fault, LinkFlaw, Order, Plan, PlanEvent, PostgresFlaw, Process, Roles,
    SocketFlaw, Target, write_duration,
};

use cuts::Dice;

/// What the nemesis can do to a world. Every verb takes effect at once and never waits, but for the
/// one that does nothing else: what was asked for before it holds when it begins to wait.
pub trait Machines {
    /// Waits until this instant of the world's true time.
    fn sleep_until(&self, at: Duration) -> impl Future<Output = ()> + Send;
    /// Who is what now. A machine that is gone is nothing any more.
    fn roles(&self) -> Roles;
    /// A number below `n` from the event's own stream: what one event draws moves no other.
    fn draw(&self, event: usize, n: usize) -> usize;
    /// The members that a target of this event means now.
    fn resolve(&self, event: usize, target: Target) -> Vec<NodeId> {
        target.resolve(&self.roles(), &mut |n| self.draw(event, n))
    }
    /// Whether there is a Postgres on this machine.
    fn keeps_data(&self, node: NodeId) -> bool;
    /// Every machine that exists, in order.
    fn hosts(&self) -> Vec<NodeId>;
    /// Every client, in order.
    fn clients(&self) -> Vec<u32>;
    /// Cuts one direction. Counted.
    fn block(&self, from: Place, to: Place, port: Option<Port>);
    /// Ends one cut.
    fn unblock(&self, from: Place, to: Place, port: Option<Port>);
    /// Gives one direction a fault, in place of the one that it had.
    fn set_link(&self, from: Place, to: Place, fault: LinkFault);
    /// Takes it away.
    fn clear_link(&self, from: Place, to: Place);
    /// Ends a process, or with `Host` all of them. `false` where none ran.
    fn crash(&self, node: NodeId, process: Process) -> bool;
    /// The machine loses its power.
    fn power_loss(&self, node: NodeId);
    /// Starts what was ended; with `Host`, everything that a machine starts by itself. Never asked
    /// for `Postgres`, which its manager starts.
    fn restart(&self, node: NodeId, process: Process);
    /// Stops a process, or with `Host` the machine. Counted. `false` where none ran.
    fn pause(&self, node: NodeId, process: Process, with_clock: bool) -> bool;
    /// Ends one pause.
    fn resume(&self, node: NodeId, process: Process);
    /// The machine is gone for ever, disk included. `false` where it stays, because so few copies
    /// of the data would be left that nothing is promised any more.
    fn destroy(&self, node: NodeId) -> bool;
    /// An empty machine `new` appears, and the operator admits it and removes `old`. Where the two
    /// numbers are one, the machine merely comes back without its disk, and nobody is told.
    fn replace(&self, old: NodeId, new: NodeId);
    /// Sets the rate of a monotonic clock; zero is true time.
    fn set_clock_rate(&self, node: NodeId, ppm: i64);
    /// Moves a wall clock.
    fn jump_clock(&self, node: NodeId, by_ms: i64);
    /// Puts a disk into exactly this state.
    fn set_disk(&self, node: NodeId, flaws: &DiskFlaws);
    /// Switches a flaw of a Postgres on or off. `WalRecycled` is only ever switched on: it is an
    /// event. `false` where there was nothing to be broken.
    fn set_postgres(&self, node: NodeId, flaw: PostgresFlaw, on: bool) -> bool;
    /// Switches a flaw of a manager's connections on or off; `HalfOpen` is an event, and only ever
    /// switched on. `false` where nothing was there to be broken.
    fn set_sockets(&self, node: NodeId, flaw: SocketFlaw, on: bool) -> bool;
    /// Sends an order, in a task of its own. Every target in it is a `Target::Node`.
    fn order(&self, order: Order, answer: Answer, times: u32, name: Option<u32>);
    /// A line of the trace.
    fn note(&self, line: String);
    /// An event takes effect on these members, or cuts or disturbs these directions.
    fn struck(&self, _event: usize, _nodes: &[NodeId], _ways: &[(Place, Place)]) {}
    /// An event is over.
    fn over(&self, _event: usize) {}
    /// An event never concerned anybody.
    fn missed(&self, what: String);
    /// From here on these clients, and no others, are out of touch with a majority of the machines
    /// while some are in touch.
    fn cut_off(&self, clients: BTreeSet<u32>);
    /// Nothing is broken any more, whatever was.
    fn heal_everything(&self);
}

/// Everything that is wrong with a disk at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFlaws {
    /// How long every write and sync takes.
    pub slow: Option<Duration>,
    /// Whether they wait.
    pub stalled: bool,
    /// Whether there is no space.
    pub full: bool,
    /// Whether writes fail.
    pub failing_writes: bool,
    /// Whether syncs fail.
    pub failing_syncs: bool,
}

/// Carries out the plan, whose times count from `began`, and heals everything at its end.
pub async fn run(plan: &Plan, began: Duration, machines: &impl Machines) {
    let mut nemesis = Nemesis::new(plan, machines);
    for (at, step) in steps(plan) {
        machines.sleep_until(began + at).await;
        match step {
            Step::Apply(index) => nemesis.apply(index, &plan.events[index].fault),
            Step::Heal(index) => nemesis.heal(index),
        }
        nemesis.tell_cut_off();
    }
    machines.sleep_until(began + plan.duration).await;
    nemesis.heal_all();
    nemesis.tell_cut_off();
    nemesis.tell_missed();
    let asked = |event: &PlanEvent| matches!(event.fault, Fault::Order { order: Order::Pause, .. });
    if plan.events.iter().any(asked) {
        // Maintenance that nobody ends would keep the cluster from healing.
        machines.order(Order::Resume, Answer::Any, 1, None);
    }
}

/// What happens at one time to the event of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Heal(usize),
    Apply(usize),
}

/// How to take one effect back.
#[derive(Clone, Debug)]
enum Undo {
    Unblock(Place, Place, Option<Port>),
    Link(Place, Place),
    Restart(NodeId, Process),
    Resume(NodeId, Process),
    ClockRate(NodeId),
    Disk(NodeId),
    Postgres(NodeId, PostgresFlaw),
    Sockets(NodeId, SocketFlaw),
    Replace(NodeId, NodeId),
}

struct Nemesis<'a, M> {
    plan: &'a Plan,
    machines: &'a M,
    undo: BTreeMap<usize, Vec<Undo>>,
    /// The events that concerned somebody.
    hits: BTreeSet<usize>,
    gone: BTreeSet<NodeId>,
    down: BTreeMap<(NodeId, Process), u32>,
    links: BTreeMap<(Place, Place), Vec<(usize, LinkFlaw)>>,
    rates: BTreeMap<NodeId, Vec<(usize, i64)>>,
    disks: BTreeMap<NodeId, Vec<(usize, DiskFlaw)>>,
    flaws: BTreeMap<(NodeId, PostgresFlaw), u32>,
    socket_flaws: BTreeMap<(NodeId, SocketFlaw), u32>,
}

/// The plan's times, in order. At one time healing comes first, so that a fault that follows
/// another without a gap is not healed by it.
fn steps(plan: &Plan) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    for (index, event) in plan.events.iter().enumerate() {
        let end = event.lasts.map(|lasts| event.at + lasts);
        if let (Fault::CrashLoop { period, .. }, Some(end)) = (&event.fault, end) {
            let mut at = event.at;
            while at < end {
                steps.push((at, Step::Apply(index)));
                steps.push((at + *period / 2, Step::Heal(index)));
                at += *period;
            }
            continue;
        }
        steps.push((event.at, Step::Apply(index)));
        if let Some(end) = end {
            steps.push((end, Step::Heal(index)));
        }
    }
    steps.sort();
    steps
}

impl<'a, M: Machines> Nemesis<'a, M> {
    fn new(plan: &'a Plan, machines: &'a M) -> Self {
        Self {
            plan,
            machines,
            undo: BTreeMap::new(),
            hits: BTreeSet::new(),
            gone: BTreeSet::new(),
            down: BTreeMap::new(),
            links: BTreeMap::new(),
            rates: BTreeMap::new(),
            disks: BTreeMap::new(),
            flaws: BTreeMap::new(),
            socket_flaws: BTreeMap::new(),
        }
    }

    fn resolve(&self, event: usize, target: Target) -> Vec<NodeId> {
        let mut nodes = self.machines.resolve(event, target);
        let hosts = self.machines.hosts();
        nodes.retain(|node| hosts.contains(node) && !self.gone.contains(node));
        nodes
    }

    fn apply(&mut self, index: usize, fault: &Fault) {
        let (hit, undo) = match fault {
            Fault::Partition { shape, ports } => {
                let (cuts, whole) = self.ways(index, |dice| cuts::of(shape, dice, self.machines));
                let port = cuts::port(*ports);
                for (from, to) in &cuts {
                    self.machines.block(*from, *to, port);
                }
                self.machines.struck(index, &[], &cuts);
                let undo = cuts.into_iter().map(|(from, to)| Undo::Unblock(from, to, port));
                (whole, undo.collect())
            }
            Fault::Link { links, flaw } => {
                let (ways, whole) =
                    self.ways(index, |dice| cuts::links(*links, dice, self.machines));
                for way in &ways {
                    self.links.entry(*way).or_default().push((index, *flaw));
                    self.show_link(*way);
                }
                self.machines.struck(index, &[], &ways);
                (whole, ways.into_iter().map(|(from, to)| Undo::Link(from, to)).collect())
            }
            Fault::Order { order, answer, times, name } => {
                (self.order(index, order, *answer, *times, *name), Vec::new())
            }
            Fault::Crash { target, .. }
            | Fault::CrashLoop { target, .. }
            | Fault::Pause { target, .. }
            | Fault::PowerLoss { target }
            | Fault::ReplaceMachine { target, .. }
            | Fault::ClockRate { target, .. }
            | Fault::ClockJump { target, .. }
            | Fault::Disk { target, .. }
            | Fault::Sockets { target, .. }
            | Fault::Postgres { target, .. } => self.strike_all(index, fault, *target),
        };
        if hit {
            self.hits.insert(index);
        }
        if matches!(fault, Fault::Partition { .. } | Fault::Link { .. }) {
            self.machines.note(format!("{fault}"));
        }
        self.undo.entry(index).or_default().extend(undo);
    }

    /// The ways that somebody finds with this event's dice, and whether every target on the way
    /// there was somebody.
    fn ways(
        &self,
        index: usize,
        find: impl FnOnce(&Dice<'_>) -> Vec<(Place, Place)>,
    ) -> (Vec<(Place, Place)>, bool) {
        let nobody = Cell::new(false);
        let resolve = |target| {
            let nodes = self.resolve(index, target);
            nobody.set(nobody.get() || nodes.is_empty());
            nodes
        };
        let draw = |n| self.machines.draw(index, n);
        let ways = find(&Dice { resolve: &resolve, draw: &draw });
        let whole = !ways.is_empty() && !nobody.get();
        (ways, whole)
    }

    fn strike_all(&mut self, index: usize, fault: &Fault, target: Target) -> (bool, Vec<Undo>) {
        let nodes = self.resolve(index, target);
        let hit: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        self.machines.note(format!("{fault}: {}", hit.join(" ")));
        self.machines.struck(index, &nodes, &[]);
        let struck: Vec<(bool, Option<Undo>)> =
            nodes.into_iter().map(|node| self.strike(index, fault, node)).collect();
        let any = struck.iter().any(|(hit, _)| *hit);
        (any, struck.into_iter().filter_map(|(_, undo)| undo).collect())
    }

    /// One fault of one machine: whether it changed anything there, and how to take it back.
    fn strike(&mut self, index: usize, fault: &Fault, node: NodeId) -> (bool, Option<Undo>) {
        match fault {
            Fault::Crash { process, .. } | Fault::CrashLoop { process, .. } => {
                let hit = self.machines.crash(node, *process);
                if *process == Process::Postgres {
                    return (hit, None);
                }
                *self.down.entry((node, *process)).or_default() += 1;
                (hit, Some(Undo::Restart(node, *process)))
            }
            Fault::PowerLoss { .. } => {
                self.machines.power_loss(node);
                *self.down.entry((node, Process::Host)).or_default() += 1;
                (true, Some(Undo::Restart(node, Process::Host)))
            }
            Fault::Pause { process, with_clock, .. } => {
                let hit = self.machines.pause(node, *process, *with_clock);
                (hit, Some(Undo::Resume(node, *process)))
            }
            Fault::ReplaceMachine { node: new, .. } => {
                if !self.machines.destroy(node) {
                    return (false, None);
                }
                self.gone.insert(node);
                (true, Some(Undo::Replace(node, *new)))
            }
            Fault::ClockRate { ppm, .. } => {
                self.rates.entry(node).or_default().push((index, *ppm));
                self.machines.set_clock_rate(node, *ppm);
                (true, Some(Undo::ClockRate(node)))
            }
            Fault::ClockJump { by_ms, .. } => {
                self.machines.jump_clock(node, *by_ms);
                (true, None)
            }
            Fault::Disk { flaw, .. } => {
                self.disks.entry(node).or_default().push((index, *flaw));
                self.show_disk(node);
                (true, Some(Undo::Disk(node)))
            }
            Fault::Postgres { flaw, .. } => {
                let hit =
                    self.machines.keeps_data(node) && self.machines.set_postgres(node, *flaw, true);
                if *flaw == PostgresFlaw::WalRecycled {
                    return (hit, None);
                }
                *self.flaws.entry((node, *flaw)).or_default() += 1;
                (hit, Some(Undo::Postgres(node, *flaw)))
            }
            Fault::Sockets { flaw, .. } => {
                let hit = self.machines.set_sockets(node, *flaw, true);
                if *flaw == SocketFlaw::HalfOpen {
                    return (hit, None);
                }
                *self.socket_flaws.entry((node, *flaw)).or_default() += 1;
                (hit, Some(Undo::Sockets(node, *flaw)))
            }
            Fault::Partition { .. } | Fault::Link { .. } | Fault::Order { .. } => (false, None),
        }
    }

    fn heal(&mut self, index: usize) {
        let undone = self.undo.remove(&index).unwrap_or_default();
        self.machines.over(index);
        if !undone.is_empty() {
            self.machines.note(format!("event {index} heals"));
        }
        for undo in undone {
            self.undo(index, undo);
        }
    }

    fn undo(&mut self, index: usize, undo: Undo) {
        match undo {
            Undo::Unblock(from, to, port) => self.machines.unblock(from, to, port),
            Undo::Link(from, to) => {
                if let Some(flaws) = self.links.get_mut(&(from, to)) {
                    flaws.retain(|(other, _)| *other != index);
                }
                self.show_link((from, to));
            }
            Undo::Replace(old, new) => {
                self.gone.remove(&new);
                self.machines.replace(old, new);
            }
            Undo::Restart(node, _)
            | Undo::Resume(node, _)
            | Undo::ClockRate(node)
            | Undo::Disk(node)
            | Undo::Postgres(node, _)
            | Undo::Sockets(node, _)
                if self.gone.contains(&node) => {}
            Undo::Restart(node, process) => self.restart(node, process),
            Undo::Resume(node, process) => self.machines.resume(node, process),
            Undo::ClockRate(node) => {
                let rates = self.rates.entry(node).or_default();
                rates.retain(|(other, _)| *other != index);
                self.machines.set_clock_rate(node, rates.last().map_or(0, |(_, ppm)| *ppm));
            }
            Undo::Disk(node) => {
                self.disks.entry(node).or_default().retain(|(other, _)| *other != index);
                self.show_disk(node);
            }
            Undo::Postgres(node, flaw) => {
                let count = self.flaws.entry((node, flaw)).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.machines.set_postgres(node, flaw, false);
                }
            }
            Undo::Sockets(node, flaw) => {
                let count = self.socket_flaws.entry((node, flaw)).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.machines.set_sockets(node, flaw, false);
                }
            }
        }
    }

    /// A process comes back when nothing keeps it down any more, and never on a machine that is
    /// down itself: that one starts it when it comes back.
    fn restart(&mut self, node: NodeId, process: Process) {
        let count = self.down.entry((node, process)).or_default();
        *count = count.saturating_sub(1);
        let host_is_up = self.down.get(&(node, Process::Host)).is_none_or(|count| *count == 0);
        if self.down.get(&(node, process)) == Some(&0) && host_is_up {
            self.machines.restart(node, process);
        }
    }

    fn show_link(&self, way: (Place, Place)) {
        let Some(flaws) = self.links.get(&way).filter(|flaws| !flaws.is_empty()) else {
            self.machines.clear_link(way.0, way.1);
            return;
        };
        let mut fault = LinkFault::default();
        for (_, flaw) in flaws {
            match flaw {
                LinkFlaw::Loss { percent } => fault.loss = fault.loss.max(share(*percent)),
                LinkFlaw::Duplicate { percent } => {
                    fault.duplicate = fault.duplicate.max(share(*percent));
                }
                LinkFlaw::Delay { delay } => {
                    // Half of it always, the rest by chance: a spike, and not only a wide spread.
                    fault.extra = fault.extra.max(*delay / 2);
                    fault.jitter = fault.jitter.max(*delay / 2);
                }
                LinkFlaw::Reorder { percent } => {
                    let held = Duration::from_millis(u64::from(*percent));
                    fault.jitter = fault.jitter.max(held);
                }
            }
        }
        self.machines.set_link(way.0, way.1, fault);
    }

    fn show_disk(&self, node: NodeId) {
        let mut shown = DiskFlaws::default();
        for (_, flaw) in self.disks.get(&node).into_iter().flatten() {
            match flaw {
                DiskFlaw::Slow { latency } => shown.slow = shown.slow.max(Some(*latency)),
                DiskFlaw::Stall => shown.stalled = true,
                DiskFlaw::Full => shown.full = true,
                DiskFlaw::Errors { writes, syncs } => {
                    shown.failing_writes |= writes;
                    shown.failing_syncs |= syncs;
                }
            }
        }
        self.machines.set_disk(node, &shown);
    }

    /// An order names members; one whose target is nobody at the moment is not sent.
    fn order(
        &self,
        index: usize,
        order: &Order,
        answer: Answer,
        times: u32,
        name: Option<u32>,
    ) -> bool {
        let one = |target: Target| {
            let mut nodes = self.machines.resolve(index, target);
            (!nodes.is_empty()).then(|| Target::Node(nodes.remove(0)))
        };
        let named = match order {
            Order::Switchover { to: Some(to) } => {
                one(*to).map(|to| Order::Switchover { to: Some(to) })
            }
            Order::Failover { to: Some(to), accept_data_loss } => one(*to)
                .map(|to| Order::Failover { to: Some(to), accept_data_loss: *accept_data_loss }),
            Order::Remove { target } => one(*target).map(|target| Order::Remove { target }),
            Order::Tag { target, priority, no_failover } => one(*target).map(|target| Order::Tag {
                target,
                priority: *priority,
                no_failover: *no_failover,
            }),
            Order::Switchover { to: None }
            | Order::Failover { to: None, .. }
            | Order::Pause
            | Order::Resume
            | Order::Add { .. }
            | Order::SetMode(_)
            | Order::SetLease(_)
            | Order::SetMaxLag(_)
            | Order::SetParameter(..) => Some(order.clone()),
        };
        let Some(named) = named else {
            self.machines.note(format!("nobody to ask for: {order:?}"));
            return false;
        };
        self.machines.note(format!("the operator asks: {named:?}"));
        let asked = named.target().map_or(Vec::new(), |target| self.resolve(index, target));
        self.machines.struck(index, &asked, &[]);
        self.machines.order(named, answer, times, name);
        true
    }

    /// Which clients the cuts of this moment keep from a majority of the machines.
    fn tell_cut_off(&self) {
        let cut: BTreeSet<(Place, Place)> =
            self.undo.values().flatten().filter_map(cut_by).collect();
        let (hosts, clients) = (self.machines.hosts(), self.machines.clients());
        let away = |client: &u32| {
            let (client, hosts) = (Place::Client(*client), hosts.iter().copied().map(Place::Host));
            let missing = hosts
                .filter(|host| cut.contains(&(client, *host)) || cut.contains(&(*host, client)));
            missing.count() * 2 >= self.machines.hosts().len()
        };
        let mut cut_off: BTreeSet<u32> = clients.iter().copied().filter(away).collect();
        if cut_off.len() == clients.len() {
            // Nobody is better off than the others: what any of them notices counts.
            cut_off.clear();
        }
        self.machines.cut_off(cut_off);
    }

    /// A fault that did nothing, an order that was not sent: they prove nothing.
    fn tell_missed(&self) {
        for (index, event) in self.plan.events.iter().enumerate() {
            if !self.hits.contains(&index) {
                let at = write_duration(event.at);
                self.machines.missed(format!("at {at} nobody was there for: {}", event.fault));
            }
        }
    }

    fn heal_all(&mut self) {
        for index in self.undo.keys().copied().collect::<Vec<usize>>() {
            self.heal(index);
        }
        self.machines.note("everything heals".into());
        self.machines.heal_everything();
    }
}

/// The way that is cut for clients until this is undone.
fn cut_by(undo: &Undo) -> Option<(Place, Place)> {
    if let Undo::Unblock(from, to, None | Some(Port::Postgres)) = undo {
        return Some((*from, *to));
    }
    None
}

fn share(percent: u32) -> f64 {
    f64::from(percent.min(100)) / 100.0
}
