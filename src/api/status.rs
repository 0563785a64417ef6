//! `/status`: everything that a person asks first, in one document, from any member.
//!
//! The command line reads the same types that are written here.

use serde::{Deserialize, Serialize};

use crate::control::{ControlState, HandoverKind, MemberKind, Mode};
use crate::env::Process;
use crate::ha::{Report, Role};
use crate::ids::{Moment, NodeId};

use super::board::Snapshot;
use super::explain::{SILENT_MS, Subject, is_primary_side};
use super::health;
use super::picture::Picture;

/// The document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the node that answers.
    pub version: String,
    /// The cluster.
    pub cluster: String,
    /// The node that answers.
    pub node: String,
    /// Its role.
    pub role: String,
    /// For how long it has had it.
    pub role_for_ms: u64,
    /// The last epoch that was given.
    pub epoch: u64,
    /// Who holds it; `None` while nobody does.
    pub holder: Option<String>,
    /// Why it has no holder, where it has none.
    pub vacated: Option<String>,
    /// How much is left of this node's lease.
    pub lease_left_ms: Option<u64>,
    /// Whether this node's guard is armed.
    pub guard_armed: bool,
    /// Whether `/primary` answers 200 here now.
    pub serves_writes: bool,
    /// Why it does not, where it does not.
    pub why_no_writes: Option<String>,
    /// Who leads the consensus, as far as this node knows.
    pub leader: Option<String>,
    /// The consensus term.
    pub term: u64,
    /// The voters in force.
    pub voters: Vec<String>,
    /// When commits are acknowledged.
    pub mode: Mode,
    /// Whose confirmations count now.
    pub synchronous: String,
    /// Whether automatic failover is off.
    pub paused: bool,
    /// A handover under way.
    pub handover: Option<String>,
    /// Why nobody is elected, where somebody should be.
    pub obstacle: Option<String>,
    /// What keeps this node from doing its part.
    pub trouble: Option<String>,
    /// What this node is doing to its Postgres.
    pub doing: Option<String>,
    /// Why the leader could not be asked for the other members' reports, where it could not: what
    /// is said of them below is old then.
    pub blind: Option<String>,
    /// The members.
    pub members: Vec<MemberStatus>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub node: String,
    /// What it is now: primary, preparing, standby, synchronous standby, witness, or unknown.
    pub role: String,
    /// What its Postgres does.
    pub state: String,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// The epoch in which the timeline was born.
    pub epoch: Option<u64>,
    /// Where its log ends.
    pub lsn: Option<String>,
    /// What it has yet to receive, in bytes.
    pub lag_bytes: Option<u64>,
    /// What it has yet to replay, in bytes.
    pub replay_lag_bytes: Option<u64>,
    /// Whether it holds a lease.
    pub leased: bool,
    /// How much is left of it, where this is the node that answers.
    pub lease_left_ms: Option<u64>,
    /// Whether it is the primary.
    pub primary: bool,
    /// Whether clients are let in.
    pub admits: bool,
    /// What keeps it from being chosen, should the primary fail now.
    pub obstacles: Vec<String>,
    /// What it waits for.
    pub waits_for: Vec<String>,
    /// How old the news of it are.
    pub heard_ms: Option<u64>,
    /// Where its node listens.
    pub address: String,
    /// Where its Postgres listens.
    pub postgres: String,
    /// Among equals the highest wins.
    pub priority: u32,
    /// Whether failover passes it over.
    pub no_failover: bool,
}

/// What a member is in the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the primary.
    Primary,
    /// It holds primacy and is not primary yet.
    Preparing,
    /// It is not.
    Other,
}

/// Whether `node` is the primary, by what it says of itself and what the cluster agreed on.
pub(super) fn primary_standing(
    control: &ControlState,
    node: NodeId,
    report: Option<&Report>,
) -> Standing {
    if control.primacy.holder != Some(node) {
        return Standing::Other;
    }
    let born = report.and_then(|report| report.birth).map(|birth| birth.born);
    let of_this_epoch = born == Some(control.primacy.epoch);
    if report.is_some_and(is_primary_side) && of_this_epoch {
        Standing::Primary
    } else {
        Standing::Preparing
    }
}

pub(super) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// How much is left of a lease of the present epoch.
pub(super) fn lease_left(snapshot: &Snapshot, now: Moment) -> Option<u64> {
    let lease = snapshot.lease.filter(|l| l.epoch == snapshot.control.primacy.epoch)?;
    let left = lease.until.since(now);
    (!left.is_zero()).then(|| millis(left))
}

/// The document as of `now`.
pub(super) fn status(snapshot: &Snapshot, picture: &Picture, now: Moment) -> Status {
    let control = &snapshot.control;
    let serves = health::primary(snapshot, now);
    let name = |node: NodeId| node.to_string();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: snapshot.cluster.clone(),
        node: snapshot.node.to_string(),
        role: snapshot.role.to_string(),
        role_for_ms: millis(now.since(snapshot.role_since)),
        epoch: control.primacy.epoch.0,
        holder: control.primacy.holder.map(name),
        vacated: control.primacy.vacated.as_ref().map(ToString::to_string),
        lease_left_ms: lease_left(snapshot, now),
        guard_armed: lease_left(snapshot, now).is_some(),
        serves_writes: serves.is_ok(),
        why_no_writes: serves.err(),
        leader: snapshot.raft.leader.map(name),
        term: snapshot.raft.term.0,
        voters: snapshot.raft.voters.iter().copied().map(name).collect(),
        mode: control.settings.mode,
        synchronous: control.sync.target().map_or_else(
            || "none".into(),
            |sync| {
                let joint = if control.sync.is_joint() { ", changing" } else { "" };
                format!("{sync}{joint}")
            },
        ),
        paused: control.settings.paused,
        handover: control.handover.as_ref().map(|handover| {
            let kind = match handover.kind {
                HandoverKind::Switchover => "switchover",
                HandoverKind::Failover { accept_data_loss: false } => "failover",
                HandoverKind::Failover { accept_data_loss: true } => "failover with data loss",
            };
            let to = handover.to.map_or_else(|| "the best standby".into(), name);
            format!("{kind} to {to}, order {}", handover.id.0)
        }),
        obstacle: picture.obstacle.clone().filter(|_| control.is_vacant()),
        trouble: snapshot.trouble.clone(),
        doing: snapshot
            .under_way
            .as_ref()
            .map(|(verb, since)| format!("{verb}, for {} ms", now.since(*since).as_millis())),
        blind: picture.blind.clone(),
        members: members(snapshot, picture, now),
    }
}

/// A line for every member, in the order of their numbers.
pub(super) fn members(snapshot: &Snapshot, picture: &Picture, now: Moment) -> Vec<MemberStatus> {
    let nodes = snapshot.control.members.keys();
    nodes.map(|node| line(*node, snapshot, picture, now)).collect()
}

fn line(node: NodeId, snapshot: &Snapshot, picture: &Picture, now: Moment) -> MemberStatus {
    let control = &snapshot.control;
    let heard = picture.heard.get(&node);
    let report = heard.map(|(report, _)| report);
    let age = heard.map(|(_, at)| now.since(*at));
    let known = report.filter(|_| age.is_some_and(|age| age.as_millis() <= SILENT_MS));
    let subject = Subject { node, control, picture, heard, now };
    let mut explained = subject.explain();
    let own = snapshot.seen.as_ref().filter(|_| node == snapshot.node);
    if let Some(why) = own.and_then(|(seen, _)| seen.starved.as_ref()) {
        explained.waits_for.push(format!("a copy or a rewind: its upstream refuses it: {why}"));
    }
    let primary = primary_standing(control, node, known) == Standing::Primary;
    let position = report.and_then(|report| report.position);
    let replayed = report.and_then(|report| report.replayed);
    let follows = !primary && report.is_some_and(Report::has_data);
    let lag = |lsn: Option<crate::ids::Lsn>| picture.lag(lsn).filter(|_| follows);
    let member = control.members.get(&node);
    MemberStatus {
        node: node.to_string(),
        role: role_word(control, node, known).into(),
        state: state_word(snapshot, node, known).into(),
        timeline: report.and_then(|r| r.birth).map(|birth| birth.timeline.0),
        epoch: report.and_then(|r| r.birth).map(|birth| birth.born.0),
        lsn: position.map(|position| position.flushed.to_string()),
        lag_bytes: lag(position.map(|p| p.flushed)),
        replay_lag_bytes: lag(replayed.map(|p| p.flushed)),
        leased: known.is_some_and(|report| report.leased),
        lease_left_ms: lease_left(snapshot, now).filter(|_| node == snapshot.node),
        primary,
        admits: known.is_some_and(|report| report.admits),
        obstacles: explained.obstacles,
        waits_for: explained.waits_for,
        heard_ms: age.map(millis),
        address: member.map(|m| m.address.clone()).unwrap_or_default(),
        postgres: member.map(|m| m.postgres.clone()).unwrap_or_default(),
        priority: member.map_or(0, |m| m.priority),
        no_failover: member.is_some_and(|m| m.no_failover),
    }
}

fn role_word(control: &ControlState, node: NodeId, known: Option<&Report>) -> &'static str {
    let member = control.members.get(&node);
    if member.is_some_and(|member| member.kind == MemberKind::Witness) {
        return "witness";
    }
    match primary_standing(control, node, known) {
        Standing::Primary => "primary",
        Standing::Preparing if known.is_some() => "preparing",
        Standing::Preparing => "unknown",
        Standing::Other if is_synchronous(control, node) => "synchronous standby",
        Standing::Other => "standby",
    }
}

/// Whether a commit may rest on this member's confirmation.
pub(super) fn is_synchronous(control: &ControlState, node: NodeId) -> bool {
    let target = control.sync.target().filter(|sync| sync.epoch == control.primacy.epoch);
    target.is_some_and(|sync| sync.confirmations > 0 && sync.standbys.contains(&node))
}

/// What a member's Postgres does, in Patroni's words where it has one.
fn state_word(snapshot: &Snapshot, node: NodeId, known: Option<&Report>) -> &'static str {
    let member = snapshot.control.members.get(&node);
    if member.is_some_and(|member| member.kind == MemberKind::Witness) {
        return if known.is_some() { "running" } else { "unknown" };
    }
    if node == snapshot.node && snapshot.role == Role::Rejoining {
        return "creating replica";
    }
    let Some(report) = known else { return "unknown" };
    match report.process {
        Process::Up if report.receiver.is_some() => "streaming",
        Process::Up => "running",
        Process::Starting => "starting",
        Process::Stopping => "stopping",
        Process::Down { .. } => "stopped",
        Process::Hung => "unresponsive",
    }
}
