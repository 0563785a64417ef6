//! What the clocks of the simulated machines promise.

use std::future::Future;
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::ids::{Moment, NodeId};
use sim::clock::{HostClock, sleep, true_now};
use sim::streams::{Concern, Streams};

fn simulate<T>(seed: u64, future: impl Future<Output = T>) -> T {
    let config = madsim::Config::default();
    madsim::runtime::Runtime::with_seed_and_config(seed, config).block_on(future)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_true_sleep_may_be_shorter_than_a_millisecond() {
    simulate(1, async {
        let before = true_now();
        sleep(Duration::from_micros(20)).await;
        let slept = true_now() - before;
        assert!(slept >= Duration::from_micros(20) && slept < Duration::from_micros(25));
    });
}

#[test]
fn a_sleep_that_is_polled_many_times_still_ends_on_time() {
    simulate(1, async {
        let clock = HostClock::at(SECOND);
        let mut long = clock.sleep_until(clock.now() + SECOND);
        for _ in 0..100 {
            long = match select(long, sleep(Duration::from_millis(3))).await {
                Either::Left(_) => panic!("it ended early"),
                Either::Right(((), long)) => long,
            };
        }
        long.await;
        let late = clock.now() - Moment::from_origin(2 * SECOND);
        assert!(late < Duration::from_micros(5), "{late:?} late");
    });
}

#[test]
fn two_machines_do_not_share_an_origin() {
    simulate(1, async {
        let streams = Streams::new(3);
        let one = HostClock::new(&streams.stream(Concern::Node(NodeId(1))));
        let two = HostClock::new(&streams.stream(Concern::Node(NodeId(2))));
        let apart = one.now().since_origin().abs_diff(two.now().since_origin());
        assert!(apart > Duration::from_mins(1), "{apart:?} apart");
    });
}

#[test]
fn a_fast_clock_sleeps_shorter_and_a_slow_one_longer() {
    simulate(1, async {
        for (ppm, expected) in [(100_000, 9_090_909), (-100_000, 11_111_111)] {
            let clock = HostClock::at(SECOND);
            clock.set_rate_ppm(ppm);
            let (local, before) = (clock.now(), true_now());
            clock.sleep_until(local + 10 * SECOND).await;
            assert!(clock.now() - local >= 10 * SECOND);
            let slept = (true_now() - before).as_micros().abs_diff(expected);
            assert!(slept < 10, "{slept} microseconds off at {ppm} ppm");
        }
    });
}

#[test]
fn a_rate_that_changes_in_mid_sleep_moves_the_end() {
    simulate(1, async {
        for ppm in [500_000, -500_000] {
            let clock = HostClock::at(SECOND);
            let bending = clock.clone();
            let deadline = clock.now() + 2 * SECOND;
            let asleep = madsim::task::spawn(async move {
                clock.sleep_until(deadline).await;
                (clock.now() - deadline, true_now())
            });
            let before = true_now();
            sleep(SECOND).await;
            bending.set_rate_ppm(ppm);
            let (late, at) = asleep.await.unwrap();
            assert!(late < Duration::from_micros(5), "{late:?} late by the local clock");
            let expected = if ppm > 0 { 1_666 } else { 3_000 };
            assert_eq!((at - before).as_millis(), expected);
        }
    });
}

#[test]
fn a_frozen_clock_shows_the_same_instant_and_sleepers_wait_for_the_thaw() {
    simulate(1, async {
        let clock = HostClock::at(SECOND);
        let inside = clock.clone();
        let deadline = clock.now() + SECOND;
        let asleep = madsim::task::spawn(async move {
            inside.sleep_until(deadline).await;
            true_now()
        });
        let before = true_now();
        sleep(SECOND / 2).await;
        clock.freeze();
        let (shown, wall) = (clock.now(), clock.wall_ms());
        sleep(10 * SECOND).await;
        assert_eq!((clock.now(), clock.wall_ms()), (shown, wall));
        assert!(!asleep.is_finished());
        clock.thaw();
        assert_eq!((asleep.await.unwrap() - before).as_millis(), 11_000);
    });
}

#[test]
fn the_wall_clock_jumps_and_the_monotonic_one_does_not() {
    simulate(1, async {
        let clock = HostClock::at(SECOND);
        let (shown, wall) = (clock.now(), clock.wall_ms());
        clock.jump_wall_ms(-3_600_000);
        assert_eq!(clock.now(), shown);
        assert_eq!(clock.wall_ms(), wall - 3_600_000);
    });
}
