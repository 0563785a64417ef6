//! Carrying actions out. Each is started in order; what takes time goes on in a task of its own and
//! ends with an event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use tokio::sync::mpsc;

use crate::control::{Applied, Command};
use crate::env::{Armed, Guard, Network, Outcome, Postgres, PostgresError, ReplyTo};
use crate::ha::{Action, Event, Finished, HeartbeatAnswer, Lease, Report, RequestId, Verb};
use crate::ids::{ActionId, Epoch, Moment, NodeId};
use crate::sabotage::Saboteur;

use super::NodeEnv;
use super::node::{Input, Node, Shared, Waiting};
use super::raft::{Proposal, RaftNode};
use super::wire::{Request, Response};

/// How long a proposal through another member may take before it is put again. Every command is
/// guarded by what it expects, so a repetition is refused, and waiting for a lost message is worse.
const PROPOSAL_DEADLINE: Duration = Duration::from_millis(600);
/// A heartbeat that took longer would bring a lease that is half over.
const HEARTBEAT_DEADLINE: Duration = Duration::from_millis(500);

impl<E: NodeEnv> Node<E> {
    pub(super) fn execute(&mut self, action: Action) {
        let shared = self.shared.clone();
        match action {
            Action::Observe { id } => spawn::<E>(observe(shared, id)),
            Action::Postgres { id, epoch, verb } => spawn::<E>(act(shared, id, epoch, verb)),
            Action::ArmGuard { id, lease, deadline } => {
                self.order_guard(GuardOrder::Arm { id, lease, deadline });
            }
            Action::DisarmGuard { epoch } => self.order_guard(GuardOrder::Disarm { epoch }),
            Action::SendHeartbeat { to, sent, report, renew } => {
                self.send_heartbeat(to, sent, report, renew);
            }
            Action::ConfirmLeadership { request } => spawn::<E>(confirm(shared, request)),
            Action::AnswerHeartbeat { request, answer } => self.answer(request, answer),
            Action::Propose { id, through_leader, command } => {
                spawn::<E>(propose(shared, id, through_leader, *command));
            }
            Action::TransferLeadership { to } => spawn::<E>(async move {
                shared.raft.transfer_leadership(to).await;
            }),
            Action::ChangeVoters { voters } => spawn::<E>(async move {
                let members = members_for(&shared, &voters);
                if let Err(why) = shared.raft.change_voters(voters, members).await {
                    tracing::info!("voters not changed: {why}");
                }
            }),
            Action::Tell(divergence) => {
                tracing::warn!(node = %shared.config.node, "{divergence}");
            }
            Action::Say(line) => tracing::info!(node = %shared.config.node, "{line}"),
        }
    }

    fn send_heartbeat(
        &mut self,
        to: NodeId,
        sent: Moment,
        report: Box<Report>,
        renew: Option<Epoch>,
    ) {
        let shared = self.shared.clone();
        if to != shared.config.node {
            spawn::<E>(heartbeat(shared, to, sent, report, renew));
            return;
        }
        let request = self.wait_for(Waiting::Own { sent });
        let event = Event::Heartbeat { request, report, renew };
        spawn::<E>(async move { shared.tell(event).await });
    }

    fn order_guard(&self, order: GuardOrder) {
        if let Err(unsaid) = self.guard_orders.try_send(order)
            && let GuardOrder::Arm { id, lease, .. } = unsaid.into_inner()
        {
            // The guard does not listen: a deadline that it has not heard is no lease.
            let shared = self.shared.clone();
            let event = Event::GuardArmed { id, lease, ok: false };
            spawn::<E>(async move { shared.tell(event).await });
        }
    }

    fn answer(&mut self, request: RequestId, answer: HeartbeatAnswer) {
        match self.waiting.remove(&request) {
            Some(Waiting::Remote(reply)) => reply.send(Response::Heartbeat(answer)),
            Some(Waiting::Own { sent }) => {
                let shared = self.shared.clone();
                let to = shared.config.node;
                let event = Event::HeartbeatAnswered { to, sent, answer: Some(answer) };
                spawn::<E>(async move { shared.tell(event).await });
            }
            None => {}
        }
    }
}

fn spawn<E: NodeEnv>(task: impl Future<Output = ()> + Send + 'static) {
    drop(E::Rt::spawn(task));
}

/// Everybody who belongs into the consensus layer: the members, and voters on their way out.
fn members_for<E: NodeEnv>(
    shared: &Shared<E>,
    voters: &BTreeSet<NodeId>,
) -> BTreeMap<NodeId, RaftNode> {
    let mut nodes = shared.raft.nodes();
    nodes.retain(|node, _| voters.contains(node));
    let control = shared.raft.control();
    nodes.extend(control.members.iter().map(|(node, member)| {
        let address = member.address.clone();
        (*node, RaftNode { address, incarnation: member.incarnation })
    }));
    nodes
}

async fn observe<E: NodeEnv>(shared: Arc<Shared<E>>, id: ActionId) {
    let outcome = outcome_of(shared.env.postgres().observe().await);
    shared.tell(Event::Observed { id, outcome }).await;
}

async fn act<E: NodeEnv>(shared: Arc<Shared<E>>, id: ActionId, epoch: Epoch, verb: Verb) {
    let outcome = outcome_of(perform(&shared, epoch, &verb).await);
    shared.tell(Event::VerbDone { id, outcome }).await;
}

async fn perform<E: NodeEnv>(
    shared: &Shared<E>,
    epoch: Epoch,
    verb: &Verb,
) -> Result<Finished, PostgresError> {
    let postgres = shared.env.postgres();
    match verb {
        Verb::Initialise => postgres.initialise(epoch).await.map(Finished::Initialised),
        Verb::Clone(source) => postgres.clone_from(source).await.map(plain),
        Verb::Rewind(source) => postgres.rewind(source).await.map(Finished::Rewound),
        Verb::Start(how) => postgres.start(how).await.map(plain),
        Verb::Promote(sync) if shared.config.sabotage.is(Saboteur::SyncAfterPromote) => {
            let birth = postgres.promote(epoch).await?;
            postgres.admit().await?;
            E::Rt::sleep(HEARTBEAT_DEADLINE).await;
            postgres.set_sync(sync).await?;
            Ok(Finished::Promoted(birth))
        }
        Verb::Promote(sync) => {
            // Not one write is acknowledged without the configuration of its epoch.
            postgres.set_sync(sync).await?;
            postgres.promote(epoch).await.map(Finished::Promoted)
        }
        Verb::Follow(upstream) => postgres.follow(upstream).await.map(plain),
        Verb::Detach => postgres.detach().await.map(plain),
        Verb::SetSync(sync) => postgres.set_sync(sync).await.map(plain),
        Verb::Admit => postgres.admit().await.map(plain),
        Verb::Stop(how) => postgres.stop(*how).await.map(plain),
    }
}

fn plain((): ()) -> Finished {
    Finished::Plain
}

fn outcome_of<T>(result: Result<T, PostgresError>) -> Outcome<T> {
    match result {
        Ok(value) => Outcome::Done(value),
        Err(why) if why.outcome_unknown() => Outcome::Unknown,
        Err(why) => Outcome::Failed(why),
    }
}

/// What the guard is to be told.
pub(super) enum GuardOrder {
    /// A deadline, and when the lease behind it ends.
    Arm { id: ActionId, lease: Lease, deadline: Moment },
    /// That there is nothing to end any more.
    Disarm { epoch: Epoch },
}

/// Tells the guard, one thing after the other: a word that overtook another could disarm what was
/// armed after it.
pub(super) async fn speak_to_guard<E: NodeEnv>(
    shared: Arc<Shared<E>>,
    mut orders: mpsc::Receiver<GuardOrder>,
) {
    while let Some(order) = orders.recv().await {
        match order {
            GuardOrder::Arm { id, lease, deadline } => arm(&shared, id, lease, deadline).await,
            // A guard that is gone has nothing to disarm.
            GuardOrder::Disarm { epoch } => drop(shared.env.guard().disarm(epoch).await),
        }
    }
}

/// The guard first: nothing may count on a deadline that nobody enforces.
async fn arm<E: NodeEnv>(shared: &Arc<Shared<E>>, id: ActionId, lease: Lease, deadline: Moment) {
    let Lease { epoch, until } = lease;
    let ok = shared.env.guard().arm(Armed { epoch, deadline, until }).await.is_ok();
    shared.tell(Event::GuardArmed { id, lease, ok }).await;
    if ok {
        // A server that hangs must not keep the guard from hearing more. Where none runs, or none
        // with a fence, there is nothing to extend.
        let shared = shared.clone();
        spawn::<E>(async move {
            drop(shared.env.postgres().extend_lease(epoch, until).await);
        });
    }
}

async fn heartbeat<E: NodeEnv>(
    shared: Arc<Shared<E>>,
    to: NodeId,
    sent: Moment,
    report: Box<Report>,
    renew: Option<Epoch>,
) {
    let request = Request::Heartbeat { report, renew, relayed: false };
    let answer = match shared.peer(to) {
        None => None,
        Some(peer) => match shared.env.network().call(&peer, request, HEARTBEAT_DEADLINE).await {
            Ok(Response::Heartbeat(answer)) => Some(answer),
            Ok(_) | Err(_) => None,
        },
    };
    shared.tell(Event::HeartbeatAnswered { to, sent, answer }).await;
}

async fn confirm<E: NodeEnv>(shared: Arc<Shared<E>>, request: RequestId) {
    let term = if shared.config.sabotage.is(Saboteur::RenewWithoutReadIndex) {
        let view = shared.raft.view();
        view.leads.then_some(view.term)
    } else {
        shared.raft.confirm().await
    };
    // The core sees everything that was applied before it answers from it.
    shared.tell(Event::Control(shared.raft.control())).await;
    shared.tell(Event::ReadConfirmed { request, term }).await;
}

async fn propose<E: NodeEnv>(
    shared: Arc<Shared<E>>,
    id: ActionId,
    through_leader: bool,
    command: Command,
) {
    let applied = put(&shared, through_leader, command).await;
    shared.tell(Event::Control(shared.raft.control())).await;
    shared.tell(Event::Proposed { id, applied }).await;
}

/// Puts a command to the log, through the leader where this member does not lead and that is
/// allowed. `None`: unknown.
async fn put<E: NodeEnv>(
    shared: &Shared<E>,
    through_leader: bool,
    command: Command,
) -> Option<Applied> {
    let leader = match shared.raft.propose(command.clone()).await {
        Proposal::Applied(applied) => return Some(applied),
        Proposal::Unknown | Proposal::NotLeader(None) => return None,
        Proposal::NotLeader(Some(leader)) => leader,
    };
    let peer = shared.peer(leader).filter(|_| through_leader && leader != shared.config.node)?;
    let request = Request::Propose(Box::new(command));
    match shared.env.network().call(&peer, request, PROPOSAL_DEADLINE).await {
        Ok(Response::Proposed(applied)) => Some(applied),
        Ok(_) | Err(_) => None,
    }
}

/// Hands a heartbeat of another member to the loop.
pub(super) async fn deliver<E: NodeEnv>(
    shared: &Shared<E>,
    report: Box<Report>,
    renew: Option<Epoch>,
    reply: ReplyTo<Response<E::Rt>>,
) {
    // Where the loop has ended the caller sees a timeout.
    let _ = shared.inbox.send(Input::Heartbeat { report, renew, reply }).await;
}

/// Puts an operator's command to the log on behalf of somebody who asked this member.
pub(super) async fn put_for_another<E: NodeEnv>(
    shared: &Shared<E>,
    command: Command,
    may_forward: bool,
) -> Response<E::Rt> {
    if may_forward {
        return match put(shared, true, command).await {
            Some(applied) => Response::Proposed(applied),
            None => Response::Refused("the outcome is unknown; ask again with the same id".into()),
        };
    }
    match shared.raft.propose(command).await {
        Proposal::Applied(applied) => Response::Proposed(applied),
        Proposal::NotLeader(_) => Response::Refused("this member does not lead".into()),
        Proposal::Unknown => Response::Refused("the outcome is unknown".into()),
    }
}
