//! Timers that carry their reason. At most one per reason; setting it again moves it.

use std::collections::BTreeMap;

use crate::ids::Moment;

/// Why the core wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// It is time to look at Postgres, report and renew.
    Heartbeat,
    /// The lease is about to end.
    LeaseEnd,
    /// Something that failed may be tried again, or has taken too long.
    AgentReview,
    /// The coordinator waits for an instant.
    CoordinatorReview,
}

/// The timers of one core.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<Timer, Moment>,
}

impl Timers {
    /// Sets or moves a timer.
    pub(super) fn set(&mut self, timer: Timer, at: Moment) {
        self.due.insert(timer, at);
    }

    /// Sets a timer unless an earlier one is set.
    pub(super) fn set_no_later(&mut self, timer: Timer, at: Moment) {
        let due = self.due.entry(timer).or_insert(at);
        *due = at.min(*due);
    }

    /// Takes a timer away.
    pub(super) fn clear(&mut self, timer: Timer) {
        self.due.remove(&timer);
    }

    /// Takes one timer that is due, the lease's before any other.
    pub(super) fn pop_due(&mut self, now: Moment) -> Option<Timer> {
        let lease = self.due.get(&Timer::LeaseEnd).filter(|at| **at <= now);
        let timer = match lease {
            Some(_) => Timer::LeaseEnd,
            None => self.due.iter().find(|(_, at)| **at <= now).map(|(timer, _)| *timer)?,
        };
        self.due.remove(&timer);
        Some(timer)
    }

    /// When the next timer is due.
    #[must_use]
    pub(super) fn next(&self) -> Option<Moment> {
        self.due.values().min().copied()
    }
}
