//! `/patroni`, `/cluster` and `/history` in Patroni's shape, so that what was written for it reads
//! them. What Patroni has and this product does not know is left out, never made up.

use serde_json::{Map, Value, json};

use crate::control::ControlState;
use crate::env::{Process, Side};
use crate::ha::Role;
use crate::ids::{Moment, NodeId};

use super::board::Snapshot;
use super::health;
use super::picture::Picture;
use super::status::{Standing, is_synchronous, members, primary_standing};

/// The answer of a health check and of `/patroni`: this member.
pub(super) fn member(snapshot: &Snapshot, picture: &Picture, now: Moment, wall_ms: u64) -> Value {
    let control = &snapshot.control;
    let mut body = Map::new();
    body.insert("state".into(), state(snapshot).into());
    body.insert("role".into(), role(snapshot, now).into());
    if let Some((seen, _)) = &snapshot.seen {
        if let Some(last) = seen.history.last() {
            body.insert("timeline".into(), last.timeline.0.into());
        }
        if let Some(system) = seen.system {
            body.insert("database_system_identifier".into(), system.0.to_string().into());
        }
        body.insert("xlog".into(), xlog(snapshot));
        let streams = seen.streams.iter().map(|stream| {
            json!({
                "application_name": stream.node.to_string(),
                "state": "streaming",
                "sync_state": if is_synchronous(control, stream.node) { "quorum" } else { "async" },
                "flushed_location": stream.flushed.0,
            })
        });
        if seen.side == Side::Primary {
            body.insert("replication".into(), streams.collect());
        } else if seen.receiver.is_some() {
            body.insert("replication_state".into(), "streaming".into());
        }
    }
    if is_synchronous(control, snapshot.node) {
        body.insert("quorum_standby".into(), true.into());
    }
    if let Some(seconds) = last_seen(snapshot, now, wall_ms) {
        body.insert("dcs_last_seen".into(), seconds.into());
    }
    if control.settings.paused {
        body.insert("pause".into(), true.into());
    }
    if control.is_vacant() {
        body.insert("cluster_unlocked".into(), true.into());
    }
    if let Some(tags) = tags(control, snapshot.node) {
        body.insert("tags".into(), tags);
    }
    body.insert("epoch".into(), control.primacy.epoch.0.into());
    if let Some(lag) = own_lag(snapshot, picture) {
        body.insert("lag".into(), lag.into());
    }
    body.insert(
        "patroni".into(),
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "scope": snapshot.cluster,
            "name": snapshot.node.to_string(),
        }),
    );
    Value::Object(body)
}

/// How far this standby's reads are behind.
pub(super) fn own_lag(snapshot: &Snapshot, picture: &Picture) -> Option<u64> {
    let (seen, _) = snapshot.seen.as_ref()?;
    if seen.side == Side::Primary { None } else { picture.lag(seen.replayed) }
}

/// When the consensus was last heard, in seconds since 1970.
pub(super) fn last_seen(snapshot: &Snapshot, now: Moment, wall_ms: u64) -> Option<u64> {
    let age = now.since(snapshot.answered_at?).as_millis();
    Some(wall_ms.saturating_sub(u64::try_from(age).unwrap_or(u64::MAX)) / 1_000)
}

/// Patroni's word for what Postgres does.
pub(super) fn state(snapshot: &Snapshot) -> &'static str {
    if snapshot.role == Role::Rejoining {
        return "creating replica";
    }
    match snapshot.seen.as_ref().map(|(seen, _)| seen.process) {
        None => "unknown",
        Some(Process::Up) => "running",
        Some(Process::Starting) => "starting",
        Some(Process::Stopping) => "stopping",
        Some(Process::Down { .. }) => "stopped",
        Some(Process::Hung) => "unresponsive",
    }
}

/// Patroni's word for what this member is: it is a primary only while it may write.
pub(super) fn role(snapshot: &Snapshot, now: Moment) -> &'static str {
    match snapshot.role {
        Role::Primary if health::holder(snapshot, now).is_ok() => "primary",
        // It is about to be fenced: nobody may take it for one that accepts writes.
        Role::Primary => "replica",
        Role::Standby | Role::Detached | Role::Rejoining | Role::Preparing | Role::Fencing => {
            "replica"
        }
        Role::Witness => "witness",
        Role::Idle | Role::Removed => "uninitialized",
    }
}

fn xlog(snapshot: &Snapshot) -> Value {
    let Some((seen, _)) = &snapshot.seen else { return json!({}) };
    let flushed = seen.flushed.map(|lsn| lsn.0);
    match seen.side {
        Side::Primary => json!({ "location": flushed }),
        Side::Standby => json!({
            "received_location": flushed,
            "replayed_location": seen.replayed.map(|lsn| lsn.0),
        }),
    }
}

fn tags(control: &ControlState, node: NodeId) -> Option<Value> {
    let member = control.members.get(&node)?;
    let mut tags = Map::new();
    if member.no_failover {
        tags.insert("nofailover".into(), true.into());
    }
    if member.priority != 1 {
        tags.insert("failover_priority".into(), member.priority.into());
    }
    (!tags.is_empty()).then_some(Value::Object(tags))
}

/// All members.
pub(super) fn cluster(snapshot: &Snapshot, picture: &Picture, now: Moment) -> Value {
    let control = &snapshot.control;
    let lines = members(snapshot, picture, now).into_iter().zip(control.members.keys());
    let lines: Vec<Value> = lines
        .map(|(line, node)| {
            let (host, port) = split_address(&line.postgres);
            let known = picture.heard.get(node).map(|(report, _)| report);
            let leads = primary_standing(control, *node, known) == Standing::Primary;
            let mut body = json!({
                "name": line.node,
                "role": match () {
                    () if leads && line.primary => "leader",
                    () if line.role == "witness" => "witness",
                    () if is_synchronous(control, *node) => "quorum_standby",
                    () => "replica",
                },
                "state": line.state,
                "host": host,
                "port": port,
                "timeline": line.timeline,
                "lsn": line.lsn,
            });
            if let Value::Object(map) = &mut body {
                if !line.primary && line.role != "witness" {
                    let lag = line.replay_lag_bytes.map_or("unknown".into(), Value::from);
                    map.insert("lag".into(), lag);
                }
                if let Some(tags) = tags(control, *node) {
                    map.insert("tags".into(), tags);
                }
            }
            body
        })
        .collect();
    let mut body = json!({ "members": lines, "scope": snapshot.cluster });
    if control.settings.paused {
        body["pause"] = true.into();
    }
    body
}

/// `host:port` taken apart; a port that cannot be read is left out.
fn split_address(address: &str) -> (String, Option<u16>) {
    match address.rsplit_once(':') {
        Some((host, port)) => (host.trim_matches(['[', ']']).to_owned(), port.parse().ok()),
        None => (address.to_owned(), None),
    }
}

/// Where timelines ended, as Patroni says it: timeline, position, reason, instant, new primary. The
/// instant is not known: the control state has no clock.
pub(super) fn history(control: &ControlState) -> Value {
    let turns = control.lineage.windows(2).map(|pair| {
        let [old, new] = [pair[0], pair[1]];
        let holder = control.timelines.get(&new.born).map(|record| record.holder.to_string());
        let reason = format!("{} began {}", new.born, new.timeline);
        json!([old.timeline.0, new.begins.0, reason, Value::Null, holder])
    });
    turns.collect()
}

/// What happened to the cluster, oldest first, in sentences.
pub(super) fn events(control: &ControlState) -> Value {
    let lines = control.history.iter();
    lines.map(|line| json!({ "epoch": line.epoch.0, "what": line.what })).collect()
}
