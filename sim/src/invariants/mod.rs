//! I1 to I10, one small file each, and the oracle that feeds them.
//!
//! The oracle stands above the world: it is told facts at the instant they become true, in the
//! order of true time, and it is asked to look at all servers at once about ten times a second.
//! Each check is a struct that takes what it needs and adds a sentence to the [`Findings`] when its
//! invariant is broken. A check never stops a run, never draws a random number and never reads
//! anything of the product's but what the product has already made visible.
//!
//! What the guarantee table does not promise (a host that was frozen together with its clock, say)
//! is measured and reported instead of counted as a violation: see [`Promise`] and [`Excuse`].

mod i01_single_writer;
mod i02_one_holder;
mod i03_durability;
mod i04_bounded_loss;
mod i05_self_fencing;
mod i06_membership;
mod i07_nothing_destroyed;
mod i08_raft;
mod i09_liveness;
mod i10_answers;
mod oracle;
mod rare;
#[cfg(test)]
mod testing;
mod view;

use std::fmt;
use std::time::Duration;

pub use oracle::{GUARD_WAKES_WITHIN, Oracle, Summary};
pub use view::{Excuse, Healed, OrderAnswer, Promise, ServerView, WorldView};

/// How many violations of one run are kept: the first ones explain, the rest repeat them.
const VIOLATIONS_MAX: usize = 32;

/// Which promise. The documentation of each stands at the head of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "docs/safety.md names each, and each has a file of its own")]
pub enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// True time.
    pub at: Duration,
    /// One sentence that a person can follow.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.3}s: {}", self.invariant, self.at.as_secs_f64(), self.what)
    }
}

/// Everything that the checks found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Broken promises, oldest first, the first few of a run.
    pub violations: Vec<Violation>,
    /// How many there were in all.
    pub violations_total: u64,
    /// The longest time for which two servers were willing where the promise leaves that open.
    pub overlap_longest: Duration,
    /// How many commits were acknowledged out of order or after a lease where it does.
    pub late_acknowledgements: u64,
}

impl Findings {
    fn broken(&mut self, invariant: Invariant, at: Duration, what: String) {
        self.violations_total += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { invariant, at, what });
        }
    }

    fn overlap(&mut self, lasted: Duration) {
        self.overlap_longest = self.overlap_longest.max(lasted);
    }

    fn late(&mut self) {
        self.late_acknowledgements += 1;
    }
}
