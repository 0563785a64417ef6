//! What clients were told is a judge of its own: it sees broken rules without a look at any server.

use sim::report::{RunOptions, RunReport};
use sim::scenario::{read_file, saboteur_named};
use sim::world::run;

use super::house::root;

/// A run of this broken rule's stage.
fn broken(name: &str, seed: u64) -> RunReport {
    let file = root().join("scenarios/mutants").join(format!("{name}.toml"));
    let mut plan = read_file(&file.to_string_lossy()).expect("a stage").plan(seed);
    plan.expect.violation = None;
    let sabotage = Some(saboteur_named(name).expect("a saboteur"));
    sim::tools::alone(run, &plan, &RunOptions { sabotage, ..RunOptions::default() })
}

#[track_caller]
fn assert_noticed(name: &str, seed: u64, by: &[&str]) {
    let report = broken(name, seed);
    let of_clients = report.violations.iter().filter(|v| v.invariant == "client");
    let said: Vec<&str> = of_clients.map(|violation| violation.what.as_str()).collect();
    assert!(
        said.iter().any(|what| by.iter().all(|words| what.contains(words))),
        "{name}: {said:?}"
    );
}

#[test]
fn clients_notice_that_an_acknowledged_row_was_forgotten() {
    for name in
        ["elect-with-one-report-too-few", "report-before-detached", "sync-without-joint-step"]
    {
        assert_noticed(name, 1, &["found"]);
    }
}

#[test]
fn clients_notice_two_writers() {
    let by = [" turns by ", ", when 2 primacies had acknowledged anything"];
    assert_noticed("promote-without-lease", 2, &by);
}
