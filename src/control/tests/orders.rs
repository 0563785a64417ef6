//! Operators' orders: done once, refused, or unknown, and never answered for another.

use super::fixtures::*;
use crate::control::{
    Applied, Command, ControlState, Mode, Order, OrderOutcome, SettingsChange, VacateReason,
};
use crate::ids::{CommandId, NodeId};
use crate::sabotage::Sabotage;

fn switchover(id: u64, to: Option<u64>) -> Command {
    order(id, Order::Switchover { to: to.map(NodeId) })
}

fn failover(id: u64, to: Option<u64>) -> Command {
    order(id, Order::Failover { to: to.map(NodeId), accept_data_loss: false })
}

fn outcome(control: &ControlState, id: u64) -> &OrderOutcome {
    control.outcome_of(CommandId(id)).expect("a remembered order")
}

fn give_up(id: u64) -> Command {
    let outcome = OrderOutcome::Refused("it took too long".into());
    Command::EndHandover { id: CommandId(id), outcome }
}

#[test]
fn a_switchover_that_ends_where_it_was_asked_to_is_done() {
    for (to, asked) in [(None, 2), (Some(2), 2)] {
        let mut control = serving(&[1, 2, 3], Mode::Async);
        do_it(&mut control, &switchover(1, to));
        vacate(&mut control, VacateReason::Operator);
        elect(&mut control, asked);
        assert_eq!(*outcome(&control, 1), OrderOutcome::Pending);
        give_birth(&mut control);
        assert!(matches!(outcome(&control, 1), OrderOutcome::Done(_)));
    }
}

#[test]
fn a_switchover_that_ends_somewhere_else_is_not_done() {
    for (to, winner) in [(Some(2), 3), (Some(2), 1), (None, 1)] {
        let mut control = serving(&[1, 2, 3], Mode::Async);
        do_it(&mut control, &switchover(1, to));
        vacate(&mut control, VacateReason::Operator);
        elect(&mut control, winner);
        give_birth(&mut control);
        let ended = outcome(&control, 1);
        assert!(matches!(ended, OrderOutcome::Refused(_)), "{to:?}, {winner}: {ended:?}");
        assert_eq!(control.handover, None);
    }
}

#[test]
fn a_failover_that_comes_first_is_no_switchover() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    do_it(&mut control, &switchover(1, None));
    vacate(&mut control, VacateReason::Silent);
    assert!(matches!(outcome(&control, 1), OrderOutcome::Refused(_)));
    assert_eq!(control.handover, None);
}

#[test]
fn the_birth_of_the_epoch_that_is_to_end_ends_no_handover() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    vacate(&mut control, VacateReason::Silent);
    elect(&mut control, 2);
    do_it(&mut control, &failover(1, Some(3)));
    give_birth(&mut control);
    assert_eq!(*outcome(&control, 1), OrderOutcome::Pending);
}

#[test]
fn an_order_that_took_primacy_away_is_not_refused_any_more() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    do_it(&mut control, &failover(1, Some(2)));
    vacate(&mut control, VacateReason::Operator);
    do_it(&mut control, &give_up(1));
    assert!(matches!(outcome(&control, 1), OrderOutcome::Unknown(_)));
    elect(&mut control, 2);
    give_birth(&mut control);
    assert!(matches!(outcome(&control, 1), OrderOutcome::Unknown(_)), "it stays what was told");
}

#[test]
fn an_order_that_has_changed_nothing_is_refused() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    do_it(&mut control, &switchover(1, Some(2)));
    do_it(&mut control, &give_up(1));
    assert!(matches!(outcome(&control, 1), OrderOutcome::Refused(_)));
}

#[test]
fn a_name_that_is_used_again_does_not_answer_for_another_order() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    do_it(&mut control, &order(1, Order::Pause));
    assert_refused(&mut control, &order(1, Order::Resume), "name of another order");
    assert!(control.settings.paused);
    let again = control.apply(&order(1, Order::Pause), Sabotage::NONE);
    assert_eq!(again, Applied::Repeated(OrderOutcome::Done(String::new())));
}

#[test]
fn an_order_that_was_forgotten_is_unknown_and_not_repeated() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    do_it(&mut control, &add(1, 4));
    do_it(&mut control, &switchover(2, Some(2)));
    for id in 3..200 {
        let toggle = if id % 2 == 1 { Order::Pause } else { Order::Resume };
        do_it(&mut control, &order(id, toggle));
    }
    let answer = control.apply(&add(1, 4), Sabotage::NONE);
    assert!(matches!(answer, Applied::Repeated(OrderOutcome::Unknown(_))), "{answer}");
    let pending = control.apply(&switchover(2, Some(2)), Sabotage::NONE);
    assert_eq!(pending, Applied::Repeated(OrderOutcome::Pending), "what goes on is remembered");
    vacate(&mut control, VacateReason::Operator);
    elect(&mut control, 2);
    give_birth(&mut control);
    assert!(matches!(outcome(&control, 2), OrderOutcome::Done(_)));
}

/// An operator who accepts a loss accepts what this election costs. What its holder has was
/// promised before and is promised still: it binds the next election until others have it too.
#[test]
fn a_forced_failover_leaves_bound_what_bound_before() {
    let mut control = serving(&[1, 2, 3], Mode::QuorumSync);
    let before = control.sync.configs.clone();
    let forced = Order::Failover { to: Some(NodeId(2)), accept_data_loss: true };
    do_it(&mut control, &order(1, forced));
    vacate(&mut control, VacateReason::Operator);
    elect(&mut control, 2);
    assert!(before.iter().all(|config| control.sync.configs.contains(config)));
}

/// Whoever is primary in asynchronous mode acknowledges what no standby has. An election that comes
/// after has to know, also when epochs that were to wait for standbys lie between, as long as none
/// of these came to be: such an epoch has settled nothing.
#[test]
fn an_epoch_that_never_came_to_be_hides_no_asynchronous_one() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    let acknowledged_alone = control.sync.configs.clone();
    let waits = SettingsChange { mode: Some(Mode::QuorumSync), ..SettingsChange::default() };
    do_it(&mut control, &order(1, Order::Configure(waits)));
    for holder in [2, 3, 2] {
        vacate(&mut control, VacateReason::Silent);
        elect(&mut control, holder);
        assert!(acknowledged_alone.iter().all(|old| control.sync.configs.contains(old)));
    }
}

/// Among epochs that wait for nobody, only the one at hand says how much may be lost.
#[test]
fn an_asynchronous_epoch_is_forgotten_with_its_end_when_the_next_waits_for_nobody() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    vacate(&mut control, VacateReason::Silent);
    elect(&mut control, 2);
    let present = control.primacy.epoch;
    assert!(control.sync.configs.iter().all(|config| config.epoch == present));
}
