//! **I5 self-fencing.** A primary out of touch with the quorum for longer than its lease
//! acknowledges nothing.
//!
//! Checked on every acknowledgement: the server was given a lease for the epoch, and that lease is
//! not over in true time. The world counts it from the instant at which the last renewal request
//! that was answered had been sent, with the holder's own clock. The tolerance is zero. Where the
//! guarantee table excuses the server at that moment (its whole host was frozen and no commit fence
//! is loaded, say), the overrun is measured instead.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_replica::ids::{Epoch, NodeId};

use crate::witness::Acknowledged;

use super::view::Excuses;
use super::{Findings, Invariant};

/// The check, and the leases for whoever else asks.
#[derive(Debug, Default)]
pub(super) struct SelfFencing {
    until: BTreeMap<(NodeId, Epoch), Duration>,
}

impl SelfFencing {
    /// A renewal was answered: the lease runs to `until` in true time. It never gets shorter.
    pub(super) fn lease(&mut self, node: NodeId, epoch: Epoch, until: Duration) {
        let known = self.until.entry((node, epoch)).or_insert(until);
        *known = until.max(*known);
    }

    /// Until when `node` may act on `epoch`.
    pub(super) fn until(&self, node: NodeId, epoch: Epoch) -> Option<Duration> {
        self.until.get(&(node, epoch)).copied()
    }

    pub(super) fn acknowledged(
        &self,
        ack: &Acknowledged,
        excuses: &Excuses,
        findings: &mut Findings,
    ) {
        let Some(until) = self.until(ack.server, ack.epoch) else {
            findings.broken(
                Invariant::I5,
                ack.at,
                format!(
                    "{} acknowledged row {:?} in {}, for which it never got a lease",
                    ack.server, ack.row, ack.epoch
                ),
            );
            return;
        };
        if ack.at <= until {
            return;
        }
        let late = ack.at.saturating_sub(until);
        let what = format!(
            "{} acknowledged row {:?} {} ms after its lease for {} had ended",
            ack.server,
            ack.row,
            late.as_micros() as f64 / 1_000.0,
            ack.epoch
        );
        if excuses.cover(ack.server, ack.at) {
            findings.overlap(ack.at, late, what);
        } else {
            findings.broken(Invariant::I5, ack.at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_broken, assert_kept, commit, ms};
    use super::super::view::{Excuse, Window};
    use super::*;

    fn acknowledged_at(at_ms: u64, excuses: &Excuses) -> Findings {
        let (mut check, mut findings) = (SelfFencing::default(), Findings::default());
        check.lease(NodeId(1), Epoch(1), ms(2_000));
        check.lease(NodeId(1), Epoch(1), ms(1_500));
        check.acknowledged(&commit(at_ms, 1, 1, 1), excuses, &mut findings);
        findings
    }

    #[test]
    fn a_commit_within_the_lease_is_right() {
        assert_kept(&acknowledged_at(2_000, &Excuses::default()));
    }

    #[test]
    fn a_commit_after_the_lease_is_seen_without_any_tolerance() {
        let findings = acknowledged_at(2_001, &Excuses::default());
        assert_broken(&findings, Invariant::I5, "1 ms after its lease for e1 had ended");
    }

    #[test]
    fn a_commit_without_any_lease_is_seen() {
        let mut findings = Findings::default();
        let check = SelfFencing::default();
        check.acknowledged(&commit(1, 1, 1, 1), &Excuses::default(), &mut findings);
        assert_broken(&findings, Invariant::I5, "never got a lease");
    }

    #[test]
    fn an_overrun_that_is_not_promised_away_is_measured() {
        let window = Window {
            node: Some(NodeId(1)),
            excuse: Excuse::HostFrozenWithClock,
            from: ms(1_000),
            until: ms(4_000),
        };
        let findings =
            acknowledged_at(2_500, &Excuses { windows: vec![window], ..Excuses::default() });
        assert_kept(&findings);
        assert_eq!(findings.overlap_longest, ms(500));
    }
}
