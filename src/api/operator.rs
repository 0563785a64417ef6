//! The operator's side of an order: named once, put to whoever leads, repeated under the same name
//! until it is known how it ended.
//!
//! I10: an order is done once, refused, or reported as unknown. The name makes a repetition
//! harmless, so a lost answer is asked for again instead of being guessed at. It speaks through the
//! [`Network`] that the members speak through, whichever that is; it decides nothing.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft_rt::AsyncRuntime;

use crate::control::{Applied, Command, Order, OrderOutcome, SettingsChange};
use crate::env::{Clock, Entropy, Network, NetworkError, Peer};
use crate::ha::Chore;
use crate::ids::{CommandId, Incarnation, Moment, NodeId};
use crate::runtime::wire::{Heard, Request, Response};

use super::board::StatusBoard;

/// How long one question about an order may take: an entry is committed in far less, and a leader
/// that cannot commit is not waited for.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// How long the leader may take to say what the members reported. People wait for this.
const REPORTS_DEADLINE: Duration = Duration::from_millis(400);
/// How often it is looked whether the order is settled here.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a leader's answer may be on its way into this member's control state before the order
/// is asked for again. Asking costs an entry of the log, looking costs nothing.
const APPLY_PATIENCE: Duration = Duration::from_millis(400);
/// The same, for an order that is known to be under way.
const PENDING_PATIENCE: Duration = Duration::from_secs(2);
/// How long an order that may have been taken is followed up: longer than the coordinator gives a
/// forced failover, with an election of the consensus on top.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long somebody is looked for who takes the order at all.
const NOBODY_PATIENCE: Duration = Duration::from_secs(10);

/// How a refusal begins that says nothing of the order: another member may take it.
pub const NOTHING_ORDERED: &str = "nothing was ordered";

/// How an order ended, for whoever gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderEnd {
    /// It was carried out.
    Done(String),
    /// It was not, and will not be.
    Refused(String),
    /// That is not known; the same order under the same name may be given again.
    Unknown(String),
}

impl OrderEnd {
    /// One word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// What whoever leads knows of the members.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    /// Who said what, and how long ago.
    pub heard: Vec<Heard>,
    /// Why nobody is elected, where somebody should be.
    pub obstacle: Option<String>,
}

/// What the API asks of the world. The real one is [`Operator`].
pub trait Desk: Send + Sync + 'static {
    /// The monotonic clock.
    fn now(&self) -> Moment;
    /// The wall clock in milliseconds since 1970, for people's eyes.
    fn wall_ms(&self) -> u64;
    /// A fresh name for an order.
    fn new_id(&self) -> CommandId;
    /// Gives an order and follows it up.
    fn carry_out(&self, id: CommandId, order: Order) -> BoxFuture<'_, OrderEnd>;
    /// Asks whoever leads what the members last said; a sentence where nobody answers.
    fn reports(&self) -> BoxFuture<'_, Result<Reported, String>>;
    /// Asks a member to do something to its own Postgres: what it will do, or why not.
    fn chore(&self, node: NodeId, chore: Chore) -> BoxFuture<'_, OrderEnd>;
    /// Whether this machine could live with such settings, and if not, why.
    fn vet(&self, change: SettingsChange) -> BoxFuture<'_, Result<(), String>>;
    /// Asks a machine that is to be admitted which store it runs on.
    fn greet(&self, node: NodeId, address: String) -> BoxFuture<'_, Result<Incarnation, String>>;
}

/// The desk of a running node.
pub struct Operator<Rt, N, C, R> {
    board: Arc<StatusBoard>,
    network: N,
    clock: C,
    entropy: R,
    vet: Vet,
    runtime: PhantomData<fn() -> Rt>,
}

/// Tries settings on this machine: on its server, where it has one, and beside its own file.
pub type Vet = Arc<dyn Fn(SettingsChange) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

impl<Rt, N, C, R> fmt::Debug for Operator<Rt, N, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Operator")
    }
}

/// What one question brought.
enum Told {
    /// The end.
    End(OrderEnd),
    /// It was taken, and is under way or about to show here.
    Taken(Duration),
    /// Nothing for certain: it may have been taken all the same.
    Perhaps(String),
    /// It was not taken.
    No(String),
}

impl<Rt, N, C, R> Operator<Rt, N, C, R>
where
    Rt: AsyncRuntime + Send + Sync,
    N: Network<Request = Request<Rt>, Response = Response<Rt>>,
    C: Clock,
    R: Entropy,
{
    /// A desk that reads `board` and speaks through `network`, as the member that owns both.
    #[must_use]
    pub fn new(board: Arc<StatusBoard>, network: N, clock: C, entropy: R) -> Self {
        let vet: Vet = Arc::new(|_| async { Ok(()) }.boxed());
        Self { board, network, clock, entropy, vet, runtime: PhantomData }
    }

    /// Settings are tried like this before they are ordered.
    #[must_use]
    pub fn trying(self, vet: Vet) -> Self {
        Self { vet, ..self }
    }

    fn member(&self, node: NodeId) -> Option<Peer> {
        let control = self.board.snapshot().control.clone();
        let member = control.members.get(&node)?;
        Some(Peer { node, address: member.address.clone(), incarnation: member.incarnation })
    }

    /// Whoever leads, as far as is known here.
    fn leader(&self) -> Option<Peer> {
        self.member(self.board.snapshot().raft.leader?)
    }

    async fn pause(&self, span: Duration) {
        self.clock.sleep_until(self.clock.now() + span).await;
    }

    async fn follow_up(&self, id: CommandId, order: Order) -> OrderEnd {
        if self.board.snapshot().control.cluster.is_empty() {
            return OrderEnd::Refused(format!(
                "{NOTHING_ORDERED}: the cluster is not founded yet, or this machine is no member \
                 of it yet; then ask a member"
            ));
        }
        let began = self.clock.now();
        let mut taken = false;
        let mut last = String::from("nobody leads the consensus");
        loop {
            let limit = if taken { PATIENCE } else { NOBODY_PATIENCE };
            if self.clock.now().since(began) >= limit {
                break;
            }
            match self.put(id, &order).await {
                Told::End(end) => return end,
                Told::Taken(patience) => {
                    taken = true;
                    if let Some(end) = self.await_end(id, patience).await {
                        return end;
                    }
                }
                Told::Perhaps(why) => {
                    taken = true;
                    last = why;
                    self.pause(LOOK_INTERVAL * 2).await;
                }
                Told::No(why) => {
                    last = why;
                    self.pause(LOOK_INTERVAL * 2).await;
                }
            }
        }
        if taken {
            OrderEnd::Unknown(format!(
                "the outcome of order {} is unknown ({last}); give it again with the same id to \
                 learn it: it is never done twice",
                id.0
            ))
        } else {
            OrderEnd::Refused(format!("{NOTHING_ORDERED}: {last}"))
        }
    }

    /// Puts the order to whoever leads. Others would refuse it, and only delay it.
    async fn put(&self, id: CommandId, order: &Order) -> Told {
        let Some(leader) = self.leader() else {
            return Told::No("nobody leads the consensus, as far as this member knows".into());
        };
        let command = Command::Operate { id, order: order.clone() };
        let request = Request::Propose(Box::new(command));
        match self.network.call(&leader, request, ASK_DEADLINE).await {
            // Whether it is over or has only begun, the control state will tell.
            Ok(Response::Proposed(Applied::Done)) => Told::Taken(APPLY_PATIENCE),
            Ok(Response::Proposed(Applied::Refused(why))) => Told::End(OrderEnd::Refused(why)),
            Ok(Response::Proposed(Applied::Repeated(OrderOutcome::Pending))) => {
                Told::Taken(PENDING_PATIENCE)
            }
            Ok(Response::Proposed(Applied::Repeated(outcome))) => {
                settled(outcome).map_or(Told::Taken(PENDING_PATIENCE), Told::End)
            }
            Ok(Response::Refused(why)) => Told::Perhaps(format!("{}: {why}", leader.node)),
            Ok(
                Response::Append(_)
                | Response::Vote(_)
                | Response::Snapshot(_)
                | Response::Transferred(_)
                | Response::Heartbeat(_)
                | Response::Hello { .. }
                | Response::Reports { .. }
                | Response::TakenOn(_),
            ) => Told::Perhaps(format!("{} answers another question", leader.node)),
            Err(why) if why.outcome_unknown() => Told::Perhaps(why.to_string()),
            Err(why) => Told::No(why.to_string()),
        }
    }

    /// Looks at this member's own control state until the order is settled there.
    async fn await_end(&self, id: CommandId, patience: Duration) -> Option<OrderEnd> {
        let limit = self.clock.now() + patience;
        while self.clock.now() < limit {
            if let Some(end) = self.board.outcome_of(id).and_then(settled) {
                return Some(end);
            }
            self.pause(LOOK_INTERVAL).await;
        }
        None
    }
}

fn settled(outcome: OrderOutcome) -> Option<OrderEnd> {
    match outcome {
        OrderOutcome::Pending => None,
        OrderOutcome::Done(text) => Some(OrderEnd::Done(text)),
        OrderOutcome::Refused(why) => Some(OrderEnd::Refused(why)),
        OrderOutcome::Unknown(why) => Some(OrderEnd::Unknown(why)),
    }
}

impl<Rt, N, C, R> Desk for Operator<Rt, N, C, R>
where
    Rt: AsyncRuntime + Send + Sync,
    N: Network<Request = Request<Rt>, Response = Response<Rt>>,
    C: Clock,
    R: Entropy,
{
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn new_id(&self) -> CommandId {
        // Names grow with time, also where this machine's clock is behind another's.
        let drawn = CommandId::fresh(self.clock.wall_ms(), self.entropy.next_u64());
        let control = self.board.snapshot().control.clone();
        let known = control.orders.iter().map(|known| known.id).chain(control.forgotten).max();
        known.map_or(drawn, |known| drawn.max(CommandId(known.0 + 1)))
    }

    fn carry_out(&self, id: CommandId, order: Order) -> BoxFuture<'_, OrderEnd> {
        async move {
            let end = self.follow_up(id, order.clone()).await;
            tracing::info!(id = id.0, "order {order:?}: {end:?}");
            self.board.count_order(end.word());
            end
        }
        .boxed()
    }

    fn reports(&self) -> BoxFuture<'_, Result<Reported, String>> {
        async move {
            let Some(leader) = self.leader() else {
                return Err("nobody leads the consensus, as far as this member knows".into());
            };
            match self.network.call(&leader, Request::Reports, REPORTS_DEADLINE).await {
                Ok(Response::Reports { heard, obstacle }) => Ok(Reported { heard, obstacle }),
                Ok(Response::Refused(why)) => Err(format!("{}: {why}", leader.node)),
                Ok(_) => Err(format!("{} answers another question", leader.node)),
                Err(why) => Err(why.to_string()),
            }
        }
        .boxed()
    }

    fn chore(&self, node: NodeId, chore: Chore) -> BoxFuture<'_, OrderEnd> {
        async move {
            let Some(peer) = self.member(node) else {
                return OrderEnd::Refused(format!("{node} is no member"));
            };
            match self.network.call(&peer, Request::Chore(chore), ASK_DEADLINE).await {
                Ok(Response::TakenOn(what)) => OrderEnd::Done(what),
                Ok(Response::Refused(why)) => OrderEnd::Refused(why),
                Ok(_) => OrderEnd::Refused(format!("{node} answers another question")),
                Err(why) if why.outcome_unknown() => {
                    OrderEnd::Unknown(format!("{node} may do it, or not: {why}"))
                }
                Err(why) => OrderEnd::Refused(why.to_string()),
            }
        }
        .boxed()
    }

    fn vet(&self, change: SettingsChange) -> BoxFuture<'_, Result<(), String>> {
        (self.vet)(change)
    }

    fn greet(&self, node: NodeId, address: String) -> BoxFuture<'_, Result<Incarnation, String>> {
        async move {
            let peer = Peer { node, address, incarnation: Incarnation::default() };
            match self.network.call(&peer, Request::Hello, ASK_DEADLINE).await {
                Ok(Response::Hello { incarnation, .. }) => Ok(incarnation),
                Ok(Response::Refused(why)) => Err(format!("{node} at {}: {why}", peer.address)),
                Ok(_) => Err(format!("{node} at {} answers another question", peer.address)),
                Err(NetworkError::Unreachable(_)) => Err(format!(
                    "no node {node} of this cluster answers at {}; start it first, with the same \
                     cluster name and that number",
                    peer.address
                )),
                Err(why) => Err(format!("{why} at {}", peer.address)),
            }
        }
        .boxed()
    }
}
