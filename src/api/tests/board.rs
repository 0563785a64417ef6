//! What the board keeps, counts and calls out.

use std::sync::Arc;

use crate::control::{Applied, Command, VacateReason};
use crate::ha::{Event, Role};
use crate::ids::{Epoch, NodeId};
use crate::runtime::Observer;

use super::fixtures::{Bench, apply, at, cluster, primary, report, standby};

fn vacated() -> Event {
    let mut control = cluster();
    apply(&mut control, &Command::Vacate { epoch: Epoch(1), why: VacateReason::Silent });
    Event::Control(Arc::new(control))
}

#[test]
fn it_shows_what_the_core_was_after_its_last_step() {
    let bench = Bench::primary();
    let shown = bench.board.snapshot();
    assert_eq!((shown.role, shown.role_since), (Role::Primary, at(1_000)));
    assert_eq!(shown.lease.unwrap().until, at(3_000));
    assert_eq!(shown.seen.as_ref().unwrap().0.flushed, primary(1_000).flushed);
    assert_eq!(shown.own.as_ref().unwrap().0.node, NodeId(1));
    assert_eq!(shown.raft.leader, Some(NodeId(3)));
    assert!(shown.reports.is_none(), "it does not lead");
}

#[test]
fn every_change_of_the_role_is_called_out_once_with_its_reason() {
    let mut bench = Bench::new(1);
    let mut changes = bench.board.role_changes();
    bench.renewed(1_000);
    bench.sees(1_000, primary(1_000));
    let became = changes.try_recv().unwrap();
    assert_eq!((became.from, became.to), (Role::Preparing, Role::Primary));
    assert_eq!((became.cluster.as_str(), became.epoch), ("test", Epoch(1)));
    // Its lease runs out unseen: the fence says so.
    bench.step(2_900, Event::Wake);
    let fenced = changes.try_recv().unwrap();
    assert_eq!(fenced.to, Role::Fencing);
    assert!(fenced.reason.contains("lease of e1"), "{}", fenced.reason);
    assert!(changes.try_recv().is_err());
    assert_eq!(bench.board.counters().fences, 1);
    assert_eq!(bench.board.counters().role_changes.get(&Role::Primary), Some(&1));
}

#[test]
fn a_listener_that_sleeps_delays_nobody_and_is_told_what_it_missed() {
    let mut bench = Bench::standby();
    let mut changes = bench.board.role_changes();
    for round in 0..100 {
        bench.step(2_000 + round, vacated());
        bench.step(2_000 + round, Event::Control(Arc::new(cluster())));
    }
    let missed = changes.try_recv().unwrap_err();
    assert!(matches!(missed, tokio::sync::broadcast::error::TryRecvError::Lagged(136)));
    assert_eq!(changes.try_recv().unwrap().from, Role::Standby);
}

#[test]
fn an_outage_lasts_from_the_end_of_one_primacy_to_the_birth_of_the_next() {
    let mut bench = Bench::standby();
    bench.step(5_000, vacated());
    bench.step(6_250, Event::Control(Arc::new(cluster())));
    bench.step(7_000, Event::Control(Arc::new(cluster())));
    let counted = bench.board.counters();
    assert_eq!((counted.outages, counted.outage_ms, counted.last_outage_ms), (1, 1_250, 1_250));
}

#[test]
fn commands_are_counted_when_they_had_an_effect() {
    let bench = Bench::standby();
    let vacate = Command::Vacate { epoch: Epoch(1), why: VacateReason::CannotRenew };
    bench.board.applied(7, &vacate, &Applied::Done);
    bench.board.applied(8, &vacate, &Applied::Refused("it has ended".into()));
    bench.board.installed(20);
    let counted = bench.board.counters();
    assert_eq!(counted.vacancies.get("cannot_renew"), Some(&1));
    assert_eq!((counted.applied_index, counted.snapshots), (20, 1));
}

#[test]
fn a_leader_shows_what_it_hears_and_forgets_it_with_its_leadership() {
    let mut bench = Bench::standby();
    bench.leads(1_100, vec![report(1, &primary(1_000)), report(3, &standby(800))]);
    let shown = bench.board.snapshot();
    let reports = shown.reports.as_ref().unwrap();
    assert_eq!(reports.keys().copied().collect::<Vec<_>>(), [NodeId(1), NodeId(3)]);
    assert_eq!(reports.get(&NodeId(1)).unwrap().1, at(1_100));
    bench.step(1_200, Event::Raft(crate::ha::RaftView::default()));
    assert!(bench.board.snapshot().reports.is_none());
}
