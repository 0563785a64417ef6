//! **I8 Raft.** Election safety, log matching, leader completeness, state-machine safety, monotonic
//! vote/commit/apply.
//!
//! Checked on every view of the consensus layer: one node at most leads in a term, and a node's
//! term never goes back, restarts included. Checked on every control state: a node's version never
//! goes back, restarts included, and the same version is the same state wherever it is seen, which
//! is what matching logs, complete leaders and a deterministic `apply` come to. Checked on every
//! applied entry, where the world shows them: the same index holds the same command with the same
//! effect on every node. A node that lost its store has lost its votes and what it confirmed: under
//! its old number it never takes part again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pg_replica::control::{Applied, Command, ControlState};
use pg_replica::ha::RaftView;
use pg_replica::ids::{NodeId, Term};

use crate::trace::Hasher;

use super::{Findings, Invariant};

/// How many control states are kept whole; older ones are known by their hash.
const STATES_MAX: usize = 64;
/// How many applied entries are remembered: no node lags by more without getting a snapshot.
const ENTRIES_MAX: usize = 4_096;

/// The check.
#[derive(Debug, Default)]
pub(super) struct Raft {
    leaders: BTreeMap<Term, NodeId>,
    terms: BTreeMap<NodeId, Term>,
    versions: BTreeMap<NodeId, u64>,
    states: BTreeMap<u64, Arc<ControlState>>,
    older: BTreeMap<u64, u64>,
    entries: BTreeMap<u64, (Command, Applied)>,
    /// Numbers whose store is gone and that have not been seen again.
    lost: BTreeSet<NodeId>,
}

impl Raft {
    pub(super) fn raft(
        &mut self,
        at: Duration,
        node: NodeId,
        view: &RaftView,
        findings: &mut Findings,
    ) {
        // A node that has just started and knows nothing yet shows term zero.
        if view.term == Term(0) {
            return;
        }
        if self.lost.remove(&node) {
            let what = format!("{node} takes part in {} and had lost its store", view.term);
            findings.broken(Invariant::I8, at, what);
        }
        let known = self.terms.entry(node).or_insert(view.term);
        if view.term < *known {
            let what = format!("{node} went back from {known} to {}", view.term);
            findings.broken(Invariant::I8, at, what);
        }
        *known = view.term;
        // Who follows a leader has its word that a quorum elected it.
        if let Some(leader) = view.leader.or(view.leads.then_some(node)) {
            let first = *self.leaders.entry(view.term).or_insert(leader);
            if first != leader {
                let what = format!("{first} and {leader} both lead in {}", view.term);
                findings.broken(Invariant::I8, at, what);
            }
        }
    }

    pub(super) fn control(
        &mut self,
        at: Duration,
        node: NodeId,
        state: &Arc<ControlState>,
        findings: &mut Findings,
    ) {
        let version = state.version;
        let known = self.versions.entry(node).or_insert(version);
        if version < *known {
            let what = format!("{node} forgot control states: from v{known} back to v{version}");
            findings.broken(Invariant::I8, at, what);
        }
        *known = version;
        if !self.agrees(state) {
            let what = format!("v{version} of the control state is another one on {node}");
            findings.broken(Invariant::I8, at, what);
        }
    }

    pub(super) fn applied(
        &mut self,
        at: Duration,
        node: NodeId,
        entry: (u64, &Command, &Applied),
        findings: &mut Findings,
    ) {
        let (index, command, applied) = entry;
        if let Some((first, effect)) = self.entries.get(&index) {
            if first != command || effect != applied {
                let what = format!(
                    "entry {index} is `{command}` ({applied}) on {node} and `{first}` ({effect}) \
                     elsewhere"
                );
                findings.broken(Invariant::I8, at, what);
            }
            return;
        }
        self.entries.insert(index, (command.clone(), applied.clone()));
        while self.entries.len() > ENTRIES_MAX {
            self.entries.pop_first();
        }
    }

    /// Whether this entry is new to the check.
    pub(super) fn is_new(&self, index: u64) -> bool {
        !self.entries.contains_key(&index)
            && self.entries.first_key_value().is_none_or(|(oldest, _)| index > *oldest)
    }

    /// The node's store is gone: what it promised before, it no longer knows.
    pub(super) fn store_lost(&mut self, node: NodeId) {
        self.terms.remove(&node);
        self.versions.remove(&node);
        self.lost.insert(node);
    }

    fn agrees(&mut self, state: &Arc<ControlState>) -> bool {
        let version = state.version;
        if let Some(known) = self.states.get(&version) {
            return Arc::ptr_eq(known, state) || known == state;
        }
        if let Some(hash) = self.older.get(&version) {
            return *hash == hash_of(state);
        }
        self.states.insert(version, Arc::clone(state));
        if self.states.len() > STATES_MAX
            && let Some((evicted, old)) = self.states.pop_first()
        {
            self.older.insert(evicted, hash_of(&old));
        }
        true
    }
}

fn hash_of(state: &ControlState) -> u64 {
    let mut hasher = Hasher::default();
    let bytes = serde_json::to_vec(state).expect("a control state has no key that JSON lacks");
    hasher.write(&bytes);
    hasher.value()
}

#[cfg(test)]
mod tests {
    use pg_replica::control::VacateReason;
    use pg_replica::ids::Epoch;

    use super::super::testing::{assert_broken, assert_kept, ms, state};
    use super::*;

    fn leads(term: u64) -> RaftView {
        RaftView { term: Term(term), leads: true, ..RaftView::default() }
    }

    fn control(check: &mut Raft, node: u64, version: u64, epoch: u64, findings: &mut Findings) {
        check.control(ms(1), NodeId(node), &Arc::new(state(version, epoch, Some(1))), findings);
    }

    #[test]
    fn two_leaders_in_one_term_are_seen() {
        let (mut check, mut findings) = (Raft::default(), Findings::default());
        check.raft(ms(1), NodeId(1), &leads(1), &mut findings);
        check.raft(ms(2), NodeId(2), &leads(2), &mut findings);
        assert_kept(&findings);
        check.raft(ms(3), NodeId(3), &leads(2), &mut findings);
        assert_broken(&findings, Invariant::I8, "n2 and n3 both lead in t2");
    }

    #[test]
    fn a_term_that_goes_back_is_seen() {
        let (mut check, mut findings) = (Raft::default(), Findings::default());
        let follows = |term| RaftView { term: Term(term), ..RaftView::default() };
        check.raft(ms(1), NodeId(1), &follows(5), &mut findings);
        check.raft(ms(1), NodeId(1), &follows(0), &mut findings);
        assert_kept(&findings);
        check.raft(ms(3), NodeId(1), &follows(4), &mut findings);
        assert_broken(&findings, Invariant::I8, "n1 went back from t5 to t4");
    }

    #[test]
    fn a_member_that_lost_its_store_and_takes_part_again_is_seen() {
        let (mut check, mut findings) = (Raft::default(), Findings::default());
        check.raft(ms(1), NodeId(1), &leads(5), &mut findings);
        check.store_lost(NodeId(1));
        check.raft(ms(2), NodeId(1), &leads(0), &mut findings);
        assert_kept(&findings);
        check.raft(ms(3), NodeId(1), &leads(6), &mut findings);
        assert_broken(&findings, Invariant::I8, "n1 takes part in t6 and had lost its store");
    }

    #[test]
    fn a_version_that_goes_back_is_seen() {
        let (mut check, mut findings) = (Raft::default(), Findings::default());
        control(&mut check, 1, 3, 1, &mut findings);
        control(&mut check, 1, 3, 1, &mut findings);
        assert_kept(&findings);
        control(&mut check, 1, 2, 1, &mut findings);
        assert_broken(&findings, Invariant::I8, "from v3 back to v2");
    }

    #[test]
    fn one_version_with_two_states_is_seen_long_after_the_first() {
        let (mut check, mut findings) = (Raft::default(), Findings::default());
        for version in 1..200 {
            control(&mut check, 1, version, version, &mut findings);
        }
        control(&mut check, 2, 7, 7, &mut findings);
        control(&mut check, 2, 199, 199, &mut findings);
        assert_kept(&findings);
        control(&mut check, 3, 7, 8, &mut findings);
        assert_broken(&findings, Invariant::I8, "v7 of the control state is another one on n3");
    }

    #[test]
    fn one_entry_with_two_effects_is_seen() {
        let (mut check, mut findings) = (Raft::default(), Findings::default());
        let command = Command::Vacate { epoch: Epoch(1), why: VacateReason::Silent };
        assert!(check.is_new(7));
        check.applied(ms(1), NodeId(1), (7, &command, &Applied::Done), &mut findings);
        check.applied(ms(1), NodeId(2), (7, &command, &Applied::Done), &mut findings);
        assert!(!check.is_new(7));
        assert_kept(&findings);
        let refused = Applied::Refused("no".into());
        check.applied(ms(1), NodeId(3), (7, &command, &refused), &mut findings);
        assert_broken(&findings, Invariant::I8, "entry 7");
    }
}
