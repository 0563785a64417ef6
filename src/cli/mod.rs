//! The command line of a member: one file per verb.
//!
//! A verb is a struct of its arguments and a `run` that ends well or with a [`Failure`]. To add
//! one, write its file, and name it in [`Verb`] and in [`Verb::run`]. What a verb does to the
//! machine it has done by `os`; here are words in and words out.

mod adopt;
mod certs;
mod check;
pub mod client;
mod configured;
mod demo;
mod guard;
mod init;
mod run;
mod version;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::config::BadConfig;

/// A PostgreSQL cluster with exactly one writable primary: the node that runs on every member.
#[derive(Parser)]
#[command(name = "node", version, after_help = STATUS)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Show a cluster of three on this machine, with real Postgres; what `node` alone does.
    Demo(demo::Demo),
    /// Run the node of this machine.
    Run(run::Run),
    /// Write a commented configuration.
    Init(init::Init),
    /// Say whether a configuration is in order, and what it means.
    Check(check::Check),
    /// Prepare an existing database for a cluster to be founded on it.
    Adopt(adopt::Adopt),
    /// Make the certificates of a cluster, and the password of its servers.
    Certs(certs::Certs),
    /// End Postgres when its lease does. The node starts it by itself.
    Guard(guard::Guard),
    /// Ask a running cluster, or give it an order.
    #[command(flatten)]
    Client(client::Verb),
    /// Print the version, and the formats of what members keep and send.
    Version(version::Version),
}

/// What a stranger has to know before anything else.
const STATUS: &str = "\
Without arguments: three nodes with real Postgres on this machine, in a temporary folder, and a
writer that lives through whatever you do to them. Ctrl-C ends it and leaves nothing behind.

A member of a cluster of your own:
    node init --help
The same protocol under simulated faults:
    cargo run -p sim -- run scenarios/quorum-partitioned-primary.toml --trace";

/// How a verb ended that did not do what it was asked for.
#[derive(Debug)]
struct Failure {
    sentence: String,
    code: u8,
}

impl Failure {
    /// What was asked for makes no sense, and another attempt needs other words.
    fn input(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), code: 2 }
    }

    /// The machine did not do it.
    fn machine(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), code: 1 }
    }
}

impl From<BadConfig> for Failure {
    fn from(bad: BadConfig) -> Self {
        Self::input(bad.to_string())
    }
}

impl Verb {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Demo(verb) => verb.run(),
            Self::Run(verb) => verb.run(),
            Self::Init(verb) => verb.run(),
            Self::Check(verb) => verb.run(),
            Self::Adopt(verb) => verb.run(),
            Self::Certs(verb) => verb.run(),
            Self::Guard(verb) => verb.run(),
            Self::Client(verb) => ask(verb),
            Self::Version(verb) => verb.run(),
        }
    }
}

fn runtime(mut kind: Builder) -> Result<Runtime, Failure> {
    kind.enable_all().build().map_err(|why| Failure::machine(format!("no runtime: {why}")))
}

/// The verbs that talk to a cluster wait for its answers.
fn ask(verb: client::Verb) -> Result<(), Failure> {
    runtime(Builder::new_current_thread())?
        .block_on(client::run(verb))
        .map_err(|failure| Failure { code: failure.exit_code(), sentence: failure.to_string() })
}

/// Does what the command line says: the whole of the program `node`.
#[must_use]
pub fn main() -> ExitCode {
    let verb = Cli::parse().verb.unwrap_or_else(|| Verb::Demo(demo::Demo::default()));
    match verb.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.sentence);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints to the standard output. Whoever has stopped reading does not want to know.
pub(crate) fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }
}
