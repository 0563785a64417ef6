//! What the program `sim` prints for programs: one JSON object at the end, and silence where nobody
//! listens any more.

use serde_json::json;
use std::path::Path;
use std::process::{Child, Stdio};

use super::house::{root, said_by_sim, sim};

/// Of these, one orders a failover without its candidate.
const SEEDS_OF_BOTH_KINDS: &str = "2..3";

fn begun(arguments: &[&str]) -> Child {
    let mut command = sim(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program was built with this test")
}

#[track_caller]
fn object(arguments: &[&str]) -> serde_json::Value {
    let output = said_by_sim(arguments);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().count(), 1, "{arguments:?} said {said}");
    serde_json::from_str(&said).expect("it is JSON")
}

#[test]
fn run_replay_and_determinism_end_with_one_object() {
    let file = "scenarios/switchover.toml";
    for verb in ["run", "replay"] {
        let object = object(&[verb, file, "--json"]);
        assert_eq!(object["clean"], true);
        assert_eq!(object["report"]["failovers"], 1);
    }
    let object = object(&["determinism", "--profile", file, "--seeds", "1..2", "--json"]);
    assert_eq!(object["clean"], true);
    assert_eq!(object["seeds"], 2);
    assert_eq!(object["differing"], serde_json::json!([]));
}

/// What a world cannot run is neither run nor counted as run, and whoever reads the end is told.
#[test]
fn a_sweep_tells_which_seeds_its_world_cannot_run() {
    let profile = "chaos/profiles/everything.toml";
    let sweep = ["sweep", profile, "--seeds", SEEDS_OF_BOTH_KINDS, "--json"];
    let everywhere = object(&sweep);
    assert_eq!((everywhere["seeds"].as_u64(), &everywhere["skipped"]), (Some(2), &json!({})));
    let sockets = object(&[&sweep[..], &["--world", "sockets"]].concat());
    let why = "the HTTP interface takes no failover without its candidate";
    assert_eq!((sockets["seeds"].as_u64(), &sockets["skipped"]), (Some(1), &json!({ why: 1 })));
}

/// Some of these seeds fail, because a rule is broken. Whoever runs several at a time hears of the
/// lowest, and of what came before it.
#[test]
fn a_sweep_ends_with_the_lowest_seed_that_fails_however_many_jobs_it_has() {
    let ended = |jobs: &str| {
        let arguments = [
            &["sweep", "chaos/profiles/everything.toml", "--sabotage", "skip-lease-wait"][..],
            &["--seeds", "3..40", "--json", "--no-shrink", "--jobs", jobs],
        ];
        let output = said_by_sim(&arguments.concat());
        let said = serde_json::from_slice::<serde_json::Value>(&output.stdout);
        let said = said.expect("it is JSON");
        let what = ["seeds", "failed_seeds", "states", "sometimes"].map(|key| said[key].clone());
        (output.status.code(), what)
    };
    let alone = ended("1");
    assert_eq!(alone.0, Some(1));
    assert_eq!(ended("4"), alone);
}

/// A failure is caught, made smaller, written down and drawn, and nobody helps: where a plan of
/// many events was drawn from a budget of faults, and where a few were written by hand.
#[test]
fn the_failure_of_a_broken_rule_shrinks_to_six_events_and_is_drawn() {
    let wanted = ["forget-vote", "elect-without-detaching"];
    // As many tries on every machine, however fast it is.
    let mut arguments = vec!["mutants", "--shrink", "--tries", "100", "--within", "10m"];
    arguments.extend(["--jobs", "2", "--json"]);
    arguments.extend(wanted.iter().flat_map(|name| ["--only", name]));
    let object = object(&arguments);
    for name in wanted {
        let shrunk = &object["shrunk"][name];
        let events = |key: &str| shrunk[key].as_u64().expect("a number of events");
        assert!(events("after") <= 6 && events("after") <= events("before"), "{name}: {shrunk}");
        let file = |key: &str| {
            let path = shrunk[key].as_str().expect("a path");
            std::fs::read_to_string(root().join(path)).expect("the file that it names")
        };
        assert!(file("plan").contains(&format!("name = \"{name}\"")), "{name}");
        let (page, invariant) = (file("page"), object["killed_by"][name].as_str());
        let marked = format!("<strong>{} at ", invariant.expect("what killed it"));
        assert!(page.contains(&marked) && page.contains("<svg"), "{name}");
    }
    assert!(object["shrunk"][wanted[0]]["before"].as_u64() > Some(6));
}

#[test]
fn a_page_needs_nothing_else_has_a_lane_per_member_and_is_the_same_every_time() {
    let drawn = |name: &str| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let place = file.to_str().expect("a path in UTF-8");
        let arguments = ["timeline", "scenarios/quorum-partitioned-primary.toml", "-o", place];
        let output = said_by_sim(&arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((output.status.code(), said), (Some(0), format!("{place}: the run is clean\n")));
        std::fs::read_to_string(file).expect("the page that it wrote")
    };
    let page = drawn("page.html");
    for foreign in ["http", "<script", "<link", "<img", "@import"] {
        assert!(!page.contains(foreign), "a page that stands alone has no {foreign}");
    }
    assert_eq!(page.matches("url(").count(), page.matches("url(#").count());
    for text in
        [">n1<", ">n2<", ">n3<", "partition", "primary e2", "name=\"viewport\"", "@media print"]
    {
        assert!(page.contains(text), "{text} is not on the page");
    }
    assert!(page == drawn("page-again.html"), "the same run is the same page");
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_program_in_silence() {
    for arguments in [
        &["list"][..],
        &["run", "scenarios/switchover.toml", "--trace"],
        &["run", "scenarios/switchover.toml", "scenarios/switchover.toml"],
        &["determinism", "--profile", "scenarios/switchover.toml", "--seeds", "1", "--json"],
    ] {
        let mut child = begun(arguments);
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the program ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""), "{arguments:?}");
    }
}
