//! The network between places, with faults per link and direction.
//!
//! One courier task carries everything: a heap of deliveries in the order of their instants, and
//! of their sending where instants are equal. A datagram is lost while its link is blocked, at
//! either end of its way; a lane is what a TCP connection is in one direction, and waits. It does
//! not know what it carries: a delivery is a closure that enqueues something and returns.

mod courier;
mod lane;
mod link;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::clock::true_now;
use crate::place::Place;
use crate::streams::{Concern, Stream, Streams, lock};

pub use lane::Lane;
pub use link::{LinkFault, Port};

use courier::{Courier, Load};
use link::{Link, Way};

/// The way from a place to itself.
const LOOPBACK: Duration = Duration::from_micros(20);

/// Tells whether anybody still holds a network.
#[derive(Clone, Debug, Default)]
pub struct Remains(Weak<Inner>);

impl Remains {
    /// Whether somebody does.
    #[must_use]
    pub fn are_left(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// The network. Its clones are the same network.
#[derive(Clone)]
pub struct Fabric(Arc<Inner>);

struct Inner {
    courier: Courier,
    stream: Stream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<(Place, Place), link::Link>,
}

impl Fabric {
    /// A network without faults. Called by the supervisor, on whose node the courier lives: no
    /// fault of a machine reaches it.
    #[must_use]
    pub fn new(streams: &Streams) -> Self {
        let fabric = Self(Arc::new(Inner {
            courier: Courier::default(),
            stream: streams.stream(Concern::Network),
            state: Mutex::default(),
        }));
        let weak = Arc::downgrade(&fabric.0);
        drop(madsim::task::spawn(courier::run(weak)));
        fabric
    }

    /// Sends a datagram. It is delivered once, twice or never, and may overtake another. With
    /// `None` it belongs to no port, and a block of either stops it.
    pub fn send(
        &self,
        from: Place,
        to: Place,
        port: impl Into<Option<Port>>,
        deliver: impl FnMut() + Send + 'static,
    ) {
        let way = Way { from, to, port: port.into() };
        let mut deliver: Box<dyn FnMut() + Send> = Box::new(deliver);
        let now = true_now();
        if way.is_local() {
            self.0.courier.add(now + LOOPBACK, Load::Datagram { way, deliver });
            return;
        }
        let fault = self.fault(way);
        let stream = &self.0.stream;
        let lost = stream.chance(fault.loss);
        let twice = stream.chance(fault.duplicate);
        let first = now + transit(stream, &fault);
        let second = now + transit(stream, &fault);
        if lost || self.is_blocked(from, to, way.port) {
            return;
        }
        if twice {
            let shared = Arc::new(Mutex::new(deliver));
            let other = shared.clone();
            deliver = Box::new(move || lock(&shared)());
            let again: Box<dyn FnMut() + Send> = Box::new(move || lock(&other)());
            self.0.courier.add(second, Load::Datagram { way, deliver: again });
        }
        self.0.courier.add(first, Load::Datagram { way, deliver });
    }

    /// Opens one direction of a connection.
    #[must_use]
    pub fn lane(&self, from: Place, to: Place, port: impl Into<Option<Port>>) -> Lane {
        Lane::new(self.clone(), Way { from, to, port: port.into() })
    }

    /// Cuts the link in this direction, for one port or for both. Counted: it opens again when
    /// every block has ended.
    pub fn block(&self, from: Place, to: Place, port: impl Into<Option<Port>>) {
        let now = true_now();
        let mut state = lock(&self.0.state);
        state.links.entry((from, to)).or_default().block(port.into(), now);
    }

    /// Ends one block; harmless where there is none.
    pub fn unblock(&self, from: Place, to: Place, port: impl Into<Option<Port>>) {
        let now = true_now();
        let resumed = match lock(&self.0.state).links.get_mut(&(from, to)) {
            Some(link) => link.unblock(port.into(), now),
            None => Vec::new(),
        };
        self.resume(resumed);
    }

    /// Whether the link is cut in this direction; with `None`, for any of the ports.
    #[must_use]
    pub fn is_blocked(&self, from: Place, to: Place, port: impl Into<Option<Port>>) -> bool {
        if from == to {
            return false;
        }
        let state = lock(&self.0.state);
        state.links.get(&(from, to)).is_some_and(|link| link.is_blocked(port.into()))
    }

    /// Gives the link in this direction a fault, in place of the one that it had.
    pub fn set_link(&self, from: Place, to: Place, fault: LinkFault) {
        lock(&self.0.state).links.entry((from, to)).or_default().fault = fault;
    }

    /// Takes the fault of `set_link` away; blocks stay.
    pub fn clear_link(&self, from: Place, to: Place) {
        self.set_link(from, to, LinkFault::default());
    }

    /// Ends every block and every fault, however often they were set.
    pub fn heal_all(&self) {
        let now = true_now();
        let mut resumed = Vec::new();
        for link in lock(&self.0.state).links.values_mut() {
            link.fault = LinkFault::default();
            resumed.append(&mut link.open(now));
        }
        self.resume(resumed);
    }

    /// To be asked once everybody should have let go of it.
    #[must_use]
    pub fn remains(&self) -> Remains {
        Remains(Arc::downgrade(&self.0))
    }

    /// Ends the network: drops everything under way. What is under way may hold the fabric itself,
    /// so that a run that ends without this leaks it.
    pub fn shut_down(&self) {
        self.0.courier.shut_down();
        let links = std::mem::take(&mut lock(&self.0.state).links);
        for (lane, _) in links.values().flat_map(Link::waiting) {
            lane::close(lane);
        }
    }

    fn fault(&self, way: Way) -> LinkFault {
        let state = lock(&self.0.state);
        state.links.get(&(way.from, way.to)).map_or_else(LinkFault::default, |link| link.fault)
    }

    /// Draws how long a segment of a lane is under way: what would be a loss becomes the delay of
    /// its retransmission.
    fn segment_transit(&self, way: Way) -> Duration {
        if way.is_local() {
            return LOOPBACK;
        }
        let fault = self.fault(way);
        let mut span = transit(&self.0.stream, &fault);
        let mut retry = link::RETRY_FIRST;
        // Bounded, so that a link that loses everything delays for a minute and not for ever.
        for _ in 0..link::RETRIES_MAX {
            if !self.0.stream.chance(fault.loss) {
                break;
            }
            span += retry;
            retry = (retry * 2).min(link::RETRY_LONGEST);
        }
        span
    }

    fn resume(&self, lanes: Vec<(lane::LaneRef, Duration)>) {
        for (lane, at) in lanes {
            lane::resume(&self.0.courier, &lane, at);
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inner")
    }
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fabric")
    }
}

/// Draws how long a packet is under way.
fn transit(stream: &Stream, fault: &LinkFault) -> Duration {
    const TYPICAL: Duration = Duration::from_micros(500);
    const WORST: Duration = Duration::from_millis(25);
    let base = stream.long_tail(TYPICAL, WORST);
    base + fault.extra + stream.between(Duration::ZERO, fault.jitter)
}
