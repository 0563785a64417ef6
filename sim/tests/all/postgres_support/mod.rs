//! Machines with a Postgres and no manager, for the tests of the model.
#![allow(dead_code, reason = "each test file uses a part")]

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::env::{Postgres, StartAs, SyncNames, Upstream};
use pg_replica::ids::{Epoch, NodeId};
use pg_replica::sabotage::Sabotage;
use sim::clock::{sleep, true_now};
use sim::fabric::{Fabric, Port};
use sim::host::Host;
use sim::place::Place;
use sim::postgres::{Registry, Server, ServerConfig, Session, SimPostgres, WriteOutcome};
use sim::streams::{Concern, Streams};
use sim::witness::{Fact, Row, Witness};

/// Writes down what it is told.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<(Duration, Fact)>>);

impl Witness for Recorder {
    fn fact(&self, fact: Fact) {
        self.0.lock().unwrap().push((true_now(), fact));
    }
}

impl Recorder {
    pub(crate) fn facts(&self) -> Vec<Fact> {
        self.0.lock().unwrap().iter().map(|(_, fact)| fact.clone()).collect()
    }

    pub(crate) fn acknowledged(&self) -> Vec<Row> {
        let row = |fact| {
            let Fact::Acknowledged(commit) = fact else { return None };
            Some(commit.row)
        };
        self.facts().into_iter().filter_map(row).collect()
    }

    pub(crate) fn trace(&self) -> String {
        format!("{:#?}", self.0.lock().unwrap())
    }
}

/// Some machines on a network.
pub(crate) struct Cluster {
    pub(crate) fabric: Fabric,
    pub(crate) registry: Registry,
    pub(crate) witness: Arc<Recorder>,
    pub(crate) hosts: Vec<Host>,
    postgres: Vec<SimPostgres>,
}

/// How a cluster differs from the plain one.
#[derive(Clone, Copy, Default)]
pub(crate) struct With {
    pub(crate) commit_fence: bool,
    pub(crate) sabotage: Sabotage,
}

/// Runs a test on `nodes` machines.
pub(crate) fn simulate<F>(
    seed: u64,
    nodes: u64,
    with: With,
    test: impl FnOnce(Arc<Cluster>) -> F,
) -> String
where
    F: Future<Output = ()>,
{
    let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
    let witness = Arc::new(Recorder::default());
    let recorder = witness.clone();
    runtime.block_on(async move {
        let streams = Streams::new(seed);
        let fabric = Fabric::new(&streams);
        let registry = Registry::new(fabric.clone());
        let mut cluster =
            Cluster { fabric, registry, witness, hosts: Vec::new(), postgres: Vec::new() };
        for node in (1..=nodes).map(NodeId) {
            let host = Host::new(node, &streams);
            cluster.hosts.push(host.clone());
            cluster.postgres.push(SimPostgres::new(Server::new(ServerConfig {
                host,
                stream: streams.stream(Concern::Postgres(node)),
                witness: cluster.witness.clone(),
                registry: cluster.registry.clone(),
                commit_fence: with.commit_fence,
                sabotage: with.sabotage,
            })));
        }
        test(Arc::new(cluster)).await;
    });
    recorder.trace()
}

impl Cluster {
    pub(crate) fn pg(&self, node: u64) -> &SimPostgres {
        &self.postgres[usize::try_from(node - 1).unwrap()]
    }

    pub(crate) fn server(&self, node: u64) -> &Server {
        self.pg(node).server()
    }

    /// A new cluster's first primary, under epoch 1, open to clients.
    pub(crate) async fn found(&self, node: u64, sync: SyncNames) {
        let epoch = Epoch(1);
        self.pg(node).initialise(epoch).await.unwrap();
        self.pg(node).start(&StartAs::Primary { epoch, sync }).await.unwrap();
        self.pg(node).admit().await.unwrap();
    }

    /// A new standby that streams.
    pub(crate) async fn join(&self, node: u64, primary: u64, epoch: u64) {
        self.pg(node).clone_from(&upstream(primary, epoch)).await.unwrap();
        self.pg(node).start(&StartAs::Standby { upstream: None }).await.unwrap();
        self.follow(node, primary, epoch).await;
    }

    pub(crate) async fn follow(&self, node: u64, primary: u64, epoch: u64) {
        self.pg(node).follow(&upstream(primary, epoch)).await.unwrap();
        eventually("the standby streams", || self.server(node).streams_from(NodeId(primary))).await;
    }

    pub(crate) async fn promote(&self, node: u64, epoch: u64) {
        self.pg(node).detach().await.unwrap();
        self.pg(node).promote(Epoch(epoch)).await.unwrap();
        self.pg(node).admit().await.unwrap();
    }

    pub(crate) async fn session(&self, node: u64) -> Session {
        self.registry.connect(Place::Client(0), NodeId(node)).await.unwrap()
    }

    pub(crate) fn cut(&self, one: u64, other: u64) {
        let (one, other) = (Place::Host(NodeId(one)), Place::Host(NodeId(other)));
        self.fabric.block(one, other, Port::Postgres);
        self.fabric.block(other, one, Port::Postgres);
    }

    pub(crate) async fn caught_up(&self, node: u64, primary: u64) {
        eventually("the standby has everything", || {
            self.server(node).position() == self.server(primary).position()
        })
        .await;
    }
}

pub(crate) fn upstream(node: u64, epoch: u64) -> Upstream {
    Upstream { node: NodeId(node), address: String::new(), epoch: Epoch(epoch) }
}

pub(crate) fn row(number: u64) -> Row {
    Row { client: 0, number }
}

pub(crate) fn sync(epoch: u64, confirmations: u32, standbys: &[u64]) -> SyncNames {
    let standbys = standbys.iter().map(|node| NodeId(*node)).collect();
    SyncNames { epoch: Epoch(epoch), confirmations, standbys }
}

/// Writes, and gives up after two seconds.
pub(crate) async fn write(session: &Session, number: u64) -> Option<WriteOutcome> {
    within(2_000, session.write(row(number))).await
}

pub(crate) fn is_acknowledged(outcome: WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Acknowledged { .. })
}

pub(crate) async fn within<T>(ms: u64, future: impl Future<Output = T>) -> Option<T> {
    match select(std::pin::pin!(future), sleep(Duration::from_millis(ms))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), _)) => None,
    }
}

pub(crate) async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        pause(10).await;
    }
    panic!("never: {what}");
}
