//! An order on its way through a network that loses, repeats and refuses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt_tokio::TokioRuntime;

use crate::api::{Desk, Operator, OrderEnd, StatusBoard};
use crate::control::{Applied, Order, OrderOutcome, OrderRecord};
use crate::env::{Clock, Entropy, Incoming, Network, NetworkError, Peer};
use crate::ha::{Event, RaftView};
use crate::ids::{CommandId, Incarnation, Moment, NodeId};
use crate::runtime::wire;

use super::fixtures::{Bench, cluster};

type Request = wire::Request<TokioRuntime>;
type Response = wire::Response<TokioRuntime>;
type Answer = Result<Response, NetworkError>;

const SWITCH: Order = Order::Switchover { to: None };
const ID: CommandId = CommandId(5);

/// Sleeps take no time, and the clock has moved all the same.
#[derive(Clone, Default)]
struct Leap(Arc<AtomicU64>);

impl Clock for Leap {
    fn now(&self) -> Moment {
        Moment::from_origin(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }

    fn wall_ms(&self) -> u64 {
        0
    }

    async fn sleep_until(&self, deadline: Moment) {
        let ms = u64::try_from(deadline.since_origin().as_millis()).unwrap();
        self.0.fetch_max(ms, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

#[derive(Clone)]
struct Dice;

impl Entropy for Dice {
    fn next_u64(&self) -> u64 {
        u64::MAX
    }
}

type Script = dyn Fn(usize, &Peer, &Request) -> Answer + Send + Sync;

/// Answers by a script, and remembers who was asked.
#[derive(Clone)]
struct Wire {
    script: Arc<Script>,
    asked: Arc<Mutex<Vec<NodeId>>>,
    clock: Leap,
}

impl Network for Wire {
    type Request = Request;
    type Response = Response;

    async fn call(&self, peer: &Peer, request: Request, deadline: Duration) -> Answer {
        let turn = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(peer.node);
            asked.len()
        };
        let answer = (self.script)(turn, peer, &request);
        if matches!(answer, Err(NetworkError::TimedOut(_))) {
            self.clock.sleep_until(self.clock.now() + deadline).await;
        }
        answer
    }

    async fn accept(&self, _: Incarnation) -> Option<Incoming<Request, Response>> {
        None
    }
}

struct Counter {
    bench: Bench,
    wire: Wire,
    desk: Operator<TokioRuntime, Wire, Leap, Dice>,
}

fn counter(script: impl Fn(usize, &Peer, &Request) -> Answer + Send + Sync + 'static) -> Counter {
    let bench = Bench::primary();
    let clock = Leap::default();
    let wire = Wire { script: Arc::new(script), asked: Arc::default(), clock: clock.clone() };
    let desk = Operator::new(bench.board.clone(), wire.clone(), clock, Dice);
    Counter { bench, wire, desk }
}

/// The control state in which the order has come to this.
fn settled(bench: &mut Bench, outcome: OrderOutcome) {
    let mut control = cluster();
    control.version += 1;
    control.orders.push_back(OrderRecord { id: ID, order: Order::Pause, outcome });
    bench.step(1_100, Event::Control(Arc::new(control)));
}

fn proposed(applied: Applied) -> Answer {
    Ok(wire::Response::Proposed(applied))
}

fn repeated(outcome: OrderOutcome) -> Answer {
    proposed(Applied::Repeated(outcome))
}

#[tokio::test]
async fn it_is_put_to_the_leader_and_its_end_is_read_in_ones_own_control_state() {
    let mut counter = counter(|_, peer, request| {
        assert_eq!((peer.node, peer.incarnation), (NodeId(3), Incarnation(3)));
        assert!(matches!(request, wire::Request::Propose(_)));
        proposed(Applied::Done)
    });
    settled(&mut counter.bench, OrderOutcome::Done("n2 is primary of e2".into()));
    let end = counter.desk.carry_out(ID, SWITCH).await;
    assert_eq!(end, OrderEnd::Done("n2 is primary of e2".into()));
    assert_eq!(counter.wire.asked.lock().unwrap().len(), 1);
    assert_eq!(counter.bench.board.counters().orders.get("done"), Some(&1));
}

#[tokio::test]
async fn where_ones_own_state_lags_the_same_name_is_asked_for_again() {
    let counter = counter(|turn, _, _| match turn {
        1 => proposed(Applied::Done),
        2 | 3 => repeated(OrderOutcome::Pending),
        _ => repeated(OrderOutcome::Refused("no standby was ready in time".into())),
    });
    let end = counter.desk.carry_out(ID, SWITCH).await;
    assert_eq!(end, OrderEnd::Refused("no standby was ready in time".into()));
    assert_eq!(counter.wire.asked.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_refusal_is_final_at_once() {
    let counter = counter(|_, _, _| proposed(Applied::Refused("paused already".into())));
    let end = counter.desk.carry_out(ID, Order::Pause).await;
    assert_eq!(end, OrderEnd::Refused("paused already".into()));
    assert_eq!(counter.wire.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_leads_to_the_outcome_or_to_the_word_unknown_and_never_to_a_guess() {
    let silent = counter(|_, peer, _| Err(NetworkError::TimedOut(peer.node)));
    let end = silent.desk.carry_out(ID, SWITCH).await;
    let OrderEnd::Unknown(why) = end else { panic!("{end:?}") };
    assert!(why.contains("order 5") && why.contains("same id"), "{why}");
    let recovers = counter(|turn, peer, _| match turn {
        1 => Err(NetworkError::TimedOut(peer.node)),
        _ => repeated(OrderOutcome::Done("n2 is primary of e2".into())),
    });
    let end = recovers.desk.carry_out(ID, SWITCH).await;
    assert_eq!(end, OrderEnd::Done("n2 is primary of e2".into()));
}

#[tokio::test]
async fn where_nobody_took_it_nothing_was_ordered_and_that_is_known() {
    let unreachable = counter(|_, peer, _| Err(NetworkError::Unreachable(peer.node)));
    let end = unreachable.desk.carry_out(ID, SWITCH).await;
    let OrderEnd::Refused(why) = end else { panic!("{end:?}") };
    assert!(why.contains("nothing was ordered"), "{why}");
    let mut leaderless = counter(|_, _, _| panic!("there is nobody to ask"));
    leaderless.bench.step(1_100, Event::Raft(RaftView::default()));
    let end = leaderless.desk.carry_out(ID, SWITCH).await;
    assert!(matches!(end, OrderEnd::Refused(_)), "{end:?}");
    let board = Arc::new(StatusBoard::new(NodeId(1), "test", Moment::default()));
    let unfounded = Operator::new(board, unreachable.wire, Leap::default(), Dice);
    let end = unfounded.carry_out(ID, SWITCH).await;
    let OrderEnd::Refused(why) = end else { panic!("{end:?}") };
    assert!(why.contains("the cluster is not founded yet"), "{why}");
}

#[tokio::test]
async fn a_new_leader_is_followed() {
    let counter = counter(|turn, peer, _| match turn {
        1 => Err(NetworkError::Unreachable(peer.node)),
        _ if peer.node == NodeId(2) => repeated(OrderOutcome::Done(String::new())),
        _ => Ok(wire::Response::Refused("this member does not lead".into())),
    });
    let board = counter.bench.board.clone();
    let mut bench = counter.bench;
    let order = counter.desk.carry_out(ID, SWITCH);
    let elects = async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let view = RaftView { leader: Some(NodeId(2)), ..RaftView::default() };
        bench.step(1_200, Event::Raft(view));
    };
    let (end, ()) = futures_util::future::join(order, elects).await;
    assert_eq!(end, OrderEnd::Done(String::new()));
    assert_eq!(board.snapshot().raft.leader, Some(NodeId(2)));
}

#[tokio::test]
async fn reports_and_greetings_come_back_or_a_sentence_does() {
    let counter = counter(|turn, peer, request| match (turn, request) {
        (1, wire::Request::Reports) => {
            Ok(wire::Response::Reports { heard: Vec::new(), obstacle: Some("paused".into()) })
        }
        (_, wire::Request::Hello) => Err(NetworkError::Unreachable(peer.node)),
        _ => Ok(wire::Response::Refused("this member does not lead".into())),
    });
    assert_eq!(counter.desk.reports().await.unwrap().obstacle.as_deref(), Some("paused"));
    assert_eq!(counter.desk.reports().await.unwrap_err(), "n3: this member does not lead");
    let why = counter.desk.greet(NodeId(4), "10.0.0.4:7400".into()).await.unwrap_err();
    assert!(why.contains("n4") && why.contains("start it first"), "{why}");
    assert!(counter.desk.new_id().0 < 1 << 53);
}
