//! What a member does to its own Postgres.

use std::sync::Arc;

use super::fixtures::*;
use crate::control::{Command, ControlState, Mode, VacateReason};
use crate::env::{Armed, Observation, Outcome, Process, Side, StartAs, StopHow};
use crate::ha::{Action, Event, Finished, HeartbeatAnswer, Lease, RaftView, Role, Verb};
use crate::ids::{Epoch, Lsn, NodeId, Term};

pub(super) fn hears_leader(bench: &mut Bench, ms: u64, leader: u64) {
    let view = RaftView { term: Term(1), leader: Some(NodeId(leader)), ..RaftView::default() };
    bench.step(ms, Event::Raft(view));
}

pub(super) fn granted(bench: &mut Bench, sent_ms: u64, now_ms: u64, epoch: u64) {
    let answer = HeartbeatAnswer {
        renewed: Some(Epoch(epoch)),
        lease_ms: 2_000,
        ..HeartbeatAnswer::nothing(Some(NodeId(2)))
    };
    let event = Event::HeartbeatAnswered { to: NodeId(2), sent: at(sent_ms), answer: Some(answer) };
    bench.step(now_ms, event);
}

pub(super) fn arm_as_asked(bench: &mut Bench, ms: u64) {
    let asked = bench.actions.iter().rev().find_map(|action| match action {
        Action::ArmGuard { id, lease, .. } => Some((*id, *lease)),
        _ => None,
    });
    let (id, lease) = asked.expect("the guard is armed at every renewal");
    bench.step(ms, Event::GuardArmed { id, lease, ok: true });
}

pub(super) fn finish(bench: &mut Bench, ms: u64) {
    let id = bench.actions.iter().rev().find_map(|action| match action {
        Action::Postgres { id, .. } => Some(*id),
        _ => None,
    });
    let id = id.expect("a verb is under way");
    bench.step(ms, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
}

fn finish_as(bench: &mut Bench, ms: u64, outcome: Outcome<Finished>) {
    let id = bench.verb_id();
    bench.step(ms, Event::VerbDone { id, outcome });
}

/// A standby whose manager has seen to it that nothing is left to detach.
fn unattached(bench: &mut Bench, ms: u64) {
    bench.sees(ms, standby(100));
    assert_eq!(bench.verbs(), [Verb::Detach], "a predecessor may have told it to follow");
    finish_as(bench, ms + 1, Outcome::Done(Finished::Plain));
}

/// Node 2 was elected after the first epoch, and is no primary yet.
pub(super) fn second_elected() -> ControlState {
    let mut control = vacated(3, Mode::Async);
    elect_second(&mut control);
    control
}

/// Node 1, primary of epoch 1, with a lease that was asked for at `sent_ms`.
pub(super) fn leased_primary(sent_ms: u64) -> Bench {
    leased_primary_in(Mode::Async, sent_ms)
}

pub(super) fn leased_primary_in(mode: Mode, sent_ms: u64) -> Bench {
    let control = with_primary(3, mode);
    let seen = primary(&control, 100);
    let mut bench = Bench::new(1, control);
    hears_leader(&mut bench, sent_ms, 2);
    granted(&mut bench, sent_ms, sent_ms + 5, 1);
    arm_as_asked(&mut bench, sent_ms + 6);
    bench.actions.clear();
    bench.sees(sent_ms + 10, seen);
    bench
}

#[test]
fn a_holder_without_a_lease_promotes_nothing() {
    let mut bench = Bench::new(2, second_elected());
    unattached(&mut bench, 10);
    bench.sees(20, standby(100));
    assert_eq!(bench.verbs(), []);
    assert_eq!(bench.core.role(), Role::Preparing);
}

#[test]
fn a_lease_counts_only_once_the_guard_is_armed() {
    let control = second_elected();
    let target = control.sync.target().cloned().expect("a target");
    let mut bench = Bench::new(2, control);
    hears_leader(&mut bench, 0, 3);
    unattached(&mut bench, 2);
    granted(&mut bench, 5, 10, 2);
    bench.sees(20, standby(100));
    assert!(!bench.actions.iter().any(|a| matches!(a, Action::Postgres { .. })), "not armed yet");
    arm_as_asked(&mut bench, 30);
    assert_eq!(bench.verbs(), [Verb::Promote(target)]);
}

#[test]
fn a_guard_that_is_gone_gives_no_lease() {
    let mut bench = Bench::new(2, second_elected());
    unattached(&mut bench, 2);
    granted(&mut bench, 5, 10, 2);
    let lease = Lease { epoch: Epoch(2), until: at(2_000) };
    let id = crate::ids::ActionId(1_000);
    bench.step(11, Event::GuardArmed { id, lease, ok: false });
    bench.sees(20, standby(100));
    assert_eq!(bench.verbs(), []);
}

#[test]
fn a_lease_runs_from_before_the_request_was_sent() {
    let bench = leased_primary(1_000);
    assert_eq!(bench.core.lease().expect("a lease").until, at(3_000));
}

#[test]
fn a_primary_is_fenced_before_its_lease_ends_even_in_the_middle_of_a_verb() {
    let mut bench = leased_primary(1_000);
    bench.actions.clear();
    bench.step(2_790, Event::Wake);
    assert!(!bench.verbs().contains(&Verb::Stop(StopHow::Immediate)));
    bench.step(2_801, Event::Wake);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    assert_eq!(bench.core.role(), Role::Fencing);
}

#[test]
fn a_primary_whose_primacy_has_passed_on_is_fenced_at_once() {
    let mut bench = leased_primary(1_000);
    bench.actions.clear();
    bench.step(1_100, Event::Control(Arc::new(vacated(3, Mode::Async))));
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

#[test]
fn a_fenced_primary_disarms_its_guard_only_when_it_is_seen_down() {
    let mut bench = leased_primary(1_000);
    bench.step(2_801, Event::Wake);
    finish(&mut bench, 2_900);
    bench.actions.clear();
    let down = Observation {
        process: Process::Down { clean: false },
        side: Side::Primary,
        flushed: None,
        ..standby(100)
    };
    bench.sees(2_950, down);
    assert!(bench.actions.contains(&Action::DisarmGuard { epoch: Epoch(1) }));
}

#[test]
fn a_restarted_manager_keeps_the_lease_that_its_guard_kept() {
    let control = with_primary(3, Mode::Async);
    let seen = primary(&control, 100);
    let mut bench = Bench::new(1, control);
    let armed = Armed { epoch: Epoch(1), deadline: at(1_450), until: at(1_500) };
    bench.step(5, Event::Started { armed: Some(armed) });
    bench.sees(10, seen);
    assert_eq!(bench.verbs(), []);
    assert_eq!(bench.core.role(), Role::Primary);
}

#[test]
fn a_restarted_manager_without_a_lease_fences_what_it_finds_running() {
    let control = with_primary(3, Mode::Async);
    let seen = primary(&control, 100);
    let mut bench = Bench::new(1, control);
    bench.sees(10, seen);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

#[test]
fn a_standby_detaches_before_it_reports_a_vacancy() {
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    hears_leader(&mut bench, 1, 3);
    bench.sees(10, streaming_from(1, 1, 100));
    finish(&mut bench, 12); // The follow that a restarted manager repeats.
    bench.sees(15, streaming_from(1, 1, 100));
    bench.actions.clear();
    bench.step(100, Event::Control(Arc::new(vacated(3, Mode::Async))));
    bench.sees(110, streaming_from(1, 1, 120));
    assert!(bench.reports().iter().all(|report| report.detached.is_none()));
    assert_eq!(bench.verbs(), [Verb::Detach]);
    let id = bench.verb_id();
    bench.step(120, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    bench.sees(130, standby(140));
    let promised = bench.reports().into_iter().find(|r| r.detached == Some(Epoch(1)));
    assert_eq!(promised.expect("a report").position, Some(position(1, 140)));
}

#[test]
fn a_directory_that_only_a_recovery_can_measure_is_recovered_before_it_reports() {
    let mut bench = Bench::new(2, vacated(3, Mode::Async));
    let crashed =
        Observation { process: Process::Down { clean: false }, flushed: None, ..standby(0) };
    bench.sees(10, crashed);
    assert!(bench.reports().iter().all(|report| report.detached.is_none()));
    assert_eq!(bench.verbs(), [Verb::Start(StartAs::Standby { upstream: None })]);
}

#[test]
fn nobody_follows_a_primary_whose_switch_point_is_not_recorded() {
    let mut bench = Bench::new(3, second_elected());
    unattached(&mut bench, 10);
    bench.sees(20, standby(100));
    assert_eq!(bench.verbs(), []);
}

#[test]
fn an_old_primary_with_a_tail_of_its_own_is_stopped_and_rewound() {
    let mut control = second_elected();
    let history = vec![birth(1, 1, 0), birth(2, 2, 100)];
    do_it(&mut control, &Command::Born { epoch: Epoch(2), system: SYSTEM, history });
    let mut bench = Bench::new(1, control);
    bench.sees(10, Observation { flushed: Some(crate::ids::Lsn(160)), ..standby(160) });
    bench.confirmed(12);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Fast)]);
    let id = bench.verb_id();
    bench.step(20, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    let down = Observation { process: Process::Down { clean: true }, ..standby(160) };
    bench.sees(30, down);
    assert!(matches!(bench.verbs()[..], [Verb::Rewind(_)]));
}

/// I7: what only this directory has is told before it goes, with an end where one is known.
#[test]
fn what_diverged_is_told_before_it_is_taken_away() {
    let mut control = second_elected();
    let history = vec![birth(1, 1, 0), birth(2, 2, 100)];
    do_it(
        &mut control,
        &Command::Born { epoch: Epoch(2), system: SYSTEM, history: history.clone() },
    );
    let tail =
        Observation { process: Process::Down { clean: true }, side: Side::Primary, ..standby(160) };
    let tells = |seen: &Observation| {
        let mut bench = Bench::new(1, control.clone());
        bench.sees(10, seen.clone()).confirmed(12);
        let told = bench.actions.iter().find_map(|action| match action {
            Action::Tell(told) => Some((told.from.0, told.to.map(|to| to.0))),
            _ => None,
        });
        (told, bench.verbs())
    };
    let (told, verbs) = tells(&tail);
    assert!(matches!(verbs[..], [Verb::Rewind(_)]));
    assert_eq!(told, Some((100, Some(160))));
    let apart = Observation { flushed: None, history: vec![birth(1, 9, 0)], ..tail.clone() };
    let (told, verbs) = tells(&apart);
    assert!(matches!(verbs[..], [Verb::Clone(_)]));
    assert_eq!(told, Some((0, None)));
    let (told, _) = tells(&Observation { history, ..tail });
    assert_eq!(told, None);
}

/// A rewound directory that lacks log of its source starts with a stream from the primary, and
/// not at all while there is none.
#[test]
fn a_directory_that_is_not_complete_starts_only_behind_a_primary() {
    let lacking = Observation {
        process: Process::Down { clean: true },
        complete: false,
        flushed: None,
        ..standby(0)
    };
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    bench.sees(10, lacking.clone());
    let [Verb::Start(StartAs::Standby { upstream: Some(from) })] = &bench.verbs()[..] else {
        panic!("it starts behind the primary");
    };
    assert_eq!((from.node, from.epoch), (NodeId(1), Epoch(1)));
    // The primary is gone: nobody waits for what it would have sent.
    bench.step(20, Event::Control(Arc::new(vacated(3, Mode::Async))));
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    let mut bench = Bench::new(2, vacated(3, Mode::Async));
    bench.sees(10, lacking.clone());
    assert_eq!(bench.verbs(), []);
    assert!(bench.reports().iter().all(|report| report.detached.is_none()));
    bench.sees(300, Observation { process: Process::Starting, ..lacking });
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

/// Its timeline has the number that the successor's has, so a rewind would find nothing to do.
#[test]
fn a_directory_whose_timeline_number_names_another_birth_is_copied_anew() {
    let mut control = second_elected();
    let history = vec![birth(1, 1, 0), birth(2, 2, 100)];
    do_it(&mut control, &Command::Born { epoch: Epoch(2), system: SYSTEM, history });
    let mut bench = Bench::new(3, control);
    let history = vec![birth(1, 1, 0), birth(2, 9, 100)];
    bench.sees(10, Observation { process: Process::Down { clean: true }, history, ..standby(160) });
    bench.confirmed(12);
    assert!(matches!(bench.verbs()[..], [Verb::Clone(_)]));
}

#[test]
fn a_database_of_another_cluster_is_left_alone() {
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    let foreign = Observation {
        system: Some(crate::ids::SystemId(5)),
        history: vec![birth(1, 0, 0)],
        ..standby(9)
    };
    bench.sees(10, foreign);
    assert_eq!(bench.verbs(), []);
    assert!(bench.core.explain().expect("a reason").contains("another cluster"));
}

#[test]
fn clients_wait_until_the_standbys_have_the_recovered_tail() {
    let control = with_primary(3, Mode::QuorumSync);
    let closed = Observation { admits: false, ..primary(&control, 500) };
    let mut bench = Bench::new(1, control);
    granted(&mut bench, 5, 10, 1);
    arm_as_asked(&mut bench, 11);
    bench.actions.clear();
    bench.sees(20, closed.clone());
    assert_eq!(bench.verbs(), []);
    let stream =
        crate::env::StreamState { node: NodeId(2), epoch: Epoch(1), flushed: crate::ids::Lsn(499) };
    bench.sees(220, Observation { streams: vec![stream], ..closed.clone() });
    assert_eq!(bench.verbs(), []);
    let stream = crate::env::StreamState { flushed: crate::ids::Lsn(500), ..stream };
    bench.sees(420, Observation { streams: vec![stream], ..closed });
    assert_eq!(bench.verbs(), [Verb::Admit]);
}

#[test]
fn a_crashed_primary_is_restarted_in_place_and_gives_up_when_it_crashes_again_and_again() {
    let control = with_primary(3, Mode::Async);
    let down = Observation {
        process: Process::Down { clean: false },
        flushed: None,
        ..primary(&control, 100)
    };
    let mut bench = leased_primary(1_000);
    for round in 0..3 {
        let ms = 1_300 + round * 300;
        bench.actions.clear();
        bench.sees(ms, down.clone());
        assert!(
            matches!(bench.verbs()[..], [Verb::Start(StartAs::Primary { .. })]),
            "round {round}"
        );
        let id = bench.verb_id();
        bench.step(ms + 50, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
        bench.sees(ms + 60, primary(&control, 100));
    }
    bench.actions.clear();
    bench.sees(2_300, down);
    assert!(matches!(
        bench.commands()[..],
        [Command::Release { epoch: Epoch(1), why: VacateReason::PostgresFailed(_) }]
    ));
}

pub(super) fn elect_second(control: &mut crate::control::ControlState) {
    let reports = [(NodeId(2), Some(position(1, 100)))].into();
    let elect = Command::Elect {
        after: Epoch(1),
        holder: NodeId(2),
        sync: sync_names(control, 2, &[1, 3]),
        sync_version: control.sync.version,
        reports,
        clearance: crate::control::Clearance::LeaseOver,
    };
    do_it(control, &elect);
}

#[test]
fn a_stop_that_never_ends_is_cut_short_by_whoever_finds_it() {
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    let stopping = Observation { process: Process::Stopping, ..standby(100) };
    bench.sees(10, stopping.clone());
    assert_eq!(bench.verbs(), []);
    for ms in [410, 1_210, 2_010] {
        bench.sees(ms, stopping.clone());
    }
    assert_eq!(bench.verbs(), []);
    bench.sees(2_211, stopping);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

/// A directory that was moved away must not say how far a new one has to be confirmed.
#[test]
fn the_tail_to_confirm_is_that_of_a_running_primary() {
    let mut bench = leased_primary(100);
    let mut down = bench.core.agent.seen().cloned().expect("it was looked at");
    down.process = Process::Down { clean: true };
    down.flushed = Some(Lsn(9_000));
    down.admits = false;
    bench.sees(120, down);
    assert_eq!(bench.core.agent.tail, None);
}

/// I3: while a word about the configuration is under way, or ended nobody knows how, another one
/// than Postgres shows may still come into force.
#[test]
fn a_configuration_is_reported_only_where_no_other_can_come_into_force() {
    let mut control = with_primary(3, Mode::QuorumSync);
    let both = primary(&control, 100);
    let version = control.sync.version;
    let target = sync_names(&control, 1, &[2]);
    let narrow = Command::ProposeSync { epoch: Epoch(1), version, target: target.clone() };
    do_it(&mut control, &narrow);
    let alone = Observation { sync: target.clone(), ..both };
    let mut bench = Bench::new(1, control);
    hears_leader(&mut bench, 1, 2);
    granted(&mut bench, 5, 10, 1);
    arm_as_asked(&mut bench, 11);
    bench.actions.clear();
    // It is in force by all that can be seen; but a predecessor of this manager may have said
    // something else a moment ago.
    bench.sees(20, alone.clone());
    let reported = |bench: &Bench| bench.reports().last().expect("a report").sync.clone();
    bench.step(220, Event::Wake);
    assert_ne!(reported(&bench), target);
    assert_eq!(bench.verbs(), [Verb::SetSync(target.clone())]);
    let id = bench.verb_id();
    bench.step(230, Event::VerbDone { id, outcome: Outcome::Unknown });
    bench.sees(430, alone.clone());
    assert_ne!(reported(&bench), target);
    assert_eq!(bench.verbs(), [Verb::SetSync(target.clone())]);
    let id = bench.verb_id();
    let outcome = Outcome::Done(Finished::Plain);
    bench.step(440, Event::VerbDone { id, outcome });
    bench.sees(640, alone);
    bench.step(850, Event::Wake);
    assert_eq!(reported(&bench), target);
    assert_eq!(bench.verbs(), []);
}

/// I3: between two attempts to connect no receiver is seen, and the next attempt may succeed.
#[test]
fn a_restarted_manager_detaches_before_it_promises_although_nothing_streams() {
    let mut bench = Bench::new(2, vacated(3, Mode::QuorumSync));
    hears_leader(&mut bench, 1, 3);
    bench.sees(10, standby(100));
    assert!(bench.reports().iter().all(|report| report.detached.is_none()));
    assert_eq!(bench.verbs(), [Verb::Detach]);
    finish_as(&mut bench, 20, Outcome::Unknown);
    bench.sees(230, standby(100));
    assert!(bench.reports().iter().all(|report| report.detached.is_none()));
    assert_eq!(bench.verbs(), [Verb::Detach], "its end was unknown");
    finish_as(&mut bench, 240, Outcome::Done(Finished::Plain));
    bench.sees(440, standby(100));
    assert!(bench.reports().iter().any(|report| report.detached == Some(Epoch(1))));
}

#[test]
fn what_a_stopped_directory_names_as_its_upstream_needs_no_detaching() {
    let mut bench = Bench::new(2, vacated(3, Mode::QuorumSync));
    hears_leader(&mut bench, 1, 3);
    bench.sees(10, Observation { process: Process::Down { clean: true }, ..standby(100) });
    assert!(bench.reports().iter().any(|report| report.detached == Some(Epoch(1))));
    assert_eq!(bench.verbs(), []);
}

/// I9: a promotion is refused while an upstream is configured, whether it streams or not.
#[test]
fn a_holder_detaches_what_may_be_configured_before_it_promotes() {
    let mut control = with_primary(3, Mode::Async);
    let follow = |bench: &mut Bench| {
        hears_leader(bench, 1, 3);
        bench.sees(10, standby(100));
        assert!(matches!(bench.verbs()[..], [Verb::Follow(_)]));
    };
    let mut bench = Bench::new(2, control.clone());
    follow(&mut bench);
    finish_as(&mut bench, 20, Outcome::Unknown);
    do_it(&mut control, &Command::Vacate { epoch: Epoch(1), why: VacateReason::Silent });
    elect_second(&mut control);
    let target = control.sync.target().cloned().expect("a target");
    bench.step(100, Event::Control(Arc::new(control)));
    granted(&mut bench, 105, 110, 2);
    arm_as_asked(&mut bench, 111);
    bench.actions.clear();
    bench.sees(330, standby(100));
    assert_eq!(bench.verbs(), [Verb::Detach]);
    finish_as(&mut bench, 340, Outcome::Done(Finished::Plain));
    bench.sees(550, standby(100));
    assert_eq!(bench.verbs(), [Verb::Promote(target)]);
}

/// Whoever told it to become primary is gone, and so is the primacy.
#[test]
fn a_server_with_a_promotion_before_it_is_ended_and_promises_nothing() {
    let mut bench = Bench::new(2, vacated(3, Mode::Async));
    bench.sees(10, Observation { promoting: Some(Epoch(1)), ..standby(160) });
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    assert!(bench.reports().iter().all(|report| report.detached.is_none()));
}

fn down() -> Observation {
    Observation { process: Process::Down { clean: false }, flushed: None, ..standby(100) }
}

fn disarms(bench: &Bench) -> bool {
    bench.actions.iter().any(|action| matches!(action, Action::DisarmGuard { .. }))
}

/// The first answer comes after the second question: it is older than what was done in between.
#[test]
fn the_answer_to_a_look_that_was_given_up_counts_for_nothing() {
    let mut bench = leased_primary(1_000);
    bench.step(1_211, Event::Wake);
    let (given_up, _) = bench.core.agent.looking.expect("a look is under way");
    granted(&mut bench, 2_500, 2_505, 1);
    arm_as_asked(&mut bench, 2_506);
    bench.step(3_300, Event::Wake);
    let (asked_again, _) = bench.core.agent.looking.expect("a look is under way");
    assert_ne!(given_up, asked_again);
    let outcome = Outcome::Done(down());
    bench.step(3_310, Event::Observed { id: given_up, outcome });
    assert!(bench.core.postgres().expect("it was looked at").may_write());
}

#[test]
fn a_guard_is_disarmed_only_by_a_look_that_began_after_the_last_verb() {
    let mut bench = leased_primary(1_000);
    bench.step(1_211, Event::Wake);
    let (early, _) = bench.core.agent.looking.expect("a look is under way");
    bench.step(2_801, Event::Wake);
    finish(&mut bench, 2_900);
    bench.actions.clear();
    bench.step(2_910, Event::Observed { id: early, outcome: Outcome::Done(down()) });
    assert!(!disarms(&bench), "it was asked for before the stop");
    bench.answer_look(2_920, down());
    assert!(disarms(&bench));
}

/// What follows is a rewind, and the guard would end it.
#[test]
fn a_former_holder_disarms_at_once_although_its_lease_goes_on() {
    let mut bench = leased_primary(1_000);
    bench.step(1_100, Event::Control(Arc::new(vacated(3, Mode::Async))));
    finish_as(&mut bench, 1_150, Outcome::Done(Finished::Plain));
    bench.actions.clear();
    bench.answer_look(1_160, down());
    bench.answer_look(1_170, down());
    assert!(disarms(&bench));
    assert_eq!(bench.core.lease(), None);
}

#[test]
fn a_holder_that_restarts_in_place_stays_armed() {
    let mut bench = leased_primary(1_000);
    let control = with_primary(3, Mode::Async);
    bench.actions.clear();
    bench.sees(1_300, Observation { process: down().process, ..primary(&control, 100) });
    assert!(!disarms(&bench));
    assert!(bench.core.lease().is_some());
}

/// The guard hears one word after the other, and so must be read what it answers.
#[test]
fn an_answer_to_a_word_before_the_guard_was_disarmed_gives_no_lease() {
    let mut bench = leased_primary(1_000);
    granted(&mut bench, 1_050, 1_060, 1);
    bench.step(1_100, Event::Control(Arc::new(vacated(3, Mode::Async))));
    finish_as(&mut bench, 1_150, Outcome::Done(Finished::Plain));
    bench.answer_look(1_160, down());
    bench.answer_look(1_170, down());
    assert!(disarms(&bench));
    arm_as_asked(&mut bench, 1_180);
    assert_eq!(bench.core.lease(), None);
}

/// The margin between a lease and the guard's deadline may change while a word is under way.
#[test]
fn a_lease_ends_when_it_was_granted_to_end_whatever_the_margins_are_by_then() {
    let mut bench = leased_primary(1_000);
    granted(&mut bench, 1_500, 1_505, 1);
    let mut control = with_primary(3, Mode::Async);
    control.settings.timing.fence_margin_ms = 600;
    control.settings.timing.guard_margin_ms = 500;
    bench.step(1_510, Event::Control(Arc::new(control)));
    arm_as_asked(&mut bench, 1_520);
    assert_eq!(bench.core.lease().expect("a lease").until, at(3_500));
}

/// I5: between the end of a promotion and the next look the last one still shows a standby.
#[test]
fn what_was_told_to_become_primary_is_fenced_before_anybody_has_seen_it() {
    for outcome in [Outcome::Done(Finished::Plain), Outcome::Unknown] {
        let mut control = second_elected();
        let mut bench = Bench::new(2, control.clone());
        hears_leader(&mut bench, 0, 3);
        unattached(&mut bench, 2);
        granted(&mut bench, 5, 10, 2);
        arm_as_asked(&mut bench, 11);
        bench.actions.clear();
        bench.sees(25, standby(100));
        assert!(matches!(bench.verbs()[..], [Verb::Promote(_)]));
        finish_as(&mut bench, 300, outcome);
        let vacate = Command::Vacate { epoch: Epoch(2), why: VacateReason::NotPromoted };
        do_it(&mut control, &vacate);
        bench.step(310, Event::Control(Arc::new(control)));
        assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    }
}

/// A promotion whose end is unknown may come true after a look that still shows a standby.
#[test]
fn a_standby_that_may_yet_become_primary_promises_nothing() {
    let mut control = second_elected();
    let mut bench = Bench::new(2, control.clone());
    hears_leader(&mut bench, 0, 3);
    unattached(&mut bench, 2);
    granted(&mut bench, 5, 10, 2);
    arm_as_asked(&mut bench, 11);
    bench.sees(25, standby(100));
    finish_as(&mut bench, 300, Outcome::Unknown);
    bench.answer_look(310, standby(100));
    do_it(&mut control, &Command::Vacate { epoch: Epoch(2), why: VacateReason::NotPromoted });
    bench.actions.clear();
    bench.step(320, Event::Control(Arc::new(control)));
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    finish_as(&mut bench, 330, Outcome::Done(Finished::Plain));
    bench.sees(350, Observation { process: Process::Down { clean: true }, ..standby(100) });
    assert!(bench.reports().iter().any(|report| report.detached == Some(Epoch(2))));
}

/// Node 2 of a cluster that takes over a database.
fn taking_over() -> ControlState {
    let mut control = founded(3, Mode::Async);
    control.system = Some(SYSTEM);
    let elect = Command::Elect {
        after: Epoch(0),
        holder: NodeId(2),
        sync: sync_names(&control, 1, &[]),
        sync_version: 0,
        reports: std::collections::BTreeMap::new(),
        clearance: crate::control::Clearance::LeaseOver,
    };
    do_it(&mut control, &elect);
    control
}

/// The same, with a lease of its primacy.
fn leased_founder() -> Bench {
    let mut bench = Bench::new(2, taking_over());
    hears_leader(&mut bench, 5, 1);
    granted(&mut bench, 5, 6, 1);
    arm_as_asked(&mut bench, 7);
    bench.actions.clear();
    bench
}

fn from_before(flushed: u64) -> Observation {
    Observation { history: vec![birth(1, 0, 0)], ..standby(flushed) }
}

#[test]
fn a_database_from_before_is_promoted_like_any_other() {
    let mut bench = leased_founder();
    let down = Observation {
        process: Process::Down { clean: true },
        side: Side::Primary,
        ..from_before(100)
    };
    bench.sees(10, down);
    assert_eq!(bench.verbs(), [Verb::Start(StartAs::Standby { upstream: None })]);
    finish_as(&mut bench, 20, Outcome::Done(Finished::Plain));
    bench.sees(30, from_before(100));
    assert!(matches!(bench.verbs()[..], [Verb::Promote(_)]));
}

#[test]
fn the_holder_of_a_database_from_before_makes_no_new_one() {
    let mut bench = leased_founder();
    bench.sees(10, Observation::of_nothing());
    assert!(matches!(bench.commands()[..], [Command::Release { .. }]));
}

/// Its server knows no role of ours, and nobody but an operator has ever looked after it.
#[test]
fn a_former_standby_of_a_database_that_was_taken_over_is_copied_anew() {
    let mut control = taking_over();
    let history = vec![birth(1, 0, 0), birth(2, 1, 100)];
    do_it(&mut control, &Command::Born { epoch: Epoch(1), system: SYSTEM, history });
    let mut bench = Bench::new(3, control);
    let down = Observation { process: Process::Down { clean: true }, ..from_before(90) };
    bench.sees(10, down).confirmed(12);
    assert!(matches!(bench.verbs()[..], [Verb::Clone(_)]));
}
