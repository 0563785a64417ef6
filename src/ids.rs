//! The small words of the house: identifiers, positions and instants as types of their own.
//!
//! A bare `u64` never crosses a module boundary, because a term, an epoch and a log position
//! that are mixed up compile well and lose data.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// A member's number, chosen by the operator and never used twice in a cluster's life.
    NodeId(u64), "n"
);
number!(
    /// The number of a primacy. Grows by one per decision; zero means that none was ever given.
    Epoch(u64), "e"
);
number!(
    /// Raft's term. It belongs to the control plane alone and is never compared with an epoch.
    Term(u64), "t"
);
number!(
    /// Postgres's timeline number. It says nothing without the epoch in which it was born.
    Timeline(u32), "tl"
);
number!(
    /// Postgres's system identifier, written by `initdb`.
    SystemId(u64), "sys"
);
number!(
    /// The identity of a member's local store, drawn when the store is created. A member that
    /// lost its disk comes back with another incarnation and is not taken for the old one.
    Incarnation(u64), "inc"
);
number!(
    /// An operator's command, named by whoever sent it, so that a repetition is recognised. A name
    /// begins with the time of day: later orders have greater names, and one that is older than all
    /// that the cluster remembers is known to be old.
    CommandId(u64), "c"
);
number!(
    /// The number of an action of the core; a result that names an older one is dropped.
    ActionId(u64), "a"
);

impl ActionId {
    /// The number after `last`, which it becomes.
    pub(crate) fn following(last: &mut u64) -> Self {
        *last += 1;
        Self(*last)
    }
}

impl Epoch {
    /// The epoch that the next decision creates.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A position in the write-ahead log, in bytes, as Postgres counts it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes `self` is ahead of `other`; zero when it is not.
    #[must_use]
    pub fn ahead_of(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl CommandId {
    /// How much of a name is drawn, below the milliseconds of the wall clock. Every reader of JSON
    /// can hold the whole.
    const DRAWN_BITS: u32 = 11;

    /// A fresh name at this wall time, with a random number to tell it from others.
    #[must_use]
    pub fn fresh(wall_ms: u64, drawn: u64) -> Self {
        Self((wall_ms << Self::DRAWN_BITS) | (drawn >> (64 - Self::DRAWN_BITS)))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// An instant on one machine's monotonic clock, which counts through suspend.
///
/// It means nothing on another machine: no message carries a `Moment`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The instant `since_start` after the clock's origin.
    #[must_use]
    pub const fn from_origin(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The distance to the clock's origin.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// How long ago `earlier` was; zero when it is still to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `span` before this one, or the origin when that is later.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl Sub<Moment> for Moment {
    type Output = Duration;
    fn sub(self, earlier: Moment) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0.as_secs(), self.0.subsec_millis())
    }
}

/// Where in the write-ahead log a data directory ends, with the birth certificate of its timeline.
///
/// Ordered by the epoch in which the timeline was born first: of two histories the one that the
/// later primacy wrote is the more advanced, whatever its byte count.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WalPosition {
    /// The epoch whose holder created the timeline.
    pub born: Epoch,
    /// The timeline's number.
    pub timeline: Timeline,
    /// The last position known to be on disk.
    pub flushed: Lsn,
}

impl fmt::Display for WalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})@{}", self.timeline, self.born, self.flushed)
    }
}
