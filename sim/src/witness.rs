//! What is seen from above: the facts that the simulated world reports to whoever watches.
//!
//! The witness sees every Postgres at once and the true time, which nothing in the product can.
//! It is told facts at the instant they become true, from inside the model, never polled.

use std::time::Duration;

use pg_replica::env::{Side, SyncNames, TimelineBirth};
use pg_replica::ids::{Epoch, Lsn, NodeId, SystemId, Timeline};

/// One row that a client wrote: unique in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The client.
    pub client: u32,
    /// Its running number.
    pub number: u64,
}

/// A commit that a server told its client about.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// True time.
    pub at: Duration,
    /// The server.
    pub server: NodeId,
    /// The epoch under which the server was primary.
    pub epoch: Epoch,
    /// The timeline, and the epoch in which it was born.
    pub birth: TimelineBirth,
    /// The end of the commit record.
    pub lsn: Lsn,
    /// What was written.
    pub row: Row,
    /// The synchronous configuration that it was acknowledged under.
    pub sync: SyncNames,
}

/// A visible row that nobody was told to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untold {
    /// Which.
    pub row: Row,
    /// How many confirmations there were before anybody saw it; none, where nobody waited.
    pub waited: u32,
}

/// A fact.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A commit was acknowledged (at the server, at the instant the answer left).
    Acknowledged(Acknowledged),
    /// A client saw this row on a primary: everything visible to it is listed by its end position.
    Read {
        /// The server.
        server: NodeId,
        /// The epoch under which it was primary.
        epoch: Epoch,
        /// The end of the last visible commit.
        upto: Lsn,
        /// All visible rows that no acknowledgement has mentioned yet.
        unacknowledged: Vec<Untold>,
        /// The synchronous configuration in force.
        sync: SyncNames,
    },
    /// A server came out of recovery, or started as a primary.
    BecamePrimary {
        /// The server.
        server: NodeId,
        /// The epoch.
        epoch: Epoch,
        /// Its timelines, oldest first.
        history: Vec<TimelineBirth>,
        /// The cluster that it belongs to.
        system: SystemId,
        /// Every row in its history, in order.
        rows: Vec<Row>,
    },
    /// A server's process ended, for whatever reason.
    ProcessEnded {
        /// The server.
        server: NodeId,
        /// What it was.
        side: Side,
        /// By whom or what.
        by: &'static str,
    },
    /// A data directory was replaced or removed.
    DirectoryReplaced {
        /// The server.
        server: NodeId,
        /// The rows that the old one had and the new one lacks.
        lost: Vec<Row>,
        /// The ends of the first and the last of their records; equal where there are none.
        span: (Lsn, Lsn),
        /// Whether the old one was set aside.
        kept_aside: bool,
    },
    /// A timeline was extended by a record written under this epoch.
    TimelineCreated {
        /// The server.
        server: NodeId,
        /// The birth.
        birth: TimelineBirth,
        /// The parent.
        parent: Timeline,
    },
    /// The commit fence kept an answer back: the lease had ended.
    CommitRefused {
        /// The server.
        server: NodeId,
        /// The epoch under which it was primary.
        epoch: Epoch,
    },
    /// A standby attached to a primary.
    Attached {
        /// The standby.
        standby: NodeId,
        /// The primary.
        primary: NodeId,
        /// The epoch in the name.
        epoch: Epoch,
    },
}

/// Whoever watches.
pub trait Witness: Send + Sync {
    /// Takes a fact. Must not call back into the world.
    fn fact(&self, fact: Fact);
}
