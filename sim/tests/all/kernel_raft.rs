//! Consensus runs on the simulated machines, survives them, and repeats itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::Either;
use madsim::runtime::Runtime;
use pg_replica::control::{Command, Order};
use pg_replica::env::{
    Network, Observation, Postgres, PostgresError, RewindReport, StartAs, StopHow, SyncNames,
    TimelineBirth, Upstream,
};
use pg_replica::ids::{CommandId, Epoch, Incarnation, Moment, NodeId, SystemId};
use pg_replica::runtime::raft::{Proposal, RaftHandle, RaftNode, RaftOptions};
use pg_replica::sabotage::Sabotage;
use sim::clock::{sleep, true_now};
use sim::fabric::Fabric;
use sim::guard::SimGuard;
use sim::host::{Host, ProcessKind, SimEnv};
use sim::place::Place;
use sim::rt;
use sim::streams::{Concern, Streams};
use sim::transport::Exchange;

type Result<T> = std::result::Result<T, PostgresError>;
type Env = SimEnv<Nothing>;

/// A machine without a database server: consensus needs none.
#[derive(Clone, Debug)]
struct Nothing;

impl Postgres for Nothing {
    async fn observe(&self) -> Result<Observation> {
        unreachable!("there is no server")
    }
    async fn initialise(&self, _: Epoch) -> Result<SystemId> {
        unreachable!("there is no server")
    }
    async fn clone_from(&self, _: &Upstream) -> Result<()> {
        unreachable!("there is no server")
    }
    async fn rewind(&self, _: &Upstream) -> Result<RewindReport> {
        unreachable!("there is no server")
    }
    async fn start(&self, _: &StartAs) -> Result<()> {
        unreachable!("there is no server")
    }
    async fn promote(&self, _: Epoch) -> Result<TimelineBirth> {
        unreachable!("there is no server")
    }
    async fn follow(&self, _: &Upstream) -> Result<()> {
        unreachable!("there is no server")
    }
    async fn detach(&self) -> Result<()> {
        unreachable!("there is no server")
    }
    async fn set_sync(&self, _: &SyncNames) -> Result<()> {
        unreachable!("there is no server")
    }
    async fn configure(&self, _: &std::collections::BTreeMap<String, String>) -> Result<()> {
        Ok(())
    }
    async fn keep_log_for(&self, _: &BTreeSet<NodeId>) -> Result<()> {
        unreachable!("there is no server")
    }
    async fn admit(&self) -> Result<()> {
        unreachable!("there is no server")
    }
    async fn extend_lease(&self, _: Epoch, _: Moment) -> Result<bool> {
        unreachable!("there is no server")
    }
    async fn stop(&self, _: StopHow) -> Result<()> {
        unreachable!("there is no server")
    }
}

type Handles = Arc<Mutex<BTreeMap<NodeId, RaftHandle<Env>>>>;

struct Cluster {
    fabric: Fabric,
    exchange: Exchange,
    hosts: BTreeMap<NodeId, Host>,
    handles: Handles,
}

impl Cluster {
    fn new(streams: &Streams, size: u64) -> Self {
        let fabric = Fabric::new(streams);
        let exchange = Exchange::new(fabric.clone(), Sabotage::NONE);
        let hosts = (1..=size).map(|n| (NodeId(n), Host::new(NodeId(n), streams))).collect();
        let cluster = Self { fabric, exchange, hosts, handles: Handles::default() };
        for node in cluster.hosts.keys() {
            cluster.start(*node);
        }
        cluster
    }

    fn start(&self, node: NodeId) {
        let host = &self.hosts[&node];
        host.start(ProcessKind::Manager);
        let stream = host.streams().stream(Concern::Guard(node));
        let guard = SimGuard::new(host.clock().clone(), stream, Sabotage::NONE, || {});
        let env = host.env(&self.exchange, Nothing, guard);
        let handles = self.handles.clone();
        drop(host.spawn_on(ProcessKind::Manager, async move {
            let options = RaftOptions::new(node, "test");
            let raft = RaftHandle::open(&env, options).await.unwrap();
            handles.lock().unwrap().insert(node, raft.clone());
            while let Some(incoming) = env.network.accept(raft.incarnation()).await {
                let raft = raft.clone();
                drop(madsim::task::spawn(async move {
                    let response = raft.serve(incoming.request).await;
                    incoming.reply.send(response);
                }));
            }
        }));
    }

    fn end(&self, node: NodeId, power_loss: bool) {
        let host = &self.hosts[&node];
        if power_loss {
            host.power_loss()
        } else {
            host.kill(ProcessKind::Manager)
        }
        self.handles.lock().unwrap().remove(&node);
    }

    async fn found(&self) {
        sleep(Duration::from_millis(500)).await;
        let handles = self.handles.lock().unwrap().clone();
        let member = |raft: &RaftHandle<Env>| RaftNode {
            address: String::new(),
            incarnation: raft.incarnation(),
        };
        let members: BTreeMap<NodeId, RaftNode> =
            handles.iter().map(|(node, raft)| (*node, member(raft))).collect();
        assert!(members.values().all(|member| member.incarnation != Incarnation(0)));
        let first = handles[&NodeId(1)].clone();
        let host = &self.hosts[&NodeId(1)];
        let founding = async move { first.initialise(members).await };
        host.spawn_on(ProcessKind::Manager, founding).await.unwrap().unwrap();
    }

    fn leader(&self) -> Option<(NodeId, RaftHandle<Env>)> {
        let handles = self.handles.lock().unwrap();
        let leading = handles.iter().filter(|(_, raft)| raft.view().leads);
        leading.max_by_key(|(_, raft)| raft.view().term).map(|(n, raft)| (*n, raft.clone()))
    }

    async fn propose(&self, number: u64) -> bool {
        let Some((node, raft)) = self.leader() else { return false };
        let order = if number.is_multiple_of(2) { Order::Pause } else { Order::Resume };
        let command = Command::Operate { id: CommandId(number), order };
        let proposing = async move { raft.propose(command).await };
        let proposal = self.hosts[&node].spawn_on(ProcessKind::Manager, proposing);
        // The leader may be frozen, and would answer only after whoever thaws it has waited for it.
        let patience = std::pin::pin!(sleep(Duration::from_secs(3)));
        match futures_util::future::select(proposal, patience).await {
            Either::Left((proposal, _)) => matches!(proposal, Ok(Proposal::Applied(_))),
            Either::Right(_) => false,
        }
    }
}

/// Runs a cluster of five through deaths, power losses and cuts; returns everything seen.
fn run(seed: u64, seconds: u64) -> Vec<(u64, Option<NodeId>, bool, Duration)> {
    rt::unbind_all();
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.block_on(async {
        let streams = Streams::new(seed);
        let nemesis = streams.stream(Concern::Event(0));
        let cluster = Cluster::new(&streams, 5);
        cluster.found().await;
        let mut seen = Vec::new();
        for step in 0..seconds {
            let victim = NodeId(1 + nemesis.below(5));
            let fault = nemesis.below(8);
            match fault {
                0 | 1 => cluster.end(victim, fault == 0),
                2 => cluster.hosts[&victim].freeze(nemesis.chance(0.5)),
                3 => cluster.hosts.keys().filter(|node| **node != victim).for_each(|node| {
                    cluster.fabric.block(Place::Host(*node), Place::Host(victim), None);
                }),
                4..8 => {}
                _ => unreachable!("eight kinds of step"),
            }
            sleep(Duration::from_millis(900)).await;
            let applied = cluster.propose(step).await;
            seen.push((step, cluster.leader().map(|(node, _)| node), applied, true_now()));
            match fault {
                0 | 1 => cluster.start(victim),
                2 => cluster.hosts[&victim].thaw(),
                3 => cluster.fabric.heal_all(),
                4.. => {}
            }
        }
        sleep(Duration::from_secs(5)).await;
        assert!(cluster.propose(seconds).await, "a healed cluster takes a command");
        for host in cluster.hosts.values() {
            host.crash();
        }
        cluster.fabric.shut_down();
        seen
    })
}

#[test]
fn consensus_survives_deaths_power_losses_freezes_and_cuts() {
    for seed in 0..10 {
        let seen = run(seed, 30);
        let applied = seen.iter().filter(|(_, _, applied, _)| *applied).count();
        assert!(applied >= 10, "seed {seed}: {applied} of 30");
    }
}

#[test]
fn the_same_seed_repeats_itself_at_any_position_in_a_process() {
    let first = run(3, 30);
    let _ = run(4, 5);
    assert_eq!(first, run(3, 30));
    assert_ne!(first, run(5, 30));
}
