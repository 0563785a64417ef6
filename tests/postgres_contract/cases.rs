//! The cases. Each says in its name what the contract promises.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::env::{
    KEEPALIVE, Observation, Postgres, Process, Side, StartAs, StopHow, SyncNames, TimelineBirth,
};
use pg_replica::ids::{Epoch, Lsn, NodeId, Timeline};

use super::ground::{
    EVENTUALLY, Ground, PATIENCE, Wrote, follow, found, found_a_pair, join, patiently, promote,
    start_behind, sync, until, until_rows, upstream,
};

const BRIEFLY: Duration = Duration::from_millis(700);

pub(crate) async fn an_empty_machine_shows_nothing<G: Ground>(ground: G) {
    let seen = ground.server(1).observe().await.unwrap();
    assert_eq!(seen.system, None);
    assert!(matches!(seen.process, Process::Down { .. }));
    assert_eq!((seen.flushed, seen.receiver), (None, None));
    assert!(seen.history.is_empty() && !seen.admits && !seen.may_write());
}

pub(crate) async fn a_new_cluster_is_born_in_its_epoch_and_shut_until_it_admits<G: Ground>(
    ground: G,
) {
    let server = ground.server(1);
    let epoch = Epoch(3);
    let system = server.initialise(epoch).await.unwrap();
    let seen = server.observe().await.unwrap();
    assert_eq!(seen.system, Some(system));
    assert!(!seen.ever_started);
    server.start(&StartAs::Primary { epoch, sync: SyncNames::default() }).await.unwrap();
    let seen = server.observe().await.unwrap();
    let birth = TimelineBirth { timeline: Timeline(1), born: epoch, begins: Lsn(0) };
    assert_eq!(seen.history, [birth]);
    assert_eq!((seen.process, seen.side, seen.admits), (Process::Up, Side::Primary, false));
    assert!(seen.flushed.is_some() && seen.ever_started);
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Refused);
    server.admit().await.unwrap();
    assert!(server.observe().await.unwrap().admits);
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    assert_eq!(ground.rows(1).await, [1]);
}

pub(crate) async fn a_directory_that_holds_something_is_not_initialised<G: Ground>(ground: G) {
    let server = ground.server(1);
    let system = server.initialise(Epoch(1)).await.unwrap();
    assert!(!server.initialise(Epoch(2)).await.unwrap_err().is_transient());
    assert_eq!(server.observe().await.unwrap().system, Some(system));
}

pub(crate) async fn a_copy_follows_and_gets_every_row<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    join(&ground, 2, 1, 1).await;
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 2, &[1, 2]).await;
    let (primary, standby) =
        (ground.server(1).observe().await.unwrap(), ground.server(2).observe().await.unwrap());
    assert_eq!(primary.system, standby.system);
    assert_eq!(primary.history, standby.history);
    assert_eq!(standby.side, Side::Standby);
    assert_eq!(ground.write(2, 3, PATIENCE).await, Wrote::Refused);
    let end = primary.flushed.unwrap();
    until(&ground, 2, "has the end", |seen| seen.flushed.is_some_and(|at| at >= end)).await;
}

pub(crate) async fn a_commit_waits_for_the_name_of_the_epoch<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    let server = ground.server(1);
    server.set_sync(&sync(2, 1, &[2])).await.unwrap();
    assert_eq!(server.observe().await.unwrap().sync, sync(2, 1, &[2]));
    // It is attached under the name of epoch 1, which confirms nothing in epoch 2.
    assert_eq!(ground.write(1, 1, BRIEFLY).await, Wrote::Silent);
    follow(&ground, 2, 1, 2).await;
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Acknowledged);
    server.set_sync(&SyncNames::default()).await.unwrap();
    ground.server(2).stop(StopHow::Immediate).await.unwrap();
    assert_eq!(ground.write(1, 3, PATIENCE).await, Wrote::Acknowledged);
}

/// A primary whose commits wait for nobody says for which epoch that holds: what it does not say
/// again and again would be told to it again and again.
pub(crate) async fn a_configuration_without_standbys_is_read_back_with_its_epoch<G: Ground>(
    ground: G,
) {
    found(&ground, 1, sync(1, 0, &[])).await;
    let server = ground.server(1);
    assert_eq!(server.observe().await.unwrap().sync, sync(1, 0, &[]));
    server.set_sync(&sync(4, 0, &[])).await.unwrap();
    assert_eq!(server.observe().await.unwrap().sync, sync(4, 0, &[]));
    server.configure(&BTreeMap::from([("work_mem".into(), "8MB".into())])).await.unwrap();
    assert_eq!(server.observe().await.unwrap().sync, sync(4, 0, &[]));
}

/// The setting is read by every process for itself, and the one that tells the sessions may be
/// busy.
pub(crate) async fn a_configuration_is_in_force_when_every_session_obeys_it<G: Ground>(ground: G) {
    found(&ground, 1, sync(1, 0, &[])).await;
    join(&ground, 2, 1, 1).await;
    ground.server(2).stop(StopHow::Immediate).await.unwrap();
    let server = ground.server(1);
    let wanted = sync(1, 1, &[2]);
    ground.hold_back_settings(1, true).await;
    let waiting = std::pin::pin!(ground.sleep(BRIEFLY));
    match select(std::pin::pin!(server.set_sync(&wanted)), waiting).await {
        Either::Left((outcome, _)) => panic!("not every session can know yet: {outcome:?}"),
        Either::Right(_) => {}
    }
    assert_ne!(server.observe().await.unwrap().sync, wanted);
    ground.hold_back_settings(1, false).await;
    server.set_sync(&wanted).await.unwrap();
    assert_eq!(server.observe().await.unwrap().sync, wanted);
    assert_eq!(ground.write(1, 1, BRIEFLY).await, Wrote::Silent);
    server.set_sync(&sync(1, 0, &[])).await.unwrap();
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Acknowledged);
}

/// Also where the disk keeps it busy from before it was told.
pub(crate) async fn a_promoted_server_obeys_from_its_first_write<G: Ground>(ground: G) {
    found(&ground, 1, sync(1, 1, &[2])).await;
    join(&ground, 2, 1, 1).await;
    promote_while_busy(&ground, &sync(2, 1, &[1])).await;
    assert_eq!(ground.server(2).observe().await.unwrap().sync, sync(2, 1, &[1]));
    assert_eq!(ground.write(2, 1, BRIEFLY).await, Wrote::Silent);
    ground.hold_back_settings(2, false).await;
}

/// Where nobody was waited for and nobody is, no busy process stands between the clients and their
/// commits.
pub(crate) async fn a_promoted_server_that_waits_for_nobody_acknowledges_at_once<G: Ground>(
    ground: G,
) {
    found(&ground, 1, sync(1, 0, &[])).await;
    join(&ground, 2, 1, 1).await;
    promote_while_busy(&ground, &sync(2, 0, &[])).await;
    assert_eq!(ground.server(2).observe().await.unwrap().sync, sync(2, 0, &[]));
    assert_eq!(ground.write(2, 1, PATIENCE).await, Wrote::Acknowledged);
    ground.hold_back_settings(2, false).await;
}

/// A standby of one that waited for nobody says that it obeys only if it does.
pub(crate) async fn a_promoted_server_does_not_claim_to_obey_before_it_does<G: Ground>(ground: G) {
    found(&ground, 1, sync(1, 0, &[])).await;
    join(&ground, 2, 1, 1).await;
    let (server, wanted) = (ground.server(2), sync(2, 1, &[1]));
    promote_while_busy(&ground, &wanted).await;
    if server.observe().await.unwrap().sync == wanted {
        assert_eq!(ground.write(2, 1, BRIEFLY).await, Wrote::Silent);
    }
    ground.hold_back_settings(2, false).await;
    server.set_sync(&wanted).await.unwrap();
    assert_eq!(server.observe().await.unwrap().sync, wanted);
    assert_eq!(ground.write(2, 2, BRIEFLY).await, Wrote::Silent);
}

async fn promote_while_busy<G: Ground>(ground: &G, sync: &SyncNames) {
    let server = ground.server(2);
    server.detach().await.unwrap();
    ground.hold_back_settings(2, true).await;
    server.set_sync(sync).await.unwrap();
    server.promote(sync.epoch).await.unwrap();
    server.admit().await.unwrap();
}

/// What one of two confirms is not acknowledged any more where the other one has to.
pub(crate) async fn a_set_that_shrinks_counts_nobody_who_left<G: Ground>(ground: G) {
    found(&ground, 1, sync(1, 0, &[])).await;
    join(&ground, 2, 1, 1).await;
    join(&ground, 3, 1, 1).await;
    let server = ground.server(1);
    for (row, standbys) in [(1, &[2, 3][..]), (2, &[2]), (3, &[2, 3]), (4, &[3])] {
        server.set_sync(&sync(1, 1, standbys)).await.unwrap();
        assert_eq!(server.observe().await.unwrap().sync, sync(1, 1, standbys));
        assert_eq!(ground.write(1, row, PATIENCE).await, Wrote::Acknowledged);
    }
    ground.server(3).stop(StopHow::Immediate).await.unwrap();
    assert_eq!(ground.write(1, 5, BRIEFLY).await, Wrote::Silent);
    server.set_sync(&sync(1, 2, &[2, 3])).await.unwrap();
    assert_eq!(ground.write(1, 6, BRIEFLY).await, Wrote::Silent);
    server.set_sync(&sync(1, 1, &[2])).await.unwrap();
    assert_eq!(ground.write(1, 7, PATIENCE).await, Wrote::Acknowledged);
}

/// It knows what its predecessor has told the server, and what of it is in force.
pub(crate) async fn a_manager_that_starts_anew_changes_nothing_by_itself<G: Ground>(mut ground: G) {
    let wanted = sync(1, 1, &[2]);
    let epoch = Epoch(1);
    ground.server(1).initialise(epoch).await.unwrap();
    let how = StartAs::Primary { epoch, sync: wanted.clone() };
    ground.server(1).start(&how).await.unwrap();
    ground.start_manager_anew(1);
    assert_eq!(ground.server(1).observe().await.unwrap().sync, wanted);
    ground.server(1).admit().await.unwrap();
    assert_eq!(ground.server(1).observe().await.unwrap().sync, wanted);
    assert_eq!(ground.write(1, 1, BRIEFLY).await, Wrote::Silent);
    join(&ground, 2, 1, 1).await;
    ground.start_manager_anew(2);
    let work_mem = BTreeMap::from([("work_mem".into(), "8MB".into())]);
    ground.server(2).configure(&work_mem).await.unwrap();
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Acknowledged);
    until(&ground, 1, "has its standby still", |seen| !seen.streams.is_empty()).await;
}

pub(crate) async fn a_detached_standby_receives_nothing_more<G: Ground>(ground: G) {
    found_a_pair(&ground).await;
    ground.server(2).detach().await.unwrap();
    let before = ground.server(2).observe().await.unwrap();
    assert_eq!(before.receiver, None);
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Acknowledged);
    ground.sleep(BRIEFLY).await;
    let after = ground.server(2).observe().await.unwrap();
    assert_eq!((after.receiver, after.flushed), (None, before.flushed));
    assert!(before.flushed.is_some());
    assert_eq!(ground.rows(2).await, [1]);
    ground.server(2).detach().await.unwrap();
}

pub(crate) async fn a_promotion_opens_a_timeline_of_its_epoch<G: Ground>(ground: G) {
    found_a_pair(&ground).await;
    let server = ground.server(2);
    server.detach().await.unwrap();
    let before = server.observe().await.unwrap();
    server.set_sync(&SyncNames { epoch: Epoch(4), ..SyncNames::default() }).await.unwrap();
    let birth = server.promote(Epoch(4)).await.unwrap();
    assert_eq!((birth.timeline, birth.born), (Timeline(2), Epoch(4)));
    assert!(Some(birth.begins) >= before.flushed);
    let seen = server.observe().await.unwrap();
    assert_eq!((seen.side, seen.process), (Side::Primary, Process::Up));
    assert_eq!(seen.history.last(), Some(&birth));
    assert_eq!(seen.history.first(), before.history.first());
    assert_eq!(server.promote(Epoch(4)).await.unwrap(), birth, "a second call changes nothing");
    server.admit().await.unwrap();
    assert_eq!(ground.write(2, 2, PATIENCE).await, Wrote::Acknowledged);
    assert_eq!(ground.rows(2).await, [1, 2]);
    server.stop(StopHow::Immediate).await.unwrap();
    let down = server.observe().await.unwrap();
    assert_eq!(down.history.last(), Some(&birth), "a crash does not forget who was born when");
}

pub(crate) async fn nothing_is_promoted_while_an_upstream_is_configured<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    assert!(ground.server(2).promote(Epoch(2)).await.is_err());
    assert_eq!(ground.server(2).observe().await.unwrap().side, Side::Standby);
}

pub(crate) async fn a_diverged_former_primary_is_rewound_and_follows<G: Ground>(ground: G) {
    found_a_pair(&ground).await;
    promote(&ground, 2, 2).await;
    assert_eq!(ground.write(1, 100, PATIENCE).await, Wrote::Acknowledged);
    assert_eq!(ground.write(2, 2, PATIENCE).await, Wrote::Acknowledged);
    let server = ground.server(1);
    server.stop(StopHow::Fast).await.unwrap();
    let report = server.rewind(&upstream(&ground, 2, 2)).await.unwrap();
    assert!(report.diverged_to > report.diverged_from, "{report:?}");
    server.start(&StartAs::Standby { upstream: None }).await.unwrap();
    follow(&ground, 1, 2, 2).await;
    until_rows(&ground, 1, &[1, 2]).await;
    let (former, present) =
        (server.observe().await.unwrap(), ground.server(2).observe().await.unwrap());
    assert_eq!(former.history, present.history);
}

/// A rewind recovers a crashed directory by itself first. Whoever looks meanwhile sees no server:
/// none that could serve anybody, and none that has to be ended.
pub(crate) async fn a_rewind_under_way_is_never_taken_for_a_server<G: Ground>(ground: G) {
    found_a_pair(&ground).await;
    promote(&ground, 2, 2).await;
    assert_eq!(ground.write(1, 100, PATIENCE).await, Wrote::Acknowledged);
    assert_eq!(ground.write(2, 2, PATIENCE).await, Wrote::Acknowledged);
    let server = ground.server(1);
    server.stop(StopHow::Immediate).await.unwrap();
    let source = upstream(&ground, 2, 2);
    let looking = async {
        loop {
            // Files that are half written are no answer, and no server either.
            if let Ok(seen) = server.observe().await {
                assert!(matches!(seen.process, Process::Down { .. }), "{:?}", seen.process);
            }
            ground.sleep(Duration::from_millis(2)).await;
        }
    };
    match select(std::pin::pin!(server.rewind(&source)), std::pin::pin!(looking)).await {
        Either::Left((outcome, _)) => outcome.unwrap(),
        Either::Right((never, _)) => never,
    };
    server.start(&StartAs::Standby { upstream: None }).await.unwrap();
    follow(&ground, 1, 2, 2).await;
    until_rows(&ground, 1, &[1, 2]).await;
}

pub(crate) async fn a_crashed_primary_comes_back_in_its_place_and_shut<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    let server = ground.server(1);
    let before = server.observe().await.unwrap();
    server.stop(StopHow::Immediate).await.unwrap();
    let down = server.observe().await.unwrap();
    assert_eq!((down.process, down.flushed), (Process::Down { clean: false }, None));
    assert_eq!((down.system, down.side), (before.system, Side::Primary));
    let epoch = Epoch(1);
    server.start(&StartAs::Primary { epoch, sync: SyncNames::default() }).await.unwrap();
    let seen = server.observe().await.unwrap();
    assert_eq!(seen.history, before.history);
    assert!(!seen.admits && seen.flushed >= before.flushed);
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Refused);
    server.admit().await.unwrap();
    assert_eq!(ground.rows(1).await, [1]);
}

/// A server that recovered by itself would show clients what no standby has.
pub(crate) async fn a_primary_that_loses_a_session_lets_nobody_in_by_itself<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    ground.kill_a_session(1).await;
    let down = |seen: &Observation| matches!(seen.process, Process::Down { clean: false });
    until(&ground, 1, "is down", down).await;
    ground.sleep(BRIEFLY).await;
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Refused);
    let how = StartAs::Primary { epoch: Epoch(1), sync: SyncNames::default() };
    ground.server(1).start(&how).await.unwrap();
    ground.server(1).admit().await.unwrap();
    assert_eq!(ground.rows(1).await, [1]);
}

/// What was in force once is not, whatever the node wrote down.
pub(crate) async fn a_configuration_that_somebody_else_took_away_is_brought_back<G: Ground>(
    ground: G,
) {
    let wanted = sync(1, 1, &[2]);
    found(&ground, 1, wanted.clone()).await;
    let server = ground.server(1);
    assert_eq!(ground.write(1, 1, BRIEFLY).await, Wrote::Silent);
    ground.meddle(1).await;
    until(&ground, 1, "shows that it is over", |seen| seen.sync != wanted).await;
    server.set_sync(&wanted).await.unwrap();
    assert_eq!(server.observe().await.unwrap().sync, wanted);
    assert_eq!(ground.write(1, 2, BRIEFLY).await, Wrote::Silent);
}

pub(crate) async fn a_clean_shutdown_leaves_the_standby_with_everything<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    ground.server(1).stop(StopHow::Fast).await.unwrap();
    let down = ground.server(1).observe().await.unwrap();
    assert_eq!(down.process, Process::Down { clean: true });
    let end = down.flushed.expect("a clean shutdown says where it ended");
    ground.server(2).detach().await.unwrap();
    let standby = ground.server(2).observe().await.unwrap();
    assert_eq!(standby.flushed, Some(end));
}

pub(crate) async fn a_start_forgets_the_upstream<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    let server = ground.server(2);
    server.stop(StopHow::Fast).await.unwrap();
    server.start(&StartAs::Standby { upstream: None }).await.unwrap();
    ground.sleep(BRIEFLY).await;
    let seen = server.observe().await.unwrap();
    assert_eq!((seen.side, seen.receiver), (Side::Standby, None));
    until(&ground, 2, "knows its end", |seen| seen.flushed.is_some()).await;
}

pub(crate) async fn a_stop_of_a_stopped_server_is_harmless<G: Ground>(ground: G) {
    let server = ground.server(1);
    server.stop(StopHow::Fast).await.unwrap();
    server.stop(StopHow::Immediate).await.unwrap();
    found(&ground, 1, SyncNames::default()).await;
    server.stop(StopHow::Fast).await.unwrap();
    server.stop(StopHow::Fast).await.unwrap();
    server.stop(StopHow::Immediate).await.unwrap();
    assert_eq!(server.observe().await.unwrap().process, Process::Down { clean: true });
}

pub(crate) async fn a_copy_leaves_the_old_directory_aside<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    let stranger = ground.server(2).initialise(Epoch(1)).await.unwrap();
    join(&ground, 2, 1, 1).await;
    until_rows(&ground, 2, &[1]).await;
    assert_ne!(ground.server(2).observe().await.unwrap().system, Some(stranger));
}

/// Otherwise a busy standby would go on confirming for as long as it replays.
pub(crate) async fn a_detach_does_not_wait_for_replay<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    ground.stop_replay(2).await;
    for row in 1..20 {
        assert_eq!(ground.write(1, row, PATIENCE).await, Wrote::Acknowledged);
    }
    let end = ground.server(1).observe().await.unwrap().flushed;
    until(&ground, 2, "has received it all", |seen| seen.flushed >= end).await;
    ground.server(2).detach().await.unwrap();
    let before = ground.server(2).observe().await.unwrap();
    assert_eq!(before.receiver, None);
    assert!(before.replayed < before.flushed && before.flushed >= end);
    assert_eq!(ground.write(1, 20, PATIENCE).await, Wrote::Acknowledged);
    ground.sleep(BRIEFLY).await;
    let after = ground.server(2).observe().await.unwrap();
    assert_eq!((after.receiver, after.flushed), (None, before.flushed));
    // A promotion replays what was received.
    ground.server(2).promote(Epoch(2)).await.unwrap();
    ground.server(2).admit().await.unwrap();
    assert_eq!(ground.rows(2).await, (1..20).collect::<Vec<u64>>());
}

pub(crate) async fn a_restarted_standby_knows_its_end_only_when_it_has_replayed_it<G: Ground>(
    ground: G,
) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    ground.stop_replay(2).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    let end = ground.server(1).observe().await.unwrap().flushed;
    until(&ground, 2, "has received it all", |seen| seen.flushed >= end).await;
    let server = ground.server(2);
    server.stop(StopHow::Fast).await.unwrap();
    let down = server.observe().await.unwrap();
    assert_eq!((down.process, down.flushed), (Process::Down { clean: true }, None));
    assert!(down.complete);
    server.start(&StartAs::Standby { upstream: None }).await.unwrap();
    let seen = until(&ground, 2, "knows its end", |seen| {
        assert!(seen.flushed.is_none() || seen.flushed >= end, "it understates its end");
        seen.flushed.is_some()
    });
    assert_eq!(seen.await.process, Process::Up);
}

pub(crate) async fn a_start_with_an_upstream_streams<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    ground.server(2).clone_from(&upstream(&ground, 1, 1)).await.unwrap();
    let from = Some(upstream(&ground, 1, 1));
    ground.server(2).start(&StartAs::Standby { upstream: from }).await.unwrap();
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 2, &[1]).await;
    let attached = |seen: &Observation| {
        seen.receiver.is_some_and(|r| r.upstream == NodeId(1) && r.epoch == Epoch(1))
    };
    until(&ground, 2, "streams", attached).await;
}

/// It is never asked for, because it would not see that there is something to do.
pub(crate) async fn a_rewind_between_equal_numbers_finds_nothing_to_do<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    for node in [2, 3] {
        join(&ground, node, 1, 1).await;
    }
    ground.server(1).stop(StopHow::Fast).await.unwrap();
    promote(&ground, 2, 2).await;
    promote(&ground, 3, 3).await;
    assert_eq!(ground.write(2, 2, PATIENCE).await, Wrote::Acknowledged);
    for row in 30..40 {
        assert_eq!(ground.write(3, row, PATIENCE).await, Wrote::Acknowledged);
    }
    let server = ground.server(2);
    server.stop(StopHow::Fast).await.unwrap();
    let report = server.rewind(&upstream(&ground, 3, 3)).await.unwrap();
    assert_eq!(report.diverged_from, report.diverged_to);
}

pub(crate) async fn a_rewound_server_needs_what_its_source_wrote_meanwhile<G: Ground>(ground: G) {
    found_a_pair(&ground).await;
    promote(&ground, 2, 2).await;
    assert_eq!(ground.write(1, 100, PATIENCE).await, Wrote::Acknowledged);
    let server = ground.server(1);
    server.stop(StopHow::Fast).await.unwrap();
    let source = upstream(&ground, 2, 2);
    let mut rewind = std::pin::pin!(server.rewind(&source));
    let mut row = 1_000;
    let report = loop {
        let write = std::pin::pin!(ground.write(2, row, PATIENCE));
        match select(rewind.as_mut(), write).await {
            Either::Left((report, _)) => break report.unwrap(),
            Either::Right((wrote, _)) => assert_eq!(wrote, Wrote::Acknowledged),
        }
        row += 1;
    };
    assert!(report.diverged_to > report.diverged_from, "{report:?}");
    let down = server.observe().await.unwrap();
    assert!(!down.complete);
    assert_eq!((down.side, down.flushed), (Side::Standby, None));
    start_behind(&ground, 1, &source).await;
    let seen = server.observe().await.unwrap();
    assert!(seen.complete && seen.process == Process::Up);
    let present = ground.server(2).observe().await.unwrap();
    let end = present.flushed;
    until(&ground, 1, "has the end", |seen| seen.flushed >= end).await;
    assert_eq!(server.observe().await.unwrap().history, present.history);
}

pub(crate) async fn a_crashed_standby_that_diverged_is_rewound<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    for node in [2, 3] {
        join(&ground, node, 1, 1).await;
    }
    ground.server(3).detach().await.unwrap();
    assert_eq!(ground.write(1, 100, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 2, &[100]).await;
    ground.server(1).stop(StopHow::Immediate).await.unwrap();
    promote(&ground, 3, 2).await;
    assert_eq!(ground.write(3, 1, PATIENCE).await, Wrote::Acknowledged);
    let server = ground.server(2);
    server.stop(StopHow::Immediate).await.unwrap();
    server.rewind(&upstream(&ground, 3, 2)).await.unwrap();
    let from = Some(upstream(&ground, 3, 2));
    server.start(&StartAs::Standby { upstream: from }).await.unwrap();
    until_rows(&ground, 2, &[1]).await;
}

pub(crate) async fn an_upstream_far_away_is_followed_and_no_verb_waits_for_it<G: Ground>(
    mut ground: G,
) {
    found(&ground, 1, SyncNames::default()).await;
    let (near, standby) = (upstream(&ground, 1, 1), ground.server(2));
    standby.clone_from(&near).await.unwrap();
    standby.start(&StartAs::Standby { upstream: None }).await.unwrap();
    ground.move_away(1).await;
    let far = upstream(&ground, 1, 1);
    let failed = patiently(&ground, || async {
        let verb = std::pin::pin!(standby.follow(&far));
        let patience = std::pin::pin!(ground.sleep(Duration::from_secs(1)));
        match select(verb, patience).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => panic!("the verb waits for the network"),
        }
    });
    assert!(failed.await > 0, "the way is not far");
    until(&ground, 2, "streams", |seen| seen.receiver.is_some()).await;
    assert_eq!(ground.write(1, 1, EVENTUALLY).await, Wrote::Acknowledged);
    until_rows(&ground, 2, &[1]).await;
}

pub(crate) async fn an_idle_primary_is_heard<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let seen = ground.server(2).observe().await.unwrap();
        longest = longest.max(seen.receiver.unwrap().silent_for);
        ground.sleep(Duration::from_millis(30)).await;
    }
    // A shared machine may keep anybody waiting for a moment.
    assert!(longest < KEEPALIVE + Duration::from_millis(150), "{longest:?}");
}

pub(crate) async fn parameters_are_in_force_or_wait_for_a_restart_and_nonsense_is_refused<
    G: Ground,
>(
    ground: G,
) {
    found(&ground, 1, SyncNames::default()).await;
    let server = ground.server(1);
    let before = server.observe().await.unwrap().parameters;
    let given = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        before.clone().into_iter().chain(pairs).collect()
    };
    let good = given(&[("max_connections", "50"), ("work_mem", "8MB")]);
    server.configure(&good).await.unwrap();
    server.configure(&good).await.unwrap();
    let seen = server.observe().await.unwrap();
    assert_eq!(seen.parameters, good);
    assert_eq!(seen.pending_restart, ["max_connections"]);
    assert!(seen.admits, "nothing else has changed");
    let bad = given(&[("work_mem", "banana")]);
    assert!(!server.configure(&bad).await.unwrap_err().is_transient());
    assert_eq!(server.observe().await.unwrap().parameters, good);
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    server.stop(StopHow::Fast).await.unwrap();
    let fewer = given(&[("work_mem", "8MB")]);
    server.configure(&fewer).await.unwrap();
    let how = StartAs::Primary { epoch: Epoch(1), sync: SyncNames::default() };
    server.start(&how).await.unwrap();
    let seen = server.observe().await.unwrap();
    assert_eq!(seen.parameters, fewer);
    assert!(seen.pending_restart.is_empty());
}

/// 3 is away, and 1 is lost later, each while the log goes round several times on the others.
pub(crate) async fn what_members_lack_is_kept_by_whoever_becomes_primary<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    join(&ground, 3, 1, 1).await;
    let nothing_else = BTreeMap::from([("wal_keep_size".into(), "0".into())]);
    for node in 1..=3 {
        ground.server(node).configure(&nothing_else).await.unwrap();
    }
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 3, &[1]).await;
    let keep = async |node: u64| {
        let others = (1..=3).filter(|other| *other != node).map(NodeId).collect();
        ground.server(node).keep_log_for(&others).await.unwrap();
    };
    keep(1).await;
    keep(2).await;
    ground.server(3).stop(StopHow::Immediate).await.unwrap();
    for row in 2..=6 {
        assert_eq!(ground.write(1, row, PATIENCE).await, Wrote::Acknowledged);
        ground.turn_log_over(1).await;
        until_rows(&ground, 2, &(1..=row).collect::<Vec<_>>()).await;
        ground.turn_log_over(2).await;
        keep(1).await;
        keep(2).await;
    }
    ground.server(2).detach().await.unwrap();
    assert_eq!(ground.write(1, 7, PATIENCE).await, Wrote::Acknowledged);
    ground.server(1).stop(StopHow::Immediate).await.unwrap();
    promote(&ground, 2, 2).await;
    for row in 8..=12 {
        assert_eq!(ground.write(2, row, PATIENCE).await, Wrote::Acknowledged);
        ground.turn_log_over(2).await;
        keep(2).await;
    }
    let rows: Vec<u64> = (1..=6).chain(8..=12).collect();
    ground.server(3).start(&StartAs::Standby { upstream: None }).await.unwrap();
    follow(&ground, 3, 2, 2).await;
    until_rows(&ground, 3, &rows).await;
    ground.server(1).rewind(&upstream(&ground, 2, 2)).await.unwrap();
    ground.server(1).start(&StartAs::Standby { upstream: None }).await.unwrap();
    follow(&ground, 1, 2, 2).await;
    until_rows(&ground, 1, &rows).await;
}
