//! Streaming, promotion, divergence and what mends it, in the model.

use std::time::Duration;

use super::postgres_support::{
    Cluster, With, eventually, is_acknowledged, pause, row, simulate, sync, upstream, within, write,
};
use pg_replica::env::{
    KEEPALIVE, Postgres, PostgresError, Process, Side, StartAs, StopHow, SyncNames,
};
use pg_replica::ids::{Epoch, NodeId, Timeline};
use pg_replica::sabotage::{Sabotage, Saboteur};
use sim::scenario::PostgresFlaw;
use sim::witness::Fact;

/// A primary 1 that goes on writing apart from its standby 2, which is promoted meanwhile.
async fn diverge(cluster: &Cluster) {
    cluster.found(1, SyncNames::default()).await;
    cluster.join(2, 1, 1).await;
    let session = cluster.session(1).await;
    assert!(write(&session, 1).await.is_some_and(is_acknowledged));
    cluster.caught_up(2, 1).await;
    cluster.cut(1, 2);
    assert!(write(&session, 2).await.is_some_and(is_acknowledged));
    cluster.promote(2, 2).await;
    let session = cluster.session(2).await;
    assert!(write(&session, 3).await.is_some_and(is_acknowledged));
    cluster.pg(1).stop(StopHow::Immediate).await.unwrap();
    cluster.fabric.heal_all();
}

#[test]
fn a_detached_standby_confirms_nothing_more() {
    simulate(1, 2, With::default(), |cluster| async move {
        cluster.found(1, sync(1, 1, &[2])).await;
        cluster.join(2, 1, 1).await;
        let session = cluster.session(1).await;
        let flood = async {
            for number in 1.. {
                if !write(&session, number).await.is_some_and(is_acknowledged) {
                    return;
                }
            }
        };
        let _ = within(100, flood).await;
        cluster.pg(2).detach().await.unwrap();
        let position = cluster.server(2).position();
        let seen = cluster.pg(2).observe().await.unwrap();
        assert_eq!(seen.receiver, None);
        assert!(!cluster.server(1).could_acknowledge_now());
        pause(3_000).await;
        assert_eq!(cluster.server(2).position(), position);
        let rows = cluster.server(2).rows();
        for acknowledged in cluster.witness.acknowledged() {
            assert!(rows.contains(&acknowledged));
        }
        assert_eq!(write(&cluster.session(1).await, 100_000).await, None);
    });
}

#[test]
fn a_promotion_opens_a_timeline_and_the_old_tail_is_rewound_and_kept() {
    simulate(2, 2, With::default(), |cluster| async move {
        diverge(&cluster).await;
        cluster.pg(1).start(&StartAs::Standby { upstream: None }).await.unwrap();
        cluster.pg(1).follow(&upstream(2, 2)).await.unwrap();
        eventually("the diverged server is refused", || {
            cluster.server(1).refusal().is_some_and(|why| why.contains("not in this server's"))
        })
        .await;
        cluster.pg(1).stop(StopHow::Immediate).await.unwrap();
        let report = cluster.pg(1).rewind(&upstream(2, 2)).await.unwrap();
        assert!(report.diverged_to > report.diverged_from);
        assert_eq!(cluster.server(1).set_aside_rows(), [row(2)]);
        assert!(!cluster.server(1).rows().contains(&row(2)));
        cluster.pg(1).start(&StartAs::Standby { upstream: None }).await.unwrap();
        cluster.follow(1, 2, 2).await;
        cluster.caught_up(1, 2).await;
        assert_eq!(cluster.server(1).rows(), [row(1), row(3)]);
        let position = cluster.server(1).position().unwrap();
        assert_eq!((position.timeline, position.born), (Timeline(2), Epoch(2)));
        let facts = cluster.witness.facts();
        assert!(facts.iter().any(|fact| matches!(
            fact, Fact::DirectoryReplaced { lost, kept_aside: true, .. } if *lost == [row(2)]
        )));
    });
}

#[test]
fn a_rewound_server_is_not_up_until_it_has_what_its_source_wrote_meanwhile() {
    simulate(14, 2, With::default(), |cluster| async move {
        diverge(&cluster).await;
        let session = cluster.session(2).await;
        let source = upstream(2, 2);
        let mut rewind = Box::pin(cluster.pg(1).rewind(&source));
        let mut number = 100;
        let report = loop {
            if let Some(done) = within(10, &mut rewind).await {
                break done.unwrap();
            }
            number += 1;
            assert!(write(&session, number).await.is_some_and(is_acknowledged));
        };
        assert!(report.diverged_to > report.diverged_from);
        let alone = StartAs::Standby { upstream: None };
        assert!(within(3_000, cluster.pg(1).start(&alone)).await.is_none());
        let seen = cluster.pg(1).observe().await.unwrap();
        assert_eq!((seen.process, seen.complete, seen.flushed), (Process::Starting, false, None));
        assert!(cluster.pg(1).promote(Epoch(3)).await.is_err());
        cluster.pg(1).stop(StopHow::Immediate).await.unwrap();
        cluster.pg(1).start(&StartAs::Standby { upstream: Some(source.clone()) }).await.unwrap();
        let seen = cluster.pg(1).observe().await.unwrap();
        assert_eq!((seen.process, seen.complete), (Process::Up, true));
        cluster.caught_up(1, 2).await;
    });
}

#[test]
fn a_restarted_standby_has_no_position_until_it_has_replayed_its_own_log() {
    simulate(15, 2, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        cluster.server(2).set_flaw(PostgresFlaw::ReplayStuck, true);
        let session = cluster.session(1).await;
        for number in 1..50 {
            assert!(write(&session, number).await.is_some_and(is_acknowledged));
        }
        cluster.caught_up(2, 1).await;
        cluster.pg(2).stop(StopHow::Fast).await.unwrap();
        let down = cluster.pg(2).observe().await.unwrap();
        assert_eq!((down.process, down.flushed), (Process::Down { clean: true }, None));
        cluster.pg(2).start(&StartAs::Standby { upstream: None }).await.unwrap();
        let end = cluster.server(2).position().unwrap().flushed;
        let mut unknown = 0;
        loop {
            let seen = cluster.pg(2).observe().await.unwrap();
            assert_eq!(seen.process, Process::Up);
            match seen.flushed {
                Some(flushed) => break assert_eq!(flushed, end),
                None => unknown += 1,
            }
            assert!(seen.replayed.unwrap() < end);
        }
        assert!(unknown > 1);
    });
}

#[test]
fn a_slot_is_active_until_the_standby_that_held_it_is_given_up() {
    simulate(16, 2, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        // Nobody is left to close the old connection.
        cluster.server(2).power_loss();
        let upstream = Some(upstream(1, 1));
        cluster.pg(2).start(&StartAs::Standby { upstream }).await.unwrap();
        let mut refused = false;
        eventually("the standby streams again", || {
            let refusal = cluster.server(2).refusal();
            refused |= refusal.is_some_and(|why| why.contains("is active for"));
            cluster.server(2).streams_from(NodeId(1))
        })
        .await;
        assert!(refused);
    });
}

#[test]
fn an_idle_primary_says_something_to_its_standbys() {
    simulate(17, 2, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        let mut longest = Duration::ZERO;
        for _ in 0..500 {
            pause(20).await;
            let receiver = cluster.pg(2).observe().await.unwrap().receiver.unwrap();
            longest = longest.max(receiver.silent_for);
        }
        assert!(longest > KEEPALIVE / 2 && longest < KEEPALIVE + Duration::from_millis(50));
    });
}

#[test]
fn a_wiped_tail_is_reported_as_not_kept() {
    let sabotage = Sabotage::of(Saboteur::WipeDivergedDirectory);
    simulate(3, 2, With { sabotage, ..With::default() }, |cluster| async move {
        diverge(&cluster).await;
        cluster.pg(1).rewind(&upstream(2, 2)).await.unwrap();
        assert_eq!(cluster.server(1).set_aside_rows(), []);
        let facts = cluster.witness.facts();
        assert!(facts.iter().any(|fact| matches!(
            fact, Fact::DirectoryReplaced { lost, kept_aside: false, .. } if *lost == [row(2)]
        )));
    });
}

#[test]
fn a_rewind_that_breaks_off_leaves_a_directory_that_only_a_clone_mends() {
    simulate(4, 2, With::default(), |cluster| async move {
        diverge(&cluster).await;
        cluster.server(1).set_flaw(PostgresFlaw::RewindFails, true);
        assert!(cluster.pg(1).rewind(&upstream(2, 2)).await.is_err());
        let start = cluster.pg(1).start(&StartAs::Standby { upstream: None }).await;
        assert!(matches!(start, Err(PostgresError::Permanent(_))));
        let again = cluster.pg(1).rewind(&upstream(2, 2)).await;
        assert!(matches!(again, Err(PostgresError::Permanent(_))));
        cluster.join(1, 2, 2).await;
        cluster.caught_up(1, 2).await;
        assert_eq!(cluster.server(1).set_aside_rows(), [row(2), row(1)]);
    });
}

#[test]
fn a_clone_that_is_cut_short_leaves_the_old_directory_where_it_was() {
    simulate(5, 2, With::default(), |cluster| async move {
        diverge(&cluster).await;
        let source = upstream(2, 2);
        let mut cloning = Box::pin(cluster.pg(1).clone_from(&source));
        assert!(within(100, &mut cloning).await.is_none());
        drop(cloning);
        assert_eq!(cluster.server(1).rows(), [row(1), row(2)]);
        assert_eq!(cluster.server(1).set_aside_rows(), []);
    });
}

#[test]
fn a_clone_from_a_source_that_is_cut_off_fails_and_keeps_what_was_there() {
    simulate(6, 2, With::default(), |cluster| async move {
        diverge(&cluster).await;
        cluster.cut(1, 2);
        let failed = cluster.pg(1).clone_from(&upstream(2, 2)).await;
        assert!(failed.unwrap_err().is_transient());
        assert_eq!(cluster.server(1).rows(), [row(1), row(2)]);
    });
}

#[test]
fn a_start_clears_the_leftover_upstream() {
    for sabotaged in [false, true] {
        let old = Sabotage::of(Saboteur::StartWithOldUpstream);
        let sabotage = if sabotaged { old } else { Sabotage::NONE };
        simulate(7, 2, With { sabotage, ..With::default() }, |cluster| async move {
            cluster.found(1, SyncNames::default()).await;
            cluster.join(2, 1, 1).await;
            cluster.pg(2).stop(StopHow::Immediate).await.unwrap();
            cluster.pg(2).start(&StartAs::Standby { upstream: None }).await.unwrap();
            pause(1_000).await;
            assert_eq!(cluster.server(2).streams_from(NodeId(1)), sabotaged);
        });
    }
}

/// Two standbys of the same primary are promoted apart, to the same timeline number. The second
/// has written more.
async fn promote_twice(cluster: &Cluster) {
    cluster.found(1, SyncNames::default()).await;
    cluster.join(2, 1, 1).await;
    cluster.join(3, 1, 1).await;
    assert!(write(&cluster.session(1).await, 1).await.is_some_and(is_acknowledged));
    cluster.caught_up(2, 1).await;
    cluster.caught_up(3, 1).await;
    cluster.server(1).kill_process("test");
    cluster.promote(2, 2).await;
    cluster.promote(3, 3).await;
    let (two, three) = (cluster.session(2).await, cluster.session(3).await);
    assert!(write(&two, 2).await.is_some_and(is_acknowledged));
    for number in 3..20 {
        assert!(write(&three, number).await.is_some_and(is_acknowledged));
    }
    cluster.pg(2).stop(StopHow::Immediate).await.unwrap();
}

#[test]
fn a_bare_server_takes_equal_timeline_numbers_for_equal_histories() {
    simulate(8, 3, With::default(), |cluster| async move {
        promote_twice(&cluster).await;
        let timelines = [2, 3].map(|node| cluster.server(node).position().unwrap());
        assert_eq!(timelines.map(|position| position.timeline), [Timeline(2); 2]);
        assert_eq!(timelines.map(|position| position.born), [Epoch(2), Epoch(3)]);
        cluster.pg(2).start(&StartAs::Standby { upstream: None }).await.unwrap();
        cluster.follow(2, 3, 3).await;
        assert!(cluster.server(2).rows().contains(&row(2)));
    });
}

#[test]
fn a_rewind_between_equal_numbers_finds_nothing_to_do() {
    simulate(9, 3, With::default(), |cluster| async move {
        promote_twice(&cluster).await;
        let report = cluster.pg(2).rewind(&upstream(3, 3)).await.unwrap();
        assert_eq!(report.diverged_from, report.diverged_to);
        cluster.pg(2).start(&StartAs::Standby { upstream: None }).await.unwrap();
        cluster.follow(2, 3, 3).await;
        assert!(cluster.server(2).rows().contains(&row(2)), "a row that the primary does not have");
    });
}

#[test]
fn a_rewind_needs_the_log_of_its_own_directory_back_to_the_fork() {
    simulate(13, 2, With::default(), |cluster| async move {
        diverge(&cluster).await;
        cluster.server(1).set_flaw(PostgresFlaw::WalRecycled, true);
        let rewind = cluster.pg(1).rewind(&upstream(2, 2)).await;
        assert!(matches!(rewind, Err(PostgresError::Permanent(_))));
        assert_eq!(cluster.server(1).rows(), [row(1), row(2)]);
    });
}

#[test]
fn a_promotion_is_refused_while_a_receiver_is_attached_and_yields_one_birth() {
    simulate(10, 2, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        assert!(cluster.pg(2).promote(Epoch(2)).await.is_err());
        cluster.pg(2).detach().await.unwrap();
        cluster.pg(2).detach().await.unwrap();
        let birth = cluster.pg(2).promote(Epoch(2)).await.unwrap();
        assert_eq!(cluster.pg(2).promote(Epoch(2)).await, Ok(birth));
        assert!(cluster.pg(2).promote(Epoch(3)).await.is_err());
        assert_eq!(cluster.server(2).side(), Some(Side::Primary));
        assert_eq!(cluster.server(2).primary_epoch(), Some(Epoch(2)));
    });
}

#[test]
fn a_fast_stop_ships_everything_and_a_follower_of_the_successor_needs_no_rewind() {
    simulate(11, 2, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        let session = cluster.session(1).await;
        for number in 1..20 {
            assert!(write(&session, number).await.is_some_and(is_acknowledged));
        }
        cluster.pg(1).stop(StopHow::Fast).await.unwrap();
        assert_eq!(cluster.server(1).process(), Process::Down { clean: true });
        assert_eq!(cluster.server(2).position(), cluster.server(1).position());
        cluster.promote(2, 2).await;
        cluster.pg(1).start(&StartAs::Standby { upstream: None }).await.unwrap();
        cluster.follow(1, 2, 2).await;
        cluster.caught_up(1, 2).await;
    });
}

#[test]
fn a_standby_that_needs_recycled_log_stays_behind() {
    simulate(12, 2, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        cluster.pg(2).stop(StopHow::Fast).await.unwrap();
        assert!(write(&cluster.session(1).await, 1).await.is_some_and(is_acknowledged));
        cluster.server(1).set_flaw(PostgresFlaw::WalRecycled, true);
        cluster.pg(2).start(&StartAs::Standby { upstream: None }).await.unwrap();
        cluster.pg(2).follow(&upstream(1, 1)).await.unwrap();
        eventually("the standby is refused", || {
            cluster.server(2).refusal().is_some_and(|why| why.contains("already been removed"))
        })
        .await;
        cluster.pg(2).stop(StopHow::Fast).await.unwrap();
        cluster.join(2, 1, 1).await;
        cluster.caught_up(2, 1).await;
    });
}

#[test]
fn a_partition_ends_the_stream_and_a_healed_one_resumes_it() {
    simulate(13, 2, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        cluster.cut(1, 2);
        let session = cluster.session(1).await;
        assert!(write(&session, 1).await.is_some_and(is_acknowledged));
        eventually("the standby notices", || !cluster.server(2).streams_from(NodeId(1))).await;
        cluster.fabric.heal_all();
        cluster.caught_up(2, 1).await;
        pause(10_000).await;
        assert!(cluster.server(2).streams_from(NodeId(1)));
    });
}

#[test]
fn a_stuck_walsender_is_silent_until_it_is_freed() {
    simulate(14, 2, With::default(), |cluster| async move {
        cluster.found(1, sync(1, 1, &[2])).await;
        cluster.join(2, 1, 1).await;
        let session = cluster.session(1).await;
        cluster.server(1).set_flaw(PostgresFlaw::WalsenderStuck, true);
        assert_eq!(write(&session, 1).await, None);
        cluster.server(1).set_flaw(PostgresFlaw::WalsenderStuck, false);
        cluster.caught_up(2, 1).await;
    });
}

#[test]
fn an_idle_stream_stays_open_for_an_hour() {
    simulate(15, 3, With::default(), |cluster| async move {
        cluster.found(1, SyncNames::default()).await;
        cluster.join(2, 1, 1).await;
        cluster.join(3, 1, 1).await;
        let attached = || {
            let facts = cluster.witness.facts();
            facts.iter().filter(|fact| matches!(fact, Fact::Attached { .. })).count()
        };
        let before = attached();
        pause(3_600_000).await;
        assert_eq!(attached(), before);
        assert!(cluster.server(2).streams_from(NodeId(1)));
        assert!(cluster.server(3).streams_from(NodeId(1)));
    });
}

#[test]
fn what_has_a_flaw_has_none_when_it_is_taken_back() {
    simulate(16, 2, With::default(), |cluster| async move {
        diverge(&cluster).await;
        cluster.server(1).set_flaw(PostgresFlaw::CloneFails, true);
        for _ in 0..2 {
            let failed = cluster.pg(1).clone_from(&upstream(2, 2)).await;
            assert!(failed.unwrap_err().is_transient());
        }
        cluster.server(1).set_flaw(PostgresFlaw::CloneFails, false);
        cluster.join(1, 2, 2).await;
        cluster.server(1).set_flaw(PostgresFlaw::StopHangs, true);
        assert!(within(60_000, cluster.pg(1).stop(StopHow::Fast)).await.is_none());
        cluster.pg(1).stop(StopHow::Immediate).await.unwrap();
    });
}
