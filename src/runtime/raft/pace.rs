//! When the library's clock has to tick.
//!
//! The library looks at its timers dozens of times a second on every member. A follower that has
//! just heard its leader has no timer that could be due, so its clock rests until the leader falls
//! silent. It starts again long before an election could be called for: nothing happens later than
//! it would have. And all that a leader's clock is for are its heartbeats, which it is told to send
//! when they are due.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openraft_rt::Instant;

/// When this member last heard the leader that it follows.
#[derive(Debug)]
pub(super) struct Heard<I>(Mutex<Option<I>>);

/// What the clock does until it is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) ticks: bool,
    /// Whether a heartbeat is due.
    pub(super) beats: bool,
    pub(super) look_again: Duration,
}

impl<I: Instant> Heard<I> {
    /// Nothing yet.
    pub(super) fn nothing() -> Self {
        Self(Mutex::new(None))
    }

    /// A leader was heard just now.
    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(I::now());
    }

    /// For how long none was heard; `None` where none ever was.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|heard| heard.elapsed())
    }
}

/// The pace of a member that leads or does not, and has heard no leader for `silence`.
/// `restful` is shorter than the silence after which anybody may be elected.
pub(super) fn pace(
    leads: bool,
    silence: Option<Duration>,
    restful: Duration,
    heartbeat: Duration,
) -> Pace {
    match silence {
        _ if leads => Pace { ticks: false, beats: true, look_again: heartbeat },
        Some(silence) if silence < restful => {
            Pace { ticks: false, beats: false, look_again: restful - silence }
        }
        Some(_) | None => Pace { ticks: true, beats: false, look_again: heartbeat },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTFUL: Duration = Duration::from_millis(250);
    const HEARTBEAT: Duration = Duration::from_millis(100);

    fn after(leads: bool, silence_ms: Option<u64>) -> Pace {
        pace(leads, silence_ms.map(Duration::from_millis), RESTFUL, HEARTBEAT)
    }

    #[test]
    fn a_follower_that_hears_its_leader_rests_until_it_could_have_fallen_silent() {
        let rest = Pace { ticks: false, beats: false, look_again: Duration::from_millis(190) };
        assert_eq!(after(false, Some(60)), rest);
    }

    #[test]
    fn whoever_hears_nobody_ticks() {
        let work = Pace { ticks: true, beats: false, look_again: HEARTBEAT };
        assert_eq!(after(false, Some(250)), work);
        assert_eq!(after(false, None), work);
    }

    #[test]
    fn whoever_leads_beats_and_does_nothing_else() {
        let lead = Pace { ticks: false, beats: true, look_again: HEARTBEAT };
        assert_eq!(after(true, Some(60)), lead);
        assert_eq!(after(true, None), lead);
    }
}
