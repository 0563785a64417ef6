//! What a member does when Postgres does not do what it was asked, or does not say.

use std::sync::Arc;

use super::agent::{
    arm_as_asked, finish, granted, hears_leader, leased_primary, leased_primary_in, second_elected,
};
use super::fixtures::*;
use crate::control::{Clearance, Command, ControlState, Mode, Order, OrderOutcome, VacateReason};
use crate::env::{Observation, Outcome, PostgresError, Process, Side, StartAs, StopHow};
use crate::ha::{
    Action, Ask, Chore, Divergence, Event, Finished, HeartbeatAnswer, RaftView, RequestId, Role,
    Verb,
};
use crate::ids::{ActionId, CommandId, Epoch, Lsn, NodeId, SystemId, Term};

fn fails() -> Outcome<Finished> {
    Outcome::Failed(PostgresError::Transient("no".into()))
}

fn last_verb(bench: &Bench) -> ActionId {
    let id = bench.actions.iter().rev().find_map(|action| match action {
        Action::Postgres { id, .. } => Some(*id),
        _ => None,
    });
    id.expect("a verb is under way")
}

fn cannot_look(bench: &mut Bench, ms: u64) {
    bench.step(ms, Event::Wake);
    let why = PostgresError::Transient("too many clients".into());
    if let Some((id, _)) = bench.core.agent.looking {
        bench.step(ms, Event::Observed { id, outcome: Outcome::Failed(why) });
    }
}

fn renews(bench: &Bench) -> bool {
    bench.actions.iter().any(|a| matches!(a, Action::SendHeartbeat { ask: Ask::Renewal(_), .. }))
}

fn switching_over(mode: Mode) -> ControlState {
    let mut control = with_primary(3, mode);
    let order = Order::Switchover { to: None };
    do_it(&mut control, &Command::Operate { id: CommandId(9), order });
    control
}

fn down(clean: bool, seen: Observation) -> Observation {
    let flushed = seen.flushed.filter(|_| clean);
    Observation { process: Process::Down { clean }, flushed, ..seen }
}

/// What the holder of epoch 1 proposes when its Postgres ends in the middle of a switchover.
fn after_the_end(mode: Mode, clean: bool) -> Vec<Command> {
    let control = switching_over(mode);
    let seen = primary(&control, 100);
    let mut bench = Bench::new(1, control);
    hears_leader(&mut bench, 1_000, 2);
    granted(&mut bench, 1_000, 1_005, 1);
    arm_as_asked(&mut bench, 1_006);
    bench.sees(1_010, seen.clone());
    bench.actions.clear();
    bench.sees(1_310, down(clean, seen));
    bench.commands()
}

#[test]
fn a_switchover_goes_on_after_a_clean_shutdown_only() {
    let release = Command::Release { epoch: Epoch(1), why: VacateReason::Operator };
    assert_eq!(after_the_end(Mode::Async, true), std::slice::from_ref(&release));
    let refused = after_the_end(Mode::Async, false);
    assert!(
        matches!(
            &refused[..],
            [Command::EndHandover { id: CommandId(9), outcome: OrderOutcome::Refused(_) }]
        ),
        "{refused:?}"
    );
    // Every acknowledged commit is on enough standbys: nothing is lost without the rest.
    assert_eq!(after_the_end(Mode::QuorumSync, false), [release]);
}

#[test]
fn a_stop_that_fails_is_tried_again_soon_and_not_at_once() {
    let mut bench = leased_primary(1_000);
    bench.step(2_801, Event::Wake);
    let id = last_verb(&bench);
    bench.actions.clear();
    bench.step(2_802, Event::VerbDone { id, outcome: fails() });
    bench.step(2_803, Event::Wake);
    assert_eq!(bench.verbs(), []);
    assert_eq!(bench.core.role(), Role::Fencing);
    bench.step(2_853, Event::Wake);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

/// A hung server cannot be stopped, and answers again while its lease is in force.
#[test]
fn a_server_that_could_not_be_ended_and_answers_again_is_primary_as_before() {
    let mut bench = leased_primary(1_000);
    let seen = bench.core.agent.seen().cloned().expect("it was looked at");
    let hung = Observation { process: Process::Hung, ..seen.clone() };
    for ms in [1_220, 1_700, 2_250] {
        bench.sees(ms, hung.clone());
    }
    assert_eq!(bench.core.role(), Role::Fencing);
    let id = last_verb(&bench);
    bench.step(2_260, Event::VerbDone { id, outcome: fails() });
    bench.sees(2_270, seen);
    assert_eq!(bench.core.role(), Role::Primary);
}

#[test]
fn an_immediate_stop_that_never_returns_is_asked_for_again() {
    let mut bench = leased_primary(1_000);
    bench.step(2_801, Event::Wake);
    bench.actions.clear();
    bench.step(12_000, Event::Wake);
    assert_eq!(bench.verbs(), []);
    bench.step(12_900, Event::Wake);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

#[test]
fn a_command_that_never_returns_ends_with_its_server() {
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    bench.sees(10, standby(100));
    assert!(matches!(bench.verbs()[..], [Verb::Follow(_)]));
    bench.step(60_000, Event::Wake);
    assert_eq!(bench.verbs(), []);
    bench.step(60_100, Event::Wake);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

/// Keeps the lease of node 1 fresh while its Postgres is seen like this.
fn away(bench: &mut Bench, from_ms: u64, to_ms: u64, seen: &Observation) {
    for ms in (from_ms..=to_ms).step_by(400) {
        granted(bench, ms, ms + 2, 1);
        arm_as_asked(bench, ms + 3);
        bench.sees(ms + 4, seen.clone());
    }
}

#[test]
fn a_primacy_does_not_wait_for_a_recovery_that_takes_hours() {
    let mut bench = leased_primary(1_000);
    let seen = bench.core.agent.seen().cloned().expect("it was looked at");
    bench.sees(1_210, down(false, seen.clone()));
    assert!(matches!(bench.verbs()[..], [Verb::Start(StartAs::Primary { .. })]));
    let starting = Observation { process: Process::Starting, flushed: None, ..seen.clone() };
    away(&mut bench, 1_400, 6_200, &starting);
    assert_eq!(bench.verbs(), []);
    away(&mut bench, 6_300, 6_300, &starting);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    let id = bench.verb_id();
    bench.step(6_350, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    bench.actions.clear();
    bench.sees(6_360, down(false, seen));
    assert!(matches!(
        bench.commands()[..],
        [Command::Release { epoch: Epoch(1), why: VacateReason::PostgresFailed(_) }]
    ));
}

/// It cannot come back before it is ended, and most of that time would be over by then.
#[test]
fn the_time_in_which_a_server_may_come_back_begins_when_one_that_hung_has_ended() {
    let mut bench = leased_primary_in(Mode::QuorumSync, 1_000);
    let seen = bench.core.agent.seen().cloned().expect("it was looked at");
    let hung = Observation { process: Process::Hung, ..seen.clone() };
    for ms in [1_220, 1_700, 2_250] {
        bench.sees(ms, hung.clone());
    }
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    let id = bench.verb_id();
    bench.step(2_260, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    bench.sees(2_270, down(false, seen.clone()));
    assert!(matches!(bench.verbs()[..], [Verb::Start(StartAs::Primary { .. })]));
    let starting = Observation { process: Process::Starting, flushed: None, ..seen };
    away(&mut bench, 2_400, 3_600, &starting);
    assert_eq!(bench.verbs(), []);
    away(&mut bench, 3_800, 3_800, &starting);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

/// Nothing helps any more: then at least the lease is not kept alive.
#[test]
fn a_holder_whose_server_neither_comes_back_nor_ends_asks_for_no_renewal() {
    let mut bench = leased_primary(1_000);
    let seen = bench.core.agent.seen().cloned().expect("it was looked at");
    let stopping = Observation { process: Process::Stopping, ..seen };
    away(&mut bench, 1_400, 6_200, &stopping);
    assert!(renews(&bench));
    away(&mut bench, 6_600, 6_600, &stopping);
    bench.actions.clear();
    bench.step(6_900, Event::Wake);
    assert!(!renews(&bench));
    // That the lease is over does not make it wait all over again.
    bench.step(9_000, Event::Wake);
    assert!(!renews(&bench));
}

/// Its server has ended, and what is under way does not: a disk stalls, say. Its lease would keep
/// everybody else from serving for as long as that lasts.
#[test]
fn a_holder_that_does_not_get_round_to_giving_back_asks_for_no_renewal() {
    let mut bench = leased_primary(1_000);
    let seen = bench.core.agent.seen().cloned().expect("it was looked at");
    bench.sees(1_210, down(false, seen.clone()));
    assert!(matches!(bench.verbs()[..], [Verb::Start(StartAs::Primary { .. })]));
    away(&mut bench, 1_400, 8_200, &down(false, seen.clone()));
    assert!(renews(&bench));
    away(&mut bench, 8_600, 8_600, &down(false, seen.clone()));
    let id = last_verb(&bench);
    bench.actions.clear();
    bench.step(8_900, Event::Wake);
    assert!(!renews(&bench));
    // When that ends it asks again, and with a lease gives back at last what nobody has taken.
    bench.step(20_000, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    bench.actions.clear();
    bench.sees(20_300, down(false, seen.clone()));
    assert!(renews(&bench));
    assert_eq!((bench.commands(), bench.verbs()), (vec![], vec![]));
    away(&mut bench, 20_500, 20_500, &down(false, seen));
    assert!(matches!(
        bench.commands()[..],
        [Command::Release { epoch: Epoch(1), why: VacateReason::PostgresFailed(_) }]
    ));
}

/// Sees node 2 down, lets its start fail if it is tried, and returns whether it was.
fn start_fails(bench: &mut Bench, ms: u64) -> bool {
    bench.sees(ms, down(true, standby(100)));
    let tried = bench.verbs() == [Verb::Start(StartAs::Standby { upstream: None })];
    if tried {
        let id = bench.verb_id();
        bench.step(ms + 1, Event::VerbDone { id, outcome: fails() });
    }
    tried
}

/// Nobody else may be there to take over: its disk is full, say, and some day it is not.
#[test]
fn a_holder_whose_server_does_not_start_goes_on_trying() {
    let mut bench = Bench::new(2, second_elected());
    hears_leader(&mut bench, 0, 3);
    let mut tried = 0;
    for ms in (400..=20_000).step_by(400) {
        granted(&mut bench, ms, ms + 2, 2);
        arm_as_asked(&mut bench, ms + 3);
        let fails = start_fails(&mut bench, ms + 4);
        tried += u32::from(fails && ms > 10_000);
    }
    assert!(tried > 0, "it went on trying for as long as it had its lease");
    // It asks for it, too: nobody had to give it what it did not ask for.
    bench.actions.clear();
    bench.step(20_300, Event::Wake);
    assert!(renews(&bench));
}

#[test]
fn a_holder_that_cannot_look_at_its_server_ends_it_and_gives_its_primacy_back() {
    let mut bench = leased_primary(1_000);
    for ms in [1_210, 1_420, 1_630, 1_840, 2_050] {
        bench.actions.clear();
        cannot_look(&mut bench, ms);
        let why = |a: &&Action| matches!(a, Action::Say(what) if what.contains("too many clients"));
        let said = bench.actions.iter().filter(why).count();
        assert_eq!(said, usize::from(ms == 1_210), "it is told once");
        assert_eq!(bench.verbs(), [], "a busy moment, at {ms}");
    }
    cannot_look(&mut bench, 2_260);
    assert!(!renews(&bench));
    let id = last_verb(&bench);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    bench.step(2_300, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    assert!(matches!(
        &bench.commands()[..],
        [Command::Release { epoch: Epoch(1), why: VacateReason::PostgresFailed(why) }]
            if why.contains("too many clients")
    ));
}

/// Its manager was restarted, and has never seen its server.
#[test]
fn a_holder_that_never_could_look_ends_its_server_once_and_gives_its_primacy_back() {
    let mut bench = Bench::new(1, with_primary(3, Mode::Async));
    for ms in [10, 220, 430, 640, 850] {
        cannot_look(&mut bench, ms);
    }
    assert_eq!(bench.verbs(), []);
    cannot_look(&mut bench, 1_060);
    let id = last_verb(&bench);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    bench.actions.clear();
    bench.step(1_100, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    assert!(matches!(
        bench.commands()[..],
        [Command::Release { epoch: Epoch(1), why: VacateReason::PostgresFailed(_) }]
    ));
    cannot_look(&mut bench, 1_101);
    assert_eq!(bench.verbs(), [], "nothing runs any more");
}

#[test]
fn silence_however_long_is_no_reason_for_a_copy() {
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    bench.sees(10, standby(100));
    finish(&mut bench, 12);
    bench.actions.clear();
    for ms in (300..60_000).step_by(300) {
        bench.sees(ms, standby(100));
    }
    assert_eq!(bench.verbs(), []);
}

fn starved() -> Observation {
    Observation { starved: Some("the log was removed".into()), ..standby(100) }
}

#[test]
fn a_standby_is_copied_anew_when_its_upstream_insists_that_it_cannot_stream() {
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    bench.sees(10, standby(100));
    finish(&mut bench, 12);
    bench.actions.clear();
    for ms in (300..5_200).step_by(300) {
        bench.sees(ms, starved());
    }
    assert_eq!(bench.verbs(), []);
    bench.sees(5_400, starved()).confirmed(5_410);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Fast)]);
    let id = bench.verb_id();
    bench.step(5_500, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    bench.sees(5_600, down(true, standby(100)));
    let said = bench.actions.iter().any(|action| match action {
        Action::Say(line) => line.contains("set aside") && line.contains("the log was removed"),
        _ => false,
    });
    assert!(said, "{:?}", bench.actions);
    assert!(matches!(bench.verbs()[..], [Verb::Clone(_)]));
}

#[test]
fn a_stream_that_comes_after_all_saves_the_copy() {
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    bench.sees(10, standby(100));
    finish(&mut bench, 12);
    bench.actions.clear();
    for ms in [300, 3_000, 5_000] {
        bench.sees(ms, starved());
    }
    bench.sees(5_200, streaming_from(1, 1, 120));
    bench.sees(5_400, starved());
    assert_eq!(bench.verbs(), []);
}

/// Node 1's directory has a tail of its own, up to 160; the record goes another way from 100.
fn diverged() -> (Bench, Observation) {
    let mut control = second_elected();
    let history = vec![birth(1, 1, 0), birth(2, 2, 100)];
    do_it(&mut control, &Command::Born { epoch: Epoch(2), system: SYSTEM, history });
    (Bench::new(1, control), standby(160))
}

/// I7: the second half of the promise.
#[test]
fn before_a_copy_the_operator_is_told_which_log_only_the_old_directory_has() {
    let (mut bench, seen) = diverged();
    bench.sees(10, seen.clone()).confirmed(12);
    finish(&mut bench, 20);
    bench.sees(30, down(true, seen.clone()));
    let id = last_verb(&bench);
    assert!(matches!(bench.verbs()[..], [Verb::Stop(_), Verb::Rewind(_)]));
    let outcome = Outcome::Failed(PostgresError::Permanent("no common ancestor".into()));
    bench.step(40, Event::VerbDone { id, outcome });
    bench.actions.clear();
    bench.sees(1_000, down(true, seen));
    let said = bench.actions.iter().any(|action| match action {
        Action::Tell(what) => *what == Divergence { from: Lsn(100), to: Some(Lsn(160)) },
        _ => false,
    });
    assert!(said, "{:?}", bench.actions);
    assert!(matches!(bench.verbs()[..], [Verb::Clone(_)]));
}

/// A recovery that measured it again would only lead to the same stop.
#[test]
fn a_slow_stop_before_a_rewind_is_cut_short_once() {
    let (mut bench, seen) = diverged();
    bench.sees(10, seen.clone()).confirmed(12);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Fast)]);
    bench.step(2_020, Event::Wake);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
    let id = bench.verb_id();
    bench.step(2_050, Event::VerbDone { id, outcome: Outcome::Done(Finished::Plain) });
    bench.sees(2_060, down(false, seen)).confirmed(2_070);
    assert!(matches!(bench.verbs()[..], [Verb::Rewind(_)]));
}

/// I7: a member that is cut off may know an old record, by which whatever its upstream has become
/// since would be taken for the truth, and a tail of its own for nothing.
#[test]
fn no_directory_is_replaced_before_a_leader_says_that_the_record_is_in_force() {
    let (mut bench, seen) = diverged();
    bench.sees(10, seen.clone());
    assert_eq!(bench.verbs(), [], "nobody has said so");
    let asks = |bench: &Bench| {
        let asked = |a: &Action| matches!(a, Action::SendHeartbeat { ask: Ask::Currency, .. });
        bench.actions.iter().filter(|action| asked(action)).count()
    };
    bench.step(210, Event::Wake);
    assert!(asks(&bench) > 0, "{:?}", bench.actions);
    let newer = bench.core.control().version + 1;
    bench.in_force(220, newer).sees(230, seen.clone());
    assert_eq!(bench.verbs(), [], "another record is in force");
    bench.confirmed(300);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Fast)]);
    bench.step(500, Event::Wake);
    assert_eq!(asks(&bench), 0, "it knows");

    let (mut bench, seen) = diverged();
    bench.confirmed(5).sees(3_000, seen);
    assert_eq!(bench.verbs(), [], "that was long ago");
}

fn somebody_elses() -> Observation {
    Observation {
        system: Some(SystemId(5)),
        side: Side::Primary,
        history: vec![birth(1, 0, 0)],
        ..standby(9)
    }
}

#[test]
fn a_running_server_of_somebody_else_is_not_touched() {
    let bystander = ControlState::default();
    for control in [bystander, founded(3, Mode::Async), with_primary(3, Mode::Async)] {
        let mut bench = Bench::new(2, control);
        bench.sees(10, somebody_elses());
        assert_eq!(bench.verbs(), []);
        assert!(bench.core.explain().is_some());
        bench.step(300, Event::Control(Arc::new(vacated(3, Mode::Async))));
        bench.sees(310, Observation { process: Process::Hung, ..somebody_elses() });
        bench.sees(2_310, Observation { process: Process::Hung, ..somebody_elses() });
        let crashed = down(false, somebody_elses());
        bench.sees(2_610, crashed);
        assert_eq!(bench.verbs(), []);
    }
}

/// Only what another cluster made is left alone: a log that this one has not recorded may be its
/// own last word.
#[test]
fn a_primary_of_an_unrecorded_epoch_is_fenced() {
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    let own = Observation {
        side: Side::Primary,
        history: vec![birth(1, 1, 0), birth(2, 7, 50)],
        flushed: Some(Lsn(60)),
        ..standby(60)
    };
    bench.sees(10, own);
    assert_eq!(bench.verbs(), [Verb::Stop(StopHow::Immediate)]);
}

/// Between creating a database and its birth on record there is no server that could be away.
#[test]
fn a_founder_takes_the_time_that_a_new_database_takes() {
    let mut control = founded(3, Mode::QuorumSync);
    let sync = sync_names(&control, 1, &[2, 3]);
    let elect = Command::Elect {
        after: Epoch(0),
        holder: NodeId(1),
        sync,
        sync_version: control.sync.version,
        reports: std::collections::BTreeMap::new(),
        clearance: Clearance::LeaseOver,
    };
    do_it(&mut control, &elect);
    let made = down(true, primary(&control, 100));
    let mut bench = Bench::new(1, control);
    hears_leader(&mut bench, 1_000, 2);
    granted(&mut bench, 1_000, 1_005, 1);
    arm_as_asked(&mut bench, 1_006);
    bench.sees(1_010, Observation { system: None, history: Vec::new(), ..made.clone() });
    let asked = |action: &Action| matches!(action, Action::Postgres { verb: Verb::Initialise, .. });
    assert!(bench.actions.iter().any(asked));
    for ms in (1_200..8_000).step_by(200) {
        granted(&mut bench, ms, ms + 5, 1);
        arm_as_asked(&mut bench, ms + 6);
    }
    finish(&mut bench, 8_000);
    bench.sees(8_010, made);
    let verbs = bench.verbs();
    let started = matches!(verbs.last(), Some(Verb::Start(StartAs::Primary { .. })));
    assert!(started, "it is not released for having taken long: {verbs:?} {:?}", bench.commands());
}

/// What an SRE reads at a member that was left alone.
#[test]
fn a_member_without_a_majority_says_so() {
    let heard = |leader| HeartbeatAnswer { heard: leader, ..HeartbeatAnswer::nothing(None) };
    let mut bench = Bench::new(2, with_primary(3, Mode::Async));
    hears_leader(&mut bench, 5, 1);
    let answer =
        |answer, ms| Event::HeartbeatAnswered { to: NodeId(1), sent: at(ms), answer: Some(answer) };
    bench.step(10, answer(heard(true), 8));
    bench.sees(5_000, streaming_from(1, 1, 100));
    // Another member that passes it on to nobody is no leader.
    bench.step(5_010, answer(heard(false), 5_000));
    assert_eq!(bench.core.explain(), None);
    bench.sees(9_000, streaming_from(1, 1, 100));
    let said = bench.core.explain().expect("a reason");
    assert!(said.contains("no leader has heard it for 4 s"), "{said}");
    bench.step(9_010, answer(heard(true), 9_005));
    assert_eq!(bench.core.explain(), None);
}

#[test]
fn a_leader_that_hears_too_few_says_so() {
    let mut bench = Bench::new(3, with_primary(3, Mode::Async));
    let view = RaftView {
        term: Term(2),
        leader: Some(NodeId(3)),
        leads: true,
        voters: [1, 2, 3].map(NodeId).into(),
        ..RaftView::default()
    };
    bench.step(1_000, Event::Raft(view)).step(1_000, Event::LeadershipReady { term: Term(2) });
    let of_second = Bench::new(2, with_primary(3, Mode::Async)).core.agent.report(
        NodeId(2),
        bench.core.control(),
        at(4_900),
    );
    let report = Box::new(of_second);
    let request = RequestId(1);
    bench.step(4_900, Event::Heartbeat { request, report, ask: Ask::Nothing });
    bench.step(5_000, Event::Wake);
    assert_eq!(bench.core.explain(), None);
    bench.step(9_000, Event::Wake);
    let said = bench.core.explain().expect("a reason");
    assert!(said.contains("1 of 3 voters"), "{said}");
}

/// Its data are the ones that others copy now; once it is a standby again, it is not to lose them
/// to what somebody asked for long ago.
#[test]
fn a_fresh_copy_is_not_wanted_any_more_of_who_became_primary() {
    let first = with_primary(3, Mode::Async);
    let mut bench = Bench::new(2, first);
    bench.sees(10, standby(100));
    let request = RequestId(1);
    bench.step(20, Event::Chore { request, chore: Chore::Reinitialise });
    assert!(bench.core.agent.chores.contains(&Chore::Reinitialise));
    bench.step(30, Event::Control(Arc::new(second_elected())));
    assert!(!bench.core.agent.chores.contains(&Chore::Reinitialise));
}
