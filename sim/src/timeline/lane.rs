//! One member's lane: what its node is, its lease by two clocks, its server, what that acknowledged
//! and where its log ends.

use std::time::Duration;

use pg_replica::ha::Role;
use pg_replica::ids::{Lsn, NodeId};

use crate::recording::Recording;
use crate::seen::{LeasePhase, Life, Seen, ServerPhase};
use crate::workload::Ended;

use super::figure::Figure;
use super::svg::{Anchor, Area};

/// How wide a letter is, about.
pub(super) const LETTER: f64 = 6.4;
/// In a long span its label comes again after so much.
pub(super) const LABEL_EVERY: f64 = 280.0;

const ROLE_HEIGHT: f64 = 19.0;
const LEASE_HEIGHT: f64 = 5.0;
const SERVER_HEIGHT: f64 = 15.0;
const COMMITS_HEIGHT: f64 = 10.0;
const LOG_HEIGHT: f64 = 20.0;
const GAP: f64 = 3.0;

/// All of a lane.
pub(super) const LANE_HEIGHT: f64 = ROLE_HEIGHT
    + 2.0 * LEASE_HEIGHT
    + SERVER_HEIGHT
    + COMMITS_HEIGHT
    + LOG_HEIGHT
    + 6.0 * GAP
    + 8.0;

/// What a span looks like, what stands in it and what a pointer over it tells.
struct Look {
    class: &'static str,
    label: String,
}

impl Figure<'_> {
    /// Draws the lane of `node` from `top` down. `ends` are the ends of the log that the figure
    /// spans.
    pub(super) fn lane(&mut self, node: NodeId, ends: (Lsn, Lsn)) {
        let recording = self.recording;
        let Some(changes) = recording.members.get(&node) else { return };
        let top = self.y;
        self.label_row("lane-name", ROLE_HEIGHT, &node.to_string());
        self.stripe(changes, ROLE_HEIGHT, role_look);
        self.y += ROLE_HEIGHT + GAP;
        self.label_row("caption", 2.0 * LEASE_HEIGHT, "lease");
        self.stripe(changes, LEASE_HEIGHT, |seen| lease_look(seen.lease));
        self.y += LEASE_HEIGHT + 1.0;
        self.stripe(changes, LEASE_HEIGHT, |seen| {
            let label = "the lease lasts in true time".into();
            seen.lease_truly.then_some(Look { class: "lease-true", label })
        });
        self.y += LEASE_HEIGHT + GAP;
        self.label_row("caption", SERVER_HEIGHT, "postgres");
        // A witness has no server that could be down.
        self.stripe(changes, SERVER_HEIGHT, |seen| {
            (seen.role != Some(Role::Witness)).then(|| server_look(seen.server))
        });
        self.y += SERVER_HEIGHT + GAP;
        self.label_row("caption", COMMITS_HEIGHT, "commits");
        self.commits(recording, node);
        self.y += COMMITS_HEIGHT + GAP;
        self.label_row("caption", LOG_HEIGHT, "log");
        self.log(recording, node, ends);
        self.y = top + LANE_HEIGHT;
        self.rule("lane-rule");
    }

    /// Spans of equal looks, each with its label where there is room for it.
    fn stripe(
        &mut self,
        changes: &[(Duration, Seen)],
        height: f64,
        look: impl Fn(&Seen) -> Option<Look>,
    ) {
        let mut spans: Vec<(Duration, Duration, Option<Look>)> = Vec::new();
        for (index, (at, seen)) in changes.iter().enumerate() {
            let until = changes.get(index + 1).map_or(self.recording.ended, |(next, _)| *next);
            let look = look(seen);
            let same = |a: &Option<Look>, b: &Option<Look>| match (a, b) {
                (Some(a), Some(b)) => a.class == b.class && a.label == b.label,
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            match spans.last_mut() {
                Some((_, end, last)) if same(last, &look) => *end = until,
                Some(_) | None => spans.push((*at, until, look)),
            }
        }
        for (from, until, look) in spans {
            let Some(look) = look else { continue };
            let Some((x, width)) = self.extent(from, until) else { continue };
            let title =
                format!("{} from {} to {}", look.label, self.seconds(from), self.seconds(until));
            self.chart.area(look.class, Area { x, y: self.y, width, height }, &title);
            let room = look.label.chars().count() as f64 * LETTER + 8.0;
            let mut at = x + 4.0;
            while height > 12.0 && at + room <= x + width {
                let class =
                    if matches!(look.class, "primary" | "willing") { "on-dark" } else { "on" };
                let baseline = self.y + height / 2.0 + 4.0;
                self.chart.text(class, (at, baseline), Anchor::Start, &look.label);
                at += room.max(LABEL_EVERY);
            }
        }
    }

    /// A stroke for every commit of which this server told its client.
    fn commits(&mut self, recording: &Recording, node: NodeId) {
        let mut last = f64::MIN;
        for operation in recording.operations.iter().filter(|own| own.server == node) {
            let Some(x) = self.x_within(operation.ended_at) else { continue };
            let acknowledged = operation.ended == Ended::Acknowledged;
            // Strokes that fall together are one.
            if !acknowledged || x - last < 1.5 {
                continue;
            }
            last = x;
            let (top, bottom) = (self.y, self.y + COMMITS_HEIGHT);
            self.chart.line("commit", (x, top), (x, bottom));
        }
    }

    /// Where the log ends, on one scale for all members.
    fn log(&mut self, recording: &Recording, node: NodeId, (low, high): (Lsn, Lsn)) {
        let Some(positions) = recording.positions.get(&node) else { return };
        let span = high.0.saturating_sub(low.0).max(1) as f64;
        let bottom = self.y + LOG_HEIGHT;
        let height =
            |end: Lsn| bottom - LOG_HEIGHT * (end.0.clamp(low.0, high.0) - low.0) as f64 / span;
        let mut points: Vec<(f64, f64)> = Vec::new();
        let mut timeline = None;
        for (index, (at, line, end)) in positions.iter().enumerate() {
            let until = positions.get(index + 1).map_or(recording.ended, |(next, _, _)| *next);
            let Some((x, width)) = self.extent(*at, until) else { continue };
            points.extend([(x, height(*end)), (x + width, height(*end))]);
            if timeline.replace(*line).is_some_and(|before| before != *line) {
                self.chart.text(
                    "caption",
                    (x + 2.0, bottom - 1.0),
                    Anchor::Start,
                    &line.to_string(),
                );
            }
        }
        let last = positions.last().map(|(_, line, end)| format!("{line} up to {end}"));
        self.chart.polyline("log", &points, &last.unwrap_or_default());
    }
}

/// What the node says that it is.
fn role_look(seen: &Seen) -> Option<Look> {
    let gone = |class, label: &str| Some(Look { class, label: label.into() });
    match (seen.machine, seen.manager) {
        (Life::Gone, _) => return gone("off", "machine down"),
        (Life::Still, _) => return gone("still", "machine frozen"),
        (Life::Runs, Life::Gone) => return gone("off", "no manager"),
        (Life::Runs, Life::Still) => return gone("still", "manager frozen"),
        (Life::Runs, Life::Runs) => {}
    }
    let class = match seen.role? {
        Role::Idle => "idle",
        Role::Witness => "witness",
        Role::Standby => "standby",
        Role::Detached => "detached",
        Role::Rejoining => "rejoining",
        Role::Preparing => "preparing",
        Role::Primary => "primary",
        Role::Fencing => "fencing",
        Role::Removed => "removed",
    };
    let leads = if seen.leads { ", leads" } else { "" };
    let guard = match seen.guard {
        Life::Runs => "",
        Life::Still => ", guard frozen",
        Life::Gone => ", no guard",
    };
    let label = format!("{class} {}{leads}{guard}", seen.epoch);
    Some(Look { class, label })
}

fn lease_look(lease: LeasePhase) -> Option<Look> {
    let (class, label) = match lease {
        LeasePhase::None => return None,
        LeasePhase::Held => ("lease-own", "the lease covers writes by its holder's clock"),
        LeasePhase::Margin => ("lease-margin", "the lease is about to end by its holder's clock"),
        LeasePhase::Over => ("lease-over", "the lease is over by its holder's clock"),
    };
    Some(Look { class, label: label.into() })
}

fn server_look(server: ServerPhase) -> Look {
    let (class, label) = match server {
        ServerPhase::Down => ("off", "down"),
        ServerPhase::Starting => ("moving", "starting"),
        ServerPhase::Standby => ("follows", "standby"),
        ServerPhase::Shut => ("shut", "shut"),
        ServerPhase::Waiting => ("waiting", "open, acknowledges nothing"),
        ServerPhase::Willing => ("willing", "acknowledges"),
        ServerPhase::Stopping => ("moving", "stopping"),
        ServerPhase::Hung => ("still", "hung"),
    };
    Look { class, label: label.into() }
}
