//! The command line's verbs. Each reads files, makes runs and says what came of them.
//!
//! This is the one room of the simulator with wall clocks, threads and processes: it stands around
//! runs and never inside one. Every run has an operating-system thread of its own, because a
//! thread's locals are the last place where one run could leave a trace for the next.
//!
//! Exit codes: 0 is clean, 1 a violation, 2 bad input.

mod determinism;
mod failure;
mod mutants;
mod runs;
mod sweep;
mod threads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pg_replica::sabotage::Saboteur;

use crate::report::Runner;
use crate::scenario::{BadInput, saboteur_named};

pub use threads::alone;

/// The profile of everything that can happen.
pub(crate) const EVERYTHING: &str = "chaos/profiles/everything.toml";

/// Breaks a cluster on purpose, in simulation, and checks what it promised.
#[derive(Parser)]
#[command(name = "sim", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run scenarios (or one run of a profile) and report.
    Run(runs::RunArgs),
    /// Run many seeds of a profile or a scenario.
    Sweep(sweep::SweepArgs),
    /// Run a plan that was written out, with its own seed, and show its trace.
    Replay(runs::ReplayArgs),
    /// Check that a seed stands for one trace: twice in this process, once in a fresh one.
    Determinism(determinism::DeterminismArgs),
    /// Break each rule of the product in turn, and count the seeds until a check notices.
    Mutants(mutants::MutantsArgs),
    /// List the scenarios with their claims.
    List(runs::ListArgs),
    /// Print the trace hash of one run, for `determinism`.
    #[command(hide = true)]
    TraceHash(determinism::TraceHashArgs),
}

/// How a verb ended.
pub(crate) enum Ending {
    Clean,
    Violation,
}

/// Seeds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seeds {
    first: u64,
    last: u64,
}

/// Carries out the command line; `runner` makes the runs.
#[must_use]
pub fn main(runner: Runner) -> ExitCode {
    end_when_nobody_listens();
    let ended = match Cli::parse().verb {
        Verb::Run(args) => runs::run(runner, &args),
        Verb::Sweep(args) => sweep::sweep(runner, &args),
        Verb::Replay(args) => runs::replay(runner, &args),
        Verb::Determinism(args) => determinism::determinism(runner, &args),
        Verb::Mutants(args) => mutants::mutants(runner, &args),
        Verb::List(args) => runs::list(&args),
        Verb::TraceHash(args) => determinism::trace_hash(runner, &args),
    };
    match ended {
        Ok(Ending::Clean) => ExitCode::SUCCESS,
        Ok(Ending::Violation) => ExitCode::from(1),
        Err(bad) => {
            eprintln!("{bad}");
            ExitCode::from(2)
        }
    }
}

/// A reader that has seen enough (`sim list | head`) closes the pipe. That is no failure of ours:
/// the program ends, in silence, instead of panicking over the line that it cannot print.
fn end_when_nobody_listens() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to") && text.contains("Broken pipe") {
            std::process::exit(0);
        }
        before(panic);
    }));
}

impl Seeds {
    fn iter(self) -> impl DoubleEndedIterator<Item = u64> {
        self.first..=self.last
    }

    fn count(self) -> u64 {
        self.last - self.first + 1
    }
}

/// Reads `1..500`, both ends included, or a single seed.
fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let number = |part: &str| {
        part.trim().parse::<u64>().map_err(|_| format!("{part:?} is no seed; write 1..500"))
    };
    let seeds = Seeds { first: number(first)?, last: number(last.trim_start_matches('='))? };
    if seeds.first > seeds.last || seeds.last - seeds.first == u64::MAX {
        return Err(format!("{text} holds no seeds; write 1..500"));
    }
    Ok(seeds)
}

fn parse_saboteur(text: &str) -> Result<Saboteur, String> {
    saboteur_named(text)
}

/// Something that no seed determines, for the canary: where this process happens to keep its
/// memory, and which process it is.
pub(crate) fn entropy_of_no_seed() -> u64 {
    let here = Box::new(0_u8);
    let mixed = u64::from(std::process::id()) ^ (&raw const *here).addr() as u64;
    // Spread over all bits, so that any few of them differ.
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

/// An error of the tool's own surroundings: it is no violation, and nothing was proven either.
fn trouble(what: impl Into<String>) -> BadInput {
    BadInput::about("sim", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_with_both_ends() {
        assert_eq!(parse_seeds("1..5000").map(Seeds::count), Ok(5_000));
        assert_eq!(parse_seeds("7").map(Seeds::count), Ok(1));
        assert!(parse_seeds("5..1").is_err() && parse_seeds("a..b").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
