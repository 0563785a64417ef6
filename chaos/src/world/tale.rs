//! What was seen of a run, with the world's true times: the judgement's evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::env::SyncNames;
use pg_replica::ids::{CommandId, Lsn, NodeId, Timeline};
use serde_json::{Value, json};
use sim::invariants::OrderAnswer;
use sim::report::Violation;
use sim::witness::Row;

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
    /// Where such a timeline left the one before, as its server says.
    pub(super) branches: BTreeMap<(NodeId, Timeline), Lsn>,
    /// When the rows were counted: what was told later is no evidence.
    pub(super) counted: Option<Duration>,
    pub(super) frozen: Vec<Frozen>,
    /// Whose disks were lost.
    pub(super) disks_lost: BTreeSet<NodeId>,
    pub(super) asked: Vec<Asked>,
    /// Which clients were out of touch with a majority, from when on.
    pub(super) cut_off: BTreeMap<Duration, BTreeSet<u32>>,
    /// What the nemesis did, and what the run came to.
    pub(super) notes: Vec<(Duration, String)>,
    /// What failed besides the invariants; times count from the clients' beginning.
    pub(super) failed: Vec<Violation>,
}

impl Tale {
    /// The last acknowledgement of all.
    pub(super) fn last_ack(&self) -> Option<&Ack> {
        self.acks.last()
    }

    /// Lines for a person, and for a program.
    pub(super) fn lines(&self) -> Vec<Value> {
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
        let at = |line: &Value| line["at"].as_f64().unwrap_or_default();
        lines.sort_by(|a, b| at(a).total_cmp(&at(b)));
        lines
    }
}
