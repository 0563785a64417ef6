//! A figure: a span of a run, drawn to scale, with what was done to the cluster on top, what
//! clients noticed below it, and a lane per member.
//!
//! It consists of two drawings of one height: the captions, which stay in sight, and the chart,
//! which is scrolled under them.

use std::time::Duration;

use pg_replica::ids::{Lsn, NodeId};

use crate::recording::Recording;
use crate::report::{Violation, gaps};
use crate::scenario::Plan;
use crate::seen::Seen;
use crate::workload::Ended;

use super::lane::{LABEL_EVERY, LANE_HEIGHT, LETTER};
use super::strikes::{hits, is_instant};
use super::svg::{Anchor, Area, Svg};

/// How wide the captions are.
const CAPTIONS: f64 = 78.0;
const AXIS_HEIGHT: f64 = 34.0;
const TRACK_HEIGHT: f64 = 19.0;
const CLIENTS_HEIGHT: f64 = 70.0;
/// How many pixels of time are one column of what clients were told.
const COLUMN: f64 = 6.0;

/// A span of a run in seconds since the clients began, and how many pixels a second is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) from: f64,
    pub(super) until: f64,
    pub(super) scale: f64,
}

/// A figure under construction.
pub(super) struct Figure<'a> {
    pub(super) recording: &'a Recording,
    /// The members that existed within the window.
    members: Vec<NodeId>,
    plan: &'a Plan,
    window: Window,
    captions: Svg,
    pub(super) chart: Svg,
    /// Where the next row begins.
    pub(super) y: f64,
}

/// What one event of the plan looks like: from when to when, its words, and whose lanes show it.
struct Bar {
    from: Duration,
    until: Duration,
    text: String,
    nodes: Vec<NodeId>,
}

/// Draws a figure, as HTML.
pub(super) fn draw(
    plan: &Plan,
    recording: &Recording,
    violation: Option<&Violation>,
    window: Window,
) -> String {
    let mut figure = Figure {
        recording,
        members: Vec::new(),
        plan,
        window,
        captions: Svg::default(),
        chart: Svg::default(),
        y: AXIS_HEIGHT,
    };
    figure.members = figure.present();
    let bars = figure.bars();
    let tracks = figure.tracks(&bars);
    let lanes = AXIS_HEIGHT
        + tracks.iter().max().map_or(0.0, |last| *last as f64 + 1.0) * TRACK_HEIGHT
        + CLIENTS_HEIGHT
        + 8.0;
    let height = lanes + LANE_HEIGHT * figure.members.len() as f64 + 4.0;
    figure.axis(height);
    figure.strikes(&bars, &tracks, lanes);
    figure.clients();
    figure.y = lanes;
    let ends = figure.ends_of_logs();
    for node in figure.members.clone() {
        figure.lane(node, ends);
    }
    if let Some(violation) = violation {
        figure.mark(violation, height);
    }
    figure.finish(height)
}

impl Figure<'_> {
    /// A time of the recording, in seconds since the clients began.
    pub(super) fn seconds(&self, at: Duration) -> String {
        format!("{:.3}s", self.since(at))
    }

    fn since(&self, at: Duration) -> f64 {
        at.as_secs_f64() - self.recording.began.as_secs_f64()
    }

    fn x(&self, since: f64) -> f64 {
        (since - self.window.from) * self.window.scale
    }

    fn width(&self) -> f64 {
        self.x(self.window.until)
    }

    /// Where a time is, if it is within.
    pub(super) fn x_within(&self, at: Duration) -> Option<f64> {
        let x = self.x(self.since(at));
        (0.0..=self.width()).contains(&x).then_some(x)
    }

    /// Where a span begins and how wide it is, as far as it is within.
    pub(super) fn extent(&self, from: Duration, until: Duration) -> Option<(f64, f64)> {
        let begin = self.x(self.since(from)).max(0.0);
        let end = self.x(self.since(until)).min(self.width());
        (end > begin).then_some((begin, end - begin))
    }

    /// A caption of the row that begins here.
    pub(super) fn label_row(&mut self, class: &str, height: f64, text: &str) {
        let at = (CAPTIONS - 6.0, self.y + height / 2.0 + 4.0);
        self.captions.text(class, at, Anchor::End, text);
    }

    /// A line across both drawings.
    pub(super) fn rule(&mut self, class: &str) {
        let y = self.y - 4.0;
        self.chart.line(class, (0.0, y), (self.width(), y));
        self.captions.line(class, (0.0, y), (CAPTIONS, y));
    }

    fn axis(&mut self, height: f64) {
        let steps = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0];
        let step = steps.into_iter().find(|step| step * self.window.scale >= 52.0).unwrap_or(60.0);
        // A negative zero would be written as one.
        let mut at = (self.window.from / step).ceil() * step + 0.0;
        while at <= self.window.until {
            let x = self.x(at);
            self.chart.line("grid", (x, AXIS_HEIGHT - 6.0), (x, height));
            self.chart.text("tick", (x, AXIS_HEIGHT - 10.0), Anchor::Middle, &format!("{at}s"));
            at += step;
        }
        let events = [(0.0, "clients begin"), (self.plan.duration.as_secs_f64(), "all heals")];
        for (at, what) in events {
            if at > self.window.from && at < self.window.until {
                let x = self.x(at);
                self.chart.line("stage", (x, AXIS_HEIGHT - 22.0), (x, height));
                self.chart.text("caption", (x + 3.0, 10.0), Anchor::Start, what);
            }
        }
        self.y = AXIS_HEIGHT;
    }

    /// A machine that comes later has no lane.
    fn present(&self) -> Vec<NodeId> {
        let begins = |changes: &Vec<(Duration, Seen)>| {
            changes.first().is_some_and(|(at, _)| self.since(*at) < self.window.until)
        };
        let members = self.recording.members.iter().filter(|(_, changes)| begins(changes));
        members.map(|(node, _)| *node).collect()
    }

    fn bars(&self) -> Vec<Bar> {
        let bars = hits(self.plan, self.recording).into_iter().map(|hit| {
            let lasts = hit.times > 1 || !is_instant(&hit.fault);
            let healed = hit.healed.unwrap_or(self.recording.ended);
            let until = if lasts { healed } else { hit.from };
            let colon = if hit.whom.text.is_empty() { "" } else { ": " };
            let text = format!("{}{colon}{}", hit.fault, hit.whom.text);
            Bar { from: hit.from, until, text, nodes: hit.whom.nodes.into_iter().collect() }
        });
        let seen = |bar: &Bar| {
            self.x_within(bar.from).is_some() || self.extent(bar.from, bar.until).is_some()
        };
        bars.filter(seen).collect()
    }

    /// Where the words of a bar begin, and how wide they are: within it, or as far to the left as
    /// the edge of the figure asks for.
    fn words(&self, bar: &Bar) -> (f64, f64) {
        let width = bar.text.chars().count() as f64 * LETTER + 8.0;
        let begin = self.x(self.since(bar.from)).max(0.0) + 5.0;
        (begin.min((self.width() - width).max(2.0)), width)
    }

    /// The track of each bar: the first on which neither it nor its words meet another.
    fn tracks(&self, bars: &[Bar]) -> Vec<usize> {
        let mut taken: Vec<Vec<(f64, f64)>> = Vec::new();
        let mut tracks = Vec::new();
        for bar in bars {
            let (words, width) = self.words(bar);
            let begin = self.x(self.since(bar.from)).clamp(0.0, words);
            let end = self.x(self.since(bar.until)).min(self.width()).max(words + width);
            let free = |others: &Vec<(f64, f64)>| {
                others.iter().all(|(from, until)| end + 4.0 <= *from || *until + 4.0 <= begin)
            };
            let track = taken.iter().position(free).unwrap_or(taken.len());
            if track == taken.len() {
                taken.push(Vec::new());
            }
            taken[track].push((begin, end));
            tracks.push(track);
        }
        tracks
    }

    fn strikes(&mut self, bars: &[Bar], tracks: &[usize], lanes: f64) {
        if !bars.is_empty() {
            self.label_row("lane-name", TRACK_HEIGHT, "faults");
        }
        for (bar, track) in bars.iter().zip(tracks) {
            let y = self.y + *track as f64 * TRACK_HEIGHT;
            let times = format!("{} to {}", self.seconds(bar.from), self.seconds(bar.until));
            let title = format!("{}, {times}", bar.text);
            let (x, width) = self
                .extent(bar.from, bar.until)
                .unwrap_or_else(|| (self.x(self.since(bar.from)).max(0.0), 0.0));
            let area = Area { x, y: y + 2.0, width: width.max(3.0), height: TRACK_HEIGHT - 5.0 };
            self.chart.area("fault", area, &title);
            let (mut at, words) = self.words(bar);
            loop {
                self.chart.text("on", (at, y + 13.0), Anchor::Start, &bar.text);
                at += words.max(LABEL_EVERY);
                if at + words > x + width {
                    break;
                }
            }
        }
        self.bands(bars, lanes);
        self.y += tracks.iter().max().map_or(0.0, |last| *last as f64 + 1.0) * TRACK_HEIGHT;
    }

    /// Tints the lanes while faults hit them, equally for one and for many.
    fn bands(&mut self, bars: &[Bar], lanes: f64) {
        for (index, node) in self.members.iter().enumerate() {
            let y = lanes + index as f64 * LANE_HEIGHT - 4.0;
            let hits = bars.iter().filter(|bar| bar.nodes.contains(node));
            for (from, until) in union(hits.map(|bar| (bar.from, bar.until)).collect()) {
                if let Some((x, width)) = self.extent(from, until) {
                    let band = Area { x, y, width, height: LANE_HEIGHT };
                    self.chart.area("struck", band, &format!("faults hit {node}"));
                }
            }
        }
    }

    /// What clients were told: COMMIT upwards, refusals and silence downwards, and the outages.
    fn clients(&mut self) {
        let told: Vec<(f64, Ended)> = self
            .recording
            .operations
            .iter()
            .map(|operation| (self.x(self.since(operation.ended_at)), operation.ended))
            .filter(|(x, _)| (0.0..self.width()).contains(x))
            .collect();
        let columns = (self.width() / COLUMN).ceil() as usize + 1;
        let count = |wanted: Ended| {
            let mut counts = vec![0_u32; columns];
            for (x, _) in told.iter().filter(|(_, ended)| *ended == wanted) {
                counts[(x / COLUMN) as usize] += 1;
            }
            counts
        };
        let (yes, no, unknown) =
            (count(Ended::Acknowledged), count(Ended::Refused), count(Ended::Unknown));
        let most = yes.iter().copied().max().unwrap_or(0).max(1);
        let middle = self.y + 48.0;
        self.label_row("lane-name", 20.0, "clients");
        self.captions.text("caption", (CAPTIONS - 6.0, middle - 2.0), Anchor::End, "told commit");
        self.captions.text("caption", (CAPTIONS - 6.0, middle + 12.0), Anchor::End, "not told");
        self.chart.line("lane-rule", (0.0, middle), (self.width(), middle));
        for index in 0..columns {
            let x = index as f64 * COLUMN;
            let column = |y: f64, height: f64| Area { x, y, width: COLUMN - 1.0, height };
            if yes[index] > 0 {
                let height = 30.0 * f64::from(yes[index]) / f64::from(most);
                let title = format!("{} commits told", yes[index]);
                self.chart.area("told", column(middle - height, height), &title);
            }
            let mut y = middle + 1.0;
            for (class, counted, what) in
                [("refused", no[index], "refused"), ("unknown", unknown[index], "of unknown end")]
            {
                if counted > 0 {
                    let height = (4.0 + f64::from(counted)).min(9.0);
                    self.chart.area(class, column(y, height), &format!("{counted} writes {what}"));
                    y += height;
                }
            }
        }
        self.outages();
        self.y += CLIENTS_HEIGHT;
    }

    fn outages(&mut self) {
        let told = self.recording.operations.iter();
        let mut commits: Vec<Duration> = told
            .filter(|operation| operation.ended == Ended::Acknowledged)
            .map(|operation| operation.ended_at)
            .collect();
        commits.sort();
        let y = self.y + 10.0;
        for gap in gaps(&commits, self.recording.ended, (Duration::ZERO, Duration::MAX)) {
            let Some((x, width)) = self.extent(gap.from, gap.from + gap.lasted) else { continue };
            for end in [x, x + width] {
                self.chart.line("outage", (end, y - 4.0), (end, y + 4.0));
            }
            let text = format!("{:.1}s no commit", gap.lasted.as_secs_f64());
            let room = text.chars().count() as f64 * LETTER + 6.0;
            let middle = x + width / 2.0;
            // The words stand in a gap of the line.
            let gap = if room < width { room } else { 0.0 };
            self.chart.line("outage", (x, y), (middle - gap / 2.0, y));
            self.chart.line("outage", (middle + gap / 2.0, y), (x + width, y));
            if gap > 0.0 {
                self.chart.text("on", (middle, y + 4.0), Anchor::Middle, &text);
            }
        }
    }

    /// The least and the greatest end of a log in the window.
    fn ends_of_logs(&self) -> (Lsn, Lsn) {
        let mut ends: Vec<Lsn> = Vec::new();
        for positions in self.recording.positions.values() {
            for (index, (at, _, end)) in positions.iter().enumerate() {
                let until =
                    positions.get(index + 1).map_or(self.recording.ended, |(next, _, _)| *next);
                if self.extent(*at, until).is_some() && end.0 > 0 {
                    ends.push(*end);
                }
            }
        }
        let least = ends.iter().min().copied().unwrap_or_default();
        (least, ends.iter().max().copied().unwrap_or_default())
    }

    fn mark(&mut self, violation: &Violation, height: f64) {
        let at = violation.at.as_secs_f64();
        if at < self.window.from || at > self.window.until {
            return;
        }
        let x = self.x(at);
        let text = format!("{} at {}", violation.invariant, violation.at);
        let words = text.chars().count() as f64 * (LETTER + 0.8) + 12.0;
        let left = (x - words / 2.0).clamp(0.0, (self.width() - words).max(0.0));
        self.chart.line("violation", (x, 18.0), (x, height));
        let flag = Area { x: left, y: 0.0, width: words, height: 18.0 };
        self.chart.area("flag", flag, &violation.what);
        self.chart.text("on-flag", (left + words / 2.0, 13.0), Anchor::Middle, &text);
    }

    fn finish(self, height: f64) -> String {
        let width = self.width();
        let says = format!(
            "{} from {:.1} to {:.1} seconds: faults, clients and one lane per member",
            self.plan.name, self.window.from, self.window.until
        );
        // A printed page neither scrolls nor grows.
        let fit = (1_000.0 / (width + CAPTIONS)).min(660.0 / height).min(1.0);
        let captions = self.captions.finish("captions", (CAPTIONS, height), "captions");
        let chart = self.chart.finish("chart", (width, height), &says);
        format!(
            "<div class=\"scroll\" tabindex=\"0\" style=\"--fit:{fit:.2}\">\
             <div class=\"strip\">\n{captions}{chart}</div></div>\n"
        )
    }
}

/// These spans without overlaps, in order.
fn union(mut spans: Vec<(Duration, Duration)>) -> Vec<(Duration, Duration)> {
    spans.sort();
    let mut apart: Vec<(Duration, Duration)> = Vec::new();
    for (from, until) in spans {
        match apart.last_mut() {
            Some((_, end)) if from <= *end => *end = until.max(*end),
            Some(_) | None => apart.push((from, until)),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_touch_are_one() {
        let seconds = |spans: &[(u64, u64)]| -> Vec<(Duration, Duration)> {
            let second = Duration::from_secs;
            spans.iter().map(|(from, until)| (second(*from), second(*until))).collect()
        };
        let apart = union(seconds(&[(5, 6), (1, 3), (2, 4), (6, 7), (9, 9)]));
        assert_eq!(apart, seconds(&[(1, 4), (5, 7), (9, 9)]));
    }
}
