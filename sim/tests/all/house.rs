//! The house, and the program `sim` in it.

use std::path::Path;
use std::process::{Command, Output};

/// The folder of everything.
pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the simulator is inside the house")
}

/// The program, about to be started there.
pub(super) fn sim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command.args(arguments).current_dir(root());
    command
}

/// What it said in the end.
pub(super) fn said_by_sim(arguments: &[&str]) -> Output {
    sim(arguments).output().expect("the program was built with this test")
}
