//! The command line without a laboratory: bad input, a machine that lacks something, and which
//! scenarios the world of processes can run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use chaos::impossible::impossible;
use sim::scenario::{Document, read_file};

/// How many scenarios this world has to be able to run.
const POSSIBLE_LEAST: usize = 115;

fn chaos(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.current_dir(root).args(arguments).output().expect("the program starts")
}

#[test]
fn a_file_that_cannot_be_read_is_one_sentence_and_code_2() {
    let output = chaos(&["run", "scenarios/no-such-thing.toml"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("scenarios/no-such-thing.toml") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_program_that_is_not_there_is_named_with_the_remedy_and_code_3() {
    let output = chaos(&["run", "scenarios/switchover.toml", "--node", "/nowhere/node"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("/nowhere/node is not there: cargo build"), "{said}");
}

/// What `check` says where only these programs are, each of which is a script of one line.
fn check_with(programs: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = std::env::temp_dir().join(format!("chaos-path-{}", std::process::id()));
    let folder = folder.join(programs.iter().map(|(name, _)| *name).collect::<String>() + "-only");
    fs::create_dir_all(&folder).expect("a folder");
    for (name, script) in programs {
        let file = folder.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let output = command.arg("check").env("PATH", &folder).output().expect("the program starts");
    let _ = fs::remove_dir_all(&folder);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn tools_that_are_not_installed_are_named_with_their_packages() {
    let (code, said) = check_with(&[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("`ip` is not installed: apt-get install iproute2\n"), "{said}");
    assert!(said.contains("`nft` is not installed: apt-get install nftables\n"), "{said}");
    let (_, said) = check_with(&[("ip", "exit 0")]);
    assert!(!said.contains("`ip`") && said.contains("`nft` is not installed"), "{said}");
}

#[test]
fn a_machine_without_namespaces_is_told_so_in_one_sentence() {
    let refuses = "[ \"$1\" = -V ] || { echo 'Operation not permitted' >&2; exit 1; }";
    let (code, said) = check_with(&[("ip", refuses), ("nft", "exit 0")]);
    assert_eq!(code, Some(3), "{said}");
    if !rustix::process::geteuid().is_root() {
        assert!(said.contains("only root can make network namespaces: run it as root\n"), "{said}");
        return;
    }
    let sentences = said.lines().filter(|line| line.contains("Operation not permitted"));
    assert_eq!(sentences.count(), 1, "{said}");
    assert!(said.contains("gives no network namespaces"), "{said}");
    assert!(said.contains("outside of the container"), "{said}");
}

#[test]
fn somebody_who_is_not_root_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let Ok(output) = command.arg("check").uid(65_534).current_dir("/").output() else {
        eprintln!("left out: the program is where nobody else may run it");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("only root can make network namespaces: run it as root\n"), "{said}");
}

#[test]
fn most_scenarios_can_be_run_and_the_others_say_why_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let entries = std::fs::read_dir(folder).expect("there are scenarios");
    let files = entries.map(|entry| entry.expect("a readable entry").path());
    let mut possible = 0;
    for file in files.filter(|path| path.extension().is_some_and(|ending| ending == "toml")) {
        let document = read_file(&file.to_string_lossy()).expect("a good scenario");
        let Document::Plan(plan) = document else { panic!("{} is a profile", file.display()) };
        match impossible(&plan) {
            None => possible += 1,
            Some(why) => assert!(!why.is_empty(), "{} is left out for nothing", plan.name),
        }
    }
    assert!(possible >= POSSIBLE_LEAST, "only {possible} scenarios can be run");
}
