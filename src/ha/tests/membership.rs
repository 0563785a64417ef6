//! Where leadership lives, and who votes next.

use std::collections::BTreeSet;

use super::fixtures::*;
use crate::control::{Command, ControlState, Member, Mode, Order, VacateReason};
use crate::ha::coordinator::Coordinator;
use crate::ha::membership::next_move;
use crate::ha::{Action, RaftView, Report};
use crate::ids::{CommandId, Incarnation, Moment, NodeId, Term};
use crate::sabotage::Sabotage;

fn nodes(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().map(|n| NodeId(*n)).collect()
}

fn view(voters: &[u64], learners: &[u64]) -> RaftView {
    RaftView {
        leads: true,
        term: Term(1),
        voters: nodes(voters),
        learners: nodes(learners),
        behind: nodes(voters).union(&nodes(learners)).map(|node| (*node, 0)).collect(),
        ..RaftView::default()
    }
}

/// A coordinator that has heard from everybody, again and again, until `ms`.
fn hearing(control: &ControlState, admits_from: u64, ms: u64) -> Coordinator {
    let mut coordinator = Coordinator::new(Term(1), at(0), control);
    for now in (0..=ms).step_by(200) {
        for node in control.members.keys() {
            let mut report = Report { detached: None, ..detached(node.0, 100) };
            if control.primacy.holder == Some(*node) {
                report.side = crate::env::Side::Primary;
                report.admits = now >= admits_from;
            }
            coordinator.on_report(report, control, at(now), Sabotage::NONE);
        }
    }
    coordinator
}

fn moved(
    control: &ControlState,
    me: u64,
    coordinator: &Coordinator,
    now: Moment,
    raft: &RaftView,
) -> Option<Action> {
    next_move(coordinator, NodeId(me), now, control, raft, Sabotage::NONE)
}

#[test]
fn leadership_waits_until_the_primary_has_served_for_a_second() {
    let control = with_primary(3, Mode::Async);
    let raft = view(&[1, 2, 3], &[]);
    let early = hearing(&control, 5_000, 5_800);
    assert_eq!(moved(&control, 1, &early, at(5_800), &raft), None, "it has served for 800 ms");
    let later = hearing(&control, 5_000, 6_000);
    let to = NodeId(2);
    let expected = Some(Action::TransferLeadership { to });
    assert_eq!(moved(&control, 1, &later, at(6_000), &raft), expected);
}

#[test]
fn a_leader_that_is_to_lose_its_vote_hands_over_to_one_that_keeps_it() {
    let mut control = with_primary(3, Mode::Async);
    let member = control.members[&NodeId(3)].clone();
    let orders = [4, 5].map(|n| {
        let (address, postgres) = (format!("n{n}"), format!("pg{n}"));
        let member = Member { address, postgres, incarnation: Incarnation(n), ..member.clone() };
        Order::AddMember { node: NodeId(n), member }
    });
    let orders = orders.into_iter().chain([Order::RemoveMember { node: NodeId(2) }]);
    for (id, order) in orders.enumerate() {
        do_it(&mut control, &Command::Operate { id: CommandId(id as u64 + 1), order });
    }
    assert_eq!(control.voters(), nodes(&[1, 3, 4]));
    let raft = view(&[1, 3, 4, 5], &[]);
    let coordinator = hearing(&control, 0, 2_000);
    // Whoever leads and keeps its vote takes the vote of the last; the last gives leadership away.
    let by_another = moved(&control, 3, &coordinator, at(2_000), &raft);
    assert_eq!(by_another, Some(Action::ChangeVoters { voters: nodes(&[1, 3, 4]) }));
    let by_itself = moved(&control, 5, &coordinator, at(2_000), &raft);
    assert_eq!(by_itself, Some(Action::TransferLeadership { to: NodeId(3) }));
}

/// Nobody reports to it any more, and in a vacancy nobody would be elected for as long as it leads.
#[test]
fn a_leader_that_was_removed_goes_whatever_else_is_under_way() {
    let mut control = with_primary(3, Mode::Async);
    let member = control.members[&NodeId(3)].clone();
    for (id, n) in [(1, 4), (2, 5)] {
        let (address, postgres) = (format!("n{n}"), format!("pg{n}"));
        let member = Member { address, postgres, incarnation: Incarnation(n), ..member.clone() };
        let order = Order::AddMember { node: NodeId(n), member };
        do_it(&mut control, &Command::Operate { id: CommandId(id), order });
    }
    for (id, n) in [(3, 3), (4, 5)] {
        let order = Order::RemoveMember { node: NodeId(n) };
        do_it(&mut control, &Command::Operate { id: CommandId(id), order });
    }
    let epoch = control.primacy.epoch;
    do_it(&mut control, &Command::Vacate { epoch, why: VacateReason::Silent });
    let unheard = Coordinator::new(Term(1), at(0), &control);
    let raft = view(&[1, 2, 4, 5], &[]);
    let expected = Some(Action::TransferLeadership { to: NodeId(1) });
    assert_eq!(moved(&control, 5, &unheard, at(9_000), &raft), expected);
    assert_eq!(moved(&control, 2, &unheard, at(9_000), &view(&[1, 2, 4], &[])), None);
}

#[test]
fn a_stranger_is_not_believed() {
    let control = with_primary(3, Mode::Async);
    let mut coordinator = Coordinator::new(Term(1), at(0), &control);
    for node in [2, 9] {
        coordinator.on_report(detached(node, 100), &control, at(0), Sabotage::NONE);
    }
    let alive = coordinator.alive(at(0), &control);
    assert_eq!(alive.into_keys().collect::<BTreeSet<_>>(), nodes(&[2]));
}
