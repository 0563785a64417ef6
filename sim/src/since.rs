//! Times of a run as people count them: from when its clients began. The cluster is founded before
//! that, and what goes wrong there has a negative time.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A time of a run, from when its clients began; where they never did, from when the world began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since {
    nanos: i128,
}

impl Since {
    /// A time of the world, whose clients began then.
    #[must_use]
    pub fn of(at: Duration, began: Duration) -> Self {
        let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
        Self { nanos: nanos(at) - nanos(began) }
    }

    /// In seconds.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.nanos as f64 / 1e9
    }

    /// As a plan counts, whose events come after the beginning: what came before is at it.
    #[must_use]
    pub fn in_plan(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos.max(0)).unwrap_or(u64::MAX))
    }
}

impl From<Duration> for Since {
    fn from(since: Duration) -> Self {
        Self::of(since, Duration::ZERO)
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.as_secs_f64())
    }
}

impl Serialize for Since {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_the_clients_is_negative_and_no_time_of_a_plan() {
        let founding = Since::of(Duration::from_millis(500), Duration::from_secs(3));
        assert_eq!(founding.to_string(), "-2.500s");
        assert_eq!(founding.in_plan(), Duration::ZERO);
        let later = Since::of(Duration::from_millis(4_250), Duration::from_secs(3));
        assert_eq!(
            (later.to_string(), later.in_plan()),
            ("1.250s".into(), Duration::from_millis(1_250))
        );
        assert!(founding < later && later == Duration::from_millis(1_250).into());
    }
}
