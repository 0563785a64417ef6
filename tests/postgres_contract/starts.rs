//! Cases of servers that are started after something went wrong, or was changed.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::env::{OBSERVE_WITHIN, Postgres, Process, Side, StartAs, StopHow, SyncNames};
use pg_replica::ids::Epoch;
use sim::postgres::CutPromotion;

use super::ground::{
    Ground, PATIENCE, Wrote, found, found_a_pair, join, patiently, start_behind, until, until_rows,
    upstream,
};

/// For how long nothing comes of what is held back.
const BRIEFLY: Duration = Duration::from_secs(1);

/// Whatever a crash leaves of a promotion, the server is none that could be started as a primary:
/// it would go on writing the timeline that was left. It is a standby, with everything that it had,
/// and can be promoted again.
pub(crate) async fn a_promotion_that_is_cut_short_leaves_a_standby<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    let server = ground.server(2);
    for (epoch, left) in (2..).map(Epoch).zip(CutPromotion::ALL) {
        join(&ground, 2, 1, 1).await;
        until_rows(&ground, 2, &[1]).await;
        server.detach().await.unwrap();
        let before = server.observe().await.unwrap();
        ground.cut_promotion(2, epoch, left).await;
        let down = server.observe().await.unwrap();
        assert_eq!((down.side, down.system), (Side::Standby, before.system), "{left:?}");
        assert_eq!(down.process, Process::Down { clean: false }, "{left:?}");
        server.start(&StartAs::Standby { upstream: None }).await.unwrap();
        let seen = until(&ground, 2, "knows its end", |seen| seen.flushed.is_some()).await;
        assert_eq!(seen.side, Side::Standby, "{left:?}");
        assert!(seen.flushed >= before.flushed, "{left:?}: {seen:?}");
        let opened = seen.history.last().map(|birth| birth.born);
        let expected = if left == CutPromotion::Record { epoch } else { Epoch(1) };
        assert_eq!(opened, Some(expected), "{left:?}");
        let birth = server.promote(epoch).await.unwrap();
        let seen = server.observe().await.unwrap();
        assert_eq!((seen.side, seen.history.last()), (Side::Primary, Some(&birth)), "{left:?}");
        assert_eq!(birth.born, epoch, "{left:?}");
        server.admit().await.unwrap();
        assert_eq!(ground.write(2, 2, PATIENCE).await, Wrote::Acknowledged, "{left:?}");
        assert_eq!(ground.rows(2).await, [1, 2], "{left:?}");
        let end = server.observe().await.unwrap();
        assert_eq!(end.history.last(), Some(&birth), "{left:?}");
        server.stop(StopHow::Immediate).await.unwrap();
        let down = server.observe().await.unwrap();
        assert_eq!((down.side, down.history), (Side::Primary, end.history), "{left:?}");
    }
}

/// What a server was told it does, whether or not whoever told it lives: until then it is no
/// standby like another one. One that is started later was told nothing.
pub(crate) async fn a_promotion_is_seen_by_the_next_manager<G: Ground>(mut ground: G) {
    found_a_pair(&ground).await;
    let server = ground.server(2);
    server.detach().await.unwrap();
    assert_eq!(server.observe().await.unwrap().promoting, None);
    ground.hold_back_promotion(2, true).await;
    match select(pin!(server.promote(Epoch(2))), pin!(ground.sleep(BRIEFLY))).await {
        Either::Left((outcome, _)) => panic!("it is not held back: {outcome:?}"),
        Either::Right(((), _)) => {}
    }
    ground.start_manager_anew(2);
    let server = ground.server(2);
    let seen = server.observe().await.unwrap();
    let shown = (seen.process, seen.side, seen.promoting);
    assert_eq!(shown, (Process::Up, Side::Standby, Some(Epoch(2))));
    assert!(seen.may_write() && seen.position().is_none(), "{seen:?}");
    assert!(server.follow(&upstream(&ground, 1, 1)).await.is_err(), "it is about to write");
    assert!(server.promote(Epoch(3)).await.is_err(), "it will be primary of another epoch");
    server.stop(StopHow::Immediate).await.unwrap();
    ground.hold_back_promotion(2, false).await;
    server.start(&StartAs::Standby { upstream: None }).await.unwrap();
    let seen = until(&ground, 2, "knows its end", |seen| seen.flushed.is_some()).await;
    assert_eq!((seen.side, seen.promoting), (Side::Standby, None));
}

/// Whoever waits for a server's answer hears at once that it has ended: its successor need not wait
/// for as long as a look may take.
pub(crate) async fn a_look_at_a_server_that_hangs_ends_with_it<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    let server = ground.server(1);
    ground.hang(1).await;
    assert_eq!(server.observe().await.unwrap().process, Process::Hung);
    let ending = async {
        ground.sleep(OBSERVE_WITHIN / 8).await;
        server.stop(StopHow::Immediate).await.unwrap();
        ground.sleep(OBSERVE_WITHIN / 4).await;
    };
    match select(pin!(server.observe()), pin!(ending)).await {
        // It may have got no answer at all.
        Either::Left((Ok(seen), _)) => assert_ne!(seen.process, Process::Hung),
        Either::Left((Err(why), _)) => assert!(why.is_transient(), "{why}"),
        Either::Right(_) => panic!("the look goes on after the end of its server"),
    }
    server.stop(StopHow::Immediate).await.unwrap();
    assert_eq!(server.observe().await.unwrap().process, Process::Down { clean: false });
}

/// PostgreSQL starts no standby with less of some parameters than the primary had whose log it
/// replays. A lowered one must not keep the standbys down until somebody restarts the primary.
pub(crate) async fn a_standby_starts_with_less_than_its_primary_had<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    join(&ground, 2, 1, 1).await;
    let fewer = BTreeMap::from([("max_connections".to_owned(), "40".to_owned())]);
    for node in [1, 2] {
        patiently(&ground, || async { ground.server(node).configure(&fewer).await }).await;
    }
    let (primary, standby) = (ground.server(1), ground.server(2));
    standby.stop(StopHow::Fast).await.unwrap();
    start_behind(&ground, 2, &upstream(&ground, 1, 1)).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 2, &[1]).await;
    // Once the primary has been restarted with it, so can its standby be.
    primary.stop(StopHow::Fast).await.unwrap();
    let how = StartAs::Primary { epoch: Epoch(1), sync: SyncNames::default() };
    primary.start(&how).await.unwrap();
    primary.admit().await.unwrap();
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 2, &[1, 2]).await;
    standby.stop(StopHow::Fast).await.unwrap();
    start_behind(&ground, 2, &upstream(&ground, 1, 1)).await;
    assert_eq!(ground.write(1, 3, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 2, &[1, 2, 3]).await;
}
