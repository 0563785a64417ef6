//! A node of the sockets world: the same loop, with the transport, the TLS and the HTTP interface
//! that it has in production, over simulated TCP.

use std::sync::Arc;

use pg_replica::api::{self, Access, Operator, StatusBoard};
use pg_replica::control::{Applied, Command};
use pg_replica::ha::{Action, Core, Event};
use pg_replica::ids::Moment;
use pg_replica::os::http;
use pg_replica::os::net::{Certificates, Identity, OsNetwork, believing_any_member};
use pg_replica::runtime::{Observer, RunError, run};
use tokio_rustls::TlsConnector;

use crate::place::Place;
use crate::postgres::SimPostgres;
use crate::sockets::{CLUSTER, Service, SimSockets, Wires};
use crate::streams::Concern;
use crate::tools::authority;

use super::cluster::Machine;

/// Runs the node of `machine`, which begins now.
pub(super) async fn whole_node(
    machine: Machine,
    wires: Wires,
    observer: Arc<dyn Observer>,
) -> Result<(), RunError> {
    let (host, node) = (&machine.host, machine.config.node);
    let sockets = wires.at(Place::Host(node));
    let certificates = own(&format!("n{}", node.0));
    let identity = Identity { node, cluster: CLUSTER.into() };
    let peers = wires.listen(node, Service::Peers);
    let network = OsNetwork::on(sockets, peers, identity, Some(certificates.clone()));

    let clock = host.clock().clone();
    let board = StatusBoard::new(node, CLUSTER, clock.now()).breaking(machine.config.sabotage);
    let board = Arc::new(board);
    let entropy = host.streams().stream(Concern::Node(node));
    let desk = Arc::new(Operator::new(board.clone(), network.clone(), clock, entropy));
    let access = Access { token: None, certificates: true };
    let router = api::router(board.clone(), desk, access);
    let pages = wires.listen(node, Service::Pages);
    let serving = http::serve::<SimSockets>(pages, router, Some(certificates.for_anybody()));
    let serving = madsim::task::spawn(serving);

    let postgres = SimPostgres::new(machine.server.clone());
    let env = host.env_over(network, postgres, machine.guard.clone());
    let ended = run(env, (*machine.config).clone(), Arc::new(Both(board, observer))).await;
    // The process ends with its loop.
    serving.abort();
    ended
}

/// What the board sees, and the oracle.
#[derive(Debug)]
struct Both(Arc<StatusBoard>, Arc<dyn Observer>);

impl Observer for Both {
    fn stepped(&self, now: Moment, event: &Event, actions: &[Action], core: &Core) {
        self.0.stepped(now, event, actions, core);
        self.1.stepped(now, event, actions, core);
    }

    fn applied(&self, index: u64, command: &Command, applied: &Applied) {
        self.0.applied(index, command, applied);
        self.1.applied(index, command, applied);
    }

    fn installed(&self, index: u64) {
        self.0.installed(index);
        self.1.installed(index);
    }
}

/// A member's certificates. Read for every start of a process: they remember the sessions that
/// were made with them, and a process that is born remembers none.
fn own(name: &str) -> Certificates {
    let folder = authority();
    let file = |end: &str| folder.join(format!("{name}.{end}"));
    Certificates::read(&folder.join("ca.crt"), &file("crt"), &file("key"))
        .expect("the authority has given certificates to every member")
}

/// How an operator speaks to the members' pages.
pub(super) fn operators_way() -> TlsConnector {
    let folder = authority();
    let (certificate, key) = (folder.join("operator.crt"), folder.join("operator.key"));
    let config = believing_any_member(&folder.join("ca.crt"), Some((&certificate, &key)));
    TlsConnector::from(Arc::new(config.expect("the authority has given one to the operator")))
}
