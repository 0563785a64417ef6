//! What is kept and said of a run that failed: enough to see it again, and to read it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::report::{RunOptions, RunReport, Runner};
use crate::scenario::{Plan, fnv1a, saboteur_name};

use super::threads::alone;

/// Where failed plans are kept.
const FAILURES: &str = "target/sim-failures";
/// How much of a trace is shown; all of it is in the file.
const SHOWN_LINES: usize = 60;
/// The versions of everything that a run is made of.
const LOCK_FILE: &[u8] = include_bytes!("../../../Cargo.lock");

/// Keeps the plan and the trace, and prints what a person needs.
pub(super) fn tell(runner: Runner, plan: &Plan, report: &RunReport, options: &RunOptions) {
    let again = alone(runner, plan, &RunOptions { keep_trace: true, ..*options });
    let broken = options.sabotage.or(plan.sabotage);
    let kept = Plan { sabotage: broken, ..plan.clone() };
    let (plan_file, trace_file) = keep(&kept, &again);
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
    eprintln!("world      messages");
    eprintln!("profile    {}", plan.name);
    eprintln!("plan hash  {:016x}", plan.hash());
    eprintln!("lock hash  {:016x}", fnv1a(LOCK_FILE));
    if let Some(saboteur) = broken {
        eprintln!("sabotage   {}", saboteur_name(saboteur));
    }
    eprintln!("replay     cargo run -p sim -- replay {}", plan_file.display());
}

/// Writes both files. Where that fails, the run is still told of, and where the files would be.
fn keep(plan: &Plan, report: &RunReport) -> (PathBuf, PathBuf) {
    let stem = format!("{}-{}", plan.name, plan.seed);
    let plan_file = Path::new(FAILURES).join(format!("{stem}.toml"));
    let trace_file = Path::new(FAILURES).join(format!("{stem}.trace"));
    let written = fs::create_dir_all(FAILURES)
        .and_then(|()| fs::write(&plan_file, plan.to_toml()))
        .and_then(|()| fs::write(&trace_file, report.trace.join("\n") + "\n"));
    if let Err(error) = written {
        eprintln!("the plan could not be kept in {FAILURES}: {error}");
    }
    (plan_file, trace_file)
}
