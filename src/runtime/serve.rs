//! Answering other members. Raft's messages go to Raft, heartbeats to the core, and a heartbeat
//! that reached the wrong member is passed on once.

use std::sync::Arc;
use std::time::Duration;

use crate::control::Command;
use crate::env::{Incoming, Network, ReplyTo};
use crate::ha::{Ask, HeartbeatAnswer, Report};
use crate::ids::NodeId;
use crate::sabotage::Saboteur;

use super::NodeEnv;
use super::execute::{deliver, put_for_another};
use super::node::{Input, Shared};
use super::wire::{Request, Response};

/// How long a heartbeat that is passed on may take on its second leg.
const RELAY_DEADLINE: Duration = Duration::from_millis(300);

type Arrived<E> =
    Incoming<Request<<E as crate::env::Env>::Rt>, Response<<E as crate::env::Env>::Rt>>;

/// Serves until the network is shut down.
pub(super) async fn serve<E: NodeEnv>(shared: Arc<Shared<E>>) {
    let incarnation = shared.raft.incarnation();
    while let Some(incoming) = shared.env.network().accept(incarnation).await {
        shared.spawn(answer(shared.clone(), incoming));
    }
}

async fn answer<E: NodeEnv>(shared: Arc<Shared<E>>, incoming: Arrived<E>) {
    let Incoming { from, request, reply } = incoming;
    match request {
        Request::Heartbeat { report, relayed, .. }
            if !may_report(&shared, from, &report, relayed) =>
        {
            reply.send(Response::Refused(format!("{from} cannot report for {}", report.node)));
        }
        Request::Heartbeat { report, ask, relayed } => {
            heartbeat(&shared, report, ask, relayed, reply).await;
        }
        Request::Propose(command) => {
            reply.send(propose(&shared, from, *command).await);
        }
        Request::Hello => reply.send(hello(&shared).await),
        // Where the loop has ended the caller sees a timeout.
        Request::Reports => drop(shared.inbox.send(Input::Reports { reply }).await),
        Request::Chore(_) if !shared.raft.control().members.contains_key(&from) => {
            reply.send(Response::Refused(format!("{from} is no member and may ask for nothing")));
        }
        Request::Chore(chore) => drop(shared.inbox.send(Input::Chore { chore, reply }).await),
        request @ (Request::Append(_)
        | Request::Vote(_)
        | Request::PreVote(_)
        | Request::Snapshot { .. }
        | Request::TransferLeader(_)) => reply.send(shared.raft.serve(request).await),
    }
}

/// A member speaks for itself, and passes on what another said to it.
fn may_report<E: NodeEnv>(
    shared: &Shared<E>,
    from: NodeId,
    report: &Report,
    relayed: bool,
) -> bool {
    if relayed { shared.raft.control().members.contains_key(&from) } else { report.node == from }
}

async fn heartbeat<E: NodeEnv>(
    shared: &Shared<E>,
    report: Box<Report>,
    ask: Ask,
    relayed: bool,
    reply: ReplyTo<Response<E::Rt>>,
) {
    let leader = shared.raft.view().leader;
    let pass_on = leader.filter(|leader| !relayed && *leader != shared.config.node);
    let Some(peer) = pass_on.and_then(|leader| shared.peer(leader)) else {
        deliver(shared, report, ask, reply).await;
        return;
    };
    let request = Request::Heartbeat { report, ask, relayed: true };
    let answer = match shared.env.network().call(&peer, request, RELAY_DEADLINE).await {
        Ok(Response::Heartbeat(answer)) => answer,
        Ok(_) | Err(_) => HeartbeatAnswer::nothing(leader),
    };
    reply.send(Response::Heartbeat(answer));
}

/// Members ask for their own commands and know the leader; an operator may ask anybody, and may ask
/// for orders only.
async fn propose<E: NodeEnv>(
    shared: &Shared<E>,
    from: NodeId,
    command: Command,
) -> Response<E::Rt> {
    let is_member = shared.raft.control().members.contains_key(&from);
    if !is_member && !matches!(command, Command::Operate { .. }) {
        return Response::Refused(format!("{from} is no member and may give orders only"));
    }
    if !is_member && shared.config.sabotage.is(Saboteur::DropOrders) {
        return Response::Refused("the outcome is unknown; ask again with the same id".into());
    }
    put_for_another(shared, command, !is_member).await
}

async fn hello<E: NodeEnv>(shared: &Shared<E>) -> Response<E::Rt> {
    let control = shared.raft.control();
    Response::Hello {
        incarnation: shared.raft.incarnation(),
        cluster: shared.config.cluster.clone(),
        initialised: shared.raft.is_initialised().await,
        members: control.members.iter().map(|(node, m)| (*node, m.incarnation)).collect(),
    }
}
