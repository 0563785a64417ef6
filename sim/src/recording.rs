//! A run that was recorded so that it can be drawn.
//!
//! It holds what was seen and interprets nothing. Times are true time since the world began.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_replica::ids::{Lsn, NodeId, Timeline};

use crate::place::Place;
use crate::seen::Seen;
use crate::trace::Line;
use crate::workload::Operation;

/// A recorded run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// When the clients began: a plan's times, and those of violations, count from here.
    pub began: Duration,
    /// When the run ended.
    pub ended: Duration,
    /// What every member was from when on.
    pub members: BTreeMap<NodeId, Vec<(Duration, Seen)>>,
    /// Where every member's log ended from when on.
    pub positions: BTreeMap<NodeId, Vec<(Duration, Timeline, Lsn)>>,
    /// What the plan's events did.
    pub strikes: Vec<Strike>,
    /// What became of the clients' writes.
    pub operations: Vec<Operation>,
    /// The trace.
    pub lines: Vec<Line>,
}

/// What one event of the plan did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// The event's number in the plan.
    pub event: usize,
    /// When.
    pub at: Duration,
    /// When it was over; `None` is never, or at once.
    pub healed: Option<Duration>,
    /// The members that it hit.
    pub nodes: Vec<NodeId>,
    /// The directions that it cut or disturbed.
    pub ways: Vec<(Place, Place)>,
}

impl Recording {
    /// A member is this from now on.
    pub fn note(&mut self, at: Duration, node: NodeId, seen: Seen) {
        let member = self.members.entry(node).or_default();
        if member.last().is_none_or(|(_, last)| *last != seen) {
            member.push((at, seen));
        }
    }

    /// A member's log ends here from now on.
    pub fn note_position(&mut self, at: Duration, node: NodeId, timeline: Timeline, end: Lsn) {
        let positions = self.positions.entry(node).or_default();
        if positions.last().is_none_or(|(_, line, last)| (*line, *last) != (timeline, end)) {
            positions.push((at, timeline, end));
        }
    }

    /// An event is over.
    pub fn note_healed(&mut self, at: Duration, event: usize) {
        let open = self.strikes.iter_mut().filter(|strike| strike.event == event);
        for strike in open.filter(|strike| strike.healed.is_none()) {
            strike.healed = Some(at);
        }
    }
}
