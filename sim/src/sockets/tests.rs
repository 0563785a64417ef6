//! What TCP owes to whoever uses it, and what it does not.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock::{sleep, true_now};
use crate::streams::{Concern, Streams};

const SECOND: Duration = Duration::from_secs(1);
const TWO: NodeId = NodeId(2);
const ONE: Place = Place::Host(NodeId(1));

/// A run with a network and TCP over it.
fn run(test: impl AsyncFnOnce(Fabric, Wires)) {
    let streams = Streams::new(7);
    let runtime = madsim::runtime::Runtime::with_seed_and_config(7, Default::default());
    runtime.block_on(async {
        let fabric = Fabric::new(&streams);
        let wires = Wires::new(fabric.clone(), streams.stream(Concern::Sockets));
        test(fabric.clone(), wires.clone()).await;
        wires.shut_down();
        fabric.shut_down();
    });
}

async fn pair(wires: &Wires) -> (SimStream, SimStream) {
    let listener = wires.listen(TWO, Service::Peers);
    let own = wires.at(ONE).connect("n2").await.expect("somebody listens");
    let (other, from) = SimSockets::accept(&listener).await.expect("somebody came");
    assert_eq!(from.to_string(), "10.1.0.1");
    (own, other)
}

/// Whether nothing comes within a second.
async fn hears_nothing(stream: &mut SimStream) -> bool {
    let mut byte = [0];
    let reading = std::pin::pin!(stream.read(&mut byte));
    let limit = std::pin::pin!(sleep(SECOND));
    matches!(
        futures_util::future::select(reading, limit).await,
        futures_util::future::Either::Right(_)
    )
}

#[test]
fn what_is_written_arrives_in_order_and_then_its_end() {
    run(async |_, wires| {
        let (mut own, mut other) = pair(&wires).await;
        let words: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let sent = words.clone();
        let writing = madsim::task::spawn(async move {
            own.write_all(&sent).await.expect("it is taken");
            own.shutdown().await.expect("it is ended");
            own
        });
        let mut heard = Vec::new();
        other.read_to_end(&mut heard).await.expect("it ends well");
        assert!(heard == words);
        drop(writing.await.expect("no panic"));
    });
}

#[test]
fn a_window_fills_up_and_opens_again() {
    run(async |_, wires| {
        let (mut own, mut other) = pair(&wires).await;
        let writing = madsim::task::spawn(async move {
            own.write_all(&[7; 100_000]).await.expect("it is taken");
            (own, true_now())
        });
        sleep(SECOND).await;
        let opened = true_now();
        let mut heard = vec![0; 100_000];
        other.read_exact(&mut heard).await.expect("it arrives");
        assert!(writing.await.expect("no panic").1 >= opened, "there was no end to the window");
    });
}

#[test]
fn nobody_there_refuses_and_a_dead_machine_says_nothing_until_it_is_back() {
    run(async |fabric, wires| {
        let refused = wires.at(ONE).connect("n2").await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let (mut own, other) = pair(&wires).await;
        wires.lose(TWO);
        drop(other);
        for (from, to) in [(ONE, Place::Host(TWO)), (Place::Host(TWO), ONE)] {
            fabric.block(from, to, None);
        }
        own.write_all(b"are you there?").await.expect("the machine takes it");
        assert!(hears_nothing(&mut own).await);
        fabric.heal_all();
        let reset = own.read(&mut [0]).await.expect_err("it knows nothing of the connection");
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_dropped_end_is_the_end_and_a_reset_where_something_was_unread() {
    run(async |_, wires| {
        let (mut own, other) = pair(&wires).await;
        drop(other);
        assert_eq!(own.read(&mut [0]).await.expect("the end"), 0);
        let (mut own, other) = pair(&wires).await;
        own.write_all(b"unread").await.expect("it is taken");
        sleep(SECOND).await;
        drop(other);
        assert!(own.read(&mut [0]).await.is_err());
    });
}

#[test]
fn a_forgotten_connection_is_silent_at_both_ends_and_a_new_one_is_well() {
    run(async |_, wires| {
        let (mut own, mut other) = pair(&wires).await;
        assert!(wires.set_flaw(TWO, SocketFlaw::HalfOpen, true));
        own.write_all(b"anybody?").await.expect("it is taken");
        assert!(hears_nothing(&mut other).await && hears_nothing(&mut own).await);
        let (mut own, mut other) = pair(&wires).await;
        own.write_all(b"x").await.expect("it is taken");
        assert_eq!(other.read_u8().await.expect("it arrives"), b'x');
    });
}

#[test]
fn a_machine_that_stands_still_takes_nothing_in_until_it_goes_on() {
    run(async |_, wires| {
        let (mut own, mut other) = pair(&wires).await;
        wires.freeze(TWO);
        own.write_all(b"x").await.expect("it is taken");
        assert!(hears_nothing(&mut other).await);
        wires.thaw(TWO);
        assert_eq!(other.read_u8().await.expect("it arrives"), b'x');
    });
}

#[test]
fn a_frame_that_is_cut_ends_the_connection_with_less_than_was_sent() {
    run(async |_, wires| {
        let (mut own, mut other) = pair(&wires).await;
        wires.set_flaw(TWO, SocketFlaw::CutFrames, true);
        let mut sent = 0;
        while own.write_all(&[1; 100]).await.is_ok() {
            sent += 100;
            sleep(SECOND).await;
            let mut heard = [0; 4_096];
            let heard = other.read(&mut heard).await.unwrap_or_default();
            sent -= heard;
        }
        assert!(sent > 0, "everything arrived");
    });
}

#[test]
fn a_frame_of_which_nothing_is_left_is_a_reset_and_no_end() {
    run(async |_, wires| {
        let (mut own, mut other) = pair(&wires).await;
        wires.set_flaw(TWO, SocketFlaw::CutFrames, true);
        // A part of one byte that is not all of it is nothing.
        while own.write_all(b"x").await.is_ok() {
            sleep(SECOND).await;
            match other.read_u8().await {
                Ok(heard) => assert_eq!(heard, b'x'),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
    });
}

#[test]
fn a_slow_reader_takes_its_time_whatever_the_length_of_a_piece() {
    let time = |length: usize| {
        let taken = std::sync::Mutex::default();
        run(async |_, wires| {
            let (mut own, mut other) = pair(&wires).await;
            wires.set_flaw(TWO, SocketFlaw::SlowReaders, true);
            for _ in 0..10 {
                own.write_all(&vec![1; length]).await.expect("it is taken");
            }
            sleep(SECOND).await;
            let began = true_now();
            other.read_exact(&mut vec![0; 10 * length]).await.expect("it arrives");
            *lock(&taken) = true_now() - began;
        });
        taken.into_inner().expect("nobody panicked")
    };
    let taken = time(1_000);
    assert!(taken > SECOND / 2, "{taken:?}");
    for length in [70, 71, 255, 256, 257, 1_001] {
        assert_eq!(time(length), taken, "{length} bytes");
    }
}
