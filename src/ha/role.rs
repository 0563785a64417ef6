//! What a member's agent is, as far as its Postgres is concerned, and which changes are legal.

use std::fmt;

/// A role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Knows nothing yet, or has nothing to do.
    Idle,
    /// Votes, and keeps no data.
    Witness,
    /// Follows, or prepares to.
    Standby,
    /// Nobody holds primacy: attached to nothing, waiting for an election.
    Detached,
    /// Copies or rewinds its data.
    Rejoining,
    /// Holds primacy and is not primary yet.
    Preparing,
    /// Primary, with a lease.
    Primary,
    /// Ends a Postgres that may not write any more.
    Fencing,
    /// Not a member any more.
    Removed,
}

impl Role {
    /// The legal edges. Everybody may be removed, and nobody is primary without having prepared:
    /// preparing is where the lease, the guard and the synchronous configuration come from.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use Role::{
            Detached, Fencing, Idle, Preparing, Primary, Rejoining, Removed, Standby, Witness,
        };
        match (self, next) {
            (Idle, Primary) => true, // A restarted manager finds its Postgres and its lease alive.
            (Standby | Detached | Rejoining | Fencing | Witness | Removed, Primary) => false,
            (Removed, Standby | Detached | Rejoining | Preparing) => false,
            (Witness, Standby | Detached | Rejoining | Preparing | Fencing) => false,
            (Standby | Detached | Rejoining | Preparing | Primary | Fencing | Removed, Witness) => {
                false
            }
            (Primary, Rejoining) => false, // It is fenced first.
            (
                Idle | Witness | Standby | Detached | Rejoining | Preparing | Primary | Fencing
                | Removed,
                Idle | Witness | Standby | Detached | Rejoining | Preparing | Primary | Fencing
                | Removed,
            ) => true,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Witness => "witness",
            Self::Standby => "standby",
            Self::Detached => "detached",
            Self::Rejoining => "rejoining",
            Self::Preparing => "preparing",
            Self::Primary => "primary",
            Self::Fencing => "fencing",
            Self::Removed => "removed",
        })
    }
}
