//! Which synchronous configurations an election leaves behind.

use super::fixtures::*;
use crate::control::{ControlState, Mode, Order, SettingsChange, VacateReason};
use crate::ids::Epoch;

fn set_mode(control: &mut ControlState, id: u64, mode: Mode) {
    let change = SettingsChange { mode: Some(mode), ..SettingsChange::default() };
    do_it(control, &order(id, Order::Configure(change)));
}

fn epochs(control: &ControlState) -> Vec<Epoch> {
    control.sync.configs.iter().map(|config| config.epoch).collect()
}

#[test]
fn one_that_waited_in_an_epoch_that_was_never_born_confirmed_nothing() {
    let mut control = serving(&[1, 2, 3], Mode::QuorumSync);
    vacate(&mut control, VacateReason::Silent);
    elect(&mut control, 2);
    vacate(&mut control, VacateReason::Silent);
    elect(&mut control, 2);
    assert_eq!(epochs(&control), [Epoch(1), Epoch(3)]);
}

/// Its primary may have acknowledged before its birth was on record, and alone.
#[test]
fn an_asynchronous_one_counts_though_its_epoch_was_never_born() {
    let mut control = serving(&[1, 2, 3], Mode::QuorumSync);
    set_mode(&mut control, 1, Mode::Async);
    vacate(&mut control, VacateReason::Silent);
    elect(&mut control, 2);
    set_mode(&mut control, 2, Mode::QuorumSync);
    vacate(&mut control, VacateReason::Silent);
    elect(&mut control, 2);
    assert_eq!(epochs(&control), [Epoch(1), Epoch(2), Epoch(3)]);
    assert!(!control.sync.relies_on_standbys());
}

#[test]
fn an_asynchronous_one_tells_nothing_to_another() {
    let mut control = serving(&[1, 2, 3], Mode::Async);
    vacate(&mut control, VacateReason::Silent);
    elect(&mut control, 2);
    assert_eq!(epochs(&control), [Epoch(2)]);
}
