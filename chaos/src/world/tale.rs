//! What was seen of a run, with the world's true times: the judgement's evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::env::SyncNames;
use pg_replica::ids::{CommandId, Lsn, NodeId, SystemId, Timeline};
use serde_json::{Value, json};
use sim::invariants::OrderAnswer;
use sim::report::Violation;
use sim::witness::{Row, Untold};
use sim::workload::{Ended, History, Operation};

/// A commit that somebody was told of.
#[derive(Clone, Debug)]
pub(super) struct Ack {
    pub(super) at: Duration,
    pub(super) server: NodeId,
    pub(super) timeline: Timeline,
    pub(super) lsn: Lsn,
    pub(super) row: Row,
    pub(super) sync: SyncNames,
}

/// A whole machine that stood still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frozen {
    pub(super) node: NodeId,
    pub(super) since: Duration,
    pub(super) until: Duration,
}

/// A member's word on who leads those that decide, and when it was asked for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Led {
    pub(super) at: Duration,
    pub(super) node: NodeId,
    pub(super) term: u64,
    pub(super) leader: NodeId,
}

/// What a reader saw on a primary, as far as nobody had been told of it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) at: Duration,
    pub(super) server: NodeId,
    pub(super) timeline: Timeline,
    /// Whom commits waited for then.
    pub(super) sync: SyncNames,
    pub(super) rows: Vec<Untold>,
}

/// An operator's order.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) id: CommandId,
    pub(super) at: Duration,
    /// When it was answered, and what.
    pub(super) answers: Vec<(Duration, OrderAnswer)>,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Tale {
    /// In the order in which they were told.
    pub(super) acks: Vec<Ack>,
    /// The rows that a server had when it began to acknowledge on a timeline.
    pub(super) beginnings: BTreeMap<(NodeId, Timeline), Vec<Row>>,
    /// What each member said of who leads, whenever it said something new.
    pub(super) led: Vec<Led>,
    /// What readers saw before anybody was told of it.
    pub(super) shown: Vec<Shown>,
    acked: BTreeSet<Row>,
    seen: BTreeSet<(NodeId, Timeline, Row)>,
    /// Where such a timeline left the one before, as its server says.
    pub(super) branches: BTreeMap<(NodeId, Timeline), Lsn>,
    /// Whose data it has, as its server says.
    pub(super) systems: BTreeMap<(NodeId, Timeline), SystemId>,
    /// When the rows were counted: what was told later is no evidence.
    pub(super) counted: Option<Duration>,
    pub(super) frozen: Vec<Frozen>,
    /// Whose disks were lost, and when.
    pub(super) disks_lost: Vec<(NodeId, Duration)>,
    pub(super) asked: Vec<Asked>,
    /// Which clients were out of touch with a majority, from when on.
    pub(super) cut_off: BTreeMap<Duration, BTreeSet<u32>>,
    /// What the nemesis did, and what the run came to.
    pub(super) notes: Vec<(Duration, String)>,
    /// What failed besides the invariants; times count from the clients' beginning.
    pub(super) failed: Vec<Violation>,
}

impl Tale {
    pub(super) fn note_ack(&mut self, ack: Ack) {
        self.acked.insert(ack.row);
        self.acks.push(ack);
    }

    pub(super) fn note_leader(&mut self, at: Duration, node: NodeId, led: (u64, NodeId)) {
        let (term, leader) = led;
        let last = self.led.iter().rev().find(|word| word.node == node);
        if last.is_none_or(|word| (word.term, word.leader) != led) {
            self.led.push(Led { at, node, term, leader });
        }
    }

    pub(super) fn note_shown(&mut self, mut shown: Shown) {
        let (server, timeline) = (shown.server, shown.timeline);
        let Self { acked, seen, .. } = self;
        // A row for which nobody waited promises nothing yet, and may later, once the server waits
        // for somebody: it is told as often as it is seen.
        let held = shown.sync.confirmations > 0;
        shown.rows.retain(|one| {
            let promised = held && one.waited > 0;
            !acked.contains(&one.row) && (!promised || seen.insert((server, timeline, one.row)))
        });
        if !shown.rows.is_empty() {
            self.shown.push(shown);
        }
    }

    /// The last acknowledgement of all.
    pub(super) fn last_ack(&self) -> Option<&Ack> {
        self.acks.last()
    }

    /// Lines for a person, and for a program: what was noted, what the servers acknowledged and
    /// showed, and what the clients asked for and were told, from which their check can be done
    /// again.
    pub(super) fn lines(&self, clients: &History) -> Vec<Value> {
        let ack = |ack: &Ack| {
            json!({
                "at": ack.at.as_secs_f64(), "acknowledged": [ack.row.client, ack.row.number],
                "by": ack.server.0, "timeline": ack.timeline.0, "lsn": ack.lsn.to_string(),
                "waited_for": ack.sync.confirmations,
            })
        };
        let note = |(at, text): &(Duration, String)| json!({"at": at.as_secs_f64(), "note": text});
        let mut lines: Vec<Value> = self.notes.iter().map(note).collect();
        lines.extend(self.acks.iter().map(ack));
        lines.extend(self.shown.iter().map(|shown| {
            let row = |one: &Untold| [u64::from(one.row.client), one.row.number];
            let rows: Vec<[u64; 2]> = shown.rows.iter().map(row).collect();
            json!({
                "at": shown.at.as_secs_f64(), "shown": rows, "by": shown.server.0,
                "timeline": shown.timeline.0,
            })
        }));
        lines.extend(clients.operations().iter().map(told));
        lines.extend(clients.open().into_iter().map(|(row, invoked)| {
            let invoked = invoked.as_secs_f64();
            json!({"at": invoked, "row": [row.client, row.number], "invoked": invoked})
        }));
        let at = |line: &Value| line["at"].as_f64().unwrap_or_default();
        lines.sort_by(|a, b| at(a).total_cmp(&at(b)));
        lines
    }
}

/// What a client was told, in the order of when.
fn told(operation: &Operation) -> Value {
    let Operation { row, server, invoked, ended_at, ended, found } = operation;
    let ended = match ended {
        Ended::Acknowledged => "acknowledged",
        Ended::Refused => "refused",
        Ended::Unknown => "unknown",
    };
    json!({
        "at": ended_at.as_secs_f64(), "row": [row.client, row.number], "by": server.0,
        "invoked": invoked.as_secs_f64(), "ended": ended,
        "found": found.map(|found| [u64::from(found.client), found.number]),
    })
}
