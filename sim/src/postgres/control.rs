//! What the manager asks of the running process on its own machine.

use pg_replica::env::{PostgresError, SyncNames, TimelineBirth, Upstream};
use pg_replica::ids::{Epoch, Moment};
use tokio::sync::oneshot;

/// Where the answer goes. Dropped, the manager sees its connection break.
pub(super) type Reply<T> = oneshot::Sender<Result<T, PostgresError>>;

/// A command.
pub(super) enum Control {
    /// End recovery.
    Promote(Epoch, Reply<TimelineBirth>),
    /// Stream from there.
    Follow(Upstream, Reply<()>),
    /// Stop streaming.
    Detach(Reply<()>),
    /// Wait for these confirmations.
    SetSync(SyncNames, Reply<()>),
    /// Let clients in.
    Admit(Reply<()>),
    /// Acknowledge commits until then.
    ExtendLease(Epoch, Moment, Reply<bool>),
    /// Shut down.
    StopFast,
}
