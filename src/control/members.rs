//! Who belongs to the cluster: who may join and leave, who votes, whose confirmations count.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, Incarnation, NodeId};
use crate::sabotage::{Sabotage, Saboteur};

use super::apply::Verdict;
use super::orders::{NOBODY_TO_LEAD, TOO_FEW_FOR_QUORUM};
use super::settings::{Mode, Settings};
use super::state::{ControlState, Member, MemberKind, OrderOutcome};

impl ControlState {
    /// The members that keep data.
    pub fn data_members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|(_, m)| m.kind == MemberKind::Data).map(|(id, _)| *id)
    }

    /// Whether `node` is a member that keeps data.
    #[must_use]
    pub fn keeps_data(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|m| m.kind == MemberKind::Data)
    }

    /// The members that may become primary, and whose confirmations therefore count.
    pub fn candidates(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.data_members().filter(|node| self.is_candidate(*node))
    }

    /// Whether `node` may become primary.
    #[must_use]
    pub fn is_candidate(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|m| m.kind == MemberKind::Data && !m.no_failover)
    }

    /// The candidates that are counted on: all but those that have only just been admitted and do
    /// not hold the data yet.
    pub fn counted(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.candidates().filter(|node| !self.newcomers.contains(node))
    }

    /// The members that vote. An even number of voters tolerates no more failures than one fewer
    /// and is never made: the member that was admitted last waits, as a learner, for the next.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let members = self.admitted.len();
        let odd = if members % 2 == 1 { members } else { members.saturating_sub(1) };
        self.admitted.iter().copied().take(odd).collect()
    }

    /// How many standbys have to confirm a commit: with the primary they are a majority of the
    /// voters that hold the data and may be primary, so that any other majority of them meets them.
    ///
    /// A member that joins changes nothing before it votes and holds the data: until then it could
    /// confirm nothing, and to wait for it would stop every write. There is never less than one
    /// confirmation, because quorum-sync must not turn into async behind anybody's back.
    #[must_use]
    pub fn confirmations(&self) -> u32 {
        match self.settings.mode {
            Mode::Async => 0,
            Mode::QuorumSync => {
                let voters = self.voters();
                let counted = self.counted().filter(|node| voters.contains(node)).count();
                u32::try_from(counted / 2).unwrap_or(u32::MAX).max(1)
            }
        }
    }

    /// The first members, in the order of their numbers.
    pub(super) fn take_founders(&mut self, members: &BTreeMap<NodeId, Member>) {
        self.members = members.clone();
        self.admitted = members.keys().copied().collect();
    }

    pub(super) fn add_member(
        &mut self,
        node: NodeId,
        member: &Member,
    ) -> Result<OrderOutcome, String> {
        if self.retired.contains(&node) {
            return Err(format!("{node} was removed once; use a new number"));
        }
        if self.members.contains_key(&node) {
            return Err(format!("{node} is a member already"));
        }
        let mut members = self.members.clone();
        members.insert(node, member.clone());
        check_identities(&members)?;
        self.members = members;
        self.admitted.push(node);
        if member.kind == MemberKind::Data {
            self.newcomers.insert(node);
        }
        self.note(format!("{node} was admitted"));
        Ok(OrderOutcome::Done(format!("{node} was admitted")))
    }

    /// A newcomer streams from the primary and is near its end: it counts from here on.
    pub(super) fn join(&mut self, epoch: Epoch, node: NodeId) -> Verdict {
        self.expect_held(epoch)?;
        if !self.newcomers.remove(&node) {
            return Err(format!("{node} is no newcomer"));
        }
        self.note(format!("{node} holds the data"));
        Ok(())
    }

    /// I6: the holder cannot be removed, and what was removed never returns. Nor can whoever may
    /// have what its successor needs, before there is one.
    pub(super) fn remove_member(
        &mut self,
        node: NodeId,
        sabotage: Sabotage,
    ) -> Result<OrderOutcome, String> {
        let Some(member) = self.members.get(&node) else {
            return Err(format!("{node} is no member"));
        };
        let holds_data = member.kind == MemberKind::Data && !self.newcomers.contains(&node);
        let is_needed = self.is_vacant() && self.system.is_some() && holds_data;
        if is_needed && !sabotage.is(Saboteur::RemoveWhileVacant) {
            return Err(format!(
                "nobody is primary, and {node} may have what nobody else has; wait for a failover, \
                 or fail over with data loss accepted"
            ));
        }
        if self.primacy.holder == Some(node) && !sabotage.is(Saboteur::KeepRemovedMember) {
            return Err(format!("{node} is primary; switch over first"));
        }
        if self.handover.as_ref().is_some_and(|h| h.to == Some(node)) {
            return Err(format!("a handover to {node} is under way"));
        }
        let left = self.members.len() - 1;
        if left < 3 && left.is_multiple_of(2) {
            return Err(format!(
                "without {node} there are {left} members, which tolerate no failure; add its \
                 replacement first"
            ));
        }
        let others = self.counted().filter(|other| *other != node).count();
        if self.settings.mode == Mode::QuorumSync && others < 2 {
            return Err(TOO_FEW_FOR_QUORUM.into());
        }
        if others == 0 {
            return Err(NOBODY_TO_LEAD.into());
        }
        self.members.remove(&node);
        self.admitted.retain(|other| *other != node);
        self.newcomers.remove(&node);
        self.retired.insert(node);
        self.note(format!("{node} was removed"));
        Ok(OrderOutcome::Done(format!("{node} was removed")))
    }

    pub(super) fn tag_member(
        &mut self,
        node: NodeId,
        priority: u32,
        no_failover: bool,
    ) -> Result<OrderOutcome, String> {
        let others = self.counted().filter(|other| *other != node).count();
        let Some(member) = self.members.get_mut(&node) else {
            return Err(format!("{node} is no member"));
        };
        let needed = if self.settings.mode == Mode::QuorumSync { 2 } else { 1 };
        if no_failover && others < needed {
            return Err(format!("without {node} too few members may be primary"));
        }
        member.priority = priority;
        member.no_failover = no_failover;
        let chosen = if no_failover { "is not to be chosen" } else { "may be chosen" };
        self.note(format!("{node} {chosen}, with priority {priority}"));
        Ok(OrderOutcome::Done(String::new()))
    }
}

/// Whether a cluster can begin with these members and settings.
pub(super) fn check_founding(members: &BTreeMap<NodeId, Member>, settings: &Settings) -> Verdict {
    settings.check()?;
    if members.len().is_multiple_of(2) {
        return Err(format!(
            "{} members make an even number of voters, which tolerates no more failures than one \
             fewer; add a witness or leave one out",
            members.len()
        ));
    }
    let candidates = members.values().filter(|m| m.kind == MemberKind::Data && !m.no_failover);
    match (candidates.count(), settings.mode) {
        (0, _) => return Err("no member keeps data and may be primary".into()),
        (1, Mode::QuorumSync) => return Err(TOO_FEW_FOR_QUORUM.into()),
        (_, Mode::Async | Mode::QuorumSync) => {}
    }
    check_identities(members)
}

/// No two members are the same machine, as far as their descriptions can tell.
fn check_identities(members: &BTreeMap<NodeId, Member>) -> Verdict {
    let (mut addresses, mut servers) = (BTreeMap::new(), BTreeMap::new());
    for (node, member) in members {
        if member.incarnation == Incarnation::default() {
            // I8: without it a machine that lost its disk would be taken for the one that voted.
            return Err(format!("{node} comes without the identity of its store"));
        }
        if let Some(other) = addresses.insert(&member.address, node) {
            return Err(format!("{} is the address of both {other} and {node}", member.address));
        }
        if member.kind == MemberKind::Data
            && let Some(other) = servers.insert(&member.postgres, node)
        {
            let address = &member.postgres;
            return Err(format!("{address} is the Postgres address of both {other} and {node}"));
        }
    }
    Ok(())
}
