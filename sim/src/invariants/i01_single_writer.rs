//! **I1 single writer.** Acknowledged commits are ordered by epoch in real time: once any commit of
//! epoch *e+1* is acknowledged, no commit of epoch *e* ever is. At no instant are two Postgres
//! instances willing to acknowledge.
//!
//! Checked on every acknowledgement: its epoch is not below the highest acknowledged so far, and
//! one epoch's commits come from one server. Checked whenever all servers are looked at, which they
//! are ten times a second and whenever one becomes primary, stops, is frozen or thawed, or has come
//! to the end of its lease: at most one of them could acknowledge. Where the guarantee table
//! excuses the elder ones, and for as long as it does, the time for which two were willing is
//! measured instead, and commits that waited for no standby are counted.
//!
//! One thing is not a second writer: a commit whose confirmations were complete before its standbys
//! detached, and whose word of it was slow, because the primary was frozen or the confirmations
//! were long under way. Every later history has it already; to the client it is a slow message, and
//! no clock-free protocol can tell the two apart. It is counted as a rare state, and allowed only
//! where it waited for standbys and *every* later primary began with the row.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::ids::{Epoch, NodeId};

use crate::sometimes::{Reached, Sometimes};
use crate::witness::{Acknowledged, Row};

use super::view::Excuses;
use super::{Findings, Invariant, ServerView, WorldView};

/// The first acknowledgement of an epoch.
#[derive(Clone, Copy, Debug)]
struct First {
    at: Duration,
    server: NodeId,
}

/// Two servers are willing.
#[derive(Clone, Copy, Debug)]
struct Overlap {
    since: Duration,
    /// It was told already.
    told: bool,
    /// The elder ones were excused when it was last seen.
    excused: bool,
}

/// The check.
#[derive(Debug, Default)]
pub(super) struct SingleWriter {
    firsts: BTreeMap<Epoch, First>,
    /// The rows with which each epoch's primary began.
    inherited: BTreeMap<Epoch, BTreeSet<Row>>,
    /// The overlap that is going on.
    overlap: Option<Overlap>,
}

impl SingleWriter {
    /// A server became primary with these rows.
    pub(super) fn became_primary(&mut self, epoch: Epoch, rows: &[Row]) {
        self.inherited.insert(epoch, rows.iter().copied().collect());
    }

    /// Whether every later history has had the row from its beginning.
    fn is_only_slow(&self, ack: &Acknowledged) -> bool {
        let mut later = self.firsts.keys().filter(|epoch| **epoch > ack.epoch);
        let has = |epoch| self.inherited.get(epoch).is_some_and(|rows| rows.contains(&ack.row));
        ack.sync.confirmations > 0 && later.all(has)
    }

    /// Whether a commit of an epoch that has a successor is no second writer, however late it is
    /// told: every later history has it, or the guarantee table promises no more.
    pub(super) fn is_late_word(&self, ack: &Acknowledged, excuses: &Excuses) -> bool {
        let superseded = self.inherited.keys().any(|epoch| *epoch > ack.epoch);
        superseded && (is_excused(ack, excuses) || self.is_only_slow(ack))
    }

    /// Takes an acknowledgement in; `true` where it is an overlap that nobody promised away, whose
    /// rows no later history can have.
    pub(super) fn acknowledged(
        &mut self,
        ack: &Acknowledged,
        excuses: &Excuses,
        reached: &mut Reached,
        findings: &mut Findings,
    ) -> bool {
        let first =
            *self.firsts.entry(ack.epoch).or_insert(First { at: ack.at, server: ack.server });
        if first.server != ack.server {
            findings.broken(
                Invariant::I1,
                ack.at,
                format!(
                    "{} acknowledged row {:?} in {}, in which {} has acknowledged since {:.3}s",
                    ack.server,
                    ack.row,
                    ack.epoch,
                    first.server,
                    first.at.as_secs_f64()
                ),
            );
        }
        let excused = is_excused(ack, excuses);
        let superseded = self.inherited.keys().any(|epoch| *epoch > ack.epoch);
        let newest = self.firsts.last_key_value().map(|(e, f)| (*e, *f));
        let Some((newest, newer)) = newest.filter(|(newest, _)| *newest > ack.epoch) else {
            return excused && superseded;
        };
        if self.is_only_slow(ack) {
            reached.mark(Sometimes::SlowAcknowledgement);
            return false;
        }
        let lasted = ack.at.saturating_sub(newer.at);
        let what = format!(
            "{} acknowledged row {:?} of {} {} ms after {} had acknowledged in {newest}",
            ack.server,
            ack.row,
            ack.epoch,
            lasted.as_millis(),
            newer.server
        );
        if excused {
            findings.late();
            return true;
        }
        findings.broken(Invariant::I1, ack.at, what);
        false
    }

    pub(super) fn look(
        &mut self,
        at: Duration,
        view: &WorldView,
        excuses: &Excuses,
        findings: &mut Findings,
    ) {
        let mut willing: Vec<&ServerView> =
            view.servers.iter().filter(|server| server.could_acknowledge).collect();
        if let Some(overlap) = self.overlap.filter(|overlap| overlap.excused) {
            findings.overlap(at.saturating_sub(overlap.since));
        }
        if willing.len() < 2 {
            self.overlap = None;
            return;
        }
        willing.sort_by_key(|server| server.primary_epoch);
        let new = Overlap { since: at, told: false, excused: false };
        let overlap = self.overlap.get_or_insert(new);
        let (Some(newest), elders) = (willing.last(), &willing[..willing.len() - 1]) else {
            return;
        };
        // Judged at every look: an overlap that began excused may go on for too long.
        overlap.excused =
            elders.iter().all(|elder| !elder.synchronous && excuses.cover(elder.node, at));
        if overlap.excused || overlap.told {
            return;
        }
        overlap.told = true;
        let what = format!(
            "{} of {} could acknowledge while {} of {} could",
            elders[0].node,
            name(elders[0].primary_epoch),
            newest.node,
            name(newest.primary_epoch)
        );
        findings.broken(Invariant::I1, at, what);
    }
}

fn is_excused(ack: &Acknowledged, excuses: &Excuses) -> bool {
    ack.sync.confirmations == 0 && excuses.cover(ack.server, ack.at)
}

fn name(epoch: Option<Epoch>) -> String {
    epoch.map_or_else(|| "no epoch".into(), |epoch| epoch.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_broken, assert_kept, commit, ms, primary, sync_commit};
    use super::super::view::{Excuse, Promise, Window};
    use super::*;

    fn frozen(commit_fence: bool) -> Excuses {
        let window = Window {
            node: Some(NodeId(1)),
            excuse: Excuse::HostFrozen,
            from: ms(0),
            until: ms(1_000),
        };
        Excuses { promise: Promise { commit_fence }, windows: vec![window] }
    }

    fn after_newer(late: &Acknowledged, excuses: &Excuses) -> Findings {
        let (mut check, mut findings) = (SingleWriter::default(), Findings::default());
        let mut reached = Reached::default();
        check.acknowledged(&commit(10, 1, 1, 1), excuses, &mut reached, &mut findings);
        check.acknowledged(&commit(20, 2, 2, 2), excuses, &mut reached, &mut findings);
        check.acknowledged(late, excuses, &mut reached, &mut findings);
        findings
    }

    #[test]
    fn commits_in_the_order_of_their_epochs_are_right() {
        assert_kept(&after_newer(&commit(30, 2, 2, 3), &Excuses::default()));
    }

    #[test]
    fn a_commit_of_an_ended_epoch_is_seen() {
        let findings = after_newer(&commit(30, 1, 1, 3), &Excuses::default());
        assert_broken(&findings, Invariant::I1, "10 ms after n2 had acknowledged in e2");
    }

    #[test]
    fn two_servers_in_one_epoch_are_seen() {
        let findings = after_newer(&commit(30, 3, 2, 3), &Excuses::default());
        assert_broken(&findings, Invariant::I1, "in which n2 has acknowledged");
    }

    #[test]
    fn a_late_commit_that_nobody_promised_away_is_counted() {
        let findings = after_newer(&commit(35, 1, 1, 3), &frozen(false));
        assert_kept(&findings);
        assert_eq!(findings.late_acknowledgements, 1);
    }

    #[test]
    fn an_overlap_is_measured_while_it_is_excused_and_judged_once_it_is_not() {
        let (mut check, mut findings) = (SingleWriter::default(), Findings::default());
        let both = WorldView { servers: vec![primary(1, 1), primary(2, 2)] };
        let one = WorldView { servers: vec![primary(2, 2)] };
        for (at, view) in [(100, &both), (400, &both), (700, &one), (900, &both)] {
            check.look(ms(at), view, &frozen(false), &mut findings);
        }
        assert_kept(&findings);
        assert_eq!(findings.overlap_longest, ms(600));
        check.look(ms(1_001), &both, &frozen(false), &mut findings);
        check.look(ms(1_100), &both, &frozen(false), &mut findings);
        assert_broken(&findings, Invariant::I1, "n1 of e1 could acknowledge");
    }

    #[test]
    fn the_commit_fence_takes_the_excuse_of_a_frozen_host_away() {
        let findings = after_newer(&commit(30, 1, 1, 3), &frozen(true));
        assert_broken(&findings, Invariant::I1, "n1 acknowledged");
    }

    #[test]
    fn a_commit_that_waited_for_standbys_has_no_excuse() {
        let findings = after_newer(&sync_commit(30, 1, 1, 3), &frozen(false));
        assert_broken(&findings, Invariant::I1, "n1 acknowledged");
    }

    #[test]
    fn a_slow_word_of_a_row_that_every_later_history_has_is_no_second_writer() {
        let (mut check, mut findings) = (SingleWriter::default(), Findings::default());
        let mut reached = Reached::default();
        let (excuses, slow) = (Excuses::default(), sync_commit(30, 1, 1, 3));
        check.became_primary(Epoch(2), &[slow.row]);
        check.acknowledged(&commit(20, 2, 2, 2), &excuses, &mut reached, &mut findings);
        check.acknowledged(&slow, &excuses, &mut reached, &mut findings);
        assert_kept(&findings);
        assert_eq!(reached.count(Sometimes::SlowAcknowledgement), 1);
        let other = sync_commit(31, 1, 1, 4);
        check.acknowledged(&other, &excuses, &mut reached, &mut findings);
        assert_broken(&findings, Invariant::I1, "n1 acknowledged");
    }

    #[test]
    fn two_willing_servers_are_seen_once_per_overlap() {
        let (mut check, mut findings) = (SingleWriter::default(), Findings::default());
        let both = WorldView { servers: vec![primary(1, 1), primary(2, 2)] };
        check.look(ms(100), &both, &Excuses::default(), &mut findings);
        check.look(ms(200), &both, &Excuses::default(), &mut findings);
        assert_broken(&findings, Invariant::I1, "n1 of e1 could acknowledge while n2 of e2");
    }

    #[test]
    fn one_willing_server_is_right() {
        let (mut check, mut findings) = (SingleWriter::default(), Findings::default());
        let mut old = primary(1, 1);
        old.could_acknowledge = false;
        let view = WorldView { servers: vec![old, primary(2, 2)] };
        check.look(ms(100), &view, &Excuses::default(), &mut findings);
        assert_kept(&findings);
    }
}
