//! The model as ground.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::env::{Postgres, SyncNames};
use pg_replica::ids::{Epoch, NodeId};
use pg_replica::sabotage::Sabotage;
use sim::fabric::{Fabric, LinkFault};
use sim::host::Host;
use sim::place::Place;
use sim::postgres::{CutPromotion, Registry, Server, ServerConfig, SimPostgres, WriteOutcome};
use sim::scenario::PostgresFlaw;
use sim::streams::{Concern, Streams};
use sim::witness::{Fact, Row, Witness};

use super::ground::{Ground, Wrote};

struct Nobody;

impl Witness for Nobody {
    fn fact(&self, _fact: Fact) {}
}

/// Machines in a simulation.
pub(crate) struct Simulated {
    fabric: Fabric,
    registry: Registry,
    servers: Vec<SimPostgres>,
}

/// Runs a case on some of them.
pub(crate) fn run<F>(machines: u64, case: impl FnOnce(Simulated) -> F)
where
    F: Future<Output = ()>,
{
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    runtime.block_on(async move {
        let streams = Streams::new(1);
        let fabric = Fabric::new(&streams);
        let registry = Registry::new(fabric.clone());
        let server = |node| {
            SimPostgres::new(Server::new(ServerConfig {
                host: Host::new(node, &streams),
                stream: streams.stream(Concern::Postgres(node)),
                witness: Arc::new(Nobody),
                registry: registry.clone(),
                commit_fence: false,
                sabotage: Sabotage::NONE,
            }))
        };
        let servers = (1..=machines).map(NodeId).map(server).collect();
        case(Simulated { fabric, registry: registry.clone(), servers }).await;
    });
}

impl Ground for Simulated {
    type Server = SimPostgres;

    fn server(&self, node: u64) -> SimPostgres {
        self.servers[usize::try_from(node - 1).unwrap()].clone()
    }

    fn address(&self, node: u64) -> String {
        format!("n{node}-postgres")
    }

    async fn write(&self, node: u64, row: u64, patience: Duration) -> Wrote {
        let writing = async {
            let Ok(session) = self.registry.connect(Place::Client(0), NodeId(node)).await else {
                return Wrote::Refused;
            };
            match session.write(Row { client: 0, number: row }).await {
                WriteOutcome::Acknowledged { .. } => Wrote::Acknowledged,
                WriteOutcome::Refused(_) => Wrote::Refused,
                WriteOutcome::Broken => Wrote::Silent,
            }
        };
        let waited = std::pin::pin!(sim::clock::sleep(patience));
        match select(std::pin::pin!(writing), waited).await {
            Either::Left((wrote, _)) => wrote,
            Either::Right(_) => Wrote::Silent,
        }
    }

    async fn rows(&self, node: u64) -> Vec<u64> {
        self.server(node).server().rows().into_iter().map(|row| row.number).collect()
    }

    async fn stop_replay(&self, node: u64) {
        self.server(node).server().set_flaw(PostgresFlaw::ReplayStuck, true);
    }

    async fn hold_back_promotion(&self, node: u64, held: bool) {
        self.server(node).server().set_flaw(PostgresFlaw::SlowRecovery, held);
    }

    async fn cut_promotion(&self, node: u64, epoch: Epoch, left: CutPromotion) {
        self.server(node).server().cut_promotion(epoch, left);
    }

    async fn tell_of(&self, node: u64, other: u64) {
        self.server(node).server().hear_of(self.server(other).server());
    }

    async fn hold_back_settings(&self, node: u64, held: bool) {
        self.server(node).server().set_flaw(PostgresFlaw::CheckpointerStuck, held);
    }

    async fn meddle(&self, node: u64) {
        self.server(node).set_sync(&SyncNames::default()).await.unwrap();
    }

    async fn kill_a_session(&self, node: u64) {
        assert!(self.server(node).server().kill_process("a session that was killed"));
    }

    async fn hang(&self, node: u64) {
        self.server(node).server().hang();
    }

    async fn move_away(&mut self, node: u64) {
        let far = LinkFault { extra: Duration::from_millis(75), ..LinkFault::default() };
        for other in (1..).map(NodeId).take(self.servers.len()) {
            self.fabric.set_link(Place::Host(NodeId(node)), Place::Host(other), far);
            self.fabric.set_link(Place::Host(other), Place::Host(NodeId(node)), far);
        }
    }

    fn start_manager_anew(&mut self, _node: u64) {
        // The verbs of the model remember nothing.
    }

    async fn turn_log_over(&self, _node: u64) {
        // What nobody may need any more is all that it would lose.
    }

    async fn sleep(&self, span: Duration) {
        sim::clock::sleep(span).await;
    }
}
