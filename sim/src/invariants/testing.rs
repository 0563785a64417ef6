//! What the checks' own tests share: short names for facts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::control::{ControlState, Member, MemberKind};
use pg_replica::env::{Side, SyncNames, TimelineBirth};
use pg_replica::ids::{Epoch, Incarnation, Lsn, NodeId, Timeline, WalPosition};

use crate::witness::{Acknowledged, Row};

use super::{Findings, Invariant, ServerView};

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn row(number: u64) -> Row {
    Row { client: 1, number }
}

pub(super) fn rows(numbers: &[u64]) -> Vec<Row> {
    numbers.iter().map(|n| row(*n)).collect()
}

pub(super) fn birth(timeline: u32, born: u64, begins: u64) -> TimelineBirth {
    TimelineBirth { timeline: Timeline(timeline), born: Epoch(born), begins: Lsn(begins) }
}

pub(super) fn asynchronous(epoch: u64) -> SyncNames {
    SyncNames { epoch: Epoch(epoch), confirmations: 0, standbys: BTreeSet::new() }
}

pub(super) fn any_one(epoch: u64, standbys: &[u64]) -> SyncNames {
    SyncNames {
        epoch: Epoch(epoch),
        confirmations: 1,
        standbys: standbys.iter().map(|n| NodeId(*n)).collect(),
    }
}

/// An asynchronous commit of `server` in `epoch`, with its row's number as its position times 100.
pub(super) fn commit(at_ms: u64, server: u64, epoch: u64, number: u64) -> Acknowledged {
    Acknowledged {
        at: ms(at_ms),
        server: NodeId(server),
        epoch: Epoch(epoch),
        birth: birth(u32::try_from(epoch).expect("small"), epoch, 0),
        lsn: Lsn(number * 100),
        row: row(number),
        sync: asynchronous(epoch),
    }
}

/// The same under `ANY 1` of the other two of three.
pub(super) fn sync_commit(at_ms: u64, server: u64, epoch: u64, number: u64) -> Acknowledged {
    let others: Vec<u64> = (1..=3).filter(|n| *n != server).collect();
    Acknowledged { sync: any_one(epoch, &others), ..commit(at_ms, server, epoch, number) }
}

pub(super) fn position(born: u64, flushed: u64) -> WalPosition {
    WalPosition {
        born: Epoch(born),
        timeline: Timeline(u32::try_from(born).expect("small")),
        flushed: Lsn(flushed),
    }
}

/// Three data members, `holder` in `epoch`.
pub(super) fn state(version: u64, epoch: u64, holder: Option<u64>) -> ControlState {
    let member = |n: u64| Member {
        kind: MemberKind::Data,
        address: format!("n{n}"),
        postgres: format!("p{n}"),
        incarnation: Incarnation(n),
        priority: 100,
        no_failover: false,
    };
    let mut state = ControlState { version, cluster: "test".into(), ..ControlState::default() };
    state.members = (1..=3).map(|n| (NodeId(n), member(n))).collect::<BTreeMap<_, _>>();
    state.admitted = state.members.keys().copied().collect();
    state.primacy.epoch = Epoch(epoch);
    state.primacy.holder = holder.map(NodeId);
    state.primacy.last_holder = holder.map(NodeId);
    state
}

pub(super) fn primary(node: u64, epoch: u64) -> ServerView {
    ServerView {
        node: NodeId(node),
        could_acknowledge: true,
        primary_epoch: Some(Epoch(epoch)),
        synchronous: false,
        side: Side::Primary,
        up: true,
        position: Some(position(epoch, 1_000)),
        streaming_from: None,
        lag_bytes: 0,
        configured: true,
    }
}

pub(super) fn standby(node: u64, of: u64, epoch: u64) -> ServerView {
    ServerView {
        could_acknowledge: false,
        primary_epoch: None,
        side: Side::Standby,
        streaming_from: Some(NodeId(of)),
        ..primary(node, epoch)
    }
}

/// Asserts that exactly one violation of `invariant` was found, and that its sentence says `part`.
#[track_caller]
pub(super) fn assert_broken(findings: &Findings, invariant: Invariant, part: &str) {
    assert_eq!(findings.violations.len(), 1, "{:?}", findings.violations);
    let violation = &findings.violations[0];
    assert_eq!(violation.invariant, invariant);
    assert!(violation.what.contains(part), "{:?} does not say {part:?}", violation.what);
}

#[track_caller]
pub(super) fn assert_kept(findings: &Findings) {
    assert!(findings.violations.is_empty(), "{:?}", findings.violations);
}
