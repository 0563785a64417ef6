//! What the network between the simulated machines promises.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pg_replica::ids::NodeId;
use sim::clock::{sleep, true_now};
use sim::fabric::{Fabric, Lane, LinkFault, Port};
use sim::place::Place;
use sim::streams::Streams;

const ONE: Place = Place::Host(NodeId(1));
const TWO: Place = Place::Host(NodeId(2));

type Log = Arc<Mutex<Vec<(u32, Duration)>>>;

fn simulate<T>(seed: u64, test: impl AsyncFnOnce(Fabric) -> T) -> T {
    let config = madsim::Config::default();
    madsim::runtime::Runtime::with_seed_and_config(seed, config).block_on(async {
        let fabric = Fabric::new(&Streams::new(seed));
        let result = test(fabric.clone()).await;
        fabric.shut_down();
        result
    })
}

fn note(log: &Log, number: u32) -> impl FnMut() + Send + 'static {
    let log = log.clone();
    move || log.lock().unwrap().push((number, true_now()))
}

fn numbers(log: &Log) -> Vec<u32> {
    log.lock().unwrap().iter().map(|(number, _)| *number).collect()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_datagram_arrives_after_a_short_while() {
    simulate(1, async |fabric| {
        let log = Log::default();
        for number in 0..100 {
            fabric.send(ONE, TWO, Port::Node, note(&log, number));
        }
        fabric.send(ONE, ONE, Port::Node, note(&log, 100));
        sleep(ms(30)).await;
        let log = log.lock().unwrap();
        assert_eq!(log.len(), 101);
        assert_eq!(log[0].0, 100, "a place reaches itself first");
        assert!(log[1].1 >= Duration::from_micros(300));
    });
}

#[test]
fn the_same_seed_delivers_in_the_same_order_and_another_does_not() {
    let order = |seed| {
        simulate(seed, async |fabric| {
            let log = Log::default();
            let fault = LinkFault { loss: 0.2, jitter: ms(5), duplicate: 0.2, extra: ms(1) };
            fabric.set_link(ONE, TWO, fault);
            for number in 0..200 {
                fabric.send(ONE, TWO, Port::Node, note(&log, number));
                sleep(Duration::from_micros(100)).await;
            }
            sleep(ms(100)).await;
            numbers(&log)
        })
    };
    let first = order(5);
    assert_eq!(first, order(5));
    assert_ne!(first, order(6));
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_ne!(first, sorted, "jitter reorders");
    sorted.dedup();
    assert!(sorted.len() < 200, "some are lost");
    assert!(sorted.len() < first.len(), "some arrive twice");
}

#[test]
fn a_block_stops_its_own_direction_and_port_and_what_is_under_way() {
    simulate(1, async |fabric| {
        let log = Log::default();
        fabric.send(ONE, TWO, Port::Node, note(&log, 0));
        fabric.block(ONE, TWO, Some(Port::Node));
        fabric.send(ONE, TWO, Port::Node, note(&log, 1));
        fabric.send(ONE, TWO, Port::Postgres, note(&log, 2));
        fabric.send(TWO, ONE, Port::Node, note(&log, 3));
        sleep(ms(30)).await;
        let mut seen = numbers(&log);
        seen.sort_unstable();
        assert_eq!(seen, [2, 3]);
    });
}

#[test]
fn overlapping_blocks_open_when_the_last_one_ends() {
    simulate(1, async |fabric| {
        fabric.block(ONE, TWO, None);
        fabric.block(ONE, TWO, Port::Postgres);
        fabric.unblock(ONE, TWO, None);
        assert!(!fabric.is_blocked(ONE, TWO, Port::Node));
        assert!(fabric.is_blocked(ONE, TWO, Port::Postgres));
        fabric.heal_all();
        assert!(!fabric.is_blocked(ONE, TWO, None));
        fabric.unblock(ONE, TWO, None);
        fabric.block(ONE, TWO, None);
        assert!(fabric.is_blocked(ONE, TWO, None), "a surplus unblock is not remembered");
    });
}

#[test]
fn a_lane_keeps_its_order_across_a_block_and_waits_for_a_retransmission() {
    simulate(1, async |fabric| {
        let log = Log::default();
        let lane = fabric.lane(ONE, TWO, Port::Postgres);
        fabric.set_link(ONE, TWO, LinkFault { loss: 0.3, jitter: ms(50), ..Default::default() });
        let mut next = 0;
        let mut send = |lane: &Lane| {
            lane.send(note(&log, next));
            next += 1;
        };
        send(&lane);
        let start = true_now();
        fabric.block(ONE, TWO, None);
        for _ in 0..20 {
            send(&lane);
            sleep(ms(10)).await;
        }
        sleep(ms(300)).await;
        fabric.unblock(ONE, TWO, None);
        for _ in 0..20 {
            send(&lane);
        }
        sleep(ms(90)).await;
        send(&lane);
        assert!(numbers(&log).is_empty(), "the next retransmission is 600 ms after the block");
        sleep(Duration::from_secs(120)).await;
        assert_eq!(numbers(&log), (0..42).collect::<Vec<_>>());
        assert!(log.lock().unwrap()[0].1 >= start + ms(600));
    });
}

#[test]
fn a_closed_lane_delivers_nothing_more() {
    simulate(1, async |fabric| {
        let log = Log::default();
        let lane = fabric.lane(ONE, TWO, Port::Postgres);
        lane.send(note(&log, 1));
        lane.close();
        lane.send(note(&log, 2));
        sleep(ms(100)).await;
        assert!(numbers(&log).is_empty());
    });
}
