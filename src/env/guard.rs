//! The guard: a separate process that ends Postgres when the manager cannot.

use std::future::Future;

use crate::ids::{Epoch, Moment};

/// What the guard was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    /// The primacy whose lease the deadline belongs to.
    pub epoch: Epoch,
    /// When every Postgres process of this machine ends.
    pub deadline: Moment,
    /// When the lease itself ends. The guard only keeps it, for the next manager: the margin
    /// between the two may be another one by then.
    pub until: Moment,
}

/// Why the guard could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// There is no guard process; a Postgres must not become or stay writable without one.
    #[error("the guard process is gone: {0}")]
    Gone(String),
}

/// The guard of this machine. It outlives the manager.
pub trait Guard: Clone + Send + Sync + 'static {
    /// Moves the deadline of an epoch. When it returns, the guard will end Postgres at the deadline
    /// (children first, then the postmaster) unless it is armed again, even if this process is
    /// dead by then. An earlier deadline than the present one of the same epoch changes nothing,
    /// so a repetition or a late delivery is harmless; cancelled, either deadline may be in force.
    fn arm(&self, armed: Armed) -> impl Future<Output = Result<(), GuardError>> + Send;

    /// Forgets the deadline of `epoch`: its Postgres has been seen to end. Naming another epoch
    /// than the armed one changes nothing. Calling twice is harmless.
    fn disarm(&self, epoch: Epoch) -> impl Future<Output = Result<(), GuardError>> + Send;

    /// What the guard holds now; a manager that was restarted learns from it how long the Postgres
    /// that it finds running may still write.
    fn armed(&self) -> impl Future<Output = Result<Option<Armed>, GuardError>> + Send;
}
