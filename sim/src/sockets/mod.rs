//! TCP between places, over the same fabric: what the product's own transport and HTTP interface
//! run on in the sockets world.
//!
//! A connection is two lanes, so that what is lost on the way is sent again and comes late, and
//! what meets a cut waits for its end. Whatever TCP makes of a machine's troubles happens here: a
//! process that dies closes its connections, a machine that dies tells nobody, one that comes back
//! answers what it does not know with a reset, and one that stands still takes nothing in.

mod connection;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Waker};

use pg_replica::ids::NodeId;
use pg_replica::os::sockets::{IpAddr, Sockets};
use tokio::sync::oneshot;

use crate::fabric::{Fabric, Lane, Port};
use crate::place::Place;
use crate::rt::SimRt;
use crate::scenario::SocketFlaw;
use crate::streams::{Stream, lock};

use connection::Connection;
pub use connection::SimStream;

/// How many connections wait to be accepted; the packets that open more are lost.
const BACKLOG: usize = 128;
/// How many of a thousand segments are cut short where frames are cut.
const CUTS_PER_MILLE: u64 = 30;

/// The name of every simulated cluster.
pub const CLUSTER: &str = "simulated";
/// The members that have certificates are numbered from one to this.
pub const MEMBERS_MAX: u64 = 20;

/// The two ports of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// What members say to each other.
    Peers,
    /// The HTTP interface.
    Pages,
}

/// Every machine's TCP. Its clones are the same.
#[derive(Clone)]
pub struct Wires(Arc<Inner>);

struct Inner {
    fabric: Fabric,
    stream: Stream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    down: bool,
    listening: BTreeMap<(Place, Service), Arc<Backlog>>,
    connections: BTreeMap<Place, Vec<Weak<Connection>>>,
    /// What has come to machines that stand still.
    asleep: BTreeMap<Place, Vec<Box<dyn FnOnce() + Send>>>,
    flaws: BTreeSet<(Place, SocketFlaw)>,
}

#[derive(Default)]
struct Backlog(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    streams: VecDeque<SimStream>,
    acceptor: Option<Waker>,
}

/// A port at which a process listens, until it is dropped.
pub struct SimListener {
    wires: Wires,
    at: (Place, Service),
    backlog: Arc<Backlog>,
}

/// TCP as one place sees it.
#[derive(Clone)]
pub struct SimSockets {
    wires: Wires,
    place: Place,
}

impl Wires {
    /// TCP over `fabric`; `stream` decides what faults leave open.
    #[must_use]
    pub fn new(fabric: Fabric, stream: Stream) -> Self {
        Self(Arc::new(Inner { fabric, stream, state: Mutex::default() }))
    }

    /// As it is seen from `place`.
    #[must_use]
    pub fn at(&self, place: Place) -> SimSockets {
        SimSockets { wires: self.clone(), place }
    }

    /// Listens, in place of whoever did before.
    #[must_use]
    pub fn listen(&self, node: NodeId, service: Service) -> SimListener {
        let at = (Place::Host(node), service);
        let backlog = Arc::<Backlog>::default();
        let before = lock(&self.0.state).listening.insert(at, backlog.clone());
        drop(before);
        SimListener { wires: self.clone(), at, backlog }
    }

    /// A machine has died: it knows nothing of its connections any more.
    pub fn lose(&self, node: NodeId) {
        let place = Place::Host(node);
        let (asleep, lost) = {
            let mut state = lock(&self.0.state);
            // Who is down is no longer standing still with something in its ears.
            let asleep = state.asleep.get_mut(&place).map(std::mem::take);
            (asleep, state.connections.remove(&place))
        };
        drop(asleep);
        for connection in lost.into_iter().flatten().filter_map(|weak| weak.upgrade()) {
            connection.is_lost_at(place);
        }
    }

    /// A machine stands still, and what comes to it waits.
    pub fn freeze(&self, node: NodeId) {
        lock(&self.0.state).asleep.entry(Place::Host(node)).or_default();
    }

    /// It goes on, with everything that has come meanwhile.
    pub fn thaw(&self, node: NodeId) {
        let waited = lock(&self.0.state).asleep.remove(&Place::Host(node));
        waited.into_iter().flatten().for_each(|deliver| deliver());
    }

    /// Switches a flaw of a machine's connections on or off. Returns whether there was anything to
    /// be broken.
    pub fn set_flaw(&self, node: NodeId, flaw: SocketFlaw, on: bool) -> bool {
        let place = Place::Host(node);
        if on {
            lock(&self.0.state).flaws.insert((place, flaw));
        } else {
            lock(&self.0.state).flaws.remove(&(place, flaw));
        }
        if !on || flaw != SocketFlaw::HalfOpen {
            return true;
        }
        let open = lock(&self.0.state).connections.get(&place).cloned().unwrap_or_default();
        let open: Vec<_> = open.iter().filter_map(Weak::upgrade).collect();
        open.iter().for_each(|connection| connection.is_forgotten());
        !open.is_empty()
    }

    /// Whether it is on.
    #[must_use]
    pub fn has_flaw(&self, node: NodeId, flaw: SocketFlaw) -> bool {
        lock(&self.0.state).flaws.contains(&(Place::Host(node), flaw))
    }

    /// Every flaw is over.
    pub fn heal(&self) {
        lock(&self.0.state).flaws.clear();
    }

    /// The end of the run: nothing is sent any more, and whoever waits for anybody is dropped.
    pub fn shut_down(&self) {
        let state = {
            let mut state = lock(&self.0.state);
            std::mem::replace(&mut *state, State { down: true, ..State::default() })
        };
        drop(state);
    }

    fn are_down(&self) -> bool {
        lock(&self.0.state).down
    }

    fn lane(&self, from: Place, to: Place) -> Lane {
        self.0.fabric.lane(from, to, Port::Node)
    }

    fn remember(&self, place: Place, connection: &Arc<Connection>) {
        let mut state = lock(&self.0.state);
        let known = state.connections.entry(place).or_default();
        if known.len() == known.capacity() {
            known.retain(|weak| weak.strong_count() > 0);
        }
        known.push(Arc::downgrade(connection));
    }

    /// Does it now, or when the machine at `place` goes on.
    fn when_awake(&self, place: Place, deliver: impl FnOnce() + Send + 'static) {
        if let Some(waiting) = lock(&self.0.state).asleep.get_mut(&place) {
            waiting.push(Box::new(deliver));
            return;
        }
        deliver();
    }

    fn reads_slowly(&self, place: Place) -> bool {
        let state = lock(&self.0.state);
        state.flaws.contains(&(place, SocketFlaw::SlowReaders))
    }

    /// How much of a segment of so many bytes arrives, where it is the last that does.
    fn cuts_frame(&self, places: [Place; 2], length: usize) -> Option<usize> {
        let state = lock(&self.0.state);
        let cuts = |place: &Place| state.flaws.contains(&(*place, SocketFlaw::CutFrames));
        if !places.iter().any(cuts) || self.0.stream.below(1_000) >= CUTS_PER_MILLE {
            return None;
        }
        // In parts of a thousand, so that it does not hang on the exact length of a signature.
        let parts = usize::try_from(self.0.stream.below(1_000)).unwrap_or_default();
        Some(length * parts / 1_000)
    }

    /// The packet that opens a connection has come to the machine that it was sent to.
    fn knock(
        &self,
        at: (Place, Service),
        stream: SimStream,
        told: oneshot::Sender<io::Result<()>>,
    ) {
        let backlog = lock(&self.0.state).listening.get(&at).cloned();
        let connection = stream.connection().clone();
        let answer = match backlog {
            None => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(backlog) => {
                let mut waiting = lock(&backlog.0);
                if waiting.streams.len() >= BACKLOG {
                    // Lost: the caller hears nothing.
                    return;
                }
                waiting.streams.push_back(stream);
                if let Some(acceptor) = waiting.acceptor.take() {
                    acceptor.wake();
                }
                Ok(())
            }
        };
        let called = connection.clone();
        connection.lane(1).send(move || {
            if told.send(answer).is_err() {
                called.is_given_up();
            }
        });
    }
}

impl Sockets for SimSockets {
    type Rt = SimRt;
    type Stream = SimStream;
    type Listener = SimListener;

    async fn connect(&self, address: &str) -> io::Result<SimStream> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "nobody has this address");
        let to = resolve(address).ok_or_else(unknown)?;
        let (own, other) = Connection::open(&self.wires, self.place, to.0);
        let (told, answered) = oneshot::channel();
        let wires = self.wires.clone();
        own.connection().lane(0).send(move || {
            let then = wires.clone();
            wires.when_awake(to.0, move || then.knock(to, other, told));
        });
        let mut calling = Calling(Some(own));
        match answered.await {
            Ok(answer) => {
                let own = calling.0.take().expect("it was put there above");
                answer.map(|()| own)
            }
            // The packet, or the answer to it, was lost.
            Err(_) => std::future::pending().await,
        }
    }

    async fn accept(listener: &SimListener) -> io::Result<(SimStream, IpAddr)> {
        use pg_replica::os::sockets::Socket;
        let stream = poll_fn(|context| {
            let mut waiting = lock(&listener.backlog.0);
            if let Some(stream) = waiting.streams.pop_front() {
                return Poll::Ready(stream);
            }
            waiting.acceptor = Some(context.waker().clone());
            Poll::Pending
        });
        let stream = stream.await;
        let from = stream.other_address()?;
        Ok((stream, from))
    }
}

/// An attempt to connect. Whoever gives it up sends its packet no more.
struct Calling(Option<SimStream>);

impl Drop for Calling {
    fn drop(&mut self) {
        if let Some(own) = &self.0 {
            own.connection().lane(0).close();
        }
    }
}

/// The address of a member's port.
#[must_use]
pub fn address(node: NodeId, service: Service) -> String {
    match service {
        Service::Peers => node.to_string(),
        Service::Pages => format!("{node}:pages"),
    }
}

fn resolve(address: &str) -> Option<(Place, Service)> {
    let (host, service) = match address.split_once(':') {
        None => (address, Service::Peers),
        Some((host, "pages")) => (host, Service::Pages),
        Some(_) => return None,
    };
    let number = host.strip_prefix('n')?.parse().ok()?;
    Some((Place::Host(NodeId(number)), service))
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = lock(&self.wires.0.state);
        let own = |listening: &Arc<Backlog>| Arc::ptr_eq(listening, &self.backlog);
        if state.listening.get(&self.at).is_some_and(own) {
            state.listening.remove(&self.at);
        }
        drop(state);
        // Whoever waited to be accepted sees the end of the connection.
        let waiting = std::mem::take(&mut lock(&self.backlog.0).streams);
        drop(waiting);
    }
}

impl fmt::Debug for Wires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wires")
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimListener({:?})", self.at)
    }
}

impl fmt::Debug for SimSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSockets({})", self.place)
    }
}
