//! **I5 self-fencing.** A primary out of touch with the quorum for longer than its lease
//! acknowledges nothing.
//!
//! Checked on every acknowledgement: the server was given a lease for the epoch, and that lease is
//! not over in true time. Checked whenever all servers are looked at, among others right after the
//! end of each lease: none could acknowledge beyond its own. The world counts a lease from the
//! instant at which it saw the renewal request go that was answered, with the holder's own clock,
//! for as long as the settings say; what the product believes of it is not asked. The tolerance is
//! zero. Where the guarantee table excuses the server at that moment (its whole host was frozen and
//! no commit fence is loaded, say), the commit is counted instead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::ids::{Epoch, NodeId};

use crate::witness::Acknowledged;

use super::view::Excuses;
use super::{Findings, Invariant, WorldView};

/// The check, and the leases for whoever else asks.
#[derive(Debug, Default)]
pub(super) struct SelfFencing {
    until: BTreeMap<(NodeId, Epoch), Duration>,
    /// Told once for each.
    told: BTreeSet<(NodeId, Epoch)>,
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

    /// When the last lease of `node` ends.
    pub(super) fn last_end(&self, node: NodeId) -> Option<Duration> {
        let own = self.until.iter().filter(|((holder, _), _)| *holder == node);
        own.map(|(_, until)| *until).max()
    }

    /// The next end of a lease after `at`.
    pub(super) fn next_end(&self, at: Duration) -> Option<Duration> {
        self.until.values().copied().filter(|until| *until > at).min()
    }

    pub(super) fn look(
        &mut self,
        at: Duration,
        view: &WorldView,
        excuses: &Excuses,
        findings: &mut Findings,
    ) {
        for server in view.servers.iter().filter(|server| server.could_acknowledge) {
            let Some(epoch) = server.primary_epoch else { continue };
            let held = self.until(server.node, epoch).is_some_and(|until| at <= until);
            if held || excuses.cover(server.node, at) || !self.told.insert((server.node, epoch)) {
                continue;
            }
            let what = match self.until(server.node, epoch) {
                Some(until) => format!(
                    "{} could acknowledge {} ms after its lease for {epoch} had ended",
                    server.node,
                    at.saturating_sub(until).as_micros() as f64 / 1_000.0
                ),
                None => format!(
                    "{} could acknowledge in {epoch}, for which it never got a lease",
                    server.node
                ),
            };
            findings.broken(Invariant::I5, at, what);
        }
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
            findings.late();
        } else {
            findings.broken(Invariant::I5, ack.at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_broken, assert_kept, commit, ms, primary};
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
    fn a_server_that_is_willing_after_its_lease_is_seen_once() {
        let (mut check, mut findings) = (SelfFencing::default(), Findings::default());
        check.lease(NodeId(1), Epoch(1), ms(2_000));
        let view = WorldView { servers: vec![primary(1, 1)] };
        check.look(ms(2_000), &view, &Excuses::default(), &mut findings);
        assert_kept(&findings);
        assert_eq!(check.next_end(ms(1_999)), Some(ms(2_000)));
        assert_eq!(check.next_end(ms(2_000)), None);
        check.look(ms(2_001), &view, &Excuses::default(), &mut findings);
        check.look(ms(2_100), &view, &Excuses::default(), &mut findings);
        assert_broken(&findings, Invariant::I5, "could acknowledge 1 ms after its lease for e1");
    }

    #[test]
    fn a_late_commit_that_is_not_promised_away_is_counted() {
        let window = Window {
            node: Some(NodeId(1)),
            excuse: Excuse::HostFrozenWithClock,
            from: ms(1_000),
            until: ms(4_000),
        };
        let findings =
            acknowledged_at(2_500, &Excuses { windows: vec![window], ..Excuses::default() });
        assert_kept(&findings);
        assert_eq!(findings.late_acknowledgements, 1);
    }
}
