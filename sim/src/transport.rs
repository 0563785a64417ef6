//! Requests between members over the fabric.
//!
//! Messages are moved and never serialised. What the callers find out travels through the network
//! too: a refusal takes the way back, and where there is none the caller runs into its deadline. A
//! process that does not listen refuses; one that listens and does not look answers nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::env::{Incoming, Network, NetworkError, Peer, ReplyTo};
use pg_replica::ids::{Incarnation, NodeId};
use pg_replica::runtime::wire;
use pg_replica::sabotage::{Sabotage, Saboteur};
use tokio::sync::{Mutex as TurnLock, mpsc, oneshot};

use crate::clock::{HostClock, sleep};
use crate::fabric::{Fabric, Port};
use crate::place::Place;
use crate::rt::SimRt;
use crate::streams::lock;

/// What members ask each other in the simulator.
pub type Request = wire::Request<SimRt>;
/// What they answer.
pub type Response = wire::Response<SimRt>;

/// How many requests wait for a member that does not take them; more are dropped, and their
/// callers see a timeout. As many as a listening socket holds.
const INBOX_REQUESTS: usize = 256;

/// All members' listening ends. Its clones are the same.
#[derive(Clone)]
pub struct Exchange(Arc<Inner>);

/// The network as the manager of one member sees it. It belongs to one run of that process.
#[derive(Clone)]
pub struct SimNetwork {
    exchange: Exchange,
    node: NodeId,
    clock: HostClock,
    desk: Arc<Desk>,
}

struct Inner {
    fabric: Fabric,
    sabotage: Sabotage,
    desks: Mutex<BTreeMap<NodeId, Arc<Desk>>>,
}

/// Where requests to one process arrive.
struct Desk {
    inbox: Mutex<Option<mpsc::Sender<Arrived>>>,
    arrived: TurnLock<mpsc::Receiver<Arrived>>,
    /// The store that the process runs on, once it accepts requests at all.
    incarnation: Mutex<Option<Incarnation>>,
}

type Arrived = Incoming<Request, Response>;
type Answered = Result<Response, NetworkError>;
/// The caller's end: the first answer takes it.
type Way = Arc<Mutex<Option<oneshot::Sender<Answered>>>>;

/// A request under way. A duplicate of it is a clone.
#[derive(Clone)]
struct Letter {
    from: Place,
    to: NodeId,
    incarnation: Incarnation,
    request: Request,
    way: Way,
}

impl Exchange {
    /// An exchange over `fabric` at which nobody listens yet.
    #[must_use]
    pub fn new(fabric: Fabric, sabotage: Sabotage) -> Self {
        Self(Arc::new(Inner { fabric, sabotage, desks: Mutex::default() }))
    }

    /// The network for a manager that starts now. What waited for the one before is gone.
    #[must_use]
    pub fn open(&self, node: NodeId, clock: HostClock) -> SimNetwork {
        let (sender, receiver) = mpsc::channel(INBOX_REQUESTS);
        let desk = Arc::new(Desk {
            inbox: Mutex::new(Some(sender)),
            arrived: TurnLock::new(receiver),
            incarnation: Mutex::default(),
        });
        self.shut(node);
        lock(&self.0.desks).insert(node, desk.clone());
        SimNetwork { exchange: self.clone(), node, clock, desk }
    }

    /// The manager of `node` is gone: whoever calls it is refused.
    pub fn shut(&self, node: NodeId) {
        let desk = lock(&self.0.desks).remove(&node);
        if let Some(desk) = desk {
            let inbox = lock(&desk.inbox).take();
            drop(inbox);
        }
    }

    /// Calls a member from anywhere, with a deadline in true time. The member sees a request from
    /// number zero, which no member has.
    pub async fn operator_call(
        &self,
        from: Place,
        to: NodeId,
        request: Request,
        deadline: Duration,
    ) -> Answered {
        self.call(from, to, Incarnation::default(), request, sleep(deadline)).await
    }

    async fn call(
        &self,
        from: Place,
        to: NodeId,
        incarnation: Incarnation,
        request: Request,
        deadline: impl Future<Output = ()>,
    ) -> Answered {
        let (sender, answer) = oneshot::channel();
        let way = Arc::new(Mutex::new(Some(sender)));
        let letter = Letter { from, to, incarnation, request, way };
        let exchange = self.clone();
        let deliver = move || exchange.arrive(letter.clone());
        self.0.fabric.send(from, Place::Host(to), Port::Node, deliver);
        let answer = pin!(async {
            match answer.await {
                Ok(answered) => answered,
                // The request or its answer was lost, which nobody can know before the deadline.
                Err(_) => pending().await,
            }
        });
        match select(answer, pin!(deadline)).await {
            Either::Left((answered, _)) => answered,
            Either::Right(((), _)) => Err(NetworkError::TimedOut(to)),
        }
    }

    /// A request has come to the machine that it was sent to.
    fn arrive(&self, letter: Letter) {
        let Letter { from, to, incarnation, request, way } = letter;
        let desk = lock(&self.0.desks).get(&to).cloned();
        let listening = desk.and_then(|desk| {
            let own = *lock(&desk.incarnation);
            let inbox = lock(&desk.inbox).clone();
            own.zip(inbox)
        });
        let Some((own, inbox)) = listening else {
            self.answer(to, from, way, Err(NetworkError::Unreachable(to)));
            return;
        };
        let expected = incarnation == Incarnation::default() || incarnation == own;
        if !expected && !self.0.sabotage.is(Saboteur::AcceptWipedVoter) {
            self.answer(to, from, way, Err(NetworkError::WrongIncarnation(to)));
            return;
        }
        let exchange = self.clone();
        let reply = ReplyTo::new(move |response| exchange.answer(to, from, way, Ok(response)));
        let from = match from {
            Place::Host(node) => node,
            Place::Client(_) | Place::Operator => NodeId::default(),
        };
        // A full inbox drops the request, as a full backlog does.
        drop(inbox.try_send(Incoming { from, request, reply }));
    }

    fn answer(&self, from: NodeId, to: Place, way: Way, answered: Answered) {
        let mut answered = Some(answered);
        let deliver = move || {
            let caller = lock(&way).take();
            if let (Some(caller), Some(answered)) = (caller, answered.take()) {
                // The caller may have given up.
                drop(caller.send(answered));
            }
        };
        self.0.fabric.send(Place::Host(from), to, Port::Node, deliver);
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange")
    }
}

impl Network for SimNetwork {
    type Request = Request;
    type Response = Response;

    async fn call(&self, peer: &Peer, request: Request, deadline: Duration) -> Answered {
        let until = self.clock.sleep_until(self.clock.now() + deadline);
        let from = Place::Host(self.node);
        self.exchange.call(from, peer.node, peer.incarnation, request, until).await
    }

    async fn accept(&self, incarnation: Incarnation) -> Option<Arrived> {
        *lock(&self.desk.incarnation) = Some(incarnation);
        self.desk.arrived.lock().await.recv().await
    }
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNetwork({})", self.node)
    }
}
