//! Who may join, who votes, and whose confirmations count.

use super::fixtures::*;
use crate::control::{Command, ControlState, Member, MemberKind, Mode, Order, VacateReason};
use crate::ids::{Epoch, Incarnation, NodeId};

fn nodes(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().map(|n| NodeId(*n)).collect()
}

#[track_caller]
fn assert_voters(control: &ControlState, numbers: &[u64]) {
    assert_eq!(control.voters(), nodes(numbers).into_iter().collect());
}

#[test]
fn the_member_that_was_admitted_last_waits_for_its_vote_whatever_its_number() {
    let mut control = serving(&[1, 3, 5], Mode::Async);
    do_it(&mut control, &add(1, 2));
    assert_voters(&control, &[1, 3, 5]);
    do_it(&mut control, &add(2, 4));
    assert_voters(&control, &[1, 2, 3, 4, 5]);
    do_it(&mut control, &remove(3, 5));
    assert_voters(&control, &[1, 2, 3]);
    do_it(&mut control, &remove(4, 3));
    assert_voters(&control, &[1, 2, 4]);
}

#[test]
fn an_empty_newcomer_changes_no_number_of_confirmations() {
    let mut control = serving(&[1, 2, 3], Mode::QuorumSync);
    do_it(&mut control, &add(1, 4));
    assert_eq!(control.confirmations(), 1, "it does not vote");
    do_it(&mut control, &add(2, 5));
    assert_eq!(control.confirmations(), 1, "neither of the two holds the data");
    do_it(&mut control, &Command::Join { epoch: Epoch(1), node: NodeId(4) });
    do_it(&mut control, &Command::Join { epoch: Epoch(1), node: NodeId(5) });
    assert_eq!(control.confirmations(), 2);
}

#[test]
fn a_replacement_leaves_the_number_of_confirmations_as_it_was() {
    let mut control = serving(&[1, 2, 3], Mode::QuorumSync);
    do_it(&mut control, &add(1, 4));
    do_it(&mut control, &Command::Join { epoch: Epoch(1), node: NodeId(4) });
    assert_eq!(control.confirmations(), 1);
    do_it(&mut control, &remove(2, 3));
    assert_eq!(control.confirmations(), 1);
    assert_voters(&control, &[1, 2, 4]);
}

#[test]
fn quorum_sync_never_becomes_async_by_a_change_of_members() {
    let mut control = ControlState::default();
    let members = [(1, member(1)), (2, member(2)), (3, witness(3))];
    do_it(&mut control, &found(&members, Mode::QuorumSync));
    elect(&mut control, 1);
    give_birth(&mut control);
    do_it(&mut control, &add(1, 4));
    assert_refused(&mut control, &remove(2, 2), "hold the data");
    do_it(&mut control, &Command::Join { epoch: Epoch(1), node: NodeId(4) });
    do_it(&mut control, &remove(3, 2));
    assert_eq!(control.confirmations(), 1);
}

#[test]
fn whoever_may_have_what_a_successor_needs_stays_until_there_is_one() {
    let mut control = ControlState::default();
    let members =
        [(1, member(1)), (2, member(2)), (3, member(3)), (4, witness(4)), (5, witness(5))];
    do_it(&mut control, &found(&members, Mode::Async));
    elect(&mut control, 1);
    give_birth(&mut control);
    do_it(&mut control, &add(1, 6));
    vacate(&mut control, VacateReason::Silent);
    assert_refused(&mut control, &remove(2, 1), "nobody is primary, and n1 may have");
    assert_refused(&mut control, &remove(3, 3), "nobody is primary, and n3 may have");
    // Neither of these has anything.
    do_it(&mut control, &remove(4, 4));
    do_it(&mut control, &remove(5, 6));
    elect(&mut control, 2);
    do_it(&mut control, &remove(6, 1));
}

#[test]
fn a_newcomer_joins_once_and_under_the_present_primary() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    do_it(&mut control, &add(1, 4));
    let join = |epoch| Command::Join { epoch: Epoch(epoch), node: NodeId(4) };
    assert_refused(&mut control, &join(2), "present epoch");
    do_it(&mut control, &join(1));
    assert_refused(&mut control, &join(1), "no newcomer");
}

#[test]
fn a_newcomer_that_becomes_primary_holds_the_data() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    do_it(&mut control, &add(1, 4));
    vacate(&mut control, VacateReason::Silent);
    elect(&mut control, 4);
    give_birth(&mut control);
    assert!(control.newcomers.is_empty());
}

#[test]
fn a_cluster_is_not_founded_in_a_mode_that_it_cannot_keep() {
    let members = [(1, member(1)), (2, witness(2)), (3, witness(3))];
    assert_refused(
        &mut ControlState::default(),
        &found(&members, Mode::QuorumSync),
        "quorum-sync needs two",
    );
    do_it(&mut ControlState::default(), &found(&members, Mode::Async));
}

#[test]
fn a_member_without_an_identity_of_its_own_is_not_admitted() {
    let nameless = |node| Member { incarnation: Incarnation(0), ..member(node) };
    let mut control = serving(&[1, 2, 3], Mode::Async);
    let admit = |id, node, member| order(id, Order::AddMember { node: NodeId(node), member });
    assert_refused(&mut control, &admit(1, 4, nameless(4)), "identity of its store");
    let same_server = Member { postgres: "pg2".into(), ..member(4) };
    assert_refused(&mut control, &admit(2, 4, same_server.clone()), "Postgres address");
    let same_node = Member { address: "n2".into(), ..member(4) };
    assert_refused(&mut control, &admit(3, 4, same_node), "is the address of");
    let harmless = Member { kind: MemberKind::Witness, ..same_server };
    do_it(&mut control, &admit(4, 4, harmless));

    let founders = [(1, member(1)), (2, nameless(2)), (3, member(3))];
    assert_refused(&mut ControlState::default(), &found(&founders, Mode::Async), "identity");
}

#[test]
fn a_primary_that_is_tagged_stays_primary() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    let tag = Order::TagMember { node: NodeId(1), priority: 1, no_failover: true };
    do_it(&mut control, &order(1, tag));
    assert_eq!(control.primacy.holder, Some(NodeId(1)));
}
