//! What a member's agent is, as far as its Postgres is concerned, and which changes are legal.

use std::fmt;

use crate::control::MemberKind;
use crate::env::{Observation, StopHow};
use crate::ids::Epoch;

use super::action::{Action, Verb};
use super::fencing::must_fence;
use super::state::Core;

/// A role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Knows nothing yet, or has nothing to do.
    Idle,
    /// Votes, and keeps no data.
    Witness,
    /// Follows, or prepares to.
    Standby,
    /// Nobody holds primacy: attached to nothing, waiting for an election.
    Detached,
    /// Copies or rewinds its data.
    Rejoining,
    /// Holds primacy and is not primary yet.
    Preparing,
    /// Primary, with a lease.
    Primary,
    /// Ends a Postgres that may not write any more.
    Fencing,
    /// Not a member any more.
    Removed,
}

impl Role {
    /// The legal edges. Everybody may be removed, and nobody is primary without having prepared:
    /// preparing is where the lease, the guard and the synchronous configuration come from.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use Role::{
            Detached, Fencing, Idle, Preparing, Primary, Rejoining, Removed, Standby, Witness,
        };
        match (self, next) {
            (Idle, Primary) => true, // A restarted manager finds its Postgres and its lease alive.
            // A server that did not answer could not be ended, and answers again within its lease.
            (Fencing, Primary) => true,
            (Standby | Detached | Rejoining | Witness | Removed, Primary) => false,
            (Removed, Standby | Detached | Rejoining | Preparing) => false,
            (Witness, Standby | Detached | Rejoining | Preparing | Fencing) => false,
            (Standby | Detached | Rejoining | Preparing | Primary | Fencing | Removed, Witness) => {
                false
            }
            (Primary, Rejoining) => false, // It is fenced first.
            (
                Idle | Witness | Standby | Detached | Rejoining | Preparing | Primary | Fencing
                | Removed,
                Idle | Witness | Standby | Detached | Rejoining | Preparing | Primary | Fencing
                | Removed,
            ) => true,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Witness => "witness",
            Self::Standby => "standby",
            Self::Detached => "detached",
            Self::Rejoining => "rejoining",
            Self::Preparing => "preparing",
            Self::Primary => "primary",
            Self::Fencing => "fencing",
            Self::Removed => "removed",
        })
    }
}

impl Core {
    /// The role follows from the facts; the table of legal edges says whether they make sense.
    pub(super) fn settle_role(&mut self, actions: &mut Vec<Action>) {
        let next = self.role_by_facts();
        let role = self.agent.role;
        if next == role {
            return;
        }
        assert!(role.may_become(next), "a {role} may not become {next}");
        let epoch = self.control.primacy.epoch;
        actions.push(Action::Say(format!("{role} -> {next} in {epoch}")));
        self.agent.role = next;
    }

    fn role_by_facts(&self) -> Role {
        let Some(member) = self.control.members.get(&self.me) else {
            let retired = self.control.retired.contains(&self.me);
            return if retired { Role::Removed } else { Role::Idle };
        };
        if member.kind == MemberKind::Witness {
            return Role::Witness;
        }
        let seen = self.agent.seen();
        let writes = seen.is_some_and(Observation::may_write);
        let is_one = writes && seen.is_some_and(|seen| seen.promoting.is_none());
        if (writes || self.agent.unseen.is_some()) && self.is_ended() {
            return Role::Fencing;
        }
        let verb = self.agent.busy.as_ref().map(|busy| &busy.verb);
        if matches!(verb, Some(Verb::Clone(_) | Verb::Rewind(_))) {
            return Role::Rejoining;
        }
        let primacy = &self.control.primacy;
        match primacy.holder {
            Some(holder) if holder == self.me && is_one => Role::Primary,
            Some(holder) if holder == self.me => Role::Preparing,
            Some(_) => Role::Standby,
            None if primacy.epoch == Epoch::default() => Role::Idle,
            None => Role::Detached,
        }
    }

    /// Whether Postgres is being ended, or has to be and the last stop failed.
    fn is_ended(&self) -> bool {
        let verb = self.agent.busy.as_ref().map(|busy| &busy.verb);
        verb == Some(&Verb::Stop(StopHow::Immediate))
            || must_fence(&self.agent, self.me, &self.control, self.now, self.sabotage).is_some()
    }
}
