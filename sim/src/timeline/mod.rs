//! A run as one page: what happened to whom, on paper or on a screen of any width.
//!
//! The page stands alone: style and figures are inside it, nothing is fetched, nothing is a script.
//! What matters differs in pattern and words, never in colour alone, because such pages get
//! printed. `figure` draws a span of a run, `lane` a member, `strikes` says whom an event hit.

mod figure;
mod lane;
mod strikes;
mod svg;

use std::fmt::Write as _;
use std::time::Duration;

use crate::recording::Recording;
use crate::report::{RunReport, Violation};
use crate::scenario::{Plan, mode_name, saboteur_name, write_duration};
use crate::since::Since;
use crate::trace::Line;

use figure::{Window, draw};
use strikes::{hits, is_instant};
use svg::escape;

const STYLE: &str = include_str!("page.css");
/// The patterns that all figures share, and the legend too.
const PATTERNS: &str = include_str!("patterns.svg");

/// What is shown around a violation, in seconds, and how wide.
const BEFORE: f64 = 6.0;
const AFTER: f64 = 1.5;
const CLOSE_SCALE: f64 = 154.0;
/// How wide the whole run is, if that leaves a second enough room.
const WHOLE_WIDTH: f64 = 1_150.0;
const SCALES: (f64, f64) = (9.0, 60.0);
/// How much of the founding is shown, in seconds.
const FOUNDING: f64 = 4.0;
/// How many lines of the trace are shown before and after the first violation.
const LINES_BEFORE: usize = 60;
const LINES_AFTER: usize = 5;

/// The page of a run that was recorded.
#[must_use]
pub fn page(plan: &Plan, report: &RunReport, recording: &Recording) -> String {
    let first = report.violations.first();
    let title = format!("{}, seed {}", plan.name, plan.seed);
    let mut out = String::new();
    put(&mut out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    put(&mut out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    put(&mut out, &format!("<title>{}</title>\n<style>\n{STYLE}</style>\n", escape(&title)));
    put(&mut out, &format!("</head>\n<body>\n{PATTERNS}<h1>{}</h1>\n", escape(&title)));
    put(
        &mut out,
        &format!("<p>{}</p>\n<p class=\"faint\">{}</p>\n", escape(&plan.claim), terms(plan)),
    );
    put(&mut out, &verdict(first));
    if let Some(violation) = first {
        let at = violation.at.as_secs_f64();
        let begin = -recording.began.as_secs_f64();
        let from = (at - BEFORE).max(begin);
        let until = (at + AFTER).min(end(recording));
        let window = Window { from, until, scale: CLOSE_SCALE };
        put(&mut out, "<h2>Around the violation</h2>\n<figure class=\"close\">\n");
        put(&mut out, &draw(plan, recording, first, window));
        put(&mut out, "</figure>\n");
    }
    put(&mut out, "<h2>The whole run</h2>\n<figure>\n");
    put(&mut out, &draw(plan, recording, first, whole(recording)));
    put(&mut out, &format!("<figcaption>{READING}</figcaption>\n</figure>\n{}", legend()));
    put(&mut out, &numbers(report));
    put(&mut out, &strikes_table(plan, recording));
    put(&mut out, &orders(report));
    put(&mut out, &violations(report));
    put(&mut out, &trace(recording, first));
    put(
        &mut out,
        &format!(
            "<details><summary>The plan, for <code>sim replay</code></summary>\n<pre>{}</pre>\
             </details>\n",
            escape(&plan.to_toml())
        ),
    );
    put(&mut out, "</body>\n</html>\n");
    out
}

const READING: &str = "Times are seconds of true time since the clients began. A lane shows, from \
top to bottom: what the node says that it is, in which epoch; its lease by its own clock, and \
below that in true time; its server; every commit of which it told a client; the end of its log, \
on one scale for all. A tinted lane is hit by a fault.";

fn put(out: &mut String, text: &str) {
    out.push_str(text);
}

fn end(recording: &Recording) -> f64 {
    recording.ended.as_secs_f64() - recording.began.as_secs_f64()
}

fn whole(recording: &Recording) -> Window {
    let from = -recording.began.as_secs_f64().min(FOUNDING);
    let until = end(recording).max(from + 1.0);
    let scale = (WHOLE_WIDTH / (until - from)).clamp(SCALES.0, SCALES.1);
    Window { from, until, scale }
}

/// What kind of run it is, in a line.
fn terms(plan: &Plan) -> String {
    let (cluster, workload) = (&plan.cluster, &plan.workload);
    let witnesses = match cluster.witnesses {
        0 => String::new(),
        number => format!(" and {}", counted(number, "witness", "witnesses")),
    };
    let fence = if cluster.commit_fence { "with" } else { "without" };
    let sabotage = plan.sabotage.map_or_else(String::new, |saboteur| {
        format!(", the rule {} broken on purpose", saboteur_name(saboteur))
    });
    format!(
        "{}{witnesses}, {}, {fence} the commit fence; {}, {}; {} within {}{sabotage}; plan hash \
         {:016x}",
        counted(cluster.nodes, "data member", "data members"),
        mode_name(cluster.mode),
        counted(workload.writers.into(), "writer", "writers"),
        counted(workload.readers.into(), "reader", "readers"),
        counted(plan.events.len() as u64, "event", "events"),
        write_duration(plan.duration),
        plan.hash()
    )
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn verdict(first: Option<&Violation>) -> String {
    match first {
        None => {
            "<div class=\"verdict clean\"><strong>Clean.</strong> Nothing was violated.</div>\n"
                .into()
        }
        Some(violation) => format!(
            "<div class=\"verdict\"><strong>{} at {}</strong><p>{}</p></div>\n",
            escape(&violation.invariant),
            violation.at,
            escape(&violation.what)
        ),
    }
}

fn legend() -> String {
    let entries = [
        ("primary", "primary"),
        ("preparing", "preparing"),
        ("fencing", "fencing"),
        ("standby", "standby"),
        ("detached", "detached"),
        ("rejoining", "rejoining"),
        ("still", "frozen or hung"),
        ("off", "not running"),
        ("lease-own", "lease by the node's clock"),
        ("lease-margin", "too short to go on"),
        ("lease-true", "lease in true time"),
        ("willing", "acknowledges"),
        ("waiting", "open, acknowledges nothing"),
        ("shut", "primary, doors shut"),
        ("follows", "standby server"),
        ("moving", "starting or stopping"),
        ("fault", "fault"),
        ("refused", "write refused"),
        ("unknown", "write of unknown end"),
    ];
    let mut out = String::from("<ul class=\"legend\">\n");
    for (class, words) in entries {
        let _ = writeln!(
            out,
            "<li><svg width=\"26\" height=\"14\" aria-hidden=\"true\"><rect class=\"{class}\" \
             x=\"1\" y=\"1\" width=\"24\" height=\"12\"/></svg>{words}</li>"
        );
    }
    out + "</ul>\n"
}

fn numbers(report: &RunReport) -> String {
    let longest = report.outages.iter().max().copied().unwrap_or_default();
    format!(
        "<p>{} rows acknowledged, {} lost, {} failovers, {} rewinds, {} clones, longest write \
         outage {:.2} s.</p>\n",
        report.acknowledged,
        report.lost,
        report.failovers,
        report.rewinds,
        report.clones,
        longest.as_secs_f64()
    )
}

fn strikes_table(plan: &Plan, recording: &Recording) -> String {
    let since = |at: Duration| at.as_secs_f64() - recording.began.as_secs_f64();
    let mut rows = String::new();
    for hit in hits(plan, recording) {
        let until = hit.healed.filter(|_| hit.times > 1 || !is_instant(&hit.fault));
        let until = until.map_or_else(String::new, |at| format!("{:.3}", since(at)));
        let times = if hit.times > 1 { format!(", {} times", hit.times) } else { String::new() };
        let _ = writeln!(
            rows,
            "<tr><td class=\"time\">{:.3}</td><td class=\"time\">{until}</td>\
             <td>{}{times}</td><td>{}</td></tr>",
            since(hit.from),
            escape(&hit.fault.to_string()),
            escape(&hit.whom.text)
        );
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>What was done to it</h2>\n<div class=\"wide\"><table>\n<tr><th>from</th><th>to</th>\
         <th>what</th><th>whom</th></tr>\n{rows}</table></div>\n"
    )
}

fn orders(report: &RunReport) -> String {
    list("What the operator asked for and was told", report.orders.iter().map(String::as_str))
}

fn violations(report: &RunReport) -> String {
    let all: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    list("Every violation", all.iter().skip(usize::from(all.len() == 1)).map(String::as_str))
}

fn list<'a>(head: &str, items: impl Iterator<Item = &'a str>) -> String {
    let items: String = items.map(|item| format!("<li>{}</li>\n", escape(item))).collect();
    if items.is_empty() { items } else { format!("<h2>{head}</h2>\n<ul>\n{items}</ul>\n") }
}

/// The trace, where it tells what led to the violation; without one, its end.
fn trace(recording: &Recording, marked: Option<&Violation>) -> String {
    let end = Since::of(recording.ended, recording.began);
    let at = marked.map_or(end, |violation| violation.at);
    let passed = recording.lines.partition_point(|line| Since::of(line.at, recording.began) <= at);
    let from = passed.saturating_sub(LINES_BEFORE);
    let until = (passed + LINES_AFTER).min(recording.lines.len());
    let mut text = String::new();
    for (index, line) in recording.lines[from..until].iter().enumerate() {
        if from + index == passed {
            text.push_str(&here(marked));
        }
        text.push_str(&escape(&trace_line(recording, line)));
    }
    if passed == until {
        text.push_str(&here(marked));
    }
    let head =
        if marked.is_some() { "The trace up to the violation" } else { "The end of the trace" };
    format!("<details><summary>{head}</summary>\n<pre>{text}</pre></details>\n")
}

fn here(marked: Option<&Violation>) -> String {
    marked.map_or_else(String::new, |violation| {
        format!("<span class=\"here\">{}</span>\n", escape(&violation.to_string()))
    })
}

fn trace_line(recording: &Recording, line: &Line) -> String {
    let since = line.at.as_secs_f64() - recording.began.as_secs_f64();
    let who = line.node.map_or_else(|| "~~~".into(), |node| node.to_string());
    format!("{since:>9.4}s  {who:<4} {}\n", line.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::read;
    use crate::trace::Kind;

    /// The page of a run that went wrong this long before or after its clients began.
    fn page_of(invariant: &str, at: Since) -> String {
        let text = "claim = \"c\"\nduration = \"3s\"\n";
        let plan = read("test.toml", text).expect("a scenario").plan(0);
        let second = Duration::from_secs;
        let line = |at: u64| Line {
            at: second(at),
            node: None,
            kind: Kind::Fault,
            text: format!("line {at}"),
        };
        let recording = Recording {
            began: second(5),
            ended: second(8),
            lines: [1, 2, 4, 6, 7].map(line).into(),
            ..Recording::default()
        };
        let (invariant, what) = (invariant.to_owned(), "it happened".to_owned());
        let violations = vec![Violation { invariant, at, what }];
        page(&plan, &RunReport { violations, ..RunReport::default() }, &recording)
    }

    #[test]
    fn whatever_came_first_is_marked_where_it_happened() {
        let founding = Since::of(Duration::from_secs(3), Duration::from_secs(5));
        for (invariant, at, before, after) in [
            ("I2", founding, "line 2", "line 4"),
            ("log", Duration::from_millis(1_500).into(), "line 6", "line 7"),
        ] {
            let page = page_of(invariant, at);
            assert!(page.contains("Around the violation"), "{invariant}");
            let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
            let here = place("<span class=\"here\">");
            assert!(page.contains(&format!("{invariant} at {at}")), "{invariant}");
            assert!(place(before) < here && here < place(after), "{invariant}");
        }
    }
}
