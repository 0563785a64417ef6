//! The program `node` says what this version is, and pretends nothing.

use std::process::{Command, Output};

fn node(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_node"))
        .args(arguments)
        .output()
        .expect("the program was built with this test")
}

#[test]
fn without_a_verb_it_says_what_it_cannot_do_and_what_to_run_instead() {
    let output = node(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("does not manage a real Postgres yet"), "{said}");
    let command =
        said.lines().find_map(|line| line.trim().strip_prefix("cargo run -p sim -- run "));
    let scenario = command.and_then(|rest| rest.split(' ').next()).expect("a command to copy");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(root.join(scenario).exists(), "{scenario} does not exist");
}

#[test]
fn its_version_is_the_packages() {
    let output = node(&["version"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(said.starts_with(concat!("pg_replica ", env!("CARGO_PKG_VERSION"), "\n")), "{said}");
}

#[test]
fn its_help_tells_the_same() {
    let output = node(&["--help"]);
    assert!(output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("does not manage a real Postgres yet")
    );
}

#[test]
fn an_unknown_verb_is_refused() {
    assert_eq!(node(&["serve"]).status.code(), Some(2));
}
