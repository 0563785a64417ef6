//! The program `node` as a process: what it says and refuses, and what it does with real servers.
#![allow(clippy::disallowed_methods, reason = "it waits for processes of the real machine")]

mod adopt;
mod cli;
mod folder;
#[path = "../machine/mod.rs"]
mod machine;
mod run;

use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The program with these words, not yet started.
fn node<'a>(words: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
    command.args(words);
    command
}

/// All that it wrote.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "not within {} s: {what}", limit.as_secs());
        sleep(Duration::from_millis(100));
    }
}
