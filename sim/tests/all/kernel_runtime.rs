//! The task runtime keeps the consensus library's contract.

use std::time::Duration;

use madsim::runtime::{Handle, Runtime};
use openraft_rt::testing::Suite;
use openraft_rt::{AsyncRuntime, Instant};
use pg_replica::ids::NodeId;
use sim::clock::{HostClock, true_now};
use sim::rt::{self, SimRt};
use sim::streams::{Concern, Streams};

#[test]
fn the_runtime_passes_the_suite_of_the_consensus_library() {
    Suite::<SimRt>::test_all();
}

#[test]
fn tasks_of_a_machine_live_by_its_clock_and_draw_from_its_stream() {
    use rand_core::Rng;

    rt::unbind_all();
    Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
        let streams = Streams::new(1);
        let clock = HostClock::at(Duration::from_secs(5));
        clock.set_rate_ppm(-500_000);
        let node = Handle::current().create_node().build();
        rt::bind(node.id(), clock.clone(), streams.stream(Concern::Node(NodeId(1))));
        let before = true_now();
        let inside = node.spawn(async move {
            let start = <SimRt as AsyncRuntime>::Instant::now();
            SimRt::sleep(Duration::from_secs(1)).await;
            let too_long = SimRt::sleep(Duration::from_secs(60));
            assert!(SimRt::timeout(Duration::from_secs(1), too_long).await.is_err());
            (start.elapsed(), SimRt::thread_rng().next_u64())
        });
        let (elapsed, drawn) = inside.await.unwrap();
        assert_eq!(elapsed.as_millis(), 2_000);
        assert_eq!((true_now() - before).as_millis(), 4_000);
        let again = Streams::new(1).stream(Concern::Node(NodeId(1)));
        assert_eq!(drawn, again.next_u64());
    });
}
