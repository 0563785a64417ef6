//! What the clients remember: every write with its true times, and what follows from it.
//!
//! It is the other side of the oracle's view: the oracle sees what servers answered, this sees what
//! arrived. Outages are measured from here, because an outage is what clients notice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::ids::NodeId;

use crate::witness::Row;

/// How a write ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told COMMIT.
    Acknowledged,
    /// It was told that nothing was written.
    Refused,
    /// It was told nothing.
    Unknown,
}

/// A write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What.
    pub row: Row,
    /// Where.
    pub server: NodeId,
    /// When it was sent.
    pub invoked: Duration,
    /// When it was answered or given up.
    pub ended_at: Duration,
    /// How it ended.
    pub ended: Ended,
    /// The row that was in the register, where its client was told COMMIT and there was one.
    pub found: Option<Row>,
}

/// Every write of every client, in the order in which they ended.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    /// When each row was asked for, whether or not that has ended.
    begun: BTreeMap<Row, Duration>,
    reads: u64,
    /// The server that acknowledged last, and since when it has been the only one.
    serving: Option<(NodeId, Duration)>,
    stale_attempts: u64,
}

impl History {
    /// Every write.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// How many reads were answered.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// How many writes were sent on a connection that is older than another server's service: the
    /// client had kept the connection to a former primary.
    #[must_use]
    pub fn stale_attempts(&self) -> u64 {
        self.stale_attempts
    }

    /// How many writes ended like this.
    #[must_use]
    pub fn count(&self, ended: Ended) -> usize {
        self.operations.iter().filter(|operation| operation.ended == ended).count()
    }

    /// The rows whose clients were told that nothing was written: none of them may be there when
    /// the rows are counted.
    #[must_use]
    pub fn refused(&self) -> BTreeSet<Row> {
        let refused = self.operations.iter().filter(|o| o.ended == Ended::Refused);
        refused.map(|operation| operation.row).collect()
    }

    /// The rows of which nothing had been said when the run ended, and when they were asked for.
    #[must_use]
    pub fn open(&self) -> BTreeMap<Row, Duration> {
        let ended: BTreeSet<Row> = self.operations.iter().map(|operation| operation.row).collect();
        let open = self.begun.iter().filter(|(row, _)| !ended.contains(row));
        open.map(|(row, at)| (*row, *at)).collect()
    }

    /// When a row was asked for, if it was.
    #[must_use]
    pub fn begun(&self, row: Row) -> Option<Duration> {
        self.begun.get(&row).copied()
    }

    pub(super) fn begin(&mut self, row: Row, at: Duration) {
        self.begun.insert(row, at);
    }

    pub(super) fn record(&mut self, operation: Operation, connected_since: Duration) {
        if let Some((serving, since)) = self.serving
            && serving != operation.server
            && connected_since < since
            && operation.invoked > since
        {
            self.stale_attempts += 1;
        }
        let changed = self.serving.is_none_or(|(serving, _)| serving != operation.server);
        if operation.ended == Ended::Acknowledged && changed {
            self.serving = Some((operation.server, operation.ended_at));
        }
        self.operations.push(operation);
    }

    pub(super) fn note_read(&mut self) {
        self.reads += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn write(client: u32, server: u64, at: u64, ended: Ended) -> Operation {
        let row = Row { client, number: at };
        let (server, invoked) = (NodeId(server), ms(at - 1));
        Operation { row, server, invoked, ended_at: ms(at), ended, found: None }
    }

    fn sample() -> History {
        let mut history = History::default();
        for at in [100, 200, 300, 1_300, 1_400] {
            history.record(write(1, 1, at, Ended::Acknowledged), ms(0));
        }
        history.record(write(2, 1, 1_450, Ended::Unknown), ms(0));
        history.record(write(2, 1, 1_460, Ended::Refused), ms(0));
        history
    }

    #[test]
    fn outcomes_are_told_apart() {
        let history = sample();
        assert_eq!(history.count(Ended::Acknowledged), 5);
        assert_eq!(history.refused().len(), 1);
        assert_eq!(history.count(Ended::Unknown), 1);
    }

    #[test]
    fn a_write_on_an_old_connection_to_a_former_primary_is_noticed() {
        let mut history = sample();
        history.record(write(1, 2, 2_000, Ended::Acknowledged), ms(1_900));
        assert_eq!(history.stale_attempts(), 0);
        history.record(write(2, 1, 2_100, Ended::Unknown), ms(0));
        assert_eq!(history.stale_attempts(), 1);
        history.record(write(2, 1, 2_300, Ended::Refused), ms(2_200));
        assert_eq!(history.stale_attempts(), 1);
    }
}
