//! Which states of a cluster a run passed through, as numbers.
//!
//! A state is what all members are together: role, lease and server of each, and how far behind the
//! newest epoch and term it is. Names and numbers of members, epochs and times are left out, so
//! that two runs which do the same to different members have seen the same. A sweep counts the
//! different ones, and knows when it sees nothing new any more.

use std::collections::{BTreeMap, BTreeSet};

use pg_replica::ids::NodeId;

use crate::seen::Seen;
use crate::trace::Hasher;

/// From this distance on, old is old.
const RANK_MAX: usize = 3;

/// The states of one run.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    members: BTreeMap<NodeId, Seen>,
    states: BTreeSet<u64>,
}

impl Coverage {
    /// A member is this now.
    pub fn note(&mut self, node: NodeId, seen: Seen) {
        let before = self.members.insert(node, seen);
        if before.is_none_or(|before| abstracted(&before) != abstracted(&seen)) {
            self.states.insert(state(self.members.values()));
        }
    }

    /// A member's machine is gone for ever.
    pub fn forget(&mut self, node: NodeId) {
        self.members.remove(&node);
    }

    /// The numbers of all states so far.
    #[must_use]
    pub fn states(&self) -> &BTreeSet<u64> {
        &self.states
    }
}

/// What of a member makes a difference.
fn abstracted(seen: &Seen) -> [u64; 6] {
    [
        seen.role.map_or(0, |role| 1 + role as u64),
        u64::from(seen.leads),
        seen.lease as u64,
        seen.server as u64,
        seen.epoch.0,
        seen.term.0,
    ]
}

/// The number of what these members are together, whichever of them is which.
fn state<'a>(members: impl Iterator<Item = &'a Seen>) -> u64 {
    let mut members: Vec<[u64; 6]> = members.map(abstracted).collect();
    for field in [4, 5] {
        let newest_first: BTreeSet<u64> = members.iter().map(|member| member[field]).collect();
        for member in &mut members {
            let newer = newest_first.range(member[field] + 1..).count();
            member[field] = newer.min(RANK_MAX) as u64;
        }
    }
    members.sort_unstable();
    let mut hasher = Hasher::default();
    for number in members.iter().flatten() {
        hasher.write(&number.to_le_bytes());
    }
    hasher.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::ServerPhase;
    use pg_replica::ha::Role;
    use pg_replica::ids::{Epoch, Term};

    fn member(role: Role, epoch: u64) -> Seen {
        Seen { role: Some(role), epoch: Epoch(epoch), term: Term(7), ..Seen::default() }
    }

    fn number(members: &[Seen]) -> u64 {
        state(members.iter())
    }

    #[test]
    fn which_member_it_is_and_which_epoch_makes_no_difference() {
        let (primary, standby) = (member(Role::Primary, 4), member(Role::Standby, 4));
        assert_eq!(number(&[primary, standby]), number(&[standby, primary]));
        let later = [member(Role::Primary, 9), member(Role::Standby, 9)];
        assert_eq!(number(&[primary, standby]), number(&later));
    }

    #[test]
    fn who_is_behind_and_what_servers_do_makes_one() {
        let (primary, standby) = (member(Role::Primary, 4), member(Role::Standby, 4));
        let base = number(&[primary, standby]);
        assert_ne!(base, number(&[primary, member(Role::Standby, 3)]));
        assert_ne!(base, number(&[primary, Seen { server: ServerPhase::Hung, ..standby }]));
        assert_ne!(base, number(&[primary, Seen { leads: true, ..standby }]));
        let far = [member(Role::Primary, 4), member(Role::Standby, 3), member(Role::Standby, 2)];
        let gap = [member(Role::Primary, 9), member(Role::Standby, 5), member(Role::Standby, 1)];
        assert_eq!(number(&far), number(&gap));
    }

    #[test]
    fn only_what_is_new_is_counted() {
        let mut coverage = Coverage::default();
        for epoch in [1, 1, 2, 2] {
            coverage.note(NodeId(1), member(Role::Primary, epoch));
        }
        assert_eq!(coverage.states().len(), 1);
        coverage.note(NodeId(2), member(Role::Standby, 2));
        assert_eq!(coverage.states().len(), 2);
    }
}
