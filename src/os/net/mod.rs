//! The transport between members: length-prefixed JSON over TCP, with mutual TLS where certificates
//! are configured.
//!
//! A connection opens with a greeting in each direction: the protocol, the cluster, who is there,
//! and on which store. What does not fit ends it with a sentence. After that a caller sends
//! numbered requests, and the answers come in any order under the same numbers. There is one
//! connection per peer and purpose, so that a snapshot never delays a renewal. A connection that
//! breaks, or falls silent while something is awaited from it, is given up, and the next call makes
//! a new one.

mod client;
mod frame;
mod server;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::env::{Incoming, Network, NetworkError, Peer};
use crate::ids::{Incarnation, NodeId};
use crate::runtime::wire::{self, Request, Response};

use super::sockets::{Sockets, Tcp};

use client::Line;
pub use frame::FRAME_MAX;
pub use tls::{Certificates, TlsError, believing_any_member, examine_certificate, member_name};
pub(in crate::os) use tls::{certificates, vouched_for};

/// The version of everything that goes over a connection. Members that speak another one are told
/// so and not listened to.
pub const PROTOCOL: u32 = 1;

/// How many requests may wait for the node before callers are refused.
const INBOX_MAX: usize = 1_024;
/// A stranger who connects has this long to say who it is.
const GREETING_DEADLINE: Duration = Duration::from_secs(2);

/// How soon the same is said again of somebody with whom it still is so.
const COMPLAIN_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Of how many others at most something was said lately.
const COMPLAINTS_MAX: usize = 64;

/// Who this member is to the others.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its number.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: String,
}

/// What a greeting of any version begins with.
#[derive(Deserialize)]
struct Spoken {
    protocol: u32,
}

/// The first frame in each direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Greeting {
    protocol: u32,
    cluster: String,
    /// Who speaks.
    from: NodeId,
    /// The store that the speaker expects the other side to run on (of a caller), or runs on itself
    /// (of a member that answers). Zero is unknown.
    incarnation: Incarnation,
}

/// What is wrong with others and was said: each thing once, until it is over or a while has passed.
#[derive(Debug)]
struct Complaints<I>(Mutex<BTreeMap<String, (String, I)>>);

impl<I> Default for Complaints<I> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<I: Instant> Complaints<I> {
    /// Says what is wrong with `whom`.
    fn say(&self, whom: &str, what: &str) {
        let mut said = lock(&self.0);
        said.retain(|_, (_, at)| at.elapsed() < COMPLAIN_AGAIN_AFTER);
        let is_known = said.get(whom).is_some_and(|(before, _)| before == what);
        // Strangers cannot make it long, and none of them is heard twice within a while.
        if is_known || said.len() >= COMPLAINTS_MAX {
            return;
        }
        tracing::warn!("{whom} {what}");
        said.insert(whom.to_owned(), (what.to_owned(), I::now()));
    }

    /// All is well with `whom`: what comes next is news.
    fn is_over(&self, whom: &str) {
        lock(&self.0).remove(whom);
    }
}

/// How a greeting is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Welcome {
    /// Come in.
    In(Greeting),
    /// The store is another one than was expected.
    WrongIncarnation(Incarnation),
    /// Not here, for this reason.
    Refused(String),
}

/// A numbered request or answer.
#[derive(Debug, Serialize, Deserialize)]
struct Numbered<T> {
    id: u64,
    body: T,
}

/// What a connection is for. Each purpose has its own, so that the slow ones hold up nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// Votes and the log.
    Consensus,
    /// Snapshots, which may be large.
    Snapshot,
    /// Reports and renewals: what a lease hangs on.
    Heartbeat,
    /// Everything that can wait a moment.
    Errand,
}

impl Purpose {
    fn of<Rt: AsyncRuntime + Send + Sync>(request: &Request<Rt>) -> Self {
        match request {
            wire::Request::Append(_)
            | wire::Request::Vote(_)
            | wire::Request::PreVote(_)
            | wire::Request::TransferLeader(_) => Self::Consensus,
            wire::Request::Snapshot { .. } => Self::Snapshot,
            wire::Request::Heartbeat { .. } => Self::Heartbeat,
            wire::Request::Propose(_)
            | wire::Request::Hello
            | wire::Request::Reports
            | wire::Request::Chore(_) => Self::Errand,
        }
    }
}

/// A connection to every address, for every purpose.
type Lines<Rt> = BTreeMap<(String, Purpose), Line<Rt>>;
type Arrived<Rt> = Incoming<Request<Rt>, Response<Rt>>;

struct Inner<S: Sockets> {
    sockets: S,
    identity: Identity,
    tls: Option<Certificates>,
    lines: Mutex<Lines<S::Rt>>,
    arrivals: tokio::sync::Mutex<mpsc::Receiver<Arrived<S::Rt>>>,
    incarnation: OnceLock<Incarnation>,
    complaints: Complaints<<S::Rt as AsyncRuntime>::Instant>,
}

/// The network as this member sees it. Clones share everything.
#[derive(Clone)]
pub struct OsNetwork<S: Sockets = Tcp>(Arc<Inner<S>>);

impl<S: Sockets> fmt::Debug for OsNetwork<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsNetwork({})", self.0.identity.node)
    }
}

impl OsNetwork {
    /// Listens at `listen`, in clear where there are no certificates. Needs a running runtime.
    pub async fn bind(
        identity: Identity,
        listen: SocketAddr,
        tls: Option<Certificates>,
    ) -> io::Result<Self> {
        Ok(Self::on(Tcp, TcpListener::bind(listen).await?, identity, tls))
    }
}

impl<S: Sockets> OsNetwork<S> {
    /// The same over any kind of connections, at a port that is listened at already.
    pub fn on(
        sockets: S,
        listener: S::Listener,
        identity: Identity,
        tls: Option<Certificates>,
    ) -> Self {
        let (inbox, arrivals) = mpsc::channel(INBOX_MAX);
        let network = Self(Arc::new(Inner {
            sockets,
            identity,
            tls,
            lines: Mutex::default(),
            arrivals: tokio::sync::Mutex::new(arrivals),
            incarnation: OnceLock::new(),
            complaints: Complaints::default(),
        }));
        // The listener ends with the last clone of the network.
        drop(S::Rt::spawn(server::listen(listener, Arc::downgrade(&network.0), inbox)));
        network
    }

    fn line(&self, peer: &Peer, purpose: Purpose) -> Line<S::Rt> {
        let mut lines = lock(&self.0.lines);
        // The store is checked by the greeting, so a line to an old store is no line to a new one.
        let key = (format!("{} {}", peer.address, peer.incarnation), purpose);
        lines.retain(|_, line| !line.is_closed());
        let Inner { sockets, identity, tls, .. } = &*self.0;
        let open = || Line::open(sockets.clone(), identity.clone(), tls.clone(), peer.clone());
        lines.entry(key).or_insert_with(open).clone()
    }
}

impl<S: Sockets> Network for OsNetwork<S> {
    type Request = Request<S::Rt>;
    type Response = Response<S::Rt>;

    async fn call(
        &self,
        peer: &Peer,
        request: Request<S::Rt>,
        deadline: Duration,
    ) -> Result<Response<S::Rt>, NetworkError> {
        let purpose = Purpose::of(&request);
        self.line(peer, purpose).call(peer.node, &request, deadline).await
    }

    async fn accept(&self, incarnation: Incarnation) -> Option<Arrived<S::Rt>> {
        // The same store for as long as the process lives.
        let _ = self.0.incarnation.set(incarnation);
        self.0.arrivals.lock().await.recv().await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
