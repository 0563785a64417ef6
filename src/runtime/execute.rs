//! Carrying actions out. Each is started in order; what takes time goes on in a task of its own and
//! ends with an event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::{Applied, Command};
use crate::env::{Armed, Clock, Guard, Network, Outcome, Postgres, PostgresError, ReplyTo};
use crate::ha::{Action, Ask, Event, HeartbeatAnswer, Lease, Report, RequestId};
use crate::ids::{ActionId, Epoch, Moment, NodeId};
use crate::sabotage::Saboteur;

use super::NodeEnv;
use super::node::{Input, Node, Shared, Waiting};
use super::raft::{Proposal, RaftNode};
use super::verbs::{Lane, VerbOrder, outcome_of};
use super::wire::{Request, Response};

/// How long a proposal through another member may take before it is put again. Every command is
/// guarded by what it expects, so a repetition is refused, and waiting for a lost message is worse.
const PROPOSAL_DEADLINE: Duration = Duration::from_millis(600);
/// A heartbeat that took longer would bring a lease that is half over.
const HEARTBEAT_DEADLINE: Duration = Duration::from_millis(500);
/// How often it is seen to that a member's log is there for the others. What they need moves
/// slowly, and what is kept for nothing until then is small.
const LOGS_KEPT_EVERY: Duration = Duration::from_secs(10);

impl<E: NodeEnv> Node<E> {
    pub(super) fn execute(&mut self, action: Action) {
        let shared = self.shared.clone();
        match action {
            Action::Observe { id } => self.shared.spawn(observe(shared, id)),
            Action::Postgres { id, epoch, verb } => self.order_verb(VerbOrder { id, epoch, verb }),
            Action::ArmGuard { id, lease, deadline } => {
                self.order_guard(GuardOrder::Arm { id, lease, deadline });
            }
            Action::DisarmGuard { epoch } => self.order_guard(GuardOrder::Disarm { epoch }),
            Action::SendHeartbeat { to, sent, report, ask } => {
                self.send_heartbeat(to, sent, report, ask);
            }
            Action::ConfirmLeadership { request } => self.shared.spawn(confirm(shared, request)),
            Action::AnswerHeartbeat { request, answer } => self.answer(request, answer),
            Action::AnswerChore { request, answer } => self.answer_operator(request, answer),
            Action::Propose { id, through_leader, command } => {
                self.shared.spawn(propose(shared, id, through_leader, *command));
            }
            Action::TransferLeadership { to } => self.shared.spawn(async move {
                shared.raft.transfer_leadership(to).await;
            }),
            Action::ChangeVoters { voters } => self.shared.spawn(async move {
                let members = members_for(&shared, &voters);
                if let Err(why) = shared.raft.change_voters(voters, members).await {
                    tracing::info!("voters not changed: {why}");
                }
            }),
            // The observer has seen them: whether they go to a log is not for the loop to say.
            Action::Tell(_) | Action::Say(_) => {}
        }
    }

    fn send_heartbeat(&mut self, to: NodeId, sent: Moment, report: Box<Report>, ask: Ask) {
        let shared = self.shared.clone();
        if to != shared.config.node {
            self.shared.spawn(heartbeat(shared, to, sent, report, ask));
            return;
        }
        let request = self.wait_for(Waiting::Own { sent });
        let event = Event::Heartbeat { request, report, ask };
        self.shared.spawn(async move { shared.tell(event).await });
    }

    fn order_verb(&self, order: VerbOrder) {
        if let Err(unsaid) = self.verb_orders.try_send(order) {
            let id = unsaid.into_inner().id;
            let why = PostgresError::Transient("too many verbs wait for the server".into());
            let event = Event::VerbDone { id, outcome: Outcome::Failed(why) };
            let shared = self.shared.clone();
            self.shared.spawn(async move { shared.tell(event).await });
        }
    }

    fn order_guard(&self, order: GuardOrder) {
        if let Err(unsaid) = self.guard_orders.try_send(order)
            && let GuardOrder::Arm { id, lease, .. } = unsaid.into_inner()
        {
            // The guard does not listen: a deadline that it has not heard is no lease.
            let shared = self.shared.clone();
            let event = Event::GuardArmed { id, lease, ok: false };
            self.shared.spawn(async move { shared.tell(event).await });
        }
    }

    fn answer(&mut self, request: RequestId, answer: HeartbeatAnswer) {
        match self.waiting.remove(&request) {
            Some(Waiting::Remote(reply)) => reply.send(Response::Heartbeat(answer)),
            Some(Waiting::Own { sent }) => {
                let shared = self.shared.clone();
                let to = shared.config.node;
                let event = Event::HeartbeatAnswered { to, sent, answer: Some(answer) };
                self.shared.spawn(async move { shared.tell(event).await });
            }
            Some(Waiting::Operator(_)) | None => {}
        }
    }

    fn answer_operator(&mut self, request: RequestId, answer: Result<String, String>) {
        if let Some(Waiting::Operator(reply)) = self.waiting.remove(&request) {
            reply.send(match answer {
                Ok(what) => Response::TakenOn(what),
                Err(why) => Response::Refused(why),
            });
        }
    }
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

/// Hands verbs to the lane, and what became of them to the loop.
pub(super) async fn drive_postgres<E: NodeEnv>(
    shared: Arc<Shared<E>>,
    mut orders: mpsc::Receiver<VerbOrder>,
) {
    let sabotage = shared.config.sabotage;
    let mut lane = Lane::<E::Postgres, E::Rt>::new(shared.env.postgres().clone(), sabotage);
    while let Some((id, outcome)) = lane.next(&mut orders).await {
        shared.tell(Event::VerbDone { id, outcome }).await;
    }
}

/// Has the server keep what the other members may need of its log, whoever they follow next.
pub(super) async fn keep_logs<E: NodeEnv>(shared: Arc<Shared<E>>) {
    let own = shared.config.node;
    let mut failed = String::new();
    loop {
        let clock = shared.env.clock();
        clock.sleep_until(clock.now() + LOGS_KEPT_EVERY).await;
        let control = shared.raft.control();
        if !control.keeps_data(own) {
            continue;
        }
        let others = control.data_members().filter(|node| *node != own).collect();
        let why = match shared.env.postgres().keep_log_for(&others).await {
            Ok(()) => String::new(),
            Err(why) => why.to_string(),
        };
        // A server that is down or away for a while says nothing new.
        if !why.is_empty() && why == failed {
            tracing::debug!("the log that others may need is still not seen to: {why}");
        } else if !why.is_empty() {
            tracing::info!("the log that others may need is not seen to: {why}");
        }
        failed = why;
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
        let server = shared.env.postgres().clone();
        shared.spawn(async move {
            drop(server.extend_lease(epoch, until).await);
        });
    }
}

async fn heartbeat<E: NodeEnv>(
    shared: Arc<Shared<E>>,
    to: NodeId,
    sent: Moment,
    report: Box<Report>,
    ask: Ask,
) {
    let request = Request::Heartbeat { report, ask, relayed: false };
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
    ask: Ask,
    reply: ReplyTo<Response<E::Rt>>,
) {
    // Where the loop has ended the caller sees a timeout.
    let _ = shared.inbox.send(Input::Heartbeat { report, ask, reply }).await;
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
