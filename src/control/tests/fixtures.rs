//! A small cluster in a given state.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::{
    Applied, Clearance, Command, ControlState, Member, MemberKind, Mode, Order, Settings,
    VacateReason,
};
use crate::env::{SyncNames, TimelineBirth};
use crate::ids::{CommandId, Incarnation, Lsn, NodeId, SystemId, Timeline, WalPosition};
use crate::sabotage::Sabotage;

pub(super) fn member(node: u64) -> Member {
    Member {
        kind: MemberKind::Data,
        address: format!("n{node}"),
        postgres: format!("pg{node}"),
        incarnation: Incarnation(node),
        priority: 1,
        no_failover: false,
    }
}

pub(super) fn witness(node: u64) -> Member {
    Member { kind: MemberKind::Witness, ..member(node) }
}

pub(super) fn found(members: &[(u64, Member)], mode: Mode) -> Command {
    let members = members.iter().map(|(node, member)| (NodeId(*node), member.clone()));
    let settings = Settings { mode, ..Settings::default() };
    Command::Found { cluster: "test".into(), members: members.collect(), settings, adopts: None }
}

#[track_caller]
pub(super) fn do_it(control: &mut ControlState, command: &Command) {
    assert_eq!(control.apply(command, Sabotage::NONE), Applied::Done, "{command}");
}

#[track_caller]
pub(super) fn assert_refused(control: &mut ControlState, command: &Command, why: &str) {
    match control.apply(command, Sabotage::NONE) {
        Applied::Refused(said) => assert!(said.contains(why), "{said:?} lacks {why:?}"),
        other @ (Applied::Done | Applied::Repeated(_)) => panic!("{command} ended {other}"),
    }
}

pub(super) fn order(id: u64, order: Order) -> Command {
    Command::Operate { id: CommandId(id), order }
}

pub(super) fn add(id: u64, node: u64) -> Command {
    order(id, Order::AddMember { node: NodeId(node), member: member(node) })
}

pub(super) fn remove(id: u64, node: u64) -> Command {
    order(id, Order::RemoveMember { node: NodeId(node) })
}

/// Every given member keeps data, and the first of them is primary of epoch 1.
pub(super) fn serving(nodes: &[u64], mode: Mode) -> ControlState {
    let members: Vec<(u64, Member)> = nodes.iter().map(|n| (*n, member(*n))).collect();
    let mut control = ControlState::default();
    do_it(&mut control, &found(&members, mode));
    elect(&mut control, nodes[0]);
    give_birth(&mut control);
    control
}

/// Elects `node`, with every other candidate in the synchronous set and behind it.
pub(super) fn elect(control: &mut ControlState, node: u64) {
    let epoch = control.primacy.epoch.next();
    let confirmations = control.confirmations();
    let standbys: BTreeSet<NodeId> =
        control.candidates().filter(|other| confirmations > 0 && *other != NodeId(node)).collect();
    let end = |flushed| {
        let born = control.primacy.epoch;
        let timeline = Timeline(u32::try_from(born.0).expect("small"));
        Some(WalPosition { born, timeline, flushed: Lsn(flushed) })
    };
    let reports: BTreeMap<_, _> = control
        .data_members()
        .map(|other| (other, if other == NodeId(node) { end(200) } else { end(100) }))
        .collect();
    let command = Command::Elect {
        after: control.primacy.epoch,
        holder: NodeId(node),
        sync: SyncNames { epoch, confirmations, standbys },
        sync_version: control.sync.version,
        reports: if control.is_born() { reports } else { BTreeMap::new() },
        clearance: Clearance::LeaseOver,
    };
    do_it(control, &command);
}

/// The present holder becomes primary.
pub(super) fn give_birth(control: &mut ControlState) {
    let epoch = control.primacy.epoch;
    let timeline = Timeline(u32::try_from(epoch.0).expect("small"));
    let begins = Lsn(epoch.0 * 100);
    let mut history = control.lineage.clone();
    history.push(TimelineBirth { timeline, born: epoch, begins });
    do_it(control, &Command::Born { epoch, system: SystemId(7), history });
}

pub(super) fn vacate(control: &mut ControlState, why: VacateReason) {
    let epoch = control.primacy.epoch;
    do_it(control, &Command::Vacate { epoch, why });
}
