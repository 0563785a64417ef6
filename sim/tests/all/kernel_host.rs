//! What a simulated machine promises: processes that die and stand still, a guard that outlives
//! them, and a network that tells nobody more than a network can.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test picks the one arm it is about")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use madsim::runtime::Runtime;
use pg_replica::env::{Armed, Clock, Guard, GuardError, Network, NetworkError, Peer};
use pg_replica::ids::{Epoch, Incarnation, Moment, NodeId};
use pg_replica::sabotage::{Sabotage, Saboteur};
use sim::clock::{sleep, true_now};
use sim::fabric::{Fabric, LinkFault};
use sim::guard::SimGuard;
use sim::host::{Host, ProcessKind};
use sim::place::Place;
use sim::rt;
use sim::streams::{Concern, Streams};
use sim::transport::{Exchange, Request, Response, SimNetwork};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const SECOND: Duration = Duration::from_secs(1);

fn simulate<T>(seed: u64, test: impl AsyncFnOnce(Streams) -> T) -> T {
    rt::unbind_all();
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.block_on(test(Streams::new(seed)))
}

fn running(node: NodeId, streams: &Streams) -> Host {
    let host = Host::new(node, streams);
    for kind in ProcessKind::ALL {
        assert_eq!(host.start(kind), 1);
    }
    host
}

fn counter(host: &Host, kind: ProcessKind) -> Arc<Mutex<u32>> {
    let count = Arc::new(Mutex::new(0));
    let counting = count.clone();
    drop(host.spawn_on(kind, async move {
        loop {
            sleep(Duration::from_millis(100)).await;
            *counting.lock().unwrap() += 1;
        }
    }));
    count
}

fn take(count: &Arc<Mutex<u32>>) -> u32 {
    std::mem::take(&mut *count.lock().unwrap())
}

#[test]
fn a_killed_process_drops_its_tasks_and_a_started_one_is_empty_and_runs() {
    simulate(1, async |streams| {
        let host = running(ONE, &streams);
        let manager = counter(&host, ProcessKind::Manager);
        let postgres = counter(&host, ProcessKind::Postgres);
        sleep(SECOND).await;
        host.kill(ProcessKind::Manager);
        assert!(!host.is_running(ProcessKind::Manager));
        assert!(take(&manager) >= 9 && take(&postgres) >= 9);
        sleep(SECOND).await;
        assert_eq!(Arc::strong_count(&manager), 1, "the task is gone");
        assert_eq!(take(&manager), 0);
        assert!(take(&postgres) >= 9);
        assert_eq!(host.start(ProcessKind::Manager), 2);
        let again = counter(&host, ProcessKind::Manager);
        sleep(SECOND).await;
        assert!(take(&again) >= 9);
        assert_eq!(take(&manager), 0);
    });
}

#[test]
fn pauses_are_counted_and_a_process_that_starts_on_a_frozen_machine_stands_still() {
    simulate(1, async |streams| {
        let host = running(ONE, &streams);
        let count = counter(&host, ProcessKind::Manager);
        host.pause(ProcessKind::Manager);
        host.freeze(false);
        host.resume(ProcessKind::Manager);
        sleep(SECOND).await;
        assert_eq!(take(&count), 0);
        host.kill(ProcessKind::Manager);
        host.start(ProcessKind::Manager);
        assert!(host.is_paused(ProcessKind::Manager));
        let count = counter(&host, ProcessKind::Manager);
        sleep(SECOND).await;
        assert_eq!(take(&count), 0);
        host.thaw();
        sleep(SECOND).await;
        assert!(take(&count) >= 9);
    });
}

#[test]
fn a_machine_frozen_with_its_clock_notices_nothing() {
    simulate(1, async |streams| {
        let host = running(ONE, &streams);
        let before = host.clock().now();
        host.freeze(true);
        sleep(10 * SECOND).await;
        host.thaw();
        assert!(host.clock().now() - before < Duration::from_millis(1));
        host.freeze(false);
        sleep(10 * SECOND).await;
        host.thaw();
        assert!(host.clock().now() - before >= 10 * SECOND);
    });
}

fn guarded(streams: &Streams, sabotage: Sabotage) -> (Host, SimGuard, Arc<Mutex<Vec<Duration>>>) {
    let host = running(ONE, streams);
    let struck = Arc::new(Mutex::new(Vec::new()));
    let strikes = struck.clone();
    let stream = streams.stream(Concern::Guard(ONE));
    let guard = SimGuard::new(host.clock().clone(), stream, sabotage, move || {
        strikes.lock().unwrap().push(true_now());
    });
    drop(host.spawn_on(ProcessKind::Guard, guard.serve()));
    (host, guard, struck)
}

fn lease(epoch: u64, deadline: Moment) -> Armed {
    Armed { epoch: Epoch(epoch), deadline, until: deadline + SECOND / 20 }
}

#[test]
fn the_guard_strikes_at_its_deadline_although_the_manager_is_dead() {
    simulate(1, async |streams| {
        let (host, guard, struck) = guarded(&streams, Sabotage::NONE);
        let deadline = host.clock().now() + SECOND;
        let arming = guard.clone();
        let armed = host
            .spawn_on(ProcessKind::Manager, async move { arming.arm(lease(1, deadline)).await });
        armed.await.unwrap().unwrap();
        host.kill(ProcessKind::Manager);
        sleep(SECOND / 2).await;
        assert!(struck.lock().unwrap().is_empty());
        assert_eq!(guard.armed().await.unwrap(), Some(lease(1, deadline)));
        sleep(SECOND).await;
        let struck = struck.lock().unwrap().clone();
        assert_eq!(struck.len(), 1);
        assert!(struck[0] >= SECOND && struck[0] <= SECOND + Duration::from_millis(16));
        assert_eq!(guard.armed().await, Ok(None));
    });
}

#[test]
fn the_guard_keeps_the_latest_deadline_of_an_epoch_and_ignores_older_epochs() {
    simulate(1, async |streams| {
        let (host, guard, struck) = guarded(&streams, Sabotage::NONE);
        let now = host.clock().now();
        guard.arm(lease(2, now + 2 * SECOND)).await.unwrap();
        guard.arm(lease(2, now + SECOND)).await.unwrap();
        guard.arm(lease(1, now + 9 * SECOND)).await.unwrap();
        guard.disarm(Epoch(1)).await.unwrap();
        for step in 1_u32..=4 {
            guard.arm(lease(2, now + step * SECOND / 2 + 2 * SECOND)).await.unwrap();
            sleep(SECOND / 2).await;
        }
        assert!(struck.lock().unwrap().is_empty());
        sleep(3 * SECOND).await;
        let struck = struck.lock().unwrap().clone();
        assert_eq!((struck.len(), struck[0].as_secs()), (1, 4));
        guard.arm(lease(3, host.clock().now() + SECOND)).await.unwrap();
        guard.disarm(Epoch(3)).await.unwrap();
        sleep(3 * SECOND).await;
    });
}

#[test]
fn a_frozen_guard_strikes_after_the_thaw_and_a_dead_one_is_gone() {
    simulate(1, async |streams| {
        let (host, guard, struck) = guarded(&streams, Sabotage::NONE);
        guard.arm(lease(1, host.clock().now() + SECOND)).await.unwrap();
        host.freeze(false);
        sleep(5 * SECOND).await;
        assert!(struck.lock().unwrap().is_empty());
        host.thaw();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(struck.lock().unwrap().len(), 1);
        host.kill(ProcessKind::Guard);
        let gone = guard.arm(lease(2, host.clock().now())).await;
        assert!(matches!(gone, Err(GuardError::Gone(_))));
        host.start(ProcessKind::Guard);
        drop(host.spawn_on(ProcessKind::Guard, guard.serve()));
        assert_eq!(guard.armed().await, Ok(None), "a guard that was restarted knows nothing");
    });
}

#[test]
fn a_sabotaged_guard_never_strikes() {
    simulate(1, async |streams| {
        let sabotage = Sabotage::of(Saboteur::GuardNeverFires);
        let (host, guard, struck) = guarded(&streams, sabotage);
        guard.arm(lease(1, host.clock().now() + SECOND)).await.unwrap();
        sleep(3 * SECOND).await;
        assert!(struck.lock().unwrap().is_empty());
    });
}

struct Pair {
    fabric: Fabric,
    exchange: Exchange,
    one: Host,
    two: Host,
    caller: SimNetwork,
    served: Arc<Mutex<u32>>,
}

const STORE: Incarnation = Incarnation(7);

fn pair(streams: &Streams, sabotage: Sabotage) -> Pair {
    let fabric = Fabric::new(streams);
    let exchange = Exchange::new(fabric.clone(), sabotage);
    let (one, two) = (running(ONE, streams), running(TWO, streams));
    let caller = exchange.open(ONE, one.clock().clone());
    let served = Arc::default();
    let pair = Pair { fabric, exchange, one, two, caller, served };
    pair.serve();
    pair
}

impl Pair {
    fn serve(&self) {
        let network = self.exchange.open(TWO, self.two.clock().clone());
        let served = self.served.clone();
        drop(self.two.spawn_on(ProcessKind::Manager, async move {
            while let Some(incoming) = network.accept(STORE).await {
                *served.lock().unwrap() += 1;
                incoming.reply.send(Response::Refused(format!("from {}", incoming.from)));
            }
        }));
    }

    async fn call(&self, incarnation: Incarnation) -> (Result<String, NetworkError>, Duration) {
        let before = true_now();
        let peer = Peer { node: TWO, address: String::new(), incarnation };
        let answer = self.caller.call(&peer, Request::Hello, SECOND).await;
        let text = answer.map(|response| match response {
            Response::Refused(text) => text,
            other => panic!("not what was sent: {other:?}"),
        });
        (text, true_now() - before)
    }
}

#[test]
fn a_call_comes_back_within_a_round_trip() {
    simulate(1, async |streams| {
        let pair = pair(&streams, Sabotage::NONE);
        sleep(SECOND).await;
        let (answer, took) = pair.call(STORE).await;
        assert_eq!(answer, Ok("from n1".to_owned()));
        assert!(took < Duration::from_millis(60), "{took:?}");
        let operator = pair
            .exchange
            .operator_call(Place::Operator, TWO, Request::Hello, SECOND)
            .await
            .unwrap();
        assert!(matches!(operator, Response::Refused(text) if text == "from n0"));
    });
}

#[test]
fn a_wiped_member_is_refused_and_the_sabotage_lets_it_in() {
    simulate(1, async |streams| {
        let pair = pair(&streams, Sabotage::NONE);
        sleep(SECOND).await;
        assert_eq!(pair.call(Incarnation(8)).await.0, Err(NetworkError::WrongIncarnation(TWO)));
        assert!(pair.call(Incarnation::default()).await.0.is_ok());
    });
    simulate(1, async |streams| {
        let pair = pair(&streams, Sabotage::of(Saboteur::AcceptWipedVoter));
        sleep(SECOND).await;
        assert!(pair.call(Incarnation(8)).await.0.is_ok());
    });
}

#[test]
fn a_dead_manager_refuses_and_a_cut_or_paused_one_is_silent() {
    simulate(1, async |streams| {
        let pair = pair(&streams, Sabotage::NONE);
        sleep(SECOND).await;
        let silent = (Err(NetworkError::TimedOut(TWO)), 1_000);
        let outcome =
            |(answer, took): (Result<String, NetworkError>, Duration)| (answer, took.as_millis());
        pair.fabric.block(Place::Host(TWO), Place::Host(ONE), None);
        assert_eq!(outcome(pair.call(STORE).await), silent);
        assert_eq!(*pair.served.lock().unwrap(), 1, "the way there is open");
        pair.fabric.heal_all();
        pair.two.pause(ProcessKind::Manager);
        assert_eq!(outcome(pair.call(STORE).await), silent);
        pair.two.resume(ProcessKind::Manager);
        pair.two.kill(ProcessKind::Manager);
        pair.exchange.shut(TWO);
        let (answer, took) = pair.call(STORE).await;
        assert_eq!(answer, Err(NetworkError::Unreachable(TWO)));
        assert!(took < Duration::from_millis(60));
        pair.fabric.block(Place::Host(TWO), Place::Host(ONE), None);
        assert_eq!(outcome(pair.call(STORE).await), silent);
        pair.fabric.heal_all();
        pair.two.start(ProcessKind::Manager);
        pair.serve();
        sleep(SECOND).await;
        assert!(pair.call(STORE).await.0.is_ok());
        assert!(pair.one.is_running(ProcessKind::Manager));
    });
}

#[test]
fn a_duplicated_request_is_served_twice_and_answered_once() {
    simulate(1, async |streams| {
        let pair = pair(&streams, Sabotage::NONE);
        sleep(SECOND).await;
        let fault = LinkFault { duplicate: 1.0, ..Default::default() };
        pair.fabric.set_link(Place::Host(ONE), Place::Host(TWO), fault);
        assert!(pair.call(STORE).await.0.is_ok());
        sleep(SECOND).await;
        assert_eq!(*pair.served.lock().unwrap(), 2);
    });
}

#[test]
fn a_deadline_runs_on_the_callers_clock() {
    simulate(1, async |streams| {
        let pair = pair(&streams, Sabotage::NONE);
        pair.one.clock().set_rate_ppm(-500_000);
        pair.fabric.block(Place::Host(ONE), Place::Host(TWO), None);
        let (answer, took) = pair.call(STORE).await;
        assert_eq!((answer, took.as_millis()), (Err(NetworkError::TimedOut(TWO)), 2_000));
        assert!(Clock::now(pair.one.clock()) > Clock::now(pair.one.clock()).before(took));
    });
}
