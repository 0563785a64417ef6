//! The simulator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    sim::tools::main(sim::world::run)
}
