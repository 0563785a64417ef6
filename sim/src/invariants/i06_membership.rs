//! **I6 membership.** One voter change at a time; a removed node never holds primacy.
//!
//! Checked on what a Raft leader shows of its voters: from one view to the next they differ by one
//! member at most, and so do those of a new leader and of the one before it. Checked on every
//! control state: one command changes one member at most, a number that was removed never returns,
//! and the holder is a member that keeps data. Checked on every acknowledgement: the server is a
//! member, or was removed while its lease, granted before, is still running, or what it says is no
//! more than the late word of a commit that I1 allows to be late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::control::ControlState;
use pg_replica::ha::RaftView;
use pg_replica::ids::{NodeId, Term};

use crate::witness::Acknowledged;

use super::{Findings, Invariant};

#[derive(Clone, Debug)]
struct Seen {
    term: Term,
    voters: BTreeSet<NodeId>,
}

/// The check.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The voters as the leading node showed them last.
    leading: BTreeMap<NodeId, Seen>,
    /// The same, of the highest term so far.
    newest: Option<Seen>,
    retired: BTreeSet<NodeId>,
}

impl Membership {
    pub(super) fn raft(
        &mut self,
        at: Duration,
        node: NodeId,
        view: &RaftView,
        findings: &mut Findings,
    ) {
        if !view.leads {
            self.leading.remove(&node);
            return;
        }
        let now = Seen { term: view.term, voters: view.voters.clone() };
        let own = self.leading.insert(node, now.clone()).filter(|seen| seen.term == view.term);
        // The first view of a new term is compared with the last one of the term before it.
        let before = own.or_else(|| self.newest.clone().filter(|seen| seen.term < view.term));
        if self.newest.as_ref().is_none_or(|seen| seen.term <= view.term) {
            self.newest = Some(now);
        }
        let Some(before) = before else { return };
        let changed: Vec<String> =
            before.voters.symmetric_difference(&view.voters).map(ToString::to_string).collect();
        if changed.len() > 1 {
            findings.broken(
                Invariant::I6,
                at,
                format!("{} changed as voters in one step of {node}", changed.join(" and ")),
            );
        }
    }

    pub(super) fn control(&mut self, at: Duration, state: &ControlState, findings: &mut Findings) {
        self.retired.extend(&state.retired);
        if let Some(back) = state.members.keys().find(|node| self.retired.contains(node)) {
            findings.broken(Invariant::I6, at, format!("{back} was removed and is a member again"));
        }
        if let Some(holder) = state.primacy.holder
            && !state.keeps_data(holder)
        {
            let what = format!("{holder} holds {} and is no data member", state.primacy.epoch);
            findings.broken(Invariant::I6, at, what);
        }
    }

    /// The newest control state followed another.
    pub(super) fn advanced(
        at: Duration,
        before: &ControlState,
        after: &ControlState,
        findings: &mut Findings,
    ) {
        if before.cluster.is_empty() {
            return;
        }
        let joined = after.members.keys().filter(|n| !before.members.contains_key(n)).count();
        let left = before.members.keys().filter(|n| !after.members.contains_key(n)).count();
        let commands = after.version - before.version;
        if (joined + left) as u64 > commands {
            findings.broken(
                Invariant::I6,
                at,
                format!("{joined} members joined and {left} left within {commands} commands"),
            );
        }
    }

    pub(super) fn acknowledged(
        &self,
        ack: &Acknowledged,
        lease_until: Option<Duration>,
        is_late_word: bool,
        findings: &mut Findings,
    ) {
        let lease_runs = lease_until.is_some_and(|until| ack.at <= until);
        if self.retired.contains(&ack.server) && !lease_runs && !is_late_word {
            let what = format!("{} acknowledged {:?} and was removed", ack.server, ack.row);
            findings.broken(Invariant::I6, ack.at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_broken, assert_kept, commit, ms, state};
    use super::*;

    fn view(voters: &[u64]) -> RaftView {
        RaftView {
            term: Term(3),
            leader: Some(NodeId(1)),
            leads: true,
            voters: voters.iter().map(|n| NodeId(*n)).collect(),
            ..RaftView::default()
        }
    }

    #[test]
    fn voters_that_change_one_by_one_are_right() {
        let (mut check, mut findings) = (Membership::default(), Findings::default());
        for voters in [&[1, 2, 3][..], &[1, 2, 3, 4], &[1, 2, 4], &[1, 2, 4, 5]] {
            check.raft(ms(1), NodeId(1), &view(voters), &mut findings);
        }
        assert_kept(&findings);
    }

    #[test]
    fn two_voters_that_change_at_once_are_seen() {
        let (mut check, mut findings) = (Membership::default(), Findings::default());
        check.raft(ms(1), NodeId(1), &view(&[1, 2, 3]), &mut findings);
        check.raft(ms(2), NodeId(1), &view(&[1, 2, 4]), &mut findings);
        assert_broken(&findings, Invariant::I6, "n3 and n4 changed");
    }

    #[test]
    fn two_members_that_change_in_one_command_are_seen() {
        let mut findings = Findings::default();
        let (before, mut after) = (state(4, 1, Some(1)), state(5, 1, Some(1)));
        after.members.remove(&NodeId(3));
        Membership::advanced(ms(1), &before, &after, &mut findings);
        assert_kept(&findings);
        after.members.remove(&NodeId(2));
        Membership::advanced(ms(1), &before, &after, &mut findings);
        assert_broken(&findings, Invariant::I6, "2 left within 1 commands");
    }

    #[test]
    fn a_removed_member_that_holds_primacy_is_seen() {
        let (mut check, mut findings) = (Membership::default(), Findings::default());
        let mut removed = state(4, 1, Some(1));
        removed.members.remove(&NodeId(1));
        removed.retired.insert(NodeId(1));
        check.control(ms(1), &removed, &mut findings);
        assert_broken(&findings, Invariant::I6, "n1 holds e1 and is no data member");
    }

    #[test]
    fn a_removed_number_that_returns_is_seen() {
        let (mut check, mut findings) = (Membership::default(), Findings::default());
        let mut removed = state(4, 1, Some(1));
        removed.members.remove(&NodeId(3));
        removed.retired.insert(NodeId(3));
        check.control(ms(1), &removed, &mut findings);
        assert_kept(&findings);
        check.control(ms(2), &state(5, 1, Some(1)), &mut findings);
        assert_broken(&findings, Invariant::I6, "n3 was removed and is a member again");
    }

    #[test]
    fn a_removed_member_acknowledges_nothing_new_once_its_lease_is_over() {
        let (mut check, mut findings) = (Membership::default(), Findings::default());
        let mut removed = state(4, 2, Some(2));
        removed.members.remove(&NodeId(1));
        removed.retired.insert(NodeId(1));
        check.control(ms(1), &removed, &mut findings);
        check.acknowledged(&commit(10, 1, 1, 1), Some(ms(20)), false, &mut findings);
        check.acknowledged(&commit(21, 1, 1, 2), Some(ms(20)), true, &mut findings);
        assert_kept(&findings);
        check.acknowledged(&commit(21, 1, 1, 2), Some(ms(20)), false, &mut findings);
        assert_broken(&findings, Invariant::I6, "n1 acknowledged");
    }
}
