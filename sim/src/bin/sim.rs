//! The simulator's command line.

use std::process::ExitCode;

use sim::report::{RunOptions, RunReport, Violation};
use sim::scenario::Plan;

fn main() -> ExitCode {
    sim::tools::main(no_world)
}

/// Stands where the world will: every run fails, so that nothing is taken for proven.
fn no_world(plan: &Plan, _options: &RunOptions) -> RunReport {
    let violation = Violation {
        invariant: "expect".into(),
        at: std::time::Duration::ZERO,
        what: "there is no world to run the plan in".into(),
    };
    RunReport {
        seed: plan.seed,
        plan_hash: plan.hash(),
        violations: vec![violation],
        ..RunReport::default()
    }
}
