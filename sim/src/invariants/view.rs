//! What the oracle is shown besides facts: all servers at once, and what this run may not promise.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_replica::control::OrderOutcome;
use pg_replica::env::Side;
use pg_replica::ids::{Epoch, NodeId, WalPosition};

/// One server, as it is at this instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerView {
    /// The server.
    pub node: NodeId,
    /// Whether a commit that a client asked for now would be acknowledged: the process runs, is
    /// out of recovery, lets clients in, its commit fence (where there is one) does not refuse, and
    /// where it waits for confirmations enough standbys are attached under its own epoch's name
    /// and can still be reached.
    pub could_acknowledge: bool,
    /// The epoch under which it runs as primary; `None` where it does not.
    pub primary_epoch: Option<Epoch>,
    /// Whether its commits wait for standbys.
    pub synchronous: bool,
    /// Its side.
    pub side: Side,
    /// Whether its process answers.
    pub up: bool,
    /// Where its directory ends.
    pub position: Option<WalPosition>,
    /// The server it streams from.
    pub streaming_from: Option<NodeId>,
    /// How many bytes of its upstream's log it has not replayed.
    pub lag_bytes: u64,
    /// Whether it was given the parameters that the cluster's settings ask for.
    pub configured: bool,
}

/// All servers at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorldView {
    /// In the order of their numbers.
    pub servers: Vec<ServerView>,
}

/// What this run may promise, from the guarantee table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promise {
    /// Whether Postgres checks the lease itself before it acknowledges.
    pub commit_fence: bool,
}

/// A fault after which the guarantee table promises less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excuse {
    /// The whole host was frozen past the end of its lease, guard included; its clock went on.
    HostFrozen,
    /// The whole host was frozen and its clock with it.
    HostFrozenWithClock,
    /// Some clock ran faster or slower than the bound allows. It concerns every node, because a
    /// lease is measured by one clock and waited for by another.
    ClockBeyondRate,
}

/// A window of true time in which an excuse counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) node: Option<NodeId>,
    pub(super) excuse: Excuse,
    pub(super) from: Duration,
    pub(super) until: Duration,
}

/// The windows of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Excuses {
    pub(super) promise: Promise,
    pub(super) windows: Vec<Window>,
}

impl Excuses {
    /// Whether the table leaves it open that `node` acknowledges without waiting for standbys at
    /// `at` although it may no longer.
    pub(super) fn cover(&self, node: NodeId, at: Duration) -> bool {
        self.windows.iter().any(|window| {
            let concerns = window.node.is_none_or(|n| n == node);
            let in_time = window.from <= at && at <= window.until;
            let counts = match window.excuse {
                // The commit fence reads a clock that went on: it refuses after the thaw.
                Excuse::HostFrozen => !self.promise.commit_fence,
                Excuse::HostFrozenWithClock | Excuse::ClockBeyondRate => true,
            };
            concerns && in_time && counts
        })
    }
}

/// Faults have ended for a part of the cluster: from here on it has to recover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healed {
    /// When, in true time.
    pub at: Duration,
    /// How long the recovery may take.
    pub within: Duration,
    /// The servers that run, reach each other and are members that keep data.
    pub servers: BTreeSet<NodeId>,
}

/// What an operator was told about an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderAnswer {
    /// How it ended, or that it is under way.
    Known(OrderOutcome),
    /// Nobody could tell.
    Unknown,
}
