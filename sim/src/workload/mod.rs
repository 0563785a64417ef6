//! The clients: what they do, and what they remember of it.
//!
//! A client has a place of its own on the network and knows nothing but the list of hosts. It looks
//! for a writable server, starting with the one that served it last, and stays on that connection
//! while it is open: a patient one even across a cut, because that is what finds a former primary
//! that still answers. Every row is written once; a write without an answer is unknown for ever.
//!
//! The servers are known by two small traits, so that the same clients drive the model and
//! anything else.

mod client;
mod history;
mod register;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pg_replica::ids::NodeId;

use crate::place::Place;
use crate::scenario;
use crate::streams::{Stream, Streams, lock};
use crate::witness::Row;

pub use history::{Ended, History, Operation};
pub use register::{Truth, Untruth, miscounted, untruths};

/// Servers that clients can connect to.
pub trait Servers: Clone + Send + Sync + 'static {
    /// A session.
    type Session: Session;

    /// The true time of the world that they are in.
    fn now(&self) -> Duration;
    /// Waits for so long.
    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send;
    /// Opens a session, or says why not. May wait for ever: the client has a deadline of its own.
    fn connect(
        &self,
        from: Place,
        to: NodeId,
    ) -> impl Future<Output = Result<Self::Session, String>> + Send;
}

/// An open session. Dropping it closes it.
pub trait Session: Send + Sync + 'static {
    /// Writes a row, puts it into the register and commits. May wait for ever.
    fn write(&self, row: Row) -> impl Future<Output = Written> + Send;
    /// Looks at the table; `false` where the session broke. May wait for ever.
    fn read(&self) -> impl Future<Output = bool> + Send;
    /// Whether the server said that it takes writes.
    fn is_writable(&self) -> bool;
    /// Whether the session is known to have ended.
    fn is_broken(&self) -> bool;
}

/// How a write ended, as far as its session knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The server said COMMIT.
    Acknowledged {
        /// The row that the register held until then, where it held one.
        found: Option<Row>,
    },
    /// The server said that nothing was written.
    Refused,
    /// The session ended: the row may be there.
    Broken,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// Writes one row after another.
    Writer,
    /// Looks at the table on a writable server.
    Reader,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// Its number: its place, and the first half of the name of its rows.
    pub number: u32,
    /// What it does.
    pub kind: ClientKind,
    /// The pause between two operations; each one is between half of it and one and a half.
    pub think: Duration,
    /// How long it waits for the answer to a write or a read.
    pub timeout: Duration,
    /// How long it waits for a connection.
    pub connect_timeout: Duration,
    /// How many operations in a row may go without an answer before it lets a connection go that
    /// is still open.
    pub patience: u32,
    /// It then begins its search at the next host, and not at the one that did not answer, which
    /// may still say that it takes writes.
    pub moves_on: bool,
}

impl ClientPlan {
    /// A writer that looks elsewhere at the first sign of trouble: it measures outages well.
    #[must_use]
    pub fn quick_writer(number: u32, think: Duration) -> Self {
        Self {
            number,
            kind: ClientKind::Writer,
            think,
            timeout: Duration::from_millis(250),
            connect_timeout: Duration::from_millis(100),
            patience: 1,
            moves_on: false,
        }
    }

    /// A writer that stays on its connection across a cut of several seconds.
    #[must_use]
    pub fn patient_writer(number: u32, think: Duration) -> Self {
        Self {
            timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(500),
            patience: 10,
            ..Self::quick_writer(number, think)
        }
    }

    /// The clients of a plan, in the order of their numbers: the stale writers first, the readers
    /// last.
    #[must_use]
    pub fn all(plan: &scenario::Workload) -> Vec<Self> {
        let client = |number| {
            if number >= plan.writers {
                Self::reader(number, plan.think)
            } else if number < plan.stale {
                Self::patient_writer(number, plan.think)
            } else {
                Self::quick_writer(number, plan.think)
            }
        };
        (0..plan.clients()).map(client).collect()
    }

    /// A reader.
    #[must_use]
    pub fn reader(number: u32, think: Duration) -> Self {
        Self { kind: ClientKind::Reader, ..Self::patient_writer(number, think) }
    }
}

/// All clients of a run.
#[derive(Clone, Debug)]
pub struct Workload {
    history: Arc<Mutex<History>>,
    stopping: Arc<AtomicBool>,
    streams: Streams,
}

impl Workload {
    /// No clients yet.
    #[must_use]
    pub fn new(streams: Streams) -> Self {
        Self { history: Arc::default(), stopping: Arc::default(), streams }
    }

    /// Starts a client of a simulated world on the machine of whoever calls.
    pub fn start<S: Servers>(&self, servers: &S, plan: ClientPlan, hosts: &[NodeId]) {
        drop(madsim::task::spawn(self.life(servers, plan, hosts)));
    }

    /// All that a client does, for whoever has tasks of another kind.
    pub fn life<S: Servers>(
        &self,
        servers: &S,
        plan: ClientPlan,
        hosts: &[NodeId],
    ) -> impl Future<Output = ()> + Send + use<S> {
        let client = client::Client::new(
            servers.clone(),
            plan.clone(),
            hosts.to_vec(),
            self.stream(plan.number),
            Arc::clone(&self.history),
            Arc::clone(&self.stopping),
        );
        client.run()
    }

    /// Lets every client end after its present operation.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Looks at what the clients remember.
    pub fn history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&lock(&self.history))
    }

    /// Whether a client was told since then that a write is committed.
    pub fn acknowledged_since(&self, from: Duration) -> bool {
        self.history(|history| {
            let last = history.operations().iter().rev().take(64);
            last.into_iter().any(|o| o.ended == Ended::Acknowledged && o.ended_at >= from)
        })
    }

    /// Each client draws from a stream of its own: one client more must not move the others.
    fn stream(&self, client: u32) -> Stream {
        /// The workload's streams begin here; the concern itself has the one before.
        const WORKLOAD_STREAMS: u64 = (5 << 56) + 1;
        Stream::of(self.streams.seed(), WORKLOAD_STREAMS + u64::from(client))
    }
}
