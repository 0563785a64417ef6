//! What a member is at an instant, seen from above: its machine, its node, its lease, its server.
//!
//! Two readers want it: coverage, which counts how many different states of a cluster were seen,
//! and a recording, from which a run is drawn.

use pg_replica::env::{Process, Side};
use pg_replica::ha::Role;
use pg_replica::ids::{Epoch, Term};

/// Whether something runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// It does not exist.
    #[default]
    Gone,
    /// It exists and stands still.
    Still,
    /// It runs.
    Runs,
}

/// How far a lease has come, by its holder's own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeasePhase {
    /// There is none.
    #[default]
    None,
    /// It covers writes.
    Held,
    /// It lasts, and is too short to go on.
    Margin,
    /// It is over.
    Over,
}

/// What a server does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerPhase {
    /// There is no process.
    #[default]
    Down,
    /// It recovers, and answers nobody.
    Starting,
    /// It follows, or could.
    Standby,
    /// Out of recovery, with its doors shut.
    Shut,
    /// Open, and nothing would be acknowledged at this moment.
    Waiting,
    /// A commit would be acknowledged.
    Willing,
    /// It is being stopped.
    Stopping,
    /// It exists and does not move.
    Hung,
}

impl ServerPhase {
    /// From what is known of a server.
    #[must_use]
    pub fn of(process: Process, side: Option<Side>, is_open: bool, is_willing: bool) -> Self {
        match (process, side) {
            (Process::Down { .. }, _) => Self::Down,
            (Process::Starting, _) => Self::Starting,
            (Process::Stopping, _) => Self::Stopping,
            (Process::Hung, _) => Self::Hung,
            (Process::Up, Some(Side::Primary)) if is_willing => Self::Willing,
            (Process::Up, Some(Side::Primary)) if is_open => Self::Waiting,
            (Process::Up, Some(Side::Primary)) => Self::Shut,
            (Process::Up, Some(Side::Standby) | None) => Self::Standby,
        }
    }
}

/// A member at an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The machine.
    pub machine: Life,
    /// The node on it.
    pub manager: Life,
    /// The guard on it.
    pub guard: Life,
    /// What the node says that it is, where it runs.
    pub role: Option<Role>,
    /// Whether it leads the consensus, as far as it knows.
    pub leads: bool,
    /// The newest epoch that it knows.
    pub epoch: Epoch,
    /// The newest term that it knows.
    pub term: Term,
    /// Its lease by its own clock.
    pub lease: LeasePhase,
    /// Whether a lease of it lasts in true time.
    pub lease_truly: bool,
    /// Its server.
    pub server: ServerPhase,
}
