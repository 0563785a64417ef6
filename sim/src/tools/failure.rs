//! What is kept and said of a run that failed: enough to see it again, smaller, and to read it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::report::{RunOptions, RunReport, Runner, WorldKind};
use crate::scenario::{Plan, fnv1a, saboteur_name};

use super::shrink::{Effort, Shrunk, USUAL, first_violation, smaller, unjudged};
use super::threads::alone;
use super::{shrink, timeline};

/// Where failed plans are kept.
pub(super) const FAILURES: &str = "target/sim-failures";
/// How the smaller plan of a failed run ends.
pub(super) const SHRUNK: &str = "shrunk.toml";
/// How much of a trace is shown; all of it is in the file.
const SHOWN_LINES: usize = 60;
/// The versions of everything that a run is made of.
const LOCK_FILE: &[u8] = include_bytes!("../../../Cargo.lock");

/// The failures of one command, the first of each kind: the others would be the same story again.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<String, (Plan, WorldKind)>);

impl Failures {
    /// A run of this plan failed.
    pub(super) fn note(&mut self, plan: &Plan, report: &RunReport, options: &RunOptions) {
        if let Some(first) = report.violations.first() {
            self.0.entry(first.kind()).or_insert_with(|| (as_run(plan, options), options.world));
        }
    }

    /// Makes each smaller where that was not waived, draws it, and says where all that is.
    pub(super) fn explain(&self, runner: Runner, jobs: usize, waived: bool) {
        for (plan, world) in self.0.values() {
            let world = *world;
            let effort = Effort { jobs, within: USUAL, tries: None, told: true, world };
            explain(runner, plan, effort, waived);
        }
    }
}

fn explain(runner: Runner, plan: &Plan, effort: Effort, waived: bool) {
    let world = effort.world;
    let options = RunOptions { world, ..RunOptions::default() };
    let failure = || first_violation(&alone(runner, &unjudged(plan), &options));
    let shrunk = if waived { None } else { failure() };
    let shrunk = shrunk.map(|violation| smaller(runner, plan, violation, effort));
    let page = match keep_smaller(runner, plan, shrunk.as_ref(), world) {
        Ok(page) => page,
        Err(error) => {
            eprintln!("the failure could not be kept in {FAILURES}: {error}");
            return;
        }
    };
    eprintln!();
    if let Some(shrunk) = &shrunk {
        let (left, before) = (shrunk.plan.events.len(), plan.events.len());
        eprintln!("shrunk     {left} of {before} events are left: {}", shrunk.violation);
        let (file, world) = (kept_as(plan, world, SHRUNK), world.name());
        eprintln!("replay     cargo run -p sim -- replay {} --world {world}", file.display());
    }
    eprintln!("page       {}", page.display());
}

/// Writes the smaller plan, where there is one, and draws it, or else the plan; returns the page.
pub(super) fn keep_smaller(
    runner: Runner,
    plan: &Plan,
    shrunk: Option<&Shrunk>,
    world: WorldKind,
) -> io::Result<PathBuf> {
    let page = kept_as(plan, world, "html");
    if let Some(shrunk) = shrunk {
        shrink::write(&kept_as(plan, world, SHRUNK), plan, shrunk, world)?;
    }
    timeline::draw(runner, shrunk.map_or(plan, |shrunk| &shrunk.plan), world, &page)?;
    Ok(page)
}

/// The plan with the rule that was broken in the run.
fn as_run(plan: &Plan, options: &RunOptions) -> Plan {
    Plan { sabotage: options.sabotage.or(plan.sabotage), ..plan.clone() }
}

/// Keeps the plan and the trace, and prints what a person needs.
pub(super) fn tell(runner: Runner, plan: &Plan, report: &RunReport, options: &RunOptions) {
    let again = alone(runner, plan, &RunOptions { keep_trace: true, ..*options });
    let kept = as_run(plan, options);
    let (plan_file, trace_file) = keep(&kept, &again, options.world);
    eprintln!();
    let skipped = again.trace.len().saturating_sub(SHOWN_LINES);
    if skipped > 0 {
        eprintln!("... {skipped} lines before these are in {}", trace_file.display());
    }
    for line in &again.trace[skipped..] {
        eprintln!("{line}");
    }
    for violation in &report.violations {
        eprintln!("VIOLATION  {violation}");
    }
    if again.trace_hash != report.trace_hash {
        eprintln!("the second run took another course: the run is not deterministic");
    }
    eprintln!("seed       {}", plan.seed);
    let world = options.world.name();
    eprintln!("world      {world}");
    eprintln!("profile    {}", plan.name);
    eprintln!("plan hash  {:016x}", plan.hash());
    eprintln!("lock hash  {:016x}", fnv1a(LOCK_FILE));
    if let Some(saboteur) = kept.sabotage {
        eprintln!("sabotage   {}", saboteur_name(saboteur));
    }
    let file = plan_file.display();
    eprintln!("replay     cargo run -p sim -- replay {file} --world {world}");
}

/// Where a file of a failed run is kept. What failed over sockets is another failure, even if it is
/// the same plan.
pub(super) fn kept_as(plan: &Plan, world: WorldKind, ending: &str) -> PathBuf {
    let place = match world {
        WorldKind::Messages => "",
        WorldKind::Sockets => "-sockets",
    };
    Path::new(FAILURES).join(format!("{}-{}{place}.{ending}", plan.name, plan.seed))
}

/// Writes both files. Where that fails, the run is still told of, and where the files would be.
fn keep(plan: &Plan, report: &RunReport, world: WorldKind) -> (PathBuf, PathBuf) {
    let (plan_file, trace_file) = (kept_as(plan, world, "toml"), kept_as(plan, world, "trace"));
    let written = fs::create_dir_all(FAILURES)
        .and_then(|()| fs::write(&plan_file, plan.to_toml()))
        .and_then(|()| fs::write(&trace_file, report.trace.join("\n") + "\n"));
    if let Err(error) = written {
        eprintln!("the plan could not be kept in {FAILURES}: {error}");
    }
    (plan_file, trace_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Violation;
    use crate::scenario::read;
    use crate::since::Since;

    fn noted(failures: &mut Failures, invariant: &str, what: &str) {
        let text = "claim = \"c\"\nduration = \"3s\"\n";
        let plan = read("test.toml", text).expect("a scenario").plan(0);
        let (invariant, at) = (invariant.to_owned(), Since::default());
        let violations = vec![Violation { invariant, at, what: what.to_owned() }];
        let report = RunReport { violations, ..RunReport::default() };
        failures.note(&plan, &report, &RunOptions::default());
    }

    #[test]
    fn every_unmet_expectation_and_every_panic_is_a_story_of_its_own() {
        let mut failures = Failures::default();
        noted(&mut failures, "expect", "there were 2 failovers, and 1 are expected");
        noted(&mut failures, "expect", "there were 3 failovers, and 1 are expected");
        assert_eq!(failures.0.len(), 1);
        noted(&mut failures, "expect", "n1 is primary in the end, where n2 was");
        noted(&mut failures, "panic", "the run broke off: no such row");
        noted(&mut failures, "panic", "the run broke off: no such member");
        noted(&mut failures, "I3", "row 4 is lost");
        noted(&mut failures, "I3", "n2 has less");
        assert_eq!(failures.0.len(), 5);
    }
}
