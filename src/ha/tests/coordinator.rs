//! What the coordinator concludes from who is silent.

use super::fixtures::*;
use crate::control::{Command, ControlState, Mode, VacateReason};
use crate::ha::coordinator::Coordinator;
use crate::ha::lease::LeaseLedger;
use crate::ha::{ReceiverReport, Report};
use crate::ids::{Epoch, NodeId, Term};
use crate::sabotage::Sabotage;
use std::time::Duration;

fn follower(node: u64, silent_ms: u64) -> Report {
    let receiver = ReceiverReport { upstream: NodeId(1), epoch: Epoch(1), silent_ms };
    Report { detached: None, receiver: Some(receiver), ..detached(node, 100) }
}

fn judged(control: &ControlState, holder_heard_ms: u64, silent_ms: u64) -> Option<Command> {
    let mut coordinator = Coordinator::new(Term(1), at(0), control);
    let mut holder = detached(1, 100);
    holder.detached = None;
    holder.leased = true;
    holder.sync = control.sync.target().cloned().expect("a target");
    coordinator.on_report(holder, control, at(holder_heard_ms), Sabotage::NONE);
    for node in [2, 3] {
        coordinator.on_report(follower(node, silent_ms), control, at(5_000), Sabotage::NONE);
    }
    coordinator.next_command(at(5_000), control, Sabotage::NONE)
}

fn vacates(command: Option<&Command>) -> bool {
    matches!(command, Some(Command::Vacate { epoch: Epoch(1), why: VacateReason::Silent }))
}

#[test]
fn a_failover_needs_two_signals() {
    let control = with_primary(3, Mode::Async);
    assert!(!vacates(judged(&control, 4_900, 10).as_ref()), "both are heard");
    assert!(!vacates(judged(&control, 4_900, 9_000).as_ref()), "the manager is heard");
    assert!(!vacates(judged(&control, 4_000, 10).as_ref()), "a standby hears its Postgres");
    assert!(vacates(judged(&control, 4_000, 900).as_ref()), "nobody hears anything");
    assert!(vacates(judged(&control, 1_000, 10).as_ref()), "its lease is over for certain");
}

/// Its standbys may still be on their way to it: only what was heard once can be missed.
#[test]
fn a_new_primary_that_nobody_has_heard_yet_may_be_silent_for_longer() {
    let judged = |heard_once: bool, silent_ms: u64| {
        let control = with_primary(3, Mode::QuorumSync);
        let mut coordinator = Coordinator::new(Term(1), at(0), &ControlState::default());
        coordinator.on_control(&control, at(2_000));
        if heard_once {
            coordinator.on_report(follower(2, 10), &control, at(2_500), Sabotage::NONE);
        }
        let mut holder = detached(1, 100);
        holder.detached = None;
        holder.leased = true;
        let last = 5_000 - silent_ms;
        coordinator.on_report(holder, &control, at(last), Sabotage::NONE);
        for node in [2, 3] {
            coordinator.on_report(detached(node, 100), &control, at(4_990), Sabotage::NONE);
        }
        vacates(coordinator.next_command(at(5_000), &control, Sabotage::NONE).as_ref())
    };
    assert!(judged(true, 700), "it was heard, and is heard no more");
    assert!(!judged(false, 700), "nobody could hear it yet");
    assert!(!judged(false, 1_500), "nor now");
    assert!(judged(false, 1_700), "it is silent for too long");
}

#[test]
fn maintenance_forbids_a_failover() {
    let mut control = with_primary(3, Mode::Async);
    control.settings.paused = true;
    assert!(!vacates(judged(&control, 1_000, 9_000).as_ref()));
}

#[test]
fn a_leader_waits_for_leases_that_it_did_not_grant() {
    let wait = Duration::from_millis(2_020);
    let mut ledger = LeaseLedger::new(at(1_000));
    assert_eq!(ledger.clear_at(Epoch(1), wait, Sabotage::NONE), at(3_020));
    ledger.renewal_confirmed(at(1_500));
    assert_eq!(ledger.clear_at(Epoch(1), wait, Sabotage::NONE), at(3_520));
}

#[test]
fn an_epoch_that_was_given_here_and_never_renewed_needs_no_wait() {
    let wait = Duration::from_millis(2_020);
    let mut ledger = LeaseLedger::new(at(1_000));
    ledger.renewal_confirmed(at(1_500));
    ledger.epoch_given(Epoch(2));
    assert_eq!(ledger.clear_at(Epoch(2), wait, Sabotage::NONE), at(1_000));
    ledger.renewal_confirmed(at(1_800));
    assert_eq!(ledger.clear_at(Epoch(2), wait, Sabotage::NONE), at(3_820));
    assert_eq!(ledger.clear_at(Epoch(1), wait, Sabotage::NONE), at(3_820), "never too early");
}

#[test]
fn a_holder_that_is_heard_and_cannot_renew_is_replaced() {
    let control = with_primary(3, Mode::Async);
    let mut coordinator = Coordinator::new(Term(1), at(0), &control);
    let heard = |coordinator: &mut Coordinator, ms: u64, leased: bool| {
        let holder = Report { detached: None, leased, ..detached(1, 100) };
        coordinator.on_report(holder, &control, at(ms), Sabotage::NONE);
        coordinator.on_report(follower(2, 10), &control, at(ms), Sabotage::NONE);
        coordinator.next_command(at(ms), &control, Sabotage::NONE)
    };
    assert!(!matches!(heard(&mut coordinator, 1_000, true), Some(Command::Vacate { .. })));
    for ms in [1_200, 1_400, 2_000, 2_800] {
        assert!(!matches!(heard(&mut coordinator, ms, false), Some(Command::Vacate { .. })));
    }
    let why = VacateReason::CannotRenew;
    assert_eq!(
        heard(&mut coordinator, 2_900, false),
        Some(Command::Vacate { epoch: Epoch(1), why })
    );
}

/// Heartbeats every two seconds: a member between two of them is not gone.
#[test]
fn a_report_speaks_for_a_member_until_several_heartbeats_were_lost() {
    let mut control = with_primary(3, Mode::Async);
    let coordinator = |control: &ControlState| {
        let mut coordinator = Coordinator::new(Term(1), at(0), control);
        coordinator.on_report(follower(2, 10), control, at(1_000), Sabotage::NONE);
        coordinator
    };
    let alive = |control: &ControlState, ms| coordinator(control).alive(at(ms), control).len();
    assert_eq!((alive(&control, 2_000), alive(&control, 2_001)), (1, 0));
    control.settings.timing.heartbeat_ms = 2_000;
    assert_eq!((alive(&control, 11_000), alive(&control, 11_001)), (1, 0));
}

#[test]
fn a_first_holder_that_creates_no_database_gives_way_to_another() {
    let mut control = founded(3, Mode::Async);
    let elect = Command::Elect {
        after: Epoch(0),
        holder: NodeId(1),
        sync: sync_names(&control, 1, &[2, 3]),
        sync_version: 0,
        reports: std::collections::BTreeMap::new(),
        clearance: crate::control::Clearance::LeaseOver,
    };
    do_it(&mut control, &elect);
    let mut coordinator = Coordinator::new(Term(1), at(0), &control);
    let empty = |node: u64| Report {
        system: None,
        birth: None,
        position: None,
        detached: None,
        leased: true,
        ..detached(node, 0)
    };
    let mut next = |control: &ControlState, ms: u64| {
        for node in 1..=3 {
            coordinator.on_report(empty(node), control, at(ms), Sabotage::NONE);
        }
        coordinator.on_control(control, at(ms));
        coordinator.next_command(at(ms), control, Sabotage::NONE)
    };
    assert_eq!(next(&control, 19_000), None, "it may take its time");
    let vacate = Command::Vacate { epoch: Epoch(1), why: VacateReason::NotPromoted };
    assert_eq!(next(&control, 20_100), Some(vacate.clone()));
    do_it(&mut control, &vacate);
    let elected = next(&control, 20_200);
    assert!(matches!(elected, Some(Command::Elect { holder: NodeId(2), .. })), "{elected:?}");
}

#[test]
fn a_report_that_was_overtaken_is_dropped() {
    let control = with_primary(3, Mode::Async);
    let mut coordinator = Coordinator::new(Term(1), at(0), &control);
    let mut say = |ms: u64, version: u64, flushed: u64| {
        let report = Report { version, ..detached(2, flushed) };
        coordinator.on_report(report, &control, at(ms), Sabotage::NONE);
        coordinator.alive(at(ms), &control)[&NodeId(2)].position
    };
    assert_eq!(say(100, 8, 500), Some(position(1, 500)));
    assert_eq!(say(150, 7, 400), Some(position(1, 500)), "an older word came later");
    assert_eq!(say(200, 8, 600), Some(position(1, 600)));
}

#[test]
fn what_was_reached_is_noted_while_an_asynchronous_configuration_counts() {
    let mut control = with_primary(3, Mode::Async);
    control.settings.mode = Mode::QuorumSync;
    let target = sync_names(&control, 1, &[2, 3]);
    let version = control.sync.version;
    do_it(&mut control, &Command::ProposeSync { epoch: Epoch(1), version, target });
    let noted = |control: &ControlState| {
        let mut coordinator = Coordinator::new(Term(1), at(0), control);
        let mut holder = detached(1, 100);
        holder.detached = None;
        holder.version = control.version;
        coordinator.on_report(holder, control, at(100), Sabotage::NONE);
        coordinator.next_command(at(100), control, Sabotage::NONE)
    };
    let progress = Command::NoteProgress { epoch: Epoch(1), position: position(1, 100) };
    assert_eq!(noted(&control), Some(progress), "it acknowledges alone until the set is settled");
    let version = control.sync.version;
    do_it(&mut control, &Command::SettleSync { epoch: Epoch(1), version });
    assert_eq!(noted(&control), None, "the standbys that confirm know it");
}
