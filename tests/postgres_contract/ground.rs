//! What a case may do besides the verbs: write rows, count them, wait.

use std::future::Future;
use std::time::Duration;

use pg_replica::env::{Observation, Postgres, PostgresError, StartAs, SyncNames, Upstream};
use pg_replica::ids::{Epoch, NodeId};
use sim::postgres::CutPromotion;

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// Acknowledged.
    Acknowledged,
    /// Refused, or the connection was.
    Refused,
    /// No answer within the time that a case waits.
    Silent,
}

/// Some machines with a Postgres each, and clients.
pub(crate) trait Ground: Send + Sync {
    /// The kind of server.
    type Server: Postgres;

    /// The server of a machine, numbered from one.
    fn server(&self, node: u64) -> Self::Server;

    /// Where others reach it.
    fn address(&self, node: u64) -> String;

    /// Writes one row on that machine, and waits no longer than `patience`.
    fn write(&self, node: u64, row: u64, patience: Duration) -> impl Future<Output = Wrote> + Send;

    /// The rows that a client reads there, in order.
    fn rows(&self, node: u64) -> impl Future<Output = Vec<u64>> + Send;

    /// Has a standby receive and not replay, until its next start.
    fn stop_replay(&self, node: u64) -> impl Future<Output = ()> + Send;

    /// Has a standby that is told to become primary not do so for long.
    fn hold_back_promotion(&self, node: u64, held: bool) -> impl Future<Output = ()> + Send;

    /// Ends a detached standby in the middle of a promotion, of which so much is left.
    fn cut_promotion(
        &self,
        node: u64,
        epoch: Epoch,
        left: CutPromotion,
    ) -> impl Future<Output = ()> + Send;

    /// A standby that follows nobody is told of another server's newest timeline, and gets nothing
    /// of it: its stream broke off too early.
    fn tell_of(&self, node: u64, other: u64) -> impl Future<Output = ()> + Send;

    /// Stops what tells a server's sessions whom they wait for, or lets it go on.
    fn hold_back_settings(&self, node: u64, held: bool) -> impl Future<Output = ()> + Send;

    /// Somebody who may has the server's commits wait for nobody.
    fn meddle(&self, node: u64) -> impl Future<Output = ()> + Send;

    /// A process of the server's that serves a client is killed.
    fn kill_a_session(&self, node: u64) -> impl Future<Output = ()> + Send;

    /// Every process of a server stands still.
    fn hang(&self, node: u64) -> impl Future<Output = ()> + Send;

    /// From now on the way to that server is so long that a stream is not begun within a second.
    fn move_away(&mut self, node: u64) -> impl Future<Output = ()> + Send;

    /// Replaces the manager of a server, which goes on.
    fn start_manager_anew(&mut self, node: u64);

    /// Has a server get rid of what it may of its log.
    fn turn_log_over(&self, node: u64) -> impl Future<Output = ()> + Send;

    /// Waits.
    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send;
}

/// How long a client waits for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const EVENTUALLY: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) fn sync(epoch: u64, confirmations: u32, standbys: &[u64]) -> SyncNames {
    let standbys = standbys.iter().copied().map(NodeId).collect();
    SyncNames { epoch: Epoch(epoch), confirmations, standbys }
}

pub(crate) fn upstream(ground: &impl Ground, node: u64, epoch: u64) -> Upstream {
    Upstream { node: NodeId(node), address: ground.address(node), epoch: Epoch(epoch) }
}

/// Looks until it is so.
pub(crate) async fn until(
    ground: &impl Ground,
    node: u64,
    what: &str,
    holds: impl Fn(&Observation) -> bool,
) -> Observation {
    let mut waited = Duration::ZERO;
    loop {
        let seen = ground.server(node).observe().await;
        if let Ok(seen) = &seen
            && holds(seen)
        {
            return seen.clone();
        }
        assert!(waited < EVENTUALLY, "never {what}: {seen:?}");
        ground.sleep(LOOK_AGAIN).await;
        waited += LOOK_AGAIN;
    }
}

/// Reads until the rows are these.
pub(crate) async fn until_rows(ground: &impl Ground, node: u64, expected: &[u64]) {
    let mut waited = Duration::ZERO;
    loop {
        let rows = ground.rows(node).await;
        if rows == expected {
            return;
        }
        assert!(waited < EVENTUALLY, "{node} has {rows:?} and not {expected:?}");
        ground.sleep(LOOK_AGAIN).await;
        waited += LOOK_AGAIN;
    }
}

/// A new cluster's first primary, under epoch 1, open to clients.
pub(crate) async fn found(ground: &impl Ground, node: u64, sync: SyncNames) {
    let epoch = Epoch(1);
    ground.server(node).initialise(epoch).await.unwrap();
    ground.server(node).start(&StartAs::Primary { epoch, sync }).await.unwrap();
    ground.server(node).admit().await.unwrap();
}

/// A new standby that streams.
pub(crate) async fn join(ground: &impl Ground, node: u64, primary: u64, epoch: u64) {
    let server = ground.server(node);
    server.clone_from(&upstream(ground, primary, epoch)).await.unwrap();
    server.start(&StartAs::Standby { upstream: None }).await.unwrap();
    follow(ground, node, primary, epoch).await;
}

/// A new cluster of two, the primary with one row and the standby that has it.
pub(crate) async fn found_a_pair(ground: &impl Ground) {
    found(ground, 1, SyncNames::default()).await;
    join(ground, 2, 1, 1).await;
    assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
    until_rows(ground, 2, &[1]).await;
}

/// Calls a verb that speaks with an upstream until that has answered. Returns how often it failed.
pub(crate) async fn patiently<F>(ground: &impl Ground, mut verb: impl FnMut() -> F) -> u32
where
    F: Future<Output = Result<(), PostgresError>>,
{
    let mut failed = 0;
    while let Err(why) = verb().await {
        assert!(why.is_transient() && failed < 20, "{why}");
        failed += 1;
        ground.sleep(LOOK_AGAIN).await;
    }
    failed
}

/// Starts a stopped standby that streams from there as soon as it can.
pub(crate) async fn start_behind(ground: &impl Ground, node: u64, upstream: &Upstream) {
    let how = StartAs::Standby { upstream: Some(upstream.clone()) };
    let server = ground.server(node);
    patiently(ground, || server.start(&how)).await;
}

pub(crate) async fn follow(ground: &impl Ground, node: u64, primary: u64, epoch: u64) {
    let (server, source) = (ground.server(node), upstream(ground, primary, epoch));
    patiently(ground, || server.follow(&source)).await;
    let named = |seen: &Observation| {
        seen.receiver.is_some_and(|r| r.upstream == NodeId(primary) && r.epoch == Epoch(epoch))
    };
    until(ground, node, "streams", named).await;
    let attached = |seen: &Observation| {
        seen.streams.iter().any(|s| s.node == NodeId(node) && s.epoch == Epoch(epoch))
    };
    until(ground, primary, "has the standby", attached).await;
}

pub(crate) async fn promote(ground: &impl Ground, node: u64, epoch: u64) {
    ground.server(node).detach().await.unwrap();
    ground.server(node).promote(Epoch(epoch)).await.unwrap();
    ground.server(node).admit().await.unwrap();
}
