//! A whole run, from a plan to a report.

use sim::report::RunOptions;
use sim::world::run;

const QUIET: &str = r#"
claim = "A cluster without faults comes up, takes writes and loses nothing."
duration = "20s"
[cluster]
nodes = 3
mode = "quorum-sync"
[workload]
writers = 4
[expect]
lost_acknowledged = 0
failovers = 0
"#;

#[test]
fn a_cluster_without_faults_comes_up_and_takes_writes() {
    let plan = sim::scenario::read("quiet.toml", QUIET).expect("a scenario").plan(1);
    let report = run(&plan, &RunOptions { keep_trace: true, ..RunOptions::default() });
    assert!(report.is_clean(), "{report}");
    assert!(report.acknowledged > 100, "{report}");
}
