//! One direction between two places: its blocks, its fault, and the lanes that wait for it.

use std::time::Duration;

use crate::place::Place;

use super::lane::LaneRef;

/// When a waiting segment is sent again for the first time, counted from the block.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest pause between two retransmissions: each is twice the one before, up to this.
pub(super) const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// How often in a row a segment can be lost.
pub(super) const RETRIES_MAX: u32 = 30;

/// The two kinds of traffic, so that a fault can cut the managers from each other and leave
/// replication alone, or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// What managers say to each other, and operators to them.
    Node,
    /// Replication and clients.
    Postgres,
}

/// What goes wrong on a link that is not cut.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkFault {
    /// The probability that a packet is lost.
    pub loss: f64,
    /// Added to every packet's time.
    pub extra: Duration,
    /// Added to a packet's time at random, up to this: it reorders.
    pub jitter: Duration,
    /// The probability that a datagram arrives twice.
    pub duplicate: f64,
}

/// A direction, and the port on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) port: Option<Port>,
}

impl Way {
    /// A place never loses touch with itself.
    pub(super) fn is_local(self) -> bool {
        self.from == self.to
    }
}

/// The state of one direction.
#[derive(Default)]
pub(super) struct Link {
    pub(super) fault: LinkFault,
    node: Gate,
    postgres: Gate,
    /// Lanes with segments that found the link cut.
    waiting: Vec<(LaneRef, Option<Port>)>,
}

#[derive(Default)]
struct Gate {
    blocks: u32,
    since: Duration,
}

impl Link {
    pub(super) fn waiting(&self) -> impl Iterator<Item = &(LaneRef, Option<Port>)> {
        self.waiting.iter()
    }

    pub(super) fn block(&mut self, port: Option<Port>, now: Duration) {
        for gate in self.gates(port) {
            if gate.blocks == 0 {
                gate.since = now;
            }
            gate.blocks += 1;
        }
    }

    /// Ends one block and returns the lanes that go on, each with the instant of its next
    /// retransmission.
    pub(super) fn unblock(
        &mut self,
        port: Option<Port>,
        now: Duration,
    ) -> Vec<(LaneRef, Duration)> {
        for gate in self.gates(port) {
            gate.blocks = gate.blocks.saturating_sub(1);
        }
        self.release(now)
    }

    /// Ends every block.
    pub(super) fn open(&mut self, now: Duration) -> Vec<(LaneRef, Duration)> {
        for gate in self.gates(None) {
            gate.blocks = 0;
        }
        self.release(now)
    }

    pub(super) fn is_blocked(&self, port: Option<Port>) -> bool {
        match port {
            Some(Port::Node) => self.node.blocks > 0,
            Some(Port::Postgres) => self.postgres.blocks > 0,
            None => self.node.blocks > 0 || self.postgres.blocks > 0,
        }
    }

    /// Remembers a lane until the link opens.
    pub(super) fn wait(&mut self, lane: LaneRef, port: Option<Port>) {
        self.waiting.push((lane, port));
    }

    fn gates(&mut self, port: Option<Port>) -> Vec<&mut Gate> {
        match port {
            Some(Port::Node) => vec![&mut self.node],
            Some(Port::Postgres) => vec![&mut self.postgres],
            None => vec![&mut self.node, &mut self.postgres],
        }
    }

    fn release(&mut self, now: Duration) -> Vec<(LaneRef, Duration)> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut resumed = Vec::new();
        for (lane, port) in waiting {
            if self.is_blocked(port) {
                self.waiting.push((lane, port));
                continue;
            }
            let since = match port {
                Some(Port::Node) => self.node.since,
                Some(Port::Postgres) => self.postgres.since,
                None => self.node.since.max(self.postgres.since),
            };
            resumed.push((lane, next_retry(since, now)));
        }
        resumed
    }
}

/// The first retransmission at `now` or later, of those that follow a block at `since`.
fn next_retry(since: Duration, now: Duration) -> Duration {
    let mut pause = RETRY_FIRST;
    let mut at = since + pause;
    while at < now {
        pause = (pause * 2).min(RETRY_LONGEST);
        at += pause;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retransmissions_double_up_to_two_seconds() {
        let ms = Duration::from_millis;
        assert_eq!(next_retry(ms(1000), ms(1000)), ms(1200));
        assert_eq!(next_retry(ms(1000), ms(1201)), ms(1600));
        assert_eq!(next_retry(ms(1000), ms(2000)), ms(2400));
        assert_eq!(next_retry(ms(1000), ms(4001)), ms(6000));
        assert_eq!(next_retry(ms(1000), ms(6001)), ms(8000));
    }
}
