//! The resolver of the synchronous set, interrupted at every step.

use super::fixtures::*;
use crate::control::{Command, ControlState, Member, Mode, Order};
use crate::env::StreamState;
use crate::ha::Report;
use crate::ha::sync::SyncWatch;
use crate::ids::{CommandId, Epoch, Incarnation, Lsn, NodeId};
use crate::sabotage::Sabotage;

/// The primary's report: its log ends at `end`, these standbys have confirmed so much.
fn report(control: &ControlState, in_force: bool, end: u64, streams: &[(u64, u64)]) -> Report {
    let mut report = detached(1, end);
    report.detached = None;
    report.version = control.version;
    if in_force {
        report.sync = control.sync.target().cloned().expect("a target");
    }
    report.streams = streams
        .iter()
        .map(|(node, flushed)| StreamState {
            node: NodeId(*node),
            epoch: Epoch(1),
            flushed: Lsn(*flushed),
        })
        .collect();
    report
}

fn step(
    watch: &mut SyncWatch,
    control: &mut ControlState,
    ms: u64,
    seen: (bool, u64, &[(u64, u64)]),
) -> Option<Command> {
    let report = report(control, seen.0, seen.1, seen.2);
    let command = watch.next_step(at(ms), control, &report, Sabotage::NONE);
    if let Some(command) = &command {
        do_it(control, command);
    }
    command
}

#[test]
fn a_lost_standby_leaves_the_set_jointly_and_only_after_a_while() {
    let mut control = with_primary(3, Mode::QuorumSync);
    let mut watch = SyncWatch::default();
    let only_two: &[(u64, u64)] = &[(2, 100)];
    assert_eq!(step(&mut watch, &mut control, 0, (true, 100, only_two)), None);
    assert_eq!(step(&mut watch, &mut control, 2_900, (true, 100, only_two)), None);
    let proposed = step(&mut watch, &mut control, 3_100, (true, 100, only_two));
    assert!(matches!(proposed, Some(Command::ProposeSync { .. })));
    assert_eq!(control.sync.configs.len(), 2, "both sets count");
    // Postgres does not obey the new set yet: nothing is settled, however often it is asked.
    assert_eq!(step(&mut watch, &mut control, 3_200, (false, 200, only_two)), None);
    // It obeys; but what was acknowledged before is not on the new set yet.
    assert_eq!(step(&mut watch, &mut control, 3_300, (true, 300, only_two)), None);
    assert_eq!(step(&mut watch, &mut control, 3_400, (true, 400, &[(2, 299)])), None);
    let settled = step(&mut watch, &mut control, 3_500, (true, 500, &[(2, 300)]));
    assert!(matches!(settled, Some(Command::SettleSync { .. })));
    assert_eq!(control.sync.configs.len(), 1);
    assert_eq!(control.sync.configs[0].standbys, [NodeId(2)].into());
}

#[test]
fn a_resolver_that_starts_anew_at_any_step_comes_to_the_same_end() {
    let script: [(u64, (bool, u64, &[(u64, u64)])); 7] = [
        (0, (true, 100, &[(2, 100)])),
        (3_100, (true, 100, &[(2, 100)])),
        (3_200, (false, 150, &[(2, 150)])),
        (3_300, (true, 200, &[(2, 150)])),
        (3_400, (true, 250, &[(2, 250)])),
        (6_600, (true, 300, &[(2, 300)])),
        (6_700, (true, 300, &[(2, 300)])),
    ];
    for interrupted in 0..script.len() {
        let mut control = with_primary(3, Mode::QuorumSync);
        let mut watch = SyncWatch::default();
        for round in 0..3 {
            for (at, (ms, seen)) in script.iter().enumerate() {
                if at == interrupted {
                    watch = SyncWatch::default();
                }
                let before = control.sync.configs.clone();
                step(&mut watch, &mut control, round * 10_000 + ms, *seen);
                let kept = before.iter().all(|old| control.sync.configs.contains(old));
                assert!(kept || control.sync.configs.len() == 1, "dropped only by settling");
            }
        }
        assert_eq!(control.sync.configs.len(), 1, "interrupted at {interrupted}");
        assert_eq!(control.sync.configs[0].standbys, [NodeId(2)].into());
    }
}

#[test]
fn the_set_never_gets_smaller_than_the_confirmations() {
    let mut control = with_primary(5, Mode::QuorumSync);
    let mut watch = SyncWatch::default();
    step(&mut watch, &mut control, 0, (true, 100, &[]));
    step(&mut watch, &mut control, 10_000, (true, 100, &[]));
    let target = control.sync.target().expect("a target");
    assert!(target.standbys.len() >= target.confirmations as usize);
    assert_eq!(target.confirmations, 2);
}

#[test]
fn a_standby_joins_only_when_it_has_caught_up() {
    let mut control = with_primary(3, Mode::QuorumSync);
    let mut watch = SyncWatch::default();
    for ms in [0, 3_100] {
        step(&mut watch, &mut control, ms, (true, 100, &[(2, 100)]));
    }
    step(&mut watch, &mut control, 3_200, (true, 100, &[(2, 100)]));
    assert!(!control.sync.is_joint());
    let far: &[(u64, u64)] = &[(2, 9 << 20), (3, 1 << 20)];
    assert_eq!(step(&mut watch, &mut control, 3_300, (true, 9 << 20, far)), None);
    let near: &[(u64, u64)] = &[(2, 9 << 20), (3, (8 << 20) + 1)];
    let proposed = step(&mut watch, &mut control, 3_400, (true, 9 << 20, near));
    assert!(matches!(proposed, Some(Command::ProposeSync { .. })));
}

/// I3: the set goes from both to the second alone, back to both, and to the second alone again.
/// What the primary said in the first of these times arrives in the last.
#[test]
fn a_late_report_about_the_same_configuration_settles_nothing() {
    let mut control = with_primary(3, Mode::QuorumSync);
    let mut watch = SyncWatch::default();
    let only_two: &[(u64, u64)] = &[(2, 100)];
    for ms in [0, 3_100, 3_200] {
        step(&mut watch, &mut control, ms, (true, 100, only_two));
    }
    assert_eq!(control.sync.configs[..], [sync_names(&control, 1, &[2])]);
    let late = report(&control, true, 100, only_two);

    let both: &[(u64, u64)] = &[(2, 100), (3, 100)];
    for ms in [3_300, 3_400] {
        step(&mut watch, &mut control, ms, (true, 100, both));
    }
    assert_eq!(control.sync.configs[..], [sync_names(&control, 1, &[2, 3])]);
    // The third member alone confirms up to 900, and is lost.
    for ms in [3_500, 6_600] {
        step(&mut watch, &mut control, ms, (true, 900, only_two));
    }
    assert!(control.sync.is_joint());
    assert_eq!(watch.next_step(at(6_700), &control, &late, Sabotage::NONE), None);
    // Nor is the late one's position a mark for those that follow.
    assert_eq!(step(&mut watch, &mut control, 6_800, (true, 900, only_two)), None);
    let settled = step(&mut watch, &mut control, 6_900, (true, 900, &[(2, 900)]));
    assert!(matches!(settled, Some(Command::SettleSync { .. })));
}

#[test]
fn a_dead_member_is_replaced_without_a_pause_in_the_writes() {
    let mut control = with_primary(3, Mode::QuorumSync);
    let mut watch = SyncWatch::default();
    let only_two: &[(u64, u64)] = &[(2, 100)];
    for ms in [0, 3_100, 3_200] {
        step(&mut watch, &mut control, ms, (true, 100, only_two));
    }
    assert_eq!(control.sync.configs[0].standbys, [NodeId(2)].into());
    let member = control.members[&NodeId(2)].clone();
    let member = Member {
        address: "n4".into(),
        postgres: "pg4".into(),
        incarnation: Incarnation(4),
        ..member
    };
    let admit = Order::AddMember { node: NodeId(4), member };
    do_it(&mut control, &Command::Operate { id: CommandId(1), order: admit });
    // The newcomer is empty: as long as it is, one standby goes on confirming alone.
    assert_eq!(step(&mut watch, &mut control, 3_300, (true, 200, &[(2, 200)])), None);
    let far: &[(u64, u64)] = &[(2, 9 << 20), (4, 100)];
    assert_eq!(step(&mut watch, &mut control, 3_400, (true, 9 << 20, far)), None);
    let near: &[(u64, u64)] = &[(2, 9 << 20), (4, 9 << 20)];
    let joins = Command::Join { epoch: Epoch(1), node: NodeId(4) };
    assert_eq!(step(&mut watch, &mut control, 3_500, (true, 9 << 20, near)), Some(joins));
    for ms in [3_600, 3_700] {
        step(&mut watch, &mut control, ms, (true, 9 << 20, near));
    }
    let target = control.sync.target().expect("a target");
    assert_eq!((target.confirmations, target.standbys.len()), (1, 2), "{target}");
}
