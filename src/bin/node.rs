//! The program that runs on every member. What it can do is in `cli`, one file per verb.

use std::process::ExitCode;

fn main() -> ExitCode {
    pg_replica::cli::main()
}
