//! The sockets world: one seed, one trace, there too; and what it shows beyond the other.

use sim::report::{RunOptions, RunReport, WorldKind};
use sim::scenario::read_file;
use sim::tools::alone;
use sim::world::run;

use super::house::{root, said_by_sim};

fn report(file: &str, seed: u64, keep_trace: bool) -> RunReport {
    let document = read_file(&root().join(file).to_string_lossy()).expect("a good file");
    let world = WorldKind::Sockets;
    alone(run, &document.plan(seed), &RunOptions { world, keep_trace, ..RunOptions::default() })
}

#[test]
fn a_seed_stands_for_one_trace_in_the_sockets_world_too() {
    let profile = "chaos/profiles/everything.toml";
    let hash = |seed| report(profile, seed, false).trace_hash;
    let first = [41, 42, 43].map(hash);
    let mut again = [43, 42, 41].map(hash);
    again.reverse();
    assert_eq!(first, again);
    let fresh = ["trace-hash", profile, "--seed", "42", "--world", "sockets"];
    let printed = String::from_utf8(said_by_sim(&fresh).stdout).expect("a number");
    assert_eq!(printed.trim(), format!("{:016x}", first[1]), "in a fresh process");
}

#[test]
fn the_balancer_follows_a_failover() {
    let report = report("scenarios/quorum-host-crash.toml", 0, true);
    assert_eq!(report.violations, []);
    let found = report.trace.iter().filter(|line| line.contains("/primary answers 200")).count();
    assert!(found > 1, "it found a first primary and no second one");
}

#[test]
fn a_fault_of_sockets_is_skipped_by_name_where_there_are_none() {
    let file = "scenarios/sockets-half-open-primary.toml";
    let scenarios = [file, "scenarios/a-single-node-serves.toml"];
    let output = said_by_sim(&["run", scenarios[0], scenarios[1]]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("skipped") && said.contains("half-open"), "{said}");
    // Where nothing else is run either, nothing is proven.
    let output = said_by_sim(&["run", file, "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\"skipped\":\"`half-open at primary`"), "{said}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nothing was run"), "{said}");
}
