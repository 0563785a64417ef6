//! What the program `sim` prints for programs: one JSON object at the end, and silence where nobody
//! listens any more.

use std::path::Path;
use std::process::{Child, Command, Stdio};

fn sim(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built with this test")
}

#[track_caller]
fn object(arguments: &[&str]) -> serde_json::Value {
    let output = sim(arguments).wait_with_output().expect("the program ends");
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

#[test]
fn a_reader_that_has_seen_enough_ends_the_program_in_silence() {
    for arguments in [
        &["list"][..],
        &["run", "scenarios/switchover.toml", "--trace"],
        &["run", "scenarios/switchover.toml", "scenarios/switchover.toml"],
        &["determinism", "--profile", "scenarios/switchover.toml", "--seeds", "1", "--json"],
    ] {
        let mut child = sim(arguments);
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the program ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""), "{arguments:?}");
    }
}
