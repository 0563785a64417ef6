//! `/metrics`: Prometheus text, by hand. Patroni's names where they mean the same, and our own.

use std::fmt::{Display, Write};

use crate::control::Mode;
use crate::env::{Process, Side};
use crate::ha::Role;
use crate::ids::Moment;

use super::board::Snapshot;
use super::counters::Counters;
use super::health;
use super::patroni::{last_seen, own_lag};
use super::picture::Picture;
use super::status::{is_synchronous, lease_left};

const ROLES: [Role; 9] = [
    Role::Idle,
    Role::Witness,
    Role::Standby,
    Role::Detached,
    Role::Rejoining,
    Role::Preparing,
    Role::Primary,
    Role::Fencing,
    Role::Removed,
];

/// Everything that the page is made of.
pub(super) struct Page<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) counters: &'a Counters,
    pub(super) picture: &'a Picture,
    pub(super) now: Moment,
    pub(super) wall_ms: u64,
}

/// The text under construction.
struct Text {
    out: String,
    labels: String,
}

impl Text {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, more: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.out, "{name}{{{}", self.labels);
        for (label, text) in more {
            let _ = write!(self.out, ",{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(self.out, "}} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "gauge", help);
        self.line(name, &[], value);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u8::from(value));
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "counter", help);
        self.line(name, &[], value);
    }

    /// A gauge that is left out where the value is not known.
    fn known(&mut self, name: &str, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.gauge(name, help, value);
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

impl Page<'_> {
    /// The page.
    pub(super) fn text(&self) -> String {
        let labels = format!(
            "scope=\"{}\",name=\"{}\"",
            escaped(&self.snapshot.cluster),
            self.snapshot.node
        );
        let mut text = Text { out: String::new(), labels };
        self.as_patroni(&mut text);
        self.positions_as_patroni(&mut text);
        self.primacy(&mut text);
        self.lag(&mut text);
        self.consensus(&mut text);
        self.counted(&mut text);
        text.out
    }

    fn as_patroni(&self, text: &mut Text) {
        let snapshot = self.snapshot;
        let control = &snapshot.control;
        let seen = snapshot.seen.as_ref().map(|(seen, _)| &**seen);
        let up = seen.is_some_and(|seen| seen.process == Process::Up);
        let standby = matches!(snapshot.role, Role::Standby | Role::Detached);
        let sync = standby && is_synchronous(control, snapshot.node);
        let timeline = seen.and_then(|seen| seen.history.last()).map(|birth| birth.timeline.0);
        text.metric("patroni_version", "gauge", "This program's version, as a label.");
        text.line("patroni_version", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        text.flag("patroni_postgres_running", "Whether Postgres runs.", up);
        let primary = health::primary(snapshot, self.now).is_ok();
        text.flag("patroni_primary", "Whether writes are served here, within a lease.", primary);
        text.flag("patroni_replica", "Whether this is a standby.", standby);
        text.flag("patroni_sync_standby", "Always 0: see the quorum standby.", false);
        text.flag("patroni_quorum_standby", "Whether commits may rest on this standby.", sync);
        text.flag("patroni_standby_leader", "Always 0: there are no standby clusters.", false);
        let streaming = seen.is_some_and(|seen| seen.receiver.is_some());
        text.flag("patroni_postgres_streaming", "Whether the receiver is attached.", streaming);
        text.known("patroni_postgres_timeline", "The timeline of the data.", timeline);
        text.flag("patroni_cluster_unlocked", "Whether nobody holds primacy.", control.is_vacant());
        text.flag("patroni_is_paused", "Whether failover is off.", control.settings.paused);
        let heard = last_seen(snapshot, self.now, self.wall_ms);
        text.known("patroni_dcs_last_seen", "When the consensus last answered (epoch).", heard);
    }

    fn positions_as_patroni(&self, text: &mut Text) {
        let Some((seen, _)) = &self.snapshot.seen else { return };
        let flushed = seen.flushed.map(|lsn| lsn.0);
        match seen.side {
            Side::Primary => {
                text.known("patroni_xlog_location", "The end of the log, in bytes.", flushed);
            }
            Side::Standby => {
                let received = "patroni_xlog_received_location";
                text.known(received, "The end of what was received, in bytes.", flushed);
                let replayed = seen.replayed.map(|lsn| lsn.0);
                let name = "patroni_xlog_replayed_location";
                text.known(name, "The end of what was replayed, in bytes.", replayed);
            }
        }
    }

    fn primacy(&self, text: &mut Text) {
        let snapshot = self.snapshot;
        let control = &snapshot.control;
        text.metric("pg_replica_role", "gauge", "The role: 1 for the present one.");
        for role in ROLES {
            let present = u8::from(role == snapshot.role);
            text.line("pg_replica_role", &[("role", &role.to_string())], present);
        }
        text.gauge("pg_replica_epoch", "The last epoch that was given.", control.primacy.epoch.0);
        let left = lease_left(snapshot, self.now).unwrap_or_default();
        text.gauge("pg_replica_lease_left_seconds", "What is left of the lease.", seconds(left));
        let armed = left > 0;
        text.flag("pg_replica_guard_armed", "Whether the guard is armed for a lease.", armed);
        let quorum = control.settings.mode == Mode::QuorumSync;
        text.flag("pg_replica_quorum_sync", "Whether commits wait for a quorum.", quorum);
        let confirmations = control.confirmations();
        let help = "How many standbys have to confirm a commit.";
        text.gauge("pg_replica_confirmations", help, confirmations);
        text.gauge("pg_replica_members", "The members.", control.members.len());
        let handover = control.handover.is_some();
        text.flag("pg_replica_handover_under_way", "Whether a handover is under way.", handover);
        let trouble = snapshot.trouble.is_some();
        text.flag("pg_replica_trouble", "Whether something keeps it from its duty.", trouble);
    }

    fn lag(&self, text: &mut Text) {
        let help = "What this standby has yet to replay.";
        text.known("pg_replica_lag_bytes", help, own_lag(self.snapshot, self.picture));
        let Some((seen, _)) = &self.snapshot.seen else { return };
        let Some(end) = seen.flushed.filter(|_| seen.side == Side::Primary) else { return };
        let name = "pg_replica_standby_lag_bytes";
        text.metric(name, "gauge", "What a standby has yet to confirm, as the primary sees it.");
        for stream in &seen.streams {
            let standby = stream.node.to_string();
            text.line(name, &[("standby", &standby)], end.ahead_of(stream.flushed));
        }
    }

    fn consensus(&self, text: &mut Text) {
        let raft = &self.snapshot.raft;
        text.gauge("pg_replica_raft_term", "The consensus term.", raft.term.0);
        text.flag("pg_replica_raft_leads", "Whether this member leads.", raft.leads);
        let known = raft.leader.is_some();
        text.flag("pg_replica_raft_leader_known", "Whether a leader is known.", known);
        text.gauge("pg_replica_raft_voters", "The voters in force.", raft.voters.len());
        let applied = self.counters.applied_index;
        text.gauge("pg_replica_raft_applied_index", "The last entry applied here.", applied);
        if raft.leads && !raft.behind.is_empty() {
            let name = "pg_replica_raft_behind_entries";
            text.metric(name, "gauge", "How many entries a member lacks.");
            for (node, lacks) in &raft.behind {
                text.line(name, &[("member", &node.to_string())], lacks);
            }
        }
        let term = self.snapshot.control.version;
        text.gauge("pg_replica_control_version", "The version of the control state.", term);
        let settings = self.snapshot.control.settings.version;
        text.gauge("pg_replica_settings_version", "The version of the settings.", settings);
    }

    fn counted(&self, text: &mut Text) {
        let counted = self.counters;
        let name = "pg_replica_role_changes_total";
        text.metric(name, "counter", "Changes of the role, by the new one.");
        for role in ROLES {
            let count = counted.role_changes.get(&role).copied().unwrap_or_default();
            text.line(name, &[("role", &role.to_string())], count);
        }
        let help = "How often a Postgres that might have written was ended.";
        text.counter("pg_replica_fences_total", help, counted.fences);
        text.counter("pg_replica_elections_total", "Primacies given.", counted.elections);
        text.counter("pg_replica_births_total", "New timelines recorded.", counted.births);
        let name = "pg_replica_primacies_ended_total";
        text.metric(name, "counter", "Primacies that ended, by the reason.");
        for (reason, count) in &counted.vacancies {
            text.line(name, &[("reason", reason)], count);
        }
        text.counter("pg_replica_outages_total", "Times without a primary.", counted.outages);
        let name = "pg_replica_outage_seconds_total";
        text.counter(name, "How long those were.", seconds(counted.outage_ms));
        let name = "pg_replica_last_outage_seconds";
        text.gauge(name, "How long the last one was.", seconds(counted.last_outage_ms));
        text.counter("pg_replica_lease_renewals_total", "Leases in force.", counted.renewals);
        let name = "pg_replica_lease_renewals_failed_total";
        text.counter(name, "Leases that the guard was not armed with.", counted.renewals_failed);
        let name = "pg_replica_heartbeats_unanswered_total";
        text.counter(name, "Heartbeats without an answer.", counted.unanswered);
        let name = "pg_replica_postgres_verbs_total";
        text.metric(name, "counter", "Things done to Postgres, and how they ended.");
        for ((verb, end), count) in &counted.verbs {
            text.line(name, &[("verb", verb), ("outcome", end)], count);
        }
        let name = "pg_replica_orders_total";
        text.metric(name, "counter", "Orders given through this member, and how they ended.");
        for (end, count) in &counted.orders {
            text.line(name, &[("outcome", end)], count);
        }
        text.counter("pg_replica_snapshots_total", "Snapshots installed.", counted.snapshots);
        text.counter("pg_replica_steps_total", "Steps of the node's loop.", counted.steps);
    }
}
