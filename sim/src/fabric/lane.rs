//! One direction of a connection: ordered, lossless, and patient while its link is cut.
//!
//! Acknowledgements are not modelled: a lane whose way back is cut still delivers. Whoever needs
//! to notice a silent peer does so by its own deadlines, as over TCP.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::true_now;
use crate::streams::lock;

use super::Fabric;
use super::courier::{Courier, Load};
use super::link::Way;

/// One direction of a connection. Its clones are the same lane.
#[derive(Clone)]
pub struct Lane {
    fabric: Fabric,
    lane: LaneRef,
}

/// What the fabric holds of a lane.
pub(super) type LaneRef = Arc<Mutex<Pipe>>;

pub(super) struct Pipe {
    way: Way,
    segments: VecDeque<Segment>,
    /// Whether the courier or the link will come back to this lane by itself.
    expected: bool,
    /// Nothing arrives before this instant: the last arrival, or the next retransmission.
    not_before: Duration,
    closed: bool,
}

struct Segment {
    arrives_at: Duration,
    deliver: Box<dyn FnOnce() + Send>,
}

impl Lane {
    pub(super) fn new(fabric: Fabric, way: Way) -> Self {
        let pipe = Pipe {
            way,
            segments: VecDeque::new(),
            expected: false,
            not_before: Duration::ZERO,
            closed: false,
        };
        Self { fabric, lane: Arc::new(Mutex::new(pipe)) }
    }

    /// Sends a segment. It arrives after every one that was sent before it, once, unless the lane
    /// is closed first.
    pub fn send(&self, deliver: impl FnOnce() + Send + 'static) {
        let now = true_now();
        let way = lock(&self.lane).way;
        let span = self.fabric.segment_transit(way);
        let mut pipe = lock(&self.lane);
        if pipe.closed {
            return;
        }
        let arrives_at = (now + span).max(pipe.not_before);
        pipe.not_before = arrives_at;
        pipe.segments.push_back(Segment { arrives_at, deliver: Box::new(deliver) });
        if !pipe.expected {
            pipe.expected = true;
            drop(pipe);
            self.fabric.0.courier.add(arrives_at, Load::Lane(self.lane.clone()));
        }
    }

    /// Drops what is under way, and whatever is sent from now on.
    pub fn close(&self) {
        close(&self.lane);
    }

    /// Whether `close` was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.lane).closed
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = lock(&self.lane).way;
        write!(f, "Lane({} -> {})", way.from, way.to)
    }
}

pub(super) fn close(lane: &LaneRef) {
    let dropped = {
        let mut pipe = lock(lane);
        pipe.closed = true;
        std::mem::take(&mut pipe.segments)
    };
    drop(dropped);
}

/// The courier's visit: delivers what is due, or leaves the lane with its link while that is cut.
pub(super) fn carry_on(fabric: &Fabric, lane: &LaneRef) {
    let way = lock(lane).way;
    if fabric.is_blocked(way.from, way.to, way.port) {
        let mut state = lock(&fabric.0.state);
        state.links.entry((way.from, way.to)).or_default().wait(lane.clone(), way.port);
        return;
    }
    loop {
        let mut pipe = lock(lane);
        let Some(arrives_at) = pipe.segments.front().map(|segment| segment.arrives_at) else {
            pipe.expected = false;
            return;
        };
        if arrives_at > true_now() {
            drop(pipe);
            fabric.0.courier.add(arrives_at, Load::Lane(lane.clone()));
            return;
        }
        let due = pipe.segments.pop_front().expect("a segment was seen at the front");
        // Delivered outside the lock: the receiver may answer on a lane, or close this one.
        drop(pipe);
        (due.deliver)();
    }
}

/// The link is open again: everything that waited arrives with the retransmission at `at`.
pub(super) fn resume(courier: &Courier, lane: &LaneRef, at: Duration) {
    {
        let mut pipe = lock(lane);
        for segment in &mut pipe.segments {
            segment.arrives_at = segment.arrives_at.max(at);
        }
        pipe.not_before = pipe.not_before.max(at);
    }
    courier.add(at, Load::Lane(lane.clone()));
}
