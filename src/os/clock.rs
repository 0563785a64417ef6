//! The machine's clocks.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::env::Clock;
use crate::ids::Moment;

/// The longest stretch that is slept at a time. The timers below do not count while the machine is
/// suspended and this clock does, so a long sleep is taken in pieces and looked at in between.
const STRETCH_MAX: Duration = Duration::from_millis(250);

/// `CLOCK_BOOTTIME`: it counts through a suspend, and nobody can set it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsClock;

/// The monotonic clock, for those who have no environment: the guard.
pub(super) fn boottime() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    // The kernel's clock is never before its origin.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Moment::from_origin(Duration::new(seconds, nanos))
}

impl Clock for OsClock {
    fn now(&self) -> Moment {
        boottime()
    }

    fn wall_ms(&self) -> u64 {
        let time = clock_gettime(ClockId::Realtime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
        seconds * 1_000 + nanos / 1_000_000
    }

    async fn sleep_until(&self, deadline: Moment) {
        loop {
            let left = deadline.since(boottime());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(STRETCH_MAX)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_wakes_up_before_the_deadline() {
        let deadline = OsClock.now() + Duration::from_millis(300);
        OsClock.sleep_until(deadline).await;
        assert!(OsClock.now() >= deadline);
        OsClock.sleep_until(deadline).await;
    }
}
