//! Everything that a node needs from outside, as traits and nothing else.
//!
//! Production implements them with the operating system (`os`), the simulator with a world of its
//! own. Whatever is random, every instant, every byte to a disk or to another machine goes through
//! here; the rest of the house cannot tell which of the two it lives in.

mod clock;
mod disk;
mod entropy;
mod guard;
mod network;
mod postgres;

pub use clock::Clock;
pub use disk::{Disk, DiskError};
pub use entropy::Entropy;
pub use guard::{Armed, Guard, GuardError};
pub use network::{Incoming, Network, NetworkError, Peer, ReplyTo};
pub use postgres::{
    KEEPALIVE, OBSERVE_WITHIN, Observation, Outcome, Postgres, PostgresError, Process,
    ReceiverState, RewindReport, SOURCE_WITHIN, STANDBY_SILENT_FOR_MAX, Side, StartAs, StopHow,
    StreamState, SyncNames, TimelineBirth, Upstream,
};

/// The bundle. `Rt` is the task runtime in the form that the consensus library asks for; the node's
/// own loops spawn and sleep through it too, so that there is one source of both.
pub trait Env: Clone + Send + Sync + 'static {
    /// Tasks, timers and channels.
    type Rt: openraft_rt::AsyncRuntime + Send + Sync;
    /// Time.
    type Clock: Clock;
    /// Messages between members.
    type Network: Network;
    /// Files of the node itself (never those of Postgres).
    type Disk: Disk;
    /// The database server on this machine.
    type Postgres: Postgres;
    /// The process that ends Postgres when nobody else does.
    type Guard: Guard;
    /// Randomness.
    type Entropy: Entropy;

    /// This machine's clock.
    fn clock(&self) -> &Self::Clock;
    /// The network as seen from this machine.
    fn network(&self) -> &Self::Network;
    /// This machine's disk.
    fn disk(&self) -> &Self::Disk;
    /// This machine's Postgres.
    fn postgres(&self) -> &Self::Postgres;
    /// This machine's guard.
    fn guard(&self) -> &Self::Guard;
    /// This machine's randomness.
    fn entropy(&self) -> &Self::Entropy;
}
