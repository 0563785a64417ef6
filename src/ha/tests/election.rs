//! Who is elected, and what stands in the way.

use std::collections::BTreeMap;

use super::fixtures::*;
use crate::control::{Clearance, Command, ControlState, Mode, Order, VacateReason};
use crate::ha::Report;
use crate::ha::election::{Ballot, Failure, Obstacle};
use crate::ids::{CommandId, Epoch, NodeId, SystemId, WalPosition};
use crate::sabotage::Sabotage;

struct Given {
    control: ControlState,
    reports: Vec<Report>,
    now_ms: u64,
    lease_clear_ms: u64,
    primary_position: Option<WalPosition>,
    failed: BTreeMap<NodeId, Failure>,
}

impl Given {
    fn after_a_failure(nodes: u64, mode: Mode, reports: Vec<Report>) -> Self {
        let control = vacated(nodes, mode);
        Self {
            control,
            reports,
            now_ms: 5_000,
            lease_clear_ms: 4_000,
            primary_position: None,
            failed: BTreeMap::new(),
        }
    }

    fn decide(&self) -> Result<Command, Obstacle> {
        let alive: BTreeMap<NodeId, Report> =
            self.reports.iter().map(|report| (report.node, report.clone())).collect();
        let ballot = Ballot {
            now: at(self.now_ms),
            control: &self.control,
            alive: &alive,
            vacant_since: at(1_000),
            lease_clear_at: at(self.lease_clear_ms),
            primary_position: self.primary_position,
            failed: &self.failed,
            sabotage: Sabotage::NONE,
        };
        ballot.decide()
    }

    fn elected(&self) -> (NodeId, Clearance) {
        match self.decide() {
            Ok(Command::Elect { holder, clearance, .. }) => (holder, clearance),
            other => panic!("nobody was elected: {other:?}"),
        }
    }
}

#[test]
fn the_most_advanced_is_elected_whatever_its_priority() {
    let mut given =
        Given::after_a_failure(3, Mode::Async, vec![detached(2, 100), detached(3, 101)]);
    given.control.members.get_mut(&NodeId(2)).expect("a member").priority = 9;
    assert_eq!(given.elected(), (NodeId(3), Clearance::LeaseOver));
    given.reports = vec![detached(2, 101), detached(3, 101)];
    assert_eq!(given.elected().0, NodeId(2));
}

#[test]
fn a_holder_that_failed_by_itself_is_the_last_among_equals() {
    let reports = vec![detached(1, 100), detached(2, 100), detached(3, 100)];
    let mut given = Given::after_a_failure(3, Mode::Async, reports);
    assert_eq!(given.elected().0, NodeId(1));
    given.failed = BTreeMap::from([(NodeId(1), Failure { at: at(900), born: true })]);
    assert_eq!(given.elected().0, NodeId(2));
    given.reports[0] = detached(1, 101);
    assert_eq!(given.elected().0, NodeId(1), "what only it has counts for more");
}

#[test]
fn a_holder_that_never_became_primary_is_passed_over_where_the_others_suffice() {
    let reports = vec![detached(1, 900), detached(2, 100), detached(3, 100)];
    let mut given = Given::after_a_failure(3, Mode::Async, reports);
    given.failed = BTreeMap::from([(NodeId(1), Failure { at: at(900), born: false })]);
    assert_eq!(given.elected().0, NodeId(2));
    given.primary_position = Some(position(1, 900));
    given.control.settings.max_lag_bytes = 700;
    assert_eq!(given.elected().0, NodeId(1), "the bound on loss holds");
}

#[test]
fn a_later_birth_outranks_more_bytes() {
    let mut newer = detached(2, 50);
    newer.position = Some(position(2, 50));
    let given = Given::after_a_failure(3, Mode::Async, vec![newer, detached(3, 900)]);
    assert_eq!(given.elected().0, NodeId(2));
}

#[test]
fn async_waits_for_the_lease_and_quorum_sync_does_not() {
    let reports = vec![detached(2, 100), detached(3, 100)];
    let mut given = Given::after_a_failure(3, Mode::Async, reports.clone());
    given.lease_clear_ms = 6_000;
    assert_eq!(given.decide(), Err(Obstacle::LeaseUntil(at(6_000))));
    let mut given = Given::after_a_failure(3, Mode::QuorumSync, reports);
    given.lease_clear_ms = 6_000;
    assert_eq!(given.elected().1, Clearance::Quorum);
}

#[test]
fn a_former_holder_that_was_seen_to_end_frees_the_way_at_once() {
    let reports = vec![detached(1, 100), detached(2, 100), detached(3, 90)];
    let mut given = Given::after_a_failure(3, Mode::Async, reports);
    given.lease_clear_ms = 60_000;
    assert_eq!(given.elected().1, Clearance::Stopped);
}

#[test]
fn quorum_sync_counts_reports_against_every_recorded_configuration() {
    let given = Given::after_a_failure(3, Mode::QuorumSync, vec![detached(2, 100)]);
    assert!(matches!(given.decide(), Err(Obstacle::Evidence(_))));
    let five = Given::after_a_failure(
        5,
        Mode::QuorumSync,
        vec![detached(2, 100), detached(3, 100), detached(4, 120)],
    );
    assert_eq!(five.elected().0, NodeId(4));
    let two_of_five =
        Given::after_a_failure(5, Mode::QuorumSync, vec![detached(2, 100), detached(4, 120)]);
    assert!(matches!(two_of_five.decide(), Err(Obstacle::Evidence(_))));
}

/// Node 2 was elected after node 1, with the reports of both standbys, and nothing is settled yet.
#[test]
fn a_log_that_goes_on_in_a_later_epoch_covers_what_bound_the_election_to_it() {
    let mut given = Given::after_a_failure(3, Mode::QuorumSync, vec![]);
    let elect = Command::Elect {
        after: Epoch(1),
        holder: NodeId(2),
        sync: sync_names(&given.control, 2, &[1, 3]),
        sync_version: given.control.sync.version,
        reports: [2, 3].map(|node| (NodeId(node), Some(position(1, 1_000)))).into(),
        clearance: Clearance::LeaseOver,
    };
    do_it(&mut given.control, &elect);
    let history = vec![birth(1, 1, 0), birth(2, 2, 1_000)];
    do_it(&mut given.control, &Command::Born { epoch: Epoch(2), system: SYSTEM, history });
    do_it(&mut given.control, &Command::Vacate { epoch: Epoch(2), why: VacateReason::Silent });
    let position = |born, flushed| Some(position(born, flushed));
    let begun = after_epoch_2(Report { position: position(2, 1_100), ..detached(2, 1_100) });
    given.reports = vec![begun];
    assert_eq!(given.elected(), (NodeId(2), Clearance::Stopped));
    // One that was not there needs the word of others, for the epoch before as well.
    given.reports = vec![after_epoch_2(detached(3, 1_000))];
    assert!(matches!(given.decide(), Err(Obstacle::Evidence(_))));
}

#[test]
fn a_member_without_data_proves_nothing() {
    let mut empty = detached(3, 0);
    empty.system = None;
    empty.position = None;
    let given = Given::after_a_failure(3, Mode::QuorumSync, vec![detached(2, 100), empty]);
    assert!(matches!(given.decide(), Err(Obstacle::Evidence(_))));
}

#[test]
fn too_much_loss_is_refused_with_the_numbers_in_the_sentence() {
    let mut given = Given::after_a_failure(3, Mode::Async, vec![detached(2, 100)]);
    given.primary_position = Some(position(1, 100 + (2 << 20)));
    let refusal = given.decide().expect_err("too far behind").to_string();
    assert!(refusal.contains("2097152 bytes behind, max_lag is 1048576"), "{refusal}");
    let order = Order::Failover { to: Some(NodeId(2)), accept_data_loss: true };
    do_it(&mut given.control, &Command::Operate { id: CommandId(1), order });
    assert_eq!(given.elected().0, NodeId(2));
}

#[test]
fn what_the_chosen_one_had_is_known_although_it_was_never_born() {
    let mut given = Given::after_a_failure(3, Mode::Async, vec![]);
    let elect = Command::Elect {
        after: Epoch(1),
        holder: NodeId(1),
        sync: sync_names(&given.control, 2, &[2, 3]),
        sync_version: given.control.sync.version,
        reports: [(NodeId(1), Some(position(1, 100 + (2 << 20))))].into(),
        clearance: Clearance::LeaseOver,
    };
    do_it(&mut given.control, &elect);
    do_it(&mut given.control, &Command::Vacate { epoch: Epoch(2), why: VacateReason::Silent });
    given.reports = vec![after_epoch_2(detached(2, 100))];
    assert_eq!(behind(&given), 2 << 20);
}

/// Node 1 was primary of epoch 1, node 2 of epoch 2 from position 1000 on; nobody holds primacy.
fn after_two_epochs() -> Given {
    let mut given = Given::after_a_failure(3, Mode::Async, vec![]);
    let elect = Command::Elect {
        after: Epoch(1),
        holder: NodeId(2),
        sync: sync_names(&given.control, 2, &[1, 3]),
        sync_version: given.control.sync.version,
        reports: [(NodeId(2), Some(position(1, 1_000)))].into(),
        clearance: Clearance::LeaseOver,
    };
    do_it(&mut given.control, &elect);
    let history = vec![birth(1, 1, 0), birth(2, 2, 1_000)];
    do_it(&mut given.control, &Command::Born { epoch: Epoch(2), system: SYSTEM, history });
    do_it(&mut given.control, &Command::Vacate { epoch: Epoch(2), why: VacateReason::Silent });
    given
}

fn after_epoch_2(report: Report) -> Report {
    Report { detached: Some(Epoch(2)), ..report }
}

fn behind(given: &Given) -> u64 {
    match given.decide() {
        Err(Obstacle::TooFarBehind { behind_bytes, .. }) => behind_bytes,
        other => panic!("nobody is too far behind: {other:?}"),
    }
}

/// I4: a long tail that the successor never had makes up for nothing that the successor wrote.
#[test]
fn a_lag_is_measured_on_the_true_history_and_not_across_timelines() {
    let mut given = after_two_epochs();
    given.reports = vec![after_epoch_2(detached(1, 20 << 20))];
    given.primary_position = Some(position(2, 1_000 + (3 << 20)));
    assert_eq!(behind(&given), 3 << 20);
    // Where it stopped before the fork, that counts as well.
    given.reports = vec![after_epoch_2(detached(1, 900))];
    assert_eq!(behind(&given), (3 << 20) + 100);
    given.primary_position = Some(position(2, 1_000 + (1 << 19)));
    given.reports = vec![after_epoch_2(detached(1, 20 << 20))];
    assert_eq!(given.elected().0, NodeId(1), "half a megabyte may be lost");
}

/// What the former primary had beyond the fork was given up when its successor was elected.
#[test]
fn a_loss_that_was_accepted_once_is_not_counted_again() {
    let mut given = after_two_epochs();
    given.primary_position = Some(position(1, 1_000 + (9 << 20)));
    given.reports = vec![after_epoch_2(detached(3, 1_000))];
    assert_eq!(given.elected().0, NodeId(3));
}

/// A timeline that was never recorded is common ground up to its beginning.
#[test]
fn a_timeline_that_the_record_passed_over_counts_up_to_where_it_began() {
    let mut given = after_two_epochs();
    given.control.primacy.epoch = Epoch(4);
    given.control.lineage.push(birth(3, 4, 5_000));
    given.primary_position = Some(position(4, 5_000 + (3 << 20)));
    let mut passed_over = detached(3, 20 << 20);
    passed_over.detached = Some(Epoch(4));
    passed_over.birth = Some(birth(3, 3, 4_000));
    passed_over.position = Some(position(3, 20 << 20));
    given.reports = vec![passed_over];
    assert_eq!(behind(&given), (3 << 20) + 1_000);
}

#[test]
fn the_living_are_waited_for_and_not_for_ever() {
    let mut late = detached(3, 500);
    late.detached = None;
    let mut given = Given::after_a_failure(3, Mode::Async, vec![detached(2, 100), late]);
    given.now_ms = 1_300;
    given.lease_clear_ms = 1_000;
    assert_eq!(given.decide(), Err(Obstacle::AwaitingReports([NodeId(3)].into())));
    given.now_ms = 1_700;
    assert_eq!(given.elected().0, NodeId(2));
}

#[test]
fn nobody_is_elected_in_maintenance_unless_somebody_asked() {
    let mut given = Given::after_a_failure(3, Mode::Async, vec![detached(2, 100)]);
    given.control.settings.paused = true;
    assert_eq!(given.decide(), Err(Obstacle::Paused));
    let order = Order::Failover { to: None, accept_data_loss: false };
    do_it(&mut given.control, &Command::Operate { id: CommandId(1), order });
    assert_eq!(given.elected().0, NodeId(2));
}

#[test]
fn a_tagged_member_is_never_chosen_and_never_a_yardstick() {
    let mut given =
        Given::after_a_failure(3, Mode::Async, vec![detached(2, 900), detached(3, 100)]);
    given.control.members.get_mut(&NodeId(2)).expect("a member").no_failover = true;
    assert_eq!(given.elected().0, NodeId(3));
}

#[test]
fn the_first_primary_is_chosen_only_among_members_that_were_all_seen_empty() {
    let empty = |node| {
        let mut report = detached(node, 0);
        report.system = None;
        report.position = None;
        report.birth = None;
        report
    };
    let mut given = Given {
        control: founded(3, Mode::Async),
        reports: vec![empty(1), empty(2)],
        now_ms: 0,
        lease_clear_ms: 0,
        primary_position: None,
        failed: BTreeMap::new(),
    };
    assert_eq!(given.decide(), Err(Obstacle::GenesisAwaits([NodeId(3)].into())));
    given.reports.push(empty(3));
    assert_eq!(given.elected().0, NodeId(1));
    given.reports[1].system = Some(SYSTEM);
    assert_eq!(given.decide(), Err(Obstacle::GenesisOverData(NodeId(2))));
    // A cluster that was founded earlier, and whose record is lost, made that one.
    given.reports[1].birth = Some(birth(3, 5, 0));
    assert_eq!(given.decide(), Err(Obstacle::GenesisOverData(NodeId(2))));
    // What this cluster's own first primary left behind is nobody's.
    given.control.primacy.epoch = Epoch(1);
    given.reports[1].birth = Some(birth(1, 1, 0));
    assert_eq!(given.elected().0, NodeId(2));
}

/// A database that somebody has is taken over where it is; another one in its place, an empty one
/// even, would be worse than none.
#[test]
fn a_database_is_taken_over_by_the_one_member_that_holds_it() {
    let report = |node, system: Option<u64>| {
        let mut report = detached(node, 0);
        report.system = system.map(SystemId);
        report.birth = system.map(|_| birth(1, 0, 0));
        report.position = None;
        report
    };
    let mut control = founded(3, Mode::Async);
    control.system = Some(SystemId(7));
    control.members.get_mut(&NodeId(3)).expect("a member").priority = 200;
    let mut given = Given {
        control,
        reports: vec![report(1, None), report(2, Some(7))],
        now_ms: 0,
        lease_clear_ms: 0,
        primary_position: None,
        failed: BTreeMap::new(),
    };
    assert_eq!(given.decide(), Err(Obstacle::GenesisAwaits([NodeId(3)].into())));
    given.reports.push(report(3, None));
    assert_eq!(given.elected().0, NodeId(2));
    given.reports[0] = report(1, Some(7));
    let twice = [NodeId(1), NodeId(2)].into();
    assert_eq!(given.decide(), Err(Obstacle::AdoptedTwice(twice)));
    given.reports[0] = report(1, Some(8));
    assert_eq!(given.decide(), Err(Obstacle::GenesisOverData(NodeId(1))));
    // Its primacy came to nothing and it is away: nobody takes its place.
    given.control.primacy.epoch = Epoch(1);
    given.reports = vec![report(1, None), report(3, None)];
    assert_eq!(given.decide(), Err(Obstacle::NothingToAdopt(SystemId(7))));
}

#[test]
fn a_tagged_former_holder_may_have_back_what_only_it_has() {
    let reports = vec![detached(1, 900), detached(2, 100)];
    let mut given = Given::after_a_failure(3, Mode::QuorumSync, reports);
    given.control.members.get_mut(&NodeId(1)).expect("a member").no_failover = true;
    assert_eq!(given.elected().0, NodeId(1));
    given.reports = vec![detached(1, 900), detached(2, 900)];
    assert_eq!(given.elected().0, NodeId(2), "among equals the tag counts");
}
