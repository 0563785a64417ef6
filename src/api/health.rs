//! The health checks: a question, a yes or a sentence.
//!
//! Pure functions of the board and an instant, so that an answer is true when it is given: `200` on
//! `/primary` is a promise, and the lease under it is looked at on the clock of that very moment.

use std::time::Duration;

use crate::env::{Observation, Process, Side};
use crate::ha::Role;
use crate::ids::{Lsn, Moment};
use crate::sabotage::Saboteur;

use super::board::Snapshot;
use super::picture::Picture;
use super::status::{is_synchronous, millis};

/// How old a look at Postgres may be before nothing is concluded from it. Looks are taken several
/// times a second; where none comes back for this long, the node or its Postgres stands still.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Does this member's Postgres take writes?
    Primary,
    /// Does this member hold primacy, with a lease?
    Leader,
    /// Is it a standby that may be read?
    Replica,
    /// May it be read at all?
    ReadOnly,
    /// Has it every acknowledged commit on disk?
    Sync,
    /// May a commit rest on its confirmation, among others?
    Quorum,
    /// Is it a standby that no commit waits for?
    Async,
    /// The primary, or `Sync`.
    ReadOnlySync,
    /// The primary, or `Quorum`.
    ReadOnlyQuorum,
    /// Does its Postgres run?
    Health,
    /// Does the node's own loop run?
    Liveness,
    /// May the orchestrator count on it?
    Readiness,
    /// A leader of a standby cluster, which there is not yet.
    StandbyLeader,
}

/// How lag is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LagOf {
    /// By what was replayed and can be read.
    #[default]
    Apply,
    /// By what was received and is on disk.
    Write,
}

/// What the check was narrowed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// How many bytes the standby may lack.
    pub(super) lag_max: Option<u64>,
    /// How they are measured.
    pub(super) lag_of: LagOf,
    /// Whether it has to be streaming.
    pub(super) streaming: bool,
}

type Verdict = Result<(), String>;

impl Check {
    /// Whether it depends on what the primary's position is.
    pub(super) fn needs_picture(self, conditions: &Conditions) -> bool {
        match self {
            Self::Readiness => true,
            Self::Primary | Self::Leader | Self::Health | Self::Liveness | Self::StandbyLeader => {
                false
            }
            Self::Replica
            | Self::ReadOnly
            | Self::Sync
            | Self::Quorum
            | Self::Async
            | Self::ReadOnlySync
            | Self::ReadOnlyQuorum => conditions.lag_max.is_some(),
        }
    }

    /// The verdict, as of `now`.
    pub(super) fn judge(
        self,
        conditions: &Conditions,
        snapshot: &Snapshot,
        picture: &Picture,
        now: Moment,
    ) -> Verdict {
        let replica = || replica(snapshot, picture, conditions, now);
        let or_primary =
            |verdict: Verdict| verdict.or_else(|why| primary(snapshot, now).map_err(|_| why));
        match self {
            Self::Primary => primary(snapshot, now),
            Self::Leader => holder(snapshot, now),
            Self::Replica => replica(),
            Self::ReadOnly => or_primary(replica()),
            Self::Sync => synchronous(snapshot).and_then(|()| replica()),
            Self::Quorum => quorum(snapshot).and_then(|()| replica()),
            Self::Async => asynchronous(snapshot).and_then(|()| replica()),
            Self::ReadOnlySync => or_primary(synchronous(snapshot).and_then(|()| replica())),
            Self::ReadOnlyQuorum => or_primary(quorum(snapshot).and_then(|()| replica())),
            Self::Health => running(snapshot, now).map(drop),
            Self::Liveness => alive(snapshot, now),
            Self::Readiness => {
                primary(snapshot, now).or_else(|_| ready(snapshot, picture, conditions, now))
            }
            Self::StandbyLeader => Err("there are no standby clusters in this version".into()),
        }
    }
}

/// Primary, up, open to clients, and within its lease at this very instant.
pub(super) fn primary(snapshot: &Snapshot, now: Moment) -> Verdict {
    let on_record = snapshot.control.primacy.holder == Some(snapshot.node);
    if on_record && snapshot.sabotage.is(Saboteur::PageIgnoresTheLease) {
        return Ok(());
    }
    if snapshot.role != Role::Primary {
        return Err(not_primary(snapshot));
    }
    holder(snapshot, now)?;
    if snapshot.stopping {
        return Err("its Postgres is being stopped".into());
    }
    let seen = running(snapshot, now)?;
    let epoch = snapshot.control.primacy.epoch;
    let born = seen.history.last().map(|birth| birth.born);
    if seen.side != Side::Primary || born != Some(epoch) {
        return Err(format!("its Postgres is not the primary of {epoch} yet"));
    }
    if !seen.admits {
        return Err("its Postgres does not let clients in yet: standbys have to catch up".into());
    }
    Ok(())
}

/// I5: the holder of primacy, for as long as its lease covers it.
pub(super) fn holder(snapshot: &Snapshot, now: Moment) -> Verdict {
    let control = &snapshot.control;
    let epoch = control.primacy.epoch;
    if control.primacy.holder != Some(snapshot.node) {
        return Err(not_primary(snapshot));
    }
    let covered = |lease: crate::ha::Lease| lease.covers(epoch, now, &control.settings.timing);
    match snapshot.lease {
        Some(lease) if covered(lease) => Ok(()),
        Some(lease) if lease.epoch == epoch => Err(format!("its lease of {epoch} has run out")),
        Some(_) | None => Err(format!("it has no lease of {epoch}")),
    }
}

fn not_primary(snapshot: &Snapshot) -> String {
    let primacy = &snapshot.control.primacy;
    match primacy.holder {
        Some(holder) if holder == snapshot.node => {
            format!("{} is {} in {}", snapshot.node, snapshot.role, primacy.epoch)
        }
        Some(holder) => {
            format!("{} is {}: {holder} holds {}", snapshot.node, snapshot.role, primacy.epoch)
        }
        None => format!("{} is {}: nobody holds primacy", snapshot.node, snapshot.role),
    }
}

/// The last look at a Postgres that runs.
fn running(snapshot: &Snapshot, now: Moment) -> Result<&Observation, String> {
    let Some((seen, at)) = &snapshot.seen else {
        return Err("its Postgres was not looked at yet".into());
    };
    let age = now.since(*at);
    if age > LOOK_MAX {
        return Err(format!("its Postgres was not seen for {} ms", millis(age)));
    }
    match seen.process {
        Process::Up => Ok(seen),
        Process::Down { .. } => Err("its Postgres is down".into()),
        Process::Starting => Err("its Postgres is starting".into()),
        Process::Stopping => Err("its Postgres is shutting down".into()),
        Process::Hung => Err("its Postgres does not answer".into()),
    }
}

fn replica(
    snapshot: &Snapshot,
    picture: &Picture,
    conditions: &Conditions,
    now: Moment,
) -> Verdict {
    let follows = match snapshot.role {
        Role::Standby | Role::Detached => true,
        Role::Idle
        | Role::Witness
        | Role::Rejoining
        | Role::Preparing
        | Role::Primary
        | Role::Fencing
        | Role::Removed => false,
    };
    if !follows {
        return Err(format!("{} is {}", snapshot.node, snapshot.role));
    }
    let seen = running(snapshot, now)?;
    if seen.side != Side::Standby {
        return Err("its Postgres is no standby".into());
    }
    if conditions.streaming && seen.receiver.is_none() {
        return Err("it does not stream".into());
    }
    match conditions.lag_max {
        None => Ok(()),
        Some(limit) => within(limit, conditions.lag_of, seen, picture),
    }
}

fn within(limit: u64, of: LagOf, seen: &Observation, picture: &Picture) -> Verdict {
    let own: Option<Lsn> = match of {
        LagOf::Apply => seen.replayed,
        LagOf::Write => seen.flushed,
    };
    match picture.lag(own) {
        Some(lag) if lag <= limit => Ok(()),
        Some(lag) => Err(format!("it is {lag} bytes behind, and {limit} are allowed")),
        None => Err("how far it is behind is not known: the primary was not heard of yet".into()),
    }
}

/// Every acknowledged commit is here: all the standbys that count have to confirm.
fn synchronous(snapshot: &Snapshot) -> Verdict {
    quorum(snapshot)?;
    let all = snapshot
        .control
        .sync
        .configs
        .iter()
        .all(|sync| sync.confirmations as usize >= sync.standbys.len());
    if all { Ok(()) } else { Err("it is one of several of which not all confirm a commit".into()) }
}

fn quorum(snapshot: &Snapshot) -> Verdict {
    if is_synchronous(&snapshot.control, snapshot.node) {
        Ok(())
    } else {
        Err("no commit waits for it".into())
    }
}

fn asynchronous(snapshot: &Snapshot) -> Verdict {
    match quorum(snapshot) {
        Ok(()) => Err("commits may wait for it".into()),
        Err(_) => Ok(()),
    }
}

/// The loop wakes several times a second. On a holder it may not be late by more than a lease, for
/// then it has been fenced; elsewhere more patience does no harm.
fn alive(snapshot: &Snapshot, now: Moment) -> Verdict {
    let lease = snapshot.control.settings.timing.lease();
    let holds = snapshot.control.primacy.holder == Some(snapshot.node);
    let limit = if holds { lease } else { lease * 2 };
    let still = now.since(snapshot.stepped_at);
    if still <= limit {
        Ok(())
    } else {
        Err(format!("the node's loop has not moved for {} ms", millis(still)))
    }
}

/// A standby that streams and is near, or a witness whose leader answers.
fn ready(snapshot: &Snapshot, picture: &Picture, conditions: &Conditions, now: Moment) -> Verdict {
    let settings = &snapshot.control.settings;
    if snapshot.role == Role::Witness {
        let heard = snapshot.answered_at.is_some_and(|at| now.since(at) <= settings.timing.lease());
        let leads = snapshot.raft.leads;
        return if heard || leads { Ok(()) } else { Err("no leader answers it".into()) };
    }
    let lag_max = conditions.lag_max.or(Some(settings.max_lag_bytes));
    let conditions = Conditions { lag_max, streaming: true, ..*conditions };
    replica(snapshot, picture, &conditions, now)
}
