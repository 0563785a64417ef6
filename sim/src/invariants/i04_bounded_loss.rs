//! **I4 bounded loss.** In `async` mode the chosen standby was the most advanced of those that
//! answered, and lag above `max_lag` refuses automatic failover.
//!
//! Checked on every election that took effect: no candidate among its reports is more advanced
//! than the chosen one. Checked at every start as primary: of the acknowledged commits that the
//! new history lacks, those that the former holder could still report lie at most `max_lag` bytes
//! behind the place where the new history parts from theirs. What it acknowledged after the last
//! report of its position that got through, up to the end of its lease, nobody can know of; that
//! part is measured and told, not judged. Exempt from both is a failover that an operator forced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::control::{Command, ControlState, HandoverKind};
use pg_replica::env::{OBSERVE_WITHIN, TimelineBirth};
use pg_replica::ids::{Epoch, Lsn, NodeId, WalPosition};

use crate::witness::{Acknowledged, Row};

use super::{Findings, Invariant};

/// How old a position may be when it was seen: a look at Postgres takes time.
const POSITION_AGE_MAX: Duration = OBSERVE_WITHIN;

#[derive(Clone, Copy, Debug)]
struct Commit {
    at: Duration,
    server: NodeId,
    epoch: Epoch,
    birth: TimelineBirth,
    lsn: Lsn,
}

/// The check.
#[derive(Debug, Default)]
pub(super) struct BoundedLoss {
    commits: BTreeMap<Row, Commit>,
    forced: BTreeSet<Epoch>,
    /// When the position was seen that the last answered report of a holder told.
    located: BTreeMap<(NodeId, Epoch), Duration>,
    /// The largest bound that was in force for an epoch.
    max_lag_bytes: BTreeMap<Epoch, u64>,
    /// Acknowledged rows that a successor lacked.
    pub(super) lost_rows: u64,
    /// The longest stretch of the log that was lost at once.
    pub(super) loss_bytes_max: u64,
}

impl BoundedLoss {
    pub(super) fn control(&mut self, state: &ControlState) {
        let bound = self.max_lag_bytes.entry(state.primacy.epoch).or_default();
        *bound = (*bound).max(state.settings.max_lag_bytes);
        if let Some(handover) = &state.handover
            && handover.kind == (HandoverKind::Failover { accept_data_loss: true })
        {
            self.forced.insert(handover.from);
        }
    }

    /// An election took effect; `state` is the newest control state before it or after it.
    pub(super) fn elected(
        &mut self,
        at: Duration,
        command: &Command,
        state: &ControlState,
        findings: &mut Findings,
    ) {
        let Command::Elect { after, holder, reports, .. } = command else { return };
        if self.forced.contains(after) || !state.is_born() {
            return;
        }
        let Some(Some(chosen)) = reports.get(holder) else {
            findings.broken(
                Invariant::I4,
                at,
                format!("{holder} was elected after {after} without a report of its own"),
            );
            return;
        };
        let best = reports
            .iter()
            .filter(|(node, _)| state.is_candidate(**node))
            .filter_map(|(node, position)| position.map(|p: WalPosition| (p, *node)))
            .max();
        if let Some((position, node)) = best
            && position > *chosen
        {
            findings.broken(
                Invariant::I4,
                at,
                format!(
                    "{holder} at {chosen} was elected after {after}, and {node} had reported \
                     {position}"
                ),
            );
        }
    }

    /// A report was answered that told where the log of the holder of `epoch` was seen to end at
    /// `at`. A server that cannot be looked at is reported with what was seen last.
    pub(super) fn located(&mut self, at: Duration, node: NodeId, epoch: Epoch) {
        let last = self.located.entry((node, epoch)).or_default();
        *last = at.max(*last);
    }

    /// A report was answered that told of no position. Where nothing had been acknowledged yet,
    /// that is the truth of its time; where something had, it tells nothing.
    pub(super) fn told_of_nothing(&mut self, at: Duration, node: NodeId, epoch: Epoch) {
        let its = |commit: &Commit| commit.server == node && commit.epoch == epoch;
        if !self.commits.values().any(|commit| its(commit) && commit.at <= at) {
            self.located(at, node, epoch);
        }
    }

    pub(super) fn acknowledged(&mut self, ack: &Acknowledged) {
        let commit = Commit {
            at: ack.at,
            server: ack.server,
            epoch: ack.epoch,
            birth: ack.birth,
            lsn: ack.lsn,
        };
        self.commits.insert(ack.row, commit);
    }

    /// A server became primary.
    pub(super) fn became_primary(
        &mut self,
        at: Duration,
        began: (NodeId, Epoch, &[TimelineBirth]),
        rows: &[Row],
        findings: &mut Findings,
    ) {
        let (server, epoch, history) = began;
        let present: BTreeSet<&Row> = rows.iter().collect();
        let lost: Vec<(Row, Commit)> = self
            .commits
            .iter()
            .filter(|(row, commit)| commit.epoch < epoch && !present.contains(row))
            .map(|(row, commit)| (*row, *commit))
            .collect();
        let (mut all, mut reportable) = (0, 0);
        let mut forced = false;
        for (row, commit) in &lost {
            self.commits.remove(row);
            let bytes = commit.lsn.ahead_of(parting(history, commit.birth));
            all = bytes.max(all);
            forced |= self.forced.range(commit.epoch..epoch).next().is_some();
            let located = self.located.get(&(commit.server, commit.epoch));
            let known_until = located.map(|left| left.saturating_sub(POSITION_AGE_MAX));
            if known_until.is_none_or(|until| commit.at <= until) {
                reportable = bytes.max(reportable);
            }
        }
        self.lost_rows += lost.len() as u64;
        self.loss_bytes_max = self.loss_bytes_max.max(all);
        let bound = self.max_lag_bytes.range(..epoch).next_back().map(|(_, bytes)| *bytes);
        if let Some(bound) = bound
            && reportable > bound
            && !forced
        {
            findings.broken(
                Invariant::I4,
                at,
                format!(
                    "{server} became primary of {epoch} without {} acknowledged rows, the last of \
                     them {reportable} bytes past where its history parted; max_lag is {bound}",
                    lost.len()
                ),
            );
        }
    }

    /// The end of a run: every acknowledged row is in the last history or was counted as lost.
    pub(super) fn count(
        &self,
        at: Duration,
        server: NodeId,
        epoch: Epoch,
        rows: &[Row],
        findings: &mut Findings,
    ) {
        let present: BTreeSet<&Row> = rows.iter().collect();
        let mut missing = self
            .commits
            .iter()
            .filter(|(row, commit)| commit.epoch <= epoch && !present.contains(row));
        if let Some((row, commit)) = missing.next() {
            findings.broken(
                Invariant::I4,
                at,
                format!(
                    "{} acknowledged rows vanished from {server} without a failover; one is \
                     {row:?} of {}",
                    missing.count() + 1,
                    commit.epoch
                ),
            );
        }
    }
}

/// Where a history parted from the one that ends with `line`: after a stretch of that very
/// timeline, or, where it never was on it, at that timeline's beginning or before.
fn parting(history: &[TimelineBirth], line: TimelineBirth) -> Lsn {
    let left = history.iter().find(|other| other.born > line.born).map(|other| other.begins);
    if history.contains(&line) {
        return left.unwrap_or(line.begins);
    }
    left.map_or(line.begins, |left| left.min(line.begins))
}

#[cfg(test)]
mod tests {
    use pg_replica::control::{Clearance, TimelineRecord};
    use pg_replica::ids::SystemId;

    use super::super::testing::{
        assert_broken, assert_kept, asynchronous, birth, commit, ms, position, rows, state,
    };
    use super::*;

    fn born(max_lag_bytes: u64) -> ControlState {
        let mut born = state(5, 1, None);
        born.system = Some(SystemId(1));
        let record = TimelineRecord { holder: NodeId(1), birth: birth(1, 1, 0) };
        born.timelines.insert(Epoch(1), record);
        born.settings.max_lag_bytes = max_lag_bytes;
        born
    }

    fn elect(holder: u64, reports: &[(u64, u64)]) -> Command {
        Command::Elect {
            after: Epoch(1),
            holder: NodeId(holder),
            sync: asynchronous(2),
            sync_version: 1,
            reports: reports
                .iter()
                .map(|(node, flushed)| (NodeId(*node), Some(position(1, *flushed))))
                .collect(),
            clearance: Clearance::LeaseOver,
        }
    }

    fn failover(max_lag_bytes: u64, located_ms: Option<u64>) -> (BoundedLoss, Findings) {
        let (mut check, mut findings) = (BoundedLoss::default(), Findings::default());
        check.control(&born(max_lag_bytes));
        for number in 1..=5 {
            check.acknowledged(&commit(number * 1_000, 1, 1, number));
        }
        if let Some(left) = located_ms {
            check.located(ms(left), NodeId(1), Epoch(1));
        }
        check.became_primary(
            ms(9_000),
            (NodeId(2), Epoch(2), &[birth(1, 1, 0), birth(2, 2, 200)]),
            &rows(&[1, 2]),
            &mut findings,
        );
        (check, findings)
    }

    #[test]
    fn the_most_advanced_that_answered_is_the_right_choice() {
        let (mut check, mut findings) = (BoundedLoss::default(), Findings::default());
        check.elected(ms(1), &elect(2, &[(2, 100), (3, 100)]), &born(10), &mut findings);
        assert_kept(&findings);
        check.elected(ms(1), &elect(3, &[(2, 101), (3, 100)]), &born(10), &mut findings);
        assert_broken(&findings, Invariant::I4, "n2 had reported");
    }

    #[test]
    fn a_member_that_may_not_be_primary_is_passed_over() {
        let (mut check, mut findings) = (BoundedLoss::default(), Findings::default());
        let mut tagged = born(10);
        tagged.members.get_mut(&NodeId(2)).expect("a member").no_failover = true;
        check.elected(ms(1), &elect(3, &[(2, 101), (3, 100)]), &tagged, &mut findings);
        assert_kept(&findings);
    }

    #[test]
    fn a_loss_within_the_bound_is_measured() {
        let (check, findings) = failover(300, Some(9_000));
        assert_kept(&findings);
        assert_eq!((check.lost_rows, check.loss_bytes_max), (3, 300));
    }

    #[test]
    fn a_loss_above_the_bound_is_seen() {
        let (_, findings) = failover(299, Some(9_000));
        assert_broken(&findings, Invariant::I4, "max_lag is 299");
        let (_, findings) = failover(299, None);
        assert_broken(&findings, Invariant::I4, "max_lag is 299");
    }

    /// A long tail of its own does not make up for what the new primary never had.
    #[test]
    fn a_history_that_never_was_on_the_lost_timeline_parts_where_that_begins() {
        let (mut check, mut findings) = (BoundedLoss::default(), Findings::default());
        check.control(&born(299));
        for number in 3..=5 {
            check.acknowledged(&Acknowledged {
                birth: birth(2, 2, 200),
                ..commit(number * 1_000, 2, 2, number)
            });
        }
        check.located(ms(9_000), NodeId(2), Epoch(2));
        check.became_primary(
            ms(9_000),
            (NodeId(1), Epoch(3), &[birth(1, 1, 0), birth(3, 3, 9_000)]),
            &rows(&[1, 2]),
            &mut findings,
        );
        assert_broken(&findings, Invariant::I4, "max_lag is 299");
    }

    #[test]
    fn what_nobody_could_have_reported_is_measured_and_not_judged() {
        let (check, findings) = failover(250, Some(5_500));
        assert_kept(&findings);
        assert_eq!(check.loss_bytes_max, 300);
    }

    /// A server that is down has no position to tell: what it had acknowledged it has not told.
    #[test]
    fn a_report_of_nothing_tells_that_there_was_nothing_and_no_more() {
        let located = |acknowledged_first: bool| {
            let mut check = BoundedLoss::default();
            if acknowledged_first {
                check.acknowledged(&commit(1_000, 1, 1, 1));
            }
            check.told_of_nothing(ms(2_000), NodeId(1), Epoch(1));
            check.located.get(&(NodeId(1), Epoch(1))).copied()
        };
        assert_eq!(located(false), Some(ms(2_000)));
        assert_eq!(located(true), None);
    }

    #[test]
    fn a_row_that_vanishes_without_a_failover_is_seen() {
        let (check, _) = failover(300, None);
        let mut findings = Findings::default();
        check.count(ms(1), NodeId(2), Epoch(2), &rows(&[1, 2]), &mut findings);
        assert_kept(&findings);
        check.count(ms(1), NodeId(2), Epoch(2), &rows(&[1]), &mut findings);
        assert_broken(&findings, Invariant::I4, "1 acknowledged rows vanished");
    }
}
