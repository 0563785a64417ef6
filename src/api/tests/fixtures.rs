//! A cluster of three, a core that lives in it, a desk that answers as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tower::ServiceExt;

use crate::api::{Access, Caller, Desk, OrderEnd, Reported, StatusBoard, router};
use crate::config::RaftPace;
use crate::control::{
    Applied, Clearance, Command, ControlState, Member, MemberKind, Mode, Order, Settings,
    SettingsChange,
};
use crate::env::{Observation, Outcome, Process, ReceiverState, Side, SyncNames, TimelineBirth};
use crate::ha::{Action, Ask, Chore, Core, Event, HeartbeatAnswer, RaftView, Report, RequestId};
use crate::ids::{
    CommandId, Epoch, Incarnation, Lsn, Moment, NodeId, SystemId, Term, Timeline, WalPosition,
};
use crate::runtime::Observer;
use crate::runtime::wire::Heard;
use crate::sabotage::Sabotage;

pub(crate) fn at(ms: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(ms))
}

pub(crate) fn birth(timeline: u32, born: u64, begins: u64) -> TimelineBirth {
    TimelineBirth { timeline: Timeline(timeline), born: Epoch(born), begins: Lsn(begins) }
}

pub(crate) fn apply(control: &mut ControlState, command: &Command) {
    assert_eq!(control.apply(command, Sabotage::NONE), Applied::Done, "{command}");
}

/// Three data members; n1 is primary of e1, in quorum-sync with both others.
pub(crate) fn cluster() -> ControlState {
    let members = (1..=3).map(|n| {
        let member = Member {
            kind: MemberKind::Data,
            address: format!("10.0.0.{n}:7400"),
            postgres: format!("10.0.0.{n}:5432"),
            incarnation: Incarnation(n),
            priority: 1,
            no_failover: false,
        };
        (NodeId(n), member)
    });
    let settings = Settings { mode: Mode::QuorumSync, ..Settings::default() };
    let mut control = ControlState::default();
    let members = members.collect();
    apply(
        &mut control,
        &Command::Found { cluster: "test".into(), members, settings, adopts: None },
    );
    let elect = Command::Elect {
        after: Epoch(0),
        holder: NodeId(1),
        sync: SyncNames {
            epoch: Epoch(1),
            confirmations: 1,
            standbys: BTreeSet::from([NodeId(2), NodeId(3)]),
        },
        sync_version: 0,
        reports: BTreeMap::new(),
        clearance: Clearance::LeaseOver,
    };
    apply(&mut control, &elect);
    let history = vec![birth(1, 1, 0)];
    apply(&mut control, &Command::Born { epoch: Epoch(1), system: SystemId(77), history });
    control
}

pub(crate) fn primary(flushed: u64) -> Observation {
    Observation {
        system: Some(SystemId(77)),
        ever_started: true,
        process: Process::Up,
        side: Side::Primary,
        promoting: None,
        history: vec![birth(1, 1, 0)],
        complete: true,
        parameters: BTreeMap::new(),
        pending_restart: Vec::new(),
        flushed: Some(Lsn(flushed)),
        replayed: Some(Lsn(flushed)),
        receiver: None,
        starved: None,
        streams: Vec::new(),
        sync: cluster().sync.target().cloned().unwrap(),
        admits: true,
    }
}

pub(crate) fn standby(flushed: u64) -> Observation {
    let receiver = ReceiverState {
        upstream: NodeId(1),
        epoch: Epoch(1),
        silent_for: Duration::from_millis(5),
    };
    Observation {
        side: Side::Standby,
        receiver: Some(receiver),
        sync: SyncNames::default(),
        ..primary(flushed)
    }
}

pub(crate) fn report(node: u64, seen: &Observation) -> Report {
    let position = seen.position();
    Report {
        node: NodeId(node),
        version: 0,
        system: seen.system,
        process: seen.process,
        side: seen.side,
        birth: seen.history.last().copied(),
        position,
        replayed: position.map(|p| WalPosition { flushed: seen.replayed.unwrap(), ..p }),
        receiver: seen.receiver.map(|receiver| crate::ha::ReceiverReport {
            upstream: receiver.upstream,
            epoch: receiver.epoch,
            silent_ms: 5,
        }),
        detached: None,
        streams: Vec::new(),
        sync: SyncNames::default(),
        admits: seen.admits,
        leased: seen.side == Side::Primary,
        trouble: None,
        pending_restart: Vec::new(),
    }
}

/// A core, and the board that watches it.
pub(crate) struct Bench {
    pub(crate) core: Core,
    pub(crate) board: Arc<StatusBoard>,
    actions: Vec<Action>,
}

impl Bench {
    /// A member of `cluster` that has just started.
    pub(crate) fn new(me: u64) -> Self {
        let board = Arc::new(StatusBoard::new(NodeId(me), "test", at(0)));
        let mut bench =
            Self { core: Core::new(NodeId(me), Sabotage::NONE), board, actions: Vec::new() };
        bench.step(0, Event::Control(Arc::new(cluster())));
        bench.step(0, Event::Started { armed: None });
        let view = RaftView { term: Term(4), leader: Some(NodeId(3)), ..RaftView::default() };
        bench.step(0, Event::Raft(view));
        bench
    }

    /// n1, primary with a lease until 3000 ms, of which the manager uses all but the last 200.
    pub(crate) fn primary() -> Self {
        let mut bench = Self::new(1);
        bench.renewed(1_000);
        bench.sees(1_000, primary(1_000));
        bench
    }

    /// n2, streaming.
    pub(crate) fn standby() -> Self {
        let mut bench = Self::new(2);
        bench.sees(1_000, standby(900));
        bench
    }

    pub(crate) fn step(&mut self, ms: u64, event: Event) {
        let mut actions = Vec::new();
        self.core.step(at(ms), event.clone(), &mut actions);
        self.board.stepped(at(ms), &event, &actions, &self.core);
        self.actions.extend(actions);
    }

    /// The holder's request for renewal that was sent last is granted, and the guard armed with
    /// what it brought.
    pub(crate) fn renewed(&mut self, ms: u64) {
        self.step(ms, Event::Wake);
        let asked = self.actions.iter().rev().find_map(|action| match action {
            Action::SendHeartbeat { to, sent, ask: Ask::Renewal(epoch), .. } => {
                Some((*to, *sent, *epoch))
            }
            _ => None,
        });
        let (to, sent, epoch) = asked.expect("a holder asks for renewal");
        let lease_ms = self.core.control().settings.timing.lease_ms;
        let answer = HeartbeatAnswer {
            leader: Some(to),
            heard: true,
            renewed: Some(epoch),
            lease_ms,
            in_force: None,
        };
        self.step(ms, Event::HeartbeatAnswered { to, sent, answer: Some(answer) });
        let armed = self.actions.iter().rev().find_map(|action| match action {
            Action::ArmGuard { id, lease, .. } => Some((*id, *lease)),
            _ => None,
        });
        let (id, lease) = armed.expect("the guard is armed at every renewal");
        self.step(ms, Event::GuardArmed { id, lease, ok: true });
    }

    pub(crate) fn sees(&mut self, ms: u64, observation: Observation) {
        self.step(ms, Event::Wake);
        for _ in 0..2 {
            let look = self.actions.iter().rev().find_map(|action| match action {
                Action::Observe { id } => Some(*id),
                _ => None,
            });
            if let Some(id) = look {
                let outcome = Outcome::Done(observation.clone());
                self.step(ms, Event::Observed { id, outcome });
            }
        }
    }

    /// Makes it the leader, who hears these reports.
    pub(crate) fn leads(&mut self, ms: u64, reports: Vec<Report>) {
        let me = self.core.me();
        let view = RaftView { term: Term(5), leader: Some(me), leads: true, ..RaftView::default() };
        self.step(ms, Event::Raft(view));
        self.step(ms, Event::LeadershipReady { term: Term(5) });
        for report in reports {
            let report = Box::new(report);
            self.step(ms, Event::Heartbeat { request: RequestId(9), report, ask: Ask::Nothing });
        }
    }
}

/// A desk that answers as it is told, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) now: Mutex<Moment>,
    pub(crate) orders: Mutex<Vec<(CommandId, Order)>>,
    pub(crate) end: Mutex<Option<OrderEnd>>,
    pub(crate) heard: Mutex<Vec<Heard>>,
    pub(crate) asked: Mutex<u32>,
    pub(crate) chores: Mutex<u32>,
}

impl Fake {
    pub(crate) fn at(ms: u64) -> Arc<Self> {
        Arc::new(Self { now: Mutex::new(at(ms)), ..Self::default() })
    }

    pub(crate) fn set(&self, ms: u64) {
        *self.now.lock().unwrap() = at(ms);
    }

    pub(crate) fn ordered(&self) -> Vec<Order> {
        self.orders.lock().unwrap().iter().map(|(_, order)| order.clone()).collect()
    }
}

impl Desk for Fake {
    fn now(&self) -> Moment {
        *self.now.lock().unwrap()
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn new_id(&self) -> CommandId {
        CommandId(4711)
    }

    fn carry_out(&self, id: CommandId, order: Order) -> BoxFuture<'_, OrderEnd> {
        self.orders.lock().unwrap().push((id, order));
        let end = self.end.lock().unwrap().clone();
        async move { end.unwrap_or(OrderEnd::Done("as you wish".into())) }.boxed()
    }

    fn reports(&self) -> BoxFuture<'_, Result<Reported, String>> {
        *self.asked.lock().unwrap() += 1;
        let heard = self.heard.lock().unwrap().clone();
        let answer = if heard.is_empty() {
            Err("n3 did not answer in time".into())
        } else {
            Ok(Reported { heard, obstacle: None })
        };
        async move { answer }.boxed()
    }

    fn chore(&self, node: NodeId, chore: Chore) -> BoxFuture<'_, OrderEnd> {
        *self.chores.lock().unwrap() += 1;
        let answer = match node {
            NodeId(9) => OrderEnd::Refused("n9 is no member".into()),
            NodeId(8) => OrderEnd::Unknown("n8 may do it, or not".into()),
            _ => OrderEnd::Done(format!("{chore} of {node}")),
        };
        async move { answer }.boxed()
    }

    fn vet(&self, change: SettingsChange) -> BoxFuture<'_, Result<(), String>> {
        let pace = RaftPace { heartbeat_ms: 150, election_min_ms: 350, election_max_ms: 500 };
        let lease = change.timing.map_or(Ok(()), |timing| pace.check_lease(timing.lease_ms));
        let wrong = change.parameters.values().flatten().any(|value| value == "banana");
        let tried = if wrong { Err("invalid value: \"banana\"".into()) } else { Ok(()) };
        async move { lease.and(tried) }.boxed()
    }

    fn greet(&self, node: NodeId, address: String) -> BoxFuture<'_, Result<Incarnation, String>> {
        async move {
            if address.starts_with("10.0.0.") {
                Ok(Incarnation(node.0 * 100))
            } else {
                Err("nobody answers there".into())
            }
        }
        .boxed()
    }
}

/// The interface, and a way to ask it.
pub(crate) struct Site {
    router: Router,
    pub(crate) desk: Arc<Fake>,
}

impl Site {
    pub(crate) fn new(bench: &Bench, ms: u64) -> Self {
        Self::with(bench, ms, Access::default())
    }

    pub(crate) fn with(bench: &Bench, ms: u64, access: Access) -> Self {
        let desk = Fake::at(ms);
        Self { router: router(bench.board.clone(), desk.clone(), access), desk }
    }

    pub(crate) async fn raw(&self, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
    }

    /// From this machine.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let mut request = Request::new(Body::from(body.to_owned()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(Caller { loopback: true, ..Caller::default() });
        let (status, bytes) = self.raw(request).await;
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Method::GET, path, "").await
    }

    pub(crate) async fn code(&self, path: &str) -> u16 {
        self.get(path).await.0.as_u16()
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> (StatusCode, Value) {
        self.ask(Method::POST, path, body).await
    }
}
