//! The way of a commit in the model: what it waits for, who sees it, and what stops it.

use std::time::Duration;

use super::postgres_support::{
    With, eventually, is_acknowledged, pause, row, simulate, sync, upstream, within, write,
};
use pg_replica::env::{OBSERVE_WITHIN, Postgres, Process, StartAs, StopHow, SyncNames};
use pg_replica::ids::{Epoch, NodeId};
use pg_replica::sabotage::{Sabotage, Saboteur};
use sim::clock::{sleep, true_now};
use sim::place::Place;
use sim::postgres::WriteOutcome;
use sim::scenario::PostgresFlaw;
use sim::witness::{Fact, Untold};

#[test]
fn commits_wait_for_confirmations_under_the_names_of_the_right_epoch() {
    simulate(1, 2, With::default(), |cluster| async move {
        cluster.found(1, sync(1, 1, &[2])).await;
        cluster.join(2, 1, 1).await;
        let session = cluster.session(1).await;
        assert!(write(&session, 1).await.is_some_and(is_acknowledged));
        assert!(cluster.server(1).could_acknowledge_now());
        cluster.pg(1).set_sync(&sync(2, 1, &[2])).await.unwrap();
        assert!(!cluster.server(1).could_acknowledge_now());
        assert_eq!(write(&session, 2).await, None);
        assert_eq!(cluster.witness.acknowledged(), [row(1)]);
        cluster.follow(2, 1, 2).await;
        eventually("the waiting commit is released", || {
            cluster.witness.acknowledged() == [row(1), row(2)]
        })
        .await;
    });
}

#[test]
fn commits_wait_for_as_many_standbys_as_the_configuration_says() {
    simulate(2, 3, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        cluster.join(3, 1, 1).await;
        cluster.pg(1).set_sync(&sync(1, 2, &[2, 3])).await.unwrap();
        let session = cluster.session(1).await;
        assert!(write(&session, 1).await.is_some_and(is_acknowledged));
        cluster.server(3).kill_process("test");
        assert_eq!(write(&session, 2).await, None);
        assert!(!cluster.server(1).could_acknowledge_now());
    });
}

#[test]
fn a_row_that_waits_is_seen_by_nobody_until_a_restart_makes_it_visible() {
    simulate(3, 2, With::default(), |cluster| async move {
        cluster.found(1, sync(1, 1, &[2])).await;
        let writer = cluster.session(1).await;
        assert_eq!(write(&writer, 1).await, None);
        let reader = cluster.session(1).await;
        assert_eq!(reader.read().await.unwrap().rows, 0);
        cluster.pg(1).stop(StopHow::Immediate).await.unwrap();
        assert_eq!(writer.write(row(2)).await, WriteOutcome::Broken);
        let how = StartAs::Primary { epoch: Epoch(1), sync: sync(1, 1, &[2]) };
        cluster.pg(1).start(&how).await.unwrap();
        cluster.pg(1).admit().await.unwrap();
        let reader = cluster.session(1).await;
        assert_eq!(reader.read().await.unwrap().rows, 1);
        let facts = cluster.witness.facts();
        let untold = [Untold { row: row(1), waited: 1 }];
        assert!(facts.iter().any(|fact| matches!(
            fact, Fact::Read { unacknowledged, .. } if *unacknowledged == untold
        )));
    });
}

#[test]
fn a_primary_is_closed_until_clients_are_admitted() {
    simulate(4, 1, With::default(), |cluster| async move {
        cluster.pg(1).initialise(Epoch(1)).await.unwrap();
        let how = StartAs::Primary { epoch: Epoch(1), sync: SyncNames::default() };
        cluster.pg(1).start(&how).await.unwrap();
        assert!(!cluster.server(1).is_writable());
        assert!(cluster.registry.connect(Place::Client(1), NodeId(1)).await.is_err());
        cluster.pg(1).admit().await.unwrap();
        assert!(cluster.server(1).is_writable());
        assert!(cluster.session(1).await.is_primary());
    });
}

#[test]
fn a_standby_refuses_writes() {
    simulate(5, 2, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        let session = cluster.session(2).await;
        assert!(!session.is_primary());
        assert!(matches!(session.write(row(1)).await, WriteOutcome::Refused(_)));
    });
}

#[test]
fn the_commit_fence_refuses_after_the_lease() {
    simulate(6, 1, With { commit_fence: true, ..With::default() }, |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        let session = cluster.session(1).await;
        assert!(matches!(write(&session, 1).await, Some(WriteOutcome::Refused(_))));
        let clock = cluster.hosts[0].clock().clone();
        let until = clock.now() + Duration::from_secs(2);
        assert_eq!(cluster.pg(1).extend_lease(Epoch(1), until).await, Ok(true));
        assert!(write(&session, 2).await.is_some_and(is_acknowledged));
        clock.sleep_until(until).await;
        assert!(!cluster.server(1).could_acknowledge_now());
        assert!(matches!(write(&session, 3).await, Some(WriteOutcome::Refused(_))));
        assert_eq!(cluster.server(1).rows(), [row(2)]);
    });
}

#[test]
fn a_lease_that_ends_during_the_wait_leaves_the_outcome_unknown() {
    simulate(7, 2, With { commit_fence: true, ..With::default() }, |cluster| async move {
        cluster.found(1, sync(1, 1, &[2])).await;
        let session = cluster.session(1).await;
        let until = cluster.hosts[0].clock().now() + Duration::from_secs(1);
        cluster.pg(1).extend_lease(Epoch(1), until).await.unwrap();
        assert_eq!(write(&session, 1).await, None);
        cluster.join(2, 1, 1).await;
        eventually("the session ends", || session.is_broken()).await;
        assert_eq!(cluster.witness.acknowledged(), []);
        assert_eq!(cluster.server(1).rows(), [row(1)]);
    });
}

#[test]
fn a_commit_fence_that_never_looks_acknowledges_after_the_lease() {
    let sabotage = Sabotage::of(Saboteur::CommitFenceNeverLooks);
    simulate(8, 1, With { commit_fence: true, sabotage }, |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        assert!(write(&cluster.session(1).await, 1).await.is_some_and(is_acknowledged));
    });
}

#[test]
fn a_power_loss_loses_the_unflushed_tail_only() {
    let mut lost_something = false;
    for seed in 0..20 {
        let lost = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let noted = lost.clone();
        simulate(seed, 1, With::default(), |cluster| async move {
            cluster.found(1, SyncNames::default()).await;
            let mut sessions = Vec::new();
            for _ in 0..8 {
                sessions.push(cluster.session(1).await);
            }
            let writes = sessions.iter().enumerate().map(|(number, session)| async move {
                let number = u64::try_from(number).unwrap();
                for round in 0..100 {
                    let _ = session.write(row(number * 100 + round)).await;
                }
            });
            let _ = within(70 + seed * 3, futures_util::future::join_all(writes)).await;
            let before = cluster.server(1).row_count();
            cluster.server(1).power_loss();
            let rows = cluster.server(1).rows();
            assert_eq!(cluster.server(1).process(), Process::Down { clean: false });
            for acknowledged in cluster.witness.acknowledged() {
                assert!(rows.contains(&acknowledged), "{acknowledged:?} is lost");
            }
            let now = u64::try_from(rows.len()).unwrap();
            noted.store(now < before, std::sync::atomic::Ordering::Relaxed);
        });
        lost_something |= lost.load(std::sync::atomic::Ordering::Relaxed);
    }
    assert!(lost_something, "no run had anything unflushed to lose");
}

#[test]
fn a_hung_server_is_seen_as_such_and_yields_to_an_immediate_stop_only() {
    simulate(9, 1, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.server(1).hang();
        let begun = true_now();
        let seen = cluster.pg(1).observe().await.unwrap();
        assert_eq!(seen.process, Process::Hung);
        assert!(true_now() - begun < OBSERVE_WITHIN + Duration::from_millis(100));
        assert!(cluster.pg(1).admit().await.is_err());
        assert!(within(20_000, cluster.pg(1).stop(StopHow::Fast)).await.is_none());
        cluster.pg(1).stop(StopHow::Immediate).await.unwrap();
        assert_eq!(cluster.server(1).process(), Process::Down { clean: false });
        let how = StartAs::Primary { epoch: Epoch(1), sync: SyncNames::default() };
        cluster.pg(1).start(&how).await.unwrap();
        assert_eq!(cluster.server(1).process(), Process::Up);
    });
}

#[test]
fn a_frozen_machine_acknowledges_nothing_and_goes_on_when_thawed() {
    simulate(10, 1, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        let session = cluster.session(1).await;
        cluster.hosts[0].freeze(false);
        assert!(!cluster.server(1).could_acknowledge_now());
        assert_eq!(write(&session, 1).await, None);
        cluster.hosts[0].thaw();
        eventually("the write arrives late", || cluster.server(1).rows() == [row(1)]).await;
    });
}

#[test]
fn a_full_disk_ends_the_server_until_there_is_room() {
    simulate(11, 1, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        let session = cluster.session(1).await;
        cluster.server(1).set_flaw(PostgresFlaw::DiskFull, true);
        assert_eq!(write(&session, 1).await, Some(WriteOutcome::Broken));
        let how = StartAs::Primary { epoch: Epoch(1), sync: SyncNames::default() };
        assert!(cluster.pg(1).start(&how).await.unwrap_err().is_transient());
        cluster.server(1).set_flaw(PostgresFlaw::DiskFull, false);
        cluster.pg(1).start(&how).await.unwrap();
    });
}

#[test]
fn the_same_seed_yields_the_same_facts() {
    let run = |seed| {
        simulate(seed, 3, With::default(), |cluster| async move {
            cluster.found(1, sync(1, 1, &[2, 3])).await;
            cluster.join(2, 1, 1).await;
            cluster.join(3, 1, 1).await;
            let session = cluster.session(1).await;
            for number in 0..50 {
                let _ = write(&session, number).await;
            }
            cluster.server(1).kill_process("test");
            cluster.pg(2).set_sync(&sync(2, 1, &[3])).await.unwrap();
            cluster.promote(2, 2).await;
            cluster.follow(3, 2, 2).await;
            let session = cluster.session(2).await;
            for number in 50..100 {
                let _ = write(&session, number).await;
            }
            pause(500).await;
        })
    };
    assert_eq!(run(12), run(12));
    assert_ne!(run(12), run(13));
}

#[test]
fn an_answer_waits_for_the_link_and_the_session_goes_on() {
    simulate(14, 1, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        let session = cluster.session(1).await;
        let (server, client) = (Place::Host(NodeId(1)), Place::Client(0));
        cluster.fabric.block(server, client, None);
        let mut writing = std::pin::pin!(session.write(row(1)));
        assert!(within(5_000, &mut writing).await.is_none());
        assert_eq!(cluster.witness.acknowledged(), [row(1)]);
        cluster.fabric.unblock(server, client, None);
        assert!(is_acknowledged(writing.await));
        sleep(Duration::from_millis(10)).await;
        assert!(write(&session, 2).await.is_some_and(is_acknowledged));
        assert!(upstream(1, 1).address.is_empty());
    });
}
