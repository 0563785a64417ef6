//! How one membership becomes another: the next step, one at a time, as a pure function.
//!
//! Every step shares a quorum with the one before it. A member receives the log as a learner
//! before it votes, and leaves only after its vote is gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::NodeId;

use super::types::{Membership, RaftNode};

/// The wanted membership.
#[derive(Debug)]
pub(super) struct Goal {
    voters: BTreeSet<u64>,
    nodes: BTreeMap<u64, RaftNode>,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: the goal is reached.
    Done,
    /// Write this membership; these members have to hold the log first.
    Write {
        /// The next membership.
        membership: Membership,
        /// The members that begin to vote in it.
        gaining: BTreeSet<u64>,
    },
}

impl Goal {
    /// Checks that the wish makes sense.
    pub(super) fn new(
        voters: &BTreeSet<NodeId>,
        members: BTreeMap<NodeId, RaftNode>,
    ) -> Result<Self, String> {
        if voters.is_empty() {
            return Err("a cluster without voters decides nothing".into());
        }
        if let Some(stranger) = voters.iter().find(|id| !members.contains_key(id)) {
            return Err(format!("{stranger} is to vote and is no member"));
        }
        Ok(Self {
            voters: voters.iter().map(|id| id.0).collect(),
            nodes: members.into_iter().map(|(id, node)| (id.0, node)).collect(),
        })
    }

    /// The step that follows `present`.
    pub(super) fn next(&self, present: &Membership) -> Result<Step, String> {
        let configs = present.get_joint_config();
        let known: BTreeMap<u64, RaftNode> =
            present.nodes().map(|(id, node)| (*id, node.clone())).collect();
        let Some(last) = configs.last() else {
            return Err("the cluster was not founded yet".into());
        };
        if configs.len() > 1 {
            // Whoever began the joint step did not end it; ending it comes before anything else.
            return write(vec![last.clone()], known, BTreeSet::new());
        }
        let mut union = known.clone();
        for (id, node) in &self.nodes {
            union.entry(*id).or_insert_with(|| node.clone());
        }
        if union.len() > known.len() {
            return write(vec![last.clone()], union, BTreeSet::new());
        }
        if *last != self.voters {
            let gaining = self.voters.difference(last).copied().collect();
            let one_apart = last.symmetric_difference(&self.voters).count() == 1;
            let next = if one_apart {
                vec![self.voters.clone()]
            } else {
                vec![last.clone(), self.voters.clone()]
            };
            return write(next, known, gaining);
        }
        let kept: BTreeMap<u64, RaftNode> =
            known.iter().filter(|(id, _)| self.nodes.contains_key(id)).map(clone_pair).collect();
        if kept.len() < known.len() {
            return write(vec![last.clone()], kept, BTreeSet::new());
        }
        Ok(Step::Done)
    }
}

fn clone_pair((id, node): (&u64, &RaftNode)) -> (u64, RaftNode) {
    (*id, node.clone())
}

fn write(
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, RaftNode>,
    gaining: BTreeSet<u64>,
) -> Result<Step, String> {
    let membership = Membership::new(configs, nodes).map_err(|error| error.to_string())?;
    Ok(Step::Write { membership, gaining })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may end where it stands")]
mod tests {
    use super::*;

    fn node(id: u64) -> RaftNode {
        RaftNode { address: format!("n{id}"), incarnation: crate::ids::Incarnation(id) }
    }

    fn membership(configs: &[&[u64]], nodes: &[u64]) -> Membership {
        let configs = configs.iter().map(|c| c.iter().copied().collect()).collect();
        let nodes: BTreeMap<u64, RaftNode> = nodes.iter().map(|id| (*id, node(*id))).collect();
        Membership::new(configs, nodes).unwrap()
    }

    fn goal(voters: &[u64], members: &[u64]) -> Goal {
        let voters = voters.iter().map(|id| NodeId(*id)).collect();
        let members = members.iter().map(|id| (NodeId(*id), node(*id))).collect();
        Goal::new(&voters, members).unwrap()
    }

    /// All memberships from `present` to the goal.
    fn path(goal: &Goal, present: Membership) -> Vec<Membership> {
        let mut path = vec![present];
        while let Step::Write { membership, .. } = goal.next(path.last().unwrap()).unwrap() {
            path.push(membership);
            assert!(path.len() < 10, "the goal is never reached");
        }
        path.remove(0);
        path
    }

    #[test]
    fn nothing_to_do_writes_nothing() {
        let present = membership(&[&[1, 2, 3]], &[1, 2, 3]);
        assert!(path(&goal(&[1, 2, 3], &[1, 2, 3]), present).is_empty());
    }

    #[test]
    fn a_new_member_learns_before_it_votes() {
        let present = membership(&[&[1, 2]], &[1, 2]);
        assert_eq!(
            path(&goal(&[1, 2, 3], &[1, 2, 3]), present),
            [membership(&[&[1, 2]], &[1, 2, 3]), membership(&[&[1, 2, 3]], &[1, 2, 3])]
        );
    }

    #[test]
    fn two_new_voters_pass_through_a_joint_membership() {
        let present = membership(&[&[1, 2, 3]], &[1, 2, 3, 4, 5]);
        assert_eq!(
            path(&goal(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]), present),
            [
                membership(&[&[1, 2, 3], &[1, 2, 3, 4, 5]], &[1, 2, 3, 4, 5]),
                membership(&[&[1, 2, 3, 4, 5]], &[1, 2, 3, 4, 5]),
            ]
        );
    }

    #[test]
    fn a_removed_voter_loses_its_vote_before_it_leaves() {
        let present = membership(&[&[1, 2, 3]], &[1, 2, 3]);
        assert_eq!(
            path(&goal(&[1, 2], &[1, 2]), present),
            [membership(&[&[1, 2]], &[1, 2, 3]), membership(&[&[1, 2]], &[1, 2])]
        );
    }

    #[test]
    fn an_interrupted_joint_step_is_ended_first() {
        let present = membership(&[&[1, 2, 3], &[1, 4, 5]], &[1, 2, 3, 4, 5]);
        let path = path(&goal(&[1, 2, 3], &[1, 2, 3]), present);
        assert_eq!(path.first(), Some(&membership(&[&[1, 4, 5]], &[1, 2, 3, 4, 5])));
        assert_eq!(path.last(), Some(&membership(&[&[1, 2, 3]], &[1, 2, 3])));
    }

    #[test]
    fn a_voter_that_is_no_member_is_refused() {
        let voters = BTreeSet::from([NodeId(1), NodeId(9)]);
        let members = BTreeMap::from([(NodeId(1), node(1))]);
        assert!(Goal::new(&voters, members).unwrap_err().contains("n9"));
    }
}
