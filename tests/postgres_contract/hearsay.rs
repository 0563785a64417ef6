//! Cases of a standby that an upstream told of its newest timeline, and that has nothing of it.

use pg_replica::env::{Observation, Postgres, StartAs, StopHow, SyncNames};
use pg_replica::ids::Epoch;

use super::ground::{
    Ground, PATIENCE, Wrote, follow, found, join, patiently, promote, sync, until, until_rows,
};

/// 1 was primary, and 2 is primary of epoch 2 now, from further on than where 3 and 4 are: they
/// have one row, and it has two. 3 was told of its timeline. Then 1 and 2 are gone.
async fn one_of_two_is_told(ground: &impl Ground) {
    found(ground, 1, SyncNames::default()).await;
    for standby in [2, 3, 4] {
        join(ground, standby, 1, 1).await;
    }
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    for standby in [3, 4] {
        until_rows(ground, standby, &[1]).await;
        ground.server(standby).detach().await.unwrap();
    }
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Acknowledged);
    until_rows(ground, 2, &[1, 2]).await;
    promote(ground, 2, 2).await;
    ground.tell_of(3, 2).await;
    for gone in [1, 2] {
        ground.server(gone).stop(StopHow::Immediate).await.unwrap();
    }
}

async fn write_a_third_row(ground: &impl Ground, primary: u64, standby: u64) {
    follow(ground, standby, primary, 3).await;
    assert_eq!(ground.write(primary, 3, PATIENCE).await, Wrote::Acknowledged);
    until_rows(ground, standby, &[1, 3]).await;
    let history = ground.server(primary).observe().await.unwrap().history;
    assert!(history.is_sorted_by_key(|birth| birth.begins), "{history:?}");
    let same = |seen: &Observation| seen.history == history;
    until(ground, standby, "has the history of its primary", same).await;
}

/// A server goes by the newest timeline that it was told of, for as long as it runs and after every
/// start, and does not ask again for a history that it has under that number. It would stop where
/// the new primary's timeline begins, and wait there for ever.
pub(crate) async fn who_was_told_of_a_line_that_lost_follows_the_one_that_won<G: Ground>(
    ground: G,
) {
    one_of_two_is_told(&ground).await;
    promote(&ground, 4, 3).await;
    write_a_third_row(&ground, 4, 3).await;
}

/// A server calls the newest timeline that it knows of the parent of its own, and would write that
/// this one ended after its own began. Whoever streams from there is sent what nobody wrote, and
/// confirms it.
pub(crate) async fn no_timeline_begins_before_the_one_that_it_came_after<G: Ground>(ground: G) {
    one_of_two_is_told(&ground).await;
    let told = ground.server(3);
    told.detach().await.unwrap();
    // It forgets by a start, and whom its commits are to wait for with the rest.
    patiently(&ground, || async {
        told.set_sync(&sync(3, 0, &[])).await?;
        told.promote(Epoch(3)).await.map(drop)
    })
    .await;
    told.admit().await.unwrap();
    write_a_third_row(&ground, 3, 4).await;
}

/// A server does not start with a history that left its own line before its end, and the longest
/// log may be there.
pub(crate) async fn a_start_forgets_what_it_was_told<G: Ground>(ground: G) {
    found(&ground, 1, SyncNames::default()).await;
    for standby in [2, 3] {
        join(&ground, standby, 1, 1).await;
    }
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 2, &[1]).await;
    promote(&ground, 2, 2).await;
    assert_eq!(ground.write(1, 2, PATIENCE).await, Wrote::Acknowledged);
    until_rows(&ground, 3, &[1, 2]).await;
    let longest = ground.server(3);
    longest.detach().await.unwrap();
    ground.tell_of(3, 2).await;
    longest.stop(StopHow::Fast).await.unwrap();
    longest.start(&StartAs::Standby { upstream: None }).await.unwrap();
    let seen = until(&ground, 3, "knows its end", |seen| seen.flushed.is_some()).await;
    assert_eq!(seen.history.len(), 1, "{seen:?}");
    let birth = longest.promote(Epoch(3)).await.unwrap();
    assert_eq!(birth.begins, seen.flushed.unwrap());
    assert_eq!(ground.rows(3).await, [1, 2]);
}
