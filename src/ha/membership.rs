//! I6, and where leadership lives: voters change one at a time, and the member that leads Raft is
//! another one than the primary, so that the loss of either costs only what it must.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::control::{ControlState, MemberKind};
use crate::ids::{Moment, NodeId};
use crate::sabotage::{Sabotage, Saboteur};

use super::action::Action;
use super::coordinator::Coordinator;
use super::event::{NEAR_ENTRIES_MAX, RaftView};

/// How long a move is given before another is tried.
const MOVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long a new primary has served before leadership is moved away from it.
const SETTLED_FOR: Duration = Duration::from_secs(1);
/// How lately a member was heard that leadership is handed to, where heartbeats are frequent; two
/// and a half of them where they are not.
const HEARD_LATELY_MIN: Duration = Duration::from_millis(500);

/// The next move, if one is due.
pub(super) fn next_move(
    coordinator: &Coordinator,
    me: NodeId,
    now: Moment,
    control: &ControlState,
    raft: &RaftView,
    sabotage: Sabotage,
) -> Option<Action> {
    if coordinator.moved_at.is_some_and(|at| now.since(at) < MOVE_INTERVAL) || raft.changing {
        return None;
    }
    if control.cluster.is_empty() {
        return None;
    }
    let near =
        |node: &NodeId| raft.behind.get(node).is_some_and(|lacks| *lacks <= NEAR_ENTRIES_MAX);
    let heartbeat = Duration::from_millis(control.settings.timing.heartbeat_ms);
    let lately = HEARD_LATELY_MIN.max(heartbeat * 5 / 2);
    let heard =
        |node: &NodeId| coordinator.seen.get(node).is_some_and(|seen| now.since(seen.at) <= lately);
    if let Some(voters) = next_voters(me, control, raft, near) {
        return Some(Action::ChangeVoters { voters });
    }
    let voters = control.voters();
    // Nobody finds the way to a leader that is no member any more: it hears no report and can do
    // nothing but go.
    let removed = !control.members.contains_key(&me);
    let unwelcome = control.primacy.holder == Some(me) || !voters.contains(&me);
    // A promotion comes first: moving leadership costs an election where the other side is dead.
    let settled = control.timelines.contains_key(&control.primacy.epoch)
        && coordinator.settled_for(now, control) >= SETTLED_FOR;
    let stays = !unwelcome || !settled || control.handover.is_some();
    if (stays && !removed) || sabotage.is(Saboteur::LeadershipStaysOnPrimary) {
        return None;
    }
    // A witness first: it will never be primary, so leadership can stay there for good. The primary
    // last: it would have to pass leadership on.
    raft.voters
        .iter()
        .filter(|node| **node != me && voters.contains(node) && near(node))
        .filter(|node| removed || heard(node))
        .min_by_key(|node| {
            let witness = control.members.get(node).is_some_and(|m| m.kind == MemberKind::Witness);
            (control.primacy.holder == Some(**node), !witness, **node)
        })
        .map(|to| Action::TransferLeadership { to: *to })
}

/// The voters after the next single change: first somebody is added, then somebody leaves.
fn next_voters(
    me: NodeId,
    control: &ControlState,
    raft: &RaftView,
    near: impl Fn(&NodeId) -> bool,
) -> Option<BTreeSet<NodeId>> {
    let desired = control.voters();
    let unknown =
        control.members.keys().any(|n| !raft.voters.contains(n) && !raft.learners.contains(n));
    let gone = raft.learners.iter().any(|n| !control.members.contains_key(n));
    if let Some(new) = desired.iter().find(|n| !raft.voters.contains(n) && near(n)) {
        let mut voters = raft.voters.clone();
        voters.insert(*new);
        return Some(voters);
    }
    let missing = desired.iter().any(|node| !raft.voters.contains(node));
    let leaving = raft.voters.iter().find(|node| !desired.contains(node) && **node != me);
    if !missing && let Some(old) = leaving {
        let mut voters = raft.voters.clone();
        voters.remove(old);
        return Some(voters);
    }
    (unknown || gone).then(|| raft.voters.clone())
}
