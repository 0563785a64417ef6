//! Quorum-sync: which standbys' confirmations count, and when a change of them is complete.
//!
//! A change is joint. The new set is recorded beside the old one, Postgres obeys it, everything
//! that was acknowledged under the old one is seen on the new one, and only then is the old one
//! dropped. Each step is decided afresh from the control state and the primary's last report, so an
//! interruption at any point is harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::control::{Command, ControlState};
use crate::env::SyncNames;
use crate::ids::{Lsn, Moment, NodeId};
use crate::sabotage::{Sabotage, Saboteur};

use super::report::Report;

/// How long a standby may be missing before its confirmations are no longer counted on. Longer than
/// a restart of a standby, so that a maintenance stop does not change the set twice.
const DROP_AFTER: Duration = Duration::from_secs(3);
/// How close a standby must be before its confirmations are counted on: one that is far behind
/// would stall the next failover, not help it.
const JOIN_WITHIN_BYTES: u64 = 1 << 20;

/// What the resolver remembers between two reports of the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SyncWatch {
    /// Since when members of the target do not stream.
    missing_since: BTreeMap<NodeId, Moment>,
    /// Where the primary's log ended when the target was first seen in force, by version.
    mark: Option<(u64, Lsn)>,
}

impl SyncWatch {
    /// The next step, if one is due.
    pub(super) fn next_step(
        &mut self,
        now: Moment,
        control: &ControlState,
        report: &Report,
        sabotage: Sabotage,
    ) -> Option<Command> {
        let holder = control.primacy.holder?;
        let epoch = control.primacy.epoch;
        let target = control.sync.target()?;
        if report.node != holder || !control.timelines.contains_key(&epoch) {
            return None;
        }
        if let Some(node) = self.next_to_join(control, report) {
            return Some(Command::Join { epoch, node });
        }
        self.note_missing(now, control, target, report);
        let version = control.sync.version;
        let joint = control.sync.is_joint();
        if joint && self.is_settled(control, target, report, sabotage) {
            return Some(Command::SettleSync { epoch, version });
        }
        let wanted = self.wanted(now, control, target, report, sabotage);
        // A change under way is replaced only where it cannot complete any more: one more standby
        // can wait for the next change.
        let hopeless = wanted.confirmations != target.confirmations
            || !wanted.standbys.is_superset(&target.standbys);
        let due = if joint { hopeless } else { wanted != *target };
        due.then_some(Command::ProposeSync { epoch, version, target: wanted })
    }

    /// A newcomer counts from when it streams and has nearly all of the log.
    fn next_to_join(&self, control: &ControlState, report: &Report) -> Option<NodeId> {
        let end = report.position?.flushed;
        streaming(control, report)
            .into_iter()
            .find(|(node, flushed)| control.newcomers.contains(node) && is_near(end, *flushed))
            .map(|(node, _)| node)
    }

    fn note_missing(
        &mut self,
        now: Moment,
        control: &ControlState,
        target: &SyncNames,
        report: &Report,
    ) {
        let streaming = streaming(control, report);
        self.missing_since.retain(|node, _| target.standbys.contains(node));
        for node in &target.standbys {
            if streaming.contains_key(node) {
                self.missing_since.remove(node);
            } else {
                self.missing_since.entry(*node).or_insert(now);
            }
        }
    }

    /// Everything acknowledged under an older configuration is on the target's standbys: enough of
    /// them have confirmed the place where the primary's log ended when it began to obey the
    /// target.
    fn is_settled(
        &mut self,
        control: &ControlState,
        target: &SyncNames,
        report: &Report,
        sabotage: Sabotage,
    ) -> bool {
        // A report may be late, and the target may have been in force once before.
        let early = report.version < control.sync.since;
        if early && !sabotage.is(Saboteur::SettleByALateReport) {
            return false;
        }
        if report.sync != *target {
            self.mark = None;
            return false;
        }
        if sabotage.is(Saboteur::SettleBeforeTailConfirmed) {
            return true;
        }
        let Some(end) = report.position.map(|p| p.flushed) else { return false };
        let version = control.sync.version;
        let mark = match self.mark {
            Some((known, mark)) if known == version => mark,
            _ => end,
        };
        self.mark = Some((version, mark));
        let confirmed = streaming(control, report)
            .into_iter()
            .filter(|(node, flushed)| target.standbys.contains(node) && *flushed >= mark)
            .count();
        confirmed >= target.confirmations as usize
    }

    /// Those of the target that stream or are missed only briefly, and those that have caught up;
    /// never fewer than the required confirmations, because a set too small would only pretend.
    fn wanted(
        &self,
        now: Moment,
        control: &ControlState,
        target: &SyncNames,
        report: &Report,
        sabotage: Sabotage,
    ) -> SyncNames {
        let epoch = control.primacy.epoch;
        let mut confirmations = control.confirmations();
        if sabotage.is(Saboteur::DegradeWhenStandbysMissing)
            && streaming(control, report).is_empty()
        {
            confirmations = 0;
        }
        if confirmations == 0 {
            return SyncNames { epoch, confirmations, standbys: BTreeSet::new() };
        }
        let end = report.position.map(|p| p.flushed).unwrap_or_default();
        let streaming = streaming(control, report);
        let eligible = |node: &NodeId| control.is_candidate(*node) && *node != report.node;
        let stays = |node: &NodeId| {
            let missing = self.missing_since.get(node);
            missing.is_none_or(|since| now.since(*since) <= DROP_AFTER)
        };
        let mut standbys: BTreeSet<NodeId> =
            target.standbys.iter().copied().filter(|n| eligible(n) && stays(n)).collect();
        standbys.extend(
            streaming
                .iter()
                .filter(|(n, f)| eligible(n) && is_near(end, **f))
                .map(|(node, _)| *node),
        );
        let fill =
            target.standbys.iter().copied().chain(control.counted()).chain(control.candidates());
        for node in fill.filter(eligible) {
            if standbys.len() >= confirmations as usize {
                break;
            }
            standbys.insert(node);
        }
        SyncNames { epoch, confirmations, standbys }
    }
}

fn is_near(end: Lsn, flushed: Lsn) -> bool {
    end.ahead_of(flushed) <= JOIN_WITHIN_BYTES
}

/// The standbys attached under the present epoch's names, and what they confirmed.
fn streaming(control: &ControlState, report: &Report) -> BTreeMap<NodeId, Lsn> {
    report
        .streams
        .iter()
        .filter(|stream| stream.epoch == control.primacy.epoch)
        .map(|stream| (stream.node, stream.flushed))
        .collect()
}
