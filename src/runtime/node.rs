//! The loop: take an event, let the core decide, start what it asks for, sleep until the next.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use openraft_rt::AsyncRuntime;
use tokio::sync::{Semaphore, mpsc};

use crate::control::ControlState;
use crate::env::{Clock, Guard, Peer, ReplyTo};
use crate::ha::{Action, Chore, Core, Event, RaftView, RequestId};
use crate::ids::{Incarnation, Moment, NodeId, Term};

use super::NodeEnv;
use super::config::NodeConfig;
use super::execute::{GuardOrder, drive_postgres, keep_logs, speak_to_guard};
use super::founding::{self, FoundingError};
use super::observer::Observer;
use super::raft::{OpenError, RaftHandle, RaftOptions};
use super::serve;
use super::verbs::{VERBS_MAX, VerbOrder};
use super::wire::{Heard, Response};

/// How many events may wait. The core is far faster than its sources; a full inbox means that the
/// machine stands still, and then the senders wait.
const INBOX_MAX: usize = 1_024;

/// How many words to the guard may wait: more than a lease has heartbeats. A guard that is that far
/// behind stands still, and what it has not heard counts for nothing.
const GUARD_ORDERS_MAX: usize = 32;

/// How long consensus may take to end: as long as a disk takes for one sync, on a bad day.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The local store cannot be used.
    #[error("cannot start: {0}")]
    Open(#[from] OpenError),
    /// The cluster cannot be founded or joined like this.
    #[error("cannot start: {0}")]
    Founding(#[from] FoundingError),
    /// The store failed while the node ran. Postgres is fenced by its lease.
    #[error("the control store failed; the node stops, and its lease runs out")]
    StoreFailed,
}

/// What reaches the loop.
pub(super) enum Input<E: NodeEnv> {
    /// An event for the core.
    Event(Box<Event>),
    /// A heartbeat of another member, with the way back.
    Heartbeat {
        report: Box<crate::ha::Report>,
        ask: crate::ha::Ask,
        reply: ReplyTo<Response<E::Rt>>,
    },
    /// A question for what the members last said. It changes nothing.
    Reports { reply: ReplyTo<Response<E::Rt>> },
    /// What an operator asks of this member's Postgres.
    Chore { chore: Chore, reply: ReplyTo<Response<E::Rt>> },
    /// The node cannot go on.
    Fatal(RunError),
}

/// Where an answer of the core goes.
pub(super) enum Waiting<E: NodeEnv> {
    /// It came from another member.
    Remote(ReplyTo<Response<E::Rt>>),
    /// It was this member's own.
    Own { sent: Moment },
    /// It is no heartbeat: an operator waits.
    Operator(ReplyTo<Response<E::Rt>>),
}

/// What the loop and its tasks share.
pub(super) struct Shared<E: NodeEnv> {
    pub(super) env: E,
    pub(super) config: NodeConfig,
    pub(super) raft: RaftHandle<E>,
    pub(super) inbox: mpsc::Sender<Input<E>>,
    /// Closed when the node ends. It never has a permit.
    ended: Arc<Semaphore>,
}

/// Ends every task of the node when it goes.
struct Ending(Arc<Semaphore>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<E: NodeEnv> Shared<E> {
    /// Puts an event into the inbox. Where the loop has ended there is nobody left to tell.
    pub(super) async fn tell(&self, event: Event) {
        let _ = self.inbox.send(Input::Event(Box::new(event))).await;
    }

    /// Starts a task that ends with the node: once that is over, it is dropped where it waits. It
    /// is boxed first, because a task is many kilobytes and is moved several times on its way.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (ended, task) = (self.ended.clone(), Box::pin(task));
        drop(E::Rt::spawn(async move {
            drop(select(pin!(ended.acquire()), task).await);
        }));
    }

    /// How to reach a member: by the control state, or by the founding list before there is one.
    pub(super) fn peer(&self, node: NodeId) -> Option<Peer> {
        let control = self.raft.control();
        if let Some(member) = control.members.get(&node) {
            let address = member.address.clone();
            return Some(Peer { node, address, incarnation: member.incarnation });
        }
        let member = self.config.founding.get(&node)?;
        Some(Peer { node, address: member.address.clone(), incarnation: Incarnation::default() })
    }
}

/// The loop's own state.
pub(super) struct Node<E: NodeEnv> {
    pub(super) shared: Arc<Shared<E>>,
    pub(super) waiting: BTreeMap<RequestId, Waiting<E>>,
    pub(super) guard_orders: mpsc::Sender<GuardOrder>,
    pub(super) verb_orders: mpsc::Sender<VerbOrder>,
    next_request: u64,
}

/// Runs a node until it cannot go on. Nothing of it is left when this returns.
///
/// Dropping the future ends every task of the node where it waits, and consensus, which has tasks
/// of its own, once the last of them is gone. That is soon and not at once: only the end of the
/// process is a crash.
pub async fn run<E: NodeEnv>(
    env: E,
    config: NodeConfig,
    observer: Arc<dyn Observer>,
) -> Result<(), RunError> {
    let options = RaftOptions {
        node: config.node,
        cluster: config.cluster.clone(),
        sabotage: config.sabotage,
        heartbeat_ms: config.raft_heartbeat_ms,
        election_min_ms: config.raft_election_ms.0,
        election_max_ms: config.raft_election_ms.1,
        snapshot_every: config.raft_snapshot_every,
        observer: observer.clone(),
    };
    let raft = RaftHandle::open(&env, options).await?;
    let (inbox, events) = mpsc::channel(INBOX_MAX);
    let ended = Arc::new(Semaphore::new(0));
    let ending = Ending(ended.clone());
    let shared = Arc::new(Shared { env, config, raft, inbox, ended });
    let error = live(&shared, events, &*observer).await;
    drop(ending);
    // A disk that hangs must not keep a node from ending.
    let _ = E::Rt::timeout(SHUTDOWN_LIMIT, shared.raft.shutdown()).await;
    Err(error)
}

/// The node's life, and what ended it.
async fn live<E: NodeEnv>(
    shared: &Arc<Shared<E>>,
    mut events: mpsc::Receiver<Input<E>>,
    observer: &dyn Observer,
) -> RunError {
    let mut core = Core::new(shared.config.node, shared.config.sabotage);
    shared.spawn(serve::serve(shared.clone()));
    shared.spawn(founding::found(shared.clone()));
    shared.spawn(watch_raft(shared.clone()));

    let (guard_orders, orders) = mpsc::channel(GUARD_ORDERS_MAX);
    shared.spawn(speak_to_guard(shared.clone(), orders));
    let (verb_orders, orders) = mpsc::channel(VERBS_MAX);
    shared.spawn(drive_postgres(shared.clone(), orders));
    shared.spawn(keep_logs(shared.clone()));

    let waiting = BTreeMap::new();
    let mut node =
        Node { shared: shared.clone(), waiting, guard_orders, verb_orders, next_request: 0 };
    let mut actions = Vec::new();
    if is_another(shared, &shared.raft.control()) {
        return other_cluster(shared, &shared.raft.control()).into();
    }
    // What a restart must not forget comes first: the applied control state, then the guard.
    node.step(&mut core, Event::Control(shared.raft.control()), &mut actions, observer).await;
    let armed = shared.env.guard().armed().await.ok().flatten();
    node.step(&mut core, Event::Started { armed }, &mut actions, observer).await;
    loop {
        let event = match next_input(shared, &mut events, &core).await {
            None => Event::Wake,
            Some(Input::Event(event)) => {
                if let Event::Control(control) = &*event {
                    // Tasks race to bring the same news; the older ones are no news.
                    if control.version <= core.control().version {
                        continue;
                    }
                    if is_another(shared, control) {
                        return other_cluster(shared, control).into();
                    }
                }
                *event
            }
            Some(Input::Heartbeat { report, ask, reply }) => {
                let request = node.wait_for(Waiting::Remote(reply));
                Event::Heartbeat { request, report, ask }
            }
            Some(Input::Reports { reply }) => {
                reply.send(reports_of(&core, shared.env.clock().now()));
                continue;
            }
            Some(Input::Chore { chore, reply }) => {
                let request = node.wait_for(Waiting::Operator(reply));
                Event::Chore { request, chore }
            }
            Some(Input::Fatal(error)) => return error,
        };
        node.step(&mut core, event, &mut actions, observer).await;
    }
}

/// Whether this member was admitted to a cluster that it is not meant for.
fn is_another<E: NodeEnv>(shared: &Shared<E>, control: &ControlState) -> bool {
    !control.cluster.is_empty() && control.cluster != shared.config.cluster
}

fn other_cluster<E: NodeEnv>(shared: &Shared<E>, control: &ControlState) -> FoundingError {
    let (own, found) = (shared.config.cluster.clone(), control.cluster.clone());
    FoundingError::OtherCluster { own, found }
}

fn reports_of<Rt: AsyncRuntime + Send + Sync>(core: &Core, now: Moment) -> Response<Rt> {
    let Some(reports) = core.reports(now) else {
        return Response::Refused("this member does not lead".into());
    };
    let heard = reports.into_values().map(|(report, age)| Heard {
        report,
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
    });
    Response::Reports { heard: heard.collect(), obstacle: core.obstacle() }
}

async fn next_input<E: NodeEnv>(
    shared: &Shared<E>,
    events: &mut mpsc::Receiver<Input<E>>,
    core: &Core,
) -> Option<Input<E>> {
    let Some(wake) = core.next_wake() else { return events.recv().await };
    if let Ok(input) = events.try_recv() {
        return Some(input);
    }
    let input = pin!(events.recv());
    let sleep = pin!(shared.env.clock().sleep_until(wake));
    match select(input, sleep).await {
        Either::Left((input, _)) => input,
        Either::Right(((), _)) => None,
    }
}

impl<E: NodeEnv> Node<E> {
    async fn step(
        &mut self,
        core: &mut Core,
        event: Event,
        actions: &mut Vec<Action>,
        observer: &dyn Observer,
    ) {
        let now = self.shared.env.clock().now();
        core.step(now, event.clone(), actions);
        observer.stepped(now, &event, actions, core);
        for action in actions.drain(..) {
            self.execute(action);
        }
    }

    /// Numbers a request that waits for the core's answer.
    pub(super) fn wait_for(&mut self, waiting: Waiting<E>) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.waiting.insert(request, waiting);
        request
    }
}

/// Tells the core what changes in the consensus layer, and when a leadership is ready to decide.
async fn watch_raft<E: NodeEnv>(shared: Arc<Shared<E>>) {
    let mut told = RaftView::default();
    let mut ready: Option<Term> = None;
    loop {
        let control = shared.raft.control();
        shared.tell(Event::Control(control)).await;
        let view = shared.raft.view();
        if view != told {
            told = view.clone();
            shared.tell(Event::Raft(view.clone())).await;
        }
        if view.leads && ready != Some(view.term) {
            ready = Some(view.term);
            shared.spawn(await_readiness(shared.clone(), view.term));
        }
        if !shared.raft.changed().await {
            let _ = shared.inbox.send(Input::Fatal(RunError::StoreFailed)).await;
            return;
        }
    }
}

/// A leader decides nothing before it has applied everything that was committed before it led.
async fn await_readiness<E: NodeEnv>(shared: Arc<Shared<E>>, term: Term) {
    loop {
        if let Some(confirmed) = shared.raft.confirm().await {
            if confirmed == term {
                founding::propose_founding(&shared).await;
                shared.tell(Event::Control(shared.raft.control())).await;
                shared.tell(Event::LeadershipReady { term }).await;
            }
            return;
        }
        let view = shared.raft.view();
        if !view.leads || view.term != term {
            return;
        }
        let heartbeat = Duration::from_millis(shared.config.raft_heartbeat_ms);
        E::Rt::sleep(heartbeat).await;
    }
}
