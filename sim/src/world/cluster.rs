//! The machines, and what can be seen of all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pg_replica::control::{MemberKind, Settings};
use pg_replica::env::{Process as ServerProcess, Side};
use pg_replica::ids::{NodeId, SystemId};
use pg_replica::runtime::{FoundingMember, NodeConfig, run};
use pg_replica::sabotage::Sabotage;

use crate::clock::{sleep, true_now};
use crate::fabric::Fabric;
use crate::guard::SimGuard;
use crate::host::{Host, ProcessKind};
use crate::invariants::{Oracle, Promise, ServerView, WorldView};
use crate::postgres::{FOREIGN, Registry, Server, ServerConfig, SimPostgres};
use crate::report::{RunOptions, Violation, WorldKind};
use crate::scenario::Plan;
use crate::since::Since;
use crate::sockets::{CLUSTER, Wires};
use crate::streams::{Concern, Streams, lock};
use crate::trace::{Kind, Trace};
use crate::transport::Exchange;
use crate::witness::Row;
use crate::workload::Workload;

use super::operator::Orders;
use super::pages::Told;
use super::sight::Sight;
use super::watching::{Counters, MemberObserver, WorldWitness};
use super::whole::whole_node;

/// How soon the machine's service manager starts a node again that has ended.
const SERVICE_RESTART: Duration = Duration::from_millis(500);

/// One machine and what runs on it.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) host: Host,
    pub(super) server: Server,
    pub(super) guard: SimGuard,
    pub(super) config: Arc<NodeConfig>,
    /// Gone for ever.
    pub(super) destroyed: bool,
}

/// Everything in a run.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) sabotage: Sabotage,
    pub(super) streams: Streams,
    pub(super) fabric: Fabric,
    pub(super) exchange: Exchange,
    /// TCP, in the sockets world.
    pub(super) wires: Option<Wires>,
    /// What the load balancer was told there.
    pub(super) told: Mutex<Told>,
    pub(super) registry: Registry,
    pub(super) oracle: Arc<Oracle>,
    pub(super) trace: Arc<Mutex<Trace>>,
    pub(super) machines: Mutex<BTreeMap<NodeId, Machine>>,
    pub(super) began: Mutex<Duration>,
    pub(super) orders: Mutex<Orders>,
    pub(super) counters: Arc<Mutex<Counters>>,
    pub(super) clients: Workload,
    pub(super) sight: Arc<Mutex<Sight>>,
    pub(super) failed: Mutex<Vec<Violation>>,
    /// Told when all servers have to be looked at.
    pub(super) look: Arc<tokio::sync::Notify>,
    pub(super) before: Mutex<super::rare::Before>,
    /// Which clients are out of touch with a majority of the machines, from when on.
    pub(super) cut_off: Mutex<BTreeMap<Duration, BTreeSet<u32>>>,
    /// Machines that are down and answer nobody.
    pub(super) down: Mutex<BTreeSet<NodeId>>,
    /// Machines that stand still: since when, and whether their clocks do as well.
    pub(super) frozen: Mutex<BTreeMap<NodeId, (Duration, bool)>>,
    /// Clock rates that are not true.
    pub(super) rates: Mutex<BTreeMap<NodeId, i64>>,
    itself: std::sync::Weak<World>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub(super) fn new(plan: &Plan, options: &RunOptions) -> Arc<Self> {
        let broken = options.sabotage.or(plan.sabotage);
        let sabotage = broken.map_or(Sabotage::NONE, Sabotage::of);
        let streams = Streams::new(plan.seed);
        let fabric = Fabric::new(&streams);
        let tcp = || Wires::new(fabric.clone(), streams.stream(Concern::Sockets));
        let wires = (options.world == WorldKind::Sockets).then(tcp);
        let promise = Promise { commit_fence: plan.cluster.commit_fence };
        let world = Arc::new_cyclic(|itself| Self {
            plan: plan.clone(),
            sabotage,
            exchange: Exchange::new(fabric.clone(), sabotage),
            registry: Registry::new(fabric.clone()),
            wires,
            told: Mutex::default(),
            fabric,
            oracle: Arc::new(Oracle::new(promise, true_now)),
            trace: Arc::new(Mutex::new(Trace::new(options.keep_trace || options.record))),
            machines: Mutex::default(),
            began: Mutex::default(),
            orders: Mutex::default(),
            counters: Arc::default(),
            clients: Workload::new(streams.clone()),
            sight: Arc::new(Mutex::new(Sight::new(options.record))),
            failed: Mutex::default(),
            look: Arc::default(),
            before: Mutex::default(),
            cut_off: Mutex::default(),
            down: Mutex::default(),
            frozen: Mutex::default(),
            rates: Mutex::default(),
            streams,
            itself: itself.clone(),
        });
        let founding = world.founding();
        for node in world.plan.cluster.members() {
            world.add_machine(node, founding.clone());
        }
        world
    }

    pub(super) fn itself(&self) -> Arc<World> {
        self.itself.upgrade().expect("whoever calls holds the world")
    }

    fn founding(&self) -> BTreeMap<NodeId, FoundingMember> {
        let cluster = &self.plan.cluster;
        let member = |node: NodeId| FoundingMember {
            kind: if cluster.keeps_data(node) { MemberKind::Data } else { MemberKind::Witness },
            address: node.to_string(),
            postgres: format!("{node}-postgres"),
            priority: cluster.priorities.get(&node).copied().unwrap_or(1),
            no_failover: cluster.no_failover.contains(&node),
        };
        cluster.members().map(|node| (node, member(node))).collect()
    }

    /// A machine on which nothing runs yet. Without a founding list it waits to be admitted.
    pub(super) fn add_machine(&self, node: NodeId, founding: BTreeMap<NodeId, FoundingMember>) {
        let host = Host::new(node, &self.streams);
        let server = Server::new(ServerConfig {
            host: host.clone(),
            stream: self.streams.stream(Concern::Postgres(node)),
            witness: Arc::new(WorldWitness {
                oracle: self.oracle.clone(),
                trace: self.trace.clone(),
                look: self.look.clone(),
            }),
            registry: self.registry.clone(),
            commit_fence: self.plan.cluster.commit_fence,
            sabotage: self.sabotage,
        });
        let killed = server.clone();
        let oracle = self.oracle.clone();
        let guard = SimGuard::new(
            host.clock().clone(),
            self.streams.stream(Concern::Guard(node)),
            self.sabotage,
            move || {
                if killed.kill_process("the guard") {
                    oracle.mark(crate::sometimes::Sometimes::GuardFired);
                }
            },
        );
        let settings = Settings {
            mode: self.plan.cluster.mode,
            timing: self.plan.cluster.timing.clone(),
            max_lag_bytes: self.plan.cluster.max_lag_bytes,
            ..Settings::default()
        };
        let config = Arc::new(NodeConfig {
            node,
            cluster: CLUSTER.into(),
            founding,
            settings,
            adopts: self.existing_database(),
            raft_heartbeat_ms: 150,
            raft_election_ms: (350, 500),
            raft_snapshot_every: self.plan.cluster.snapshot_every,
            sabotage: self.sabotage,
        });
        if self.plan.cluster.existing.contains(&node) {
            server.hold_existing();
        }
        let machine = Machine { host, server, guard, config, destroyed: false };
        lock(&self.machines).insert(node, machine);
    }

    fn existing_database(&self) -> Option<SystemId> {
        (!self.plan.cluster.existing.is_empty()).then_some(FOREIGN)
    }

    pub(super) fn start_everything(&self) {
        for node in self.hosts_in_order() {
            self.start_machine(node);
        }
    }

    /// What a machine starts by itself when it boots: the guard and the node.
    pub(super) fn start_machine(&self, node: NodeId) {
        self.start_guard(node);
        self.start_manager(node);
    }

    pub(super) fn start_guard(&self, node: NodeId) {
        let Some(machine) = self.machine(node) else { return };
        if !machine.host.is_running(ProcessKind::Guard) {
            machine.host.start(ProcessKind::Guard);
            drop(machine.host.spawn_on(ProcessKind::Guard, machine.guard.serve()));
        }
    }

    pub(super) fn start_manager(&self, node: NodeId) {
        let Some(machine) = self.machine(node) else { return };
        if machine.host.is_running(ProcessKind::Manager) {
            return;
        }
        let generation = machine.host.start(ProcessKind::Manager);
        let observer = Arc::new(MemberObserver::new(
            node,
            machine.host.clock().clone(),
            self.oracle.clone(),
            self.trace.clone(),
            self.counters.clone(),
            machine.server.clone(),
            self.sight.clone(),
        ));
        let ended = Arc::new(tokio::sync::Notify::new());
        let tell = ended.clone();
        let trace = self.trace.clone();
        let (exchange, wires) = (self.exchange.clone(), self.wires.clone());
        let node_of = |machine: Machine| async move {
            match wires {
                Some(wires) => whole_node(machine, wires, observer).await,
                None => {
                    let postgres = SimPostgres::new(machine.server.clone());
                    let env = machine.host.env(&exchange, postgres, machine.guard.clone());
                    run(env, (*machine.config).clone(), observer).await
                }
            }
        };
        let life = node_of(machine.clone());
        drop(machine.host.spawn_on(ProcessKind::Manager, async move {
            if let Err(error) = life.await {
                let text = format_args!("the node ended: {error}");
                lock(&trace).push(true_now(), Some(node), Kind::Event, text);
            }
            tell.notify_one();
        }));
        // The service manager of the machine: it starts the node again when it has ended by itself.
        let world = self.itself.clone();
        madsim::task::spawn(async move {
            ended.notified().await;
            sleep(SERVICE_RESTART).await;
            let Some(world) = world.upgrade() else { return };
            let Some(machine) = world.machine(node) else { return };
            if machine.host.generation(ProcessKind::Manager) == generation
                && machine.host.is_running(ProcessKind::Manager)
            {
                machine.host.kill(ProcessKind::Manager);
                world.start_manager(node);
            }
        });
    }

    pub(super) fn machine(&self, node: NodeId) -> Option<Machine> {
        lock(&self.machines).get(&node).filter(|machine| !machine.destroyed).cloned()
    }

    pub(super) fn hosts_in_order(&self) -> Vec<NodeId> {
        let machines = lock(&self.machines);
        machines.iter().filter(|(_, m)| !m.destroyed).map(|(node, _)| *node).collect()
    }

    /// Data members by the newest control state, where a machine exists for them.
    pub(super) fn data_members(&self) -> BTreeSet<NodeId> {
        let newest = self.oracle.newest();
        newest.data_members().filter(|node| self.machine(*node).is_some()).collect()
    }

    /// Whether enough copies are left without this one: half of all, and of those that confirmed
    /// what is promised enough to prove it. One in the middle of a rewind proves nothing of what it
    /// once confirmed: to lose another disk then is to lose two. And what a primary without a
    /// successor wrote may be nowhere else: without its disk only an operator can decide.
    pub(super) fn can_spare(&self, node: NodeId) -> bool {
        let newest = self.oracle.newest();
        let last = newest.timelines.values().next_back().map(|record| record.holder);
        if !newest.has_primary() && last == Some(node) {
            return false;
        }
        let configs = newest.sync.configs.iter();
        let mut relied_on = configs.filter(|config| config.confirmations > 0).peekable();
        if !newest.is_born() || relied_on.peek().is_none() {
            return true;
        }
        let usable = |other: &NodeId| {
            *other != node
                && self.machine(*other).is_some_and(|machine| machine.server.has_usable_directory())
        };
        let (all, left) =
            (newest.data_members().count(), newest.data_members().filter(usable).count());
        2 * left >= all
            && relied_on.all(|config| {
                let primacy = &newest.primacy;
                let record = newest.timelines.get(&config.epoch);
                let latest = primacy.holder.or(primacy.last_holder);
                let holder = record.map_or(latest, |record| Some(record.holder));
                let silent = config.standbys.iter().filter(|standby| !usable(standby)).count();
                holder.is_some_and(|holder| usable(&holder))
                    || silent < config.confirmations as usize
            })
    }

    /// Whose Postgres takes writes; of several, the one with the highest epoch.
    pub(super) fn primary(&self) -> Option<NodeId> {
        let machines = lock(&self.machines);
        machines
            .values()
            .filter(|machine| !machine.destroyed && machine.server.is_writable())
            .max_by_key(|machine| machine.server.primary_epoch())
            .map(|machine| machine.host.node())
    }

    pub(super) fn rows_of(&self, node: NodeId) -> Option<Vec<Row>> {
        self.machine(node).map(|machine| machine.server.rows())
    }

    /// Whether there is a primary that could acknowledge, and everybody else streams from it.
    pub(super) fn is_whole(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let members = self.data_members();
        members.contains(&primary)
            && members.iter().all(|node| {
                let Some(machine) = self.machine(*node) else { return false };
                if *node == primary {
                    machine.server.could_acknowledge_now()
                } else {
                    machine.server.streams_from(primary)
                }
            })
    }

    pub(super) fn view(&self) -> WorldView {
        let machines: Vec<Machine> = {
            let machines = lock(&self.machines);
            machines.values().filter(|machine| !machine.destroyed).cloned().collect()
        };
        let primary = self.primary();
        let end = primary
            .and_then(|node| self.machine(node))
            .and_then(|machine| machine.server.position())
            .map(|position| position.flushed)
            .unwrap_or_default();
        let newest = self.oracle.newest();
        let synchronous = newest.sync.target().is_some_and(|target| target.confirmations > 0);
        let servers = machines.iter().map(|machine| {
            let server = &machine.server;
            let position = server.position();
            let own = server.replayed().unwrap_or_default();
            ServerView {
                node: server.node(),
                could_acknowledge: server.could_acknowledge_now(),
                primary_epoch: server.primary_epoch(),
                synchronous,
                side: server.side().unwrap_or(Side::Standby),
                up: server.process() == ServerProcess::Up,
                position,
                streaming_from: primary.filter(|primary| server.streams_from(*primary)),
                lag_bytes: end.ahead_of(own),
                configured: server.has_parameters(&newest.settings.parameters),
            }
        });
        WorldView { servers: servers.collect() }
    }

    pub(super) fn expectation_failed(&self, invariant: &str, what: String) {
        self.expectation_failed_at(true_now(), invariant, what);
    }

    /// The same for what became untrue at an earlier time of the world.
    pub(super) fn expectation_failed_at(&self, at: Duration, invariant: &str, what: String) {
        let at = Since::of(at, *lock(&self.began));
        lock(&self.failed).push(Violation { invariant: invariant.into(), at, what });
    }

    pub(super) fn failed_expectations(&self) -> Vec<Violation> {
        lock(&self.failed).clone()
    }

    /// From here on rewinds and clones count: the first clones belong to the founding.
    pub(super) fn counters_begin(&self) {
        *lock(&self.counters) = Counters { counting: true, ..Counters::default() };
    }

    pub(super) fn counters(&self) -> Counters {
        *lock(&self.counters)
    }

    pub(super) fn trace_lines(&self) -> Vec<String> {
        let nodes: Vec<NodeId> = lock(&self.machines).keys().copied().collect();
        let trace = lock(&self.trace);
        if !trace.keeps_text() {
            return Vec::new();
        }
        trace.table(&nodes, None).lines().map(str::to_owned).collect()
    }

    /// Ends every process, so that nothing outlives the run.
    pub(super) fn stop(&self) {
        let machines: Vec<Machine> = lock(&self.machines).values().cloned().collect();
        for machine in machines {
            machine.host.crash();
        }
        if let Some(wires) = &self.wires {
            wires.shut_down();
        }
        self.fabric.shut_down();
    }
}
