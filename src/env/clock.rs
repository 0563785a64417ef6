//! Time.

use std::future::Future;

use crate::ids::Moment;

/// A machine's clocks.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The monotonic clock. It counts while the machine is suspended: a lease that ended during
    /// the sleep has ended (`CLOCK_BOOTTIME`, not `CLOCK_MONOTONIC`).
    fn now(&self) -> Moment;

    /// Milliseconds since 1970 on the wall clock. It jumps; it is for people's eyes only and no
    /// decision reads it.
    fn wall_ms(&self) -> u64;

    /// Returns at `deadline` or later, never earlier. Harmless to cancel.
    fn sleep_until(&self, deadline: Moment) -> impl Future<Output = ()> + Send;
}
