//! The command line's verbs. Each reads files, makes runs and says what came of them.
//!
//! This is the one room of the simulator with wall clocks, threads and processes: it stands around
//! runs and never inside one. Every run has an operating-system thread of its own, because a
//! thread's locals are the last place where one run could leave a trace for the next.
//!
//! Exit codes: 0 is clean, 1 a violation, 2 bad input.

mod authority;
mod compare;
mod coverage;
mod determinism;
mod envelope;
mod exhibit;
mod failure;
mod mutants;
mod progress;
mod runs;
mod shrink;
mod sweep;
mod threads;
mod timeline;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pg_replica::sabotage::Saboteur;
use serde_json::json;

use crate::report::{Runner, WorldKind};
use crate::scenario::{BadInput, Fault, Order, Plan, PlanEvent, saboteur_named};
use crate::sockets::MEMBERS_MAX;

pub(crate) use authority::authority;
use authority::ready;
pub use mutants::{Hunt, Kill, hunt};
pub use threads::{alone, spread, words_of};

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
    /// Make a failing plan smaller, as long as its first violation stays of the same kind.
    Shrink(shrink::ShrinkArgs),
    /// Draw a plan's run as one page.
    Timeline(timeline::TimelineArgs),
    /// Check that a seed stands for one trace: twice in this process, once in a fresh one.
    Determinism(determinism::DeterminismArgs),
    /// Break each rule of the product in turn, and count the seeds until a check notices.
    Mutants(mutants::MutantsArgs),
    /// Run a plan in both worlds, and compare what came of it.
    Compare(compare::CompareArgs),
    /// Measure how wrong clocks and how long freezes may be before two servers overlap.
    Envelope(envelope::EnvelopeArgs),
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
    say_what_somebody_wants_to_hear();
    let ended = match Cli::parse().verb {
        Verb::Run(args) => runs::run(runner, &args),
        Verb::Sweep(args) => sweep::sweep(runner, &args),
        Verb::Replay(args) => runs::replay(runner, &args),
        Verb::Shrink(args) => shrink::verb(runner, &args),
        Verb::Timeline(args) => timeline::verb(runner, &args),
        Verb::Determinism(args) => determinism::determinism(runner, &args),
        Verb::Mutants(args) => mutants::mutants(runner, &args),
        Verb::Compare(args) => compare::compare(runner, &args),
        Verb::Envelope(args) => envelope::envelope(runner, &args),
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
/// the program ends, in silence, instead of panicking over the line that it cannot print. And a
/// search for a smaller plan that panics meets the same panic hundreds of times; it was told once.
fn say_what_somebody_wants_to_hear() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to") && text.contains("Broken pipe") {
            std::process::exit(0);
        }
        if shrink::is_searching() && threads::is_a_run() {
            return;
        }
        before(panic);
    }));
}

impl Seeds {
    fn iter(self) -> impl DoubleEndedIterator<Item = u64> {
        self.first..=self.last
    }

    /// The same seeds, so many at a time.
    fn blocks(self, size: u64) -> impl Iterator<Item = Seeds> {
        let firsts = (0..=(self.last - self.first) / size).map(move |block| block * size);
        firsts.map(move |offset| {
            let first = self.first + offset;
            Seeds { first, last: self.last.min(first.saturating_add(size - 1)) }
        })
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

/// Why this world cannot run the plan, if it cannot.
fn why_not(plan: &Plan, world: WorldKind) -> Option<String> {
    match world {
        WorldKind::Messages => {
            let knows = |event: &&PlanEvent| !matches!(event.fault, Fault::Sockets { .. });
            let unknown = plan.events.iter().find(|event| !knows(event));
            let why =
                |event: &PlanEvent| format!("`{}` is known in --world sockets alone", event.fault);
            plan.sockets_only.clone().or_else(|| unknown.map(why))
        }
        WorldKind::Sockets => {
            let through_pages = plan.events.iter().find_map(|event| pages_refuse(&event.fault));
            plan.messages_only.clone().or(through_pages)
        }
    }
}

/// Says that a plan was left out, and why.
fn tell_skipped(plan: &Plan, why: &str, as_json: bool) {
    if as_json {
        println!("{}", json!({ "name": plan.name, "seed": plan.seed, "skipped": why }));
    } else {
        eprintln!("skipped   {}: {why}", plan.name);
    }
}

/// The quickest world that can run the plan.
fn world_of(plan: &Plan) -> WorldKind {
    match why_not(plan, WorldKind::Messages) {
        None => WorldKind::Messages,
        Some(_) => WorldKind::Sockets,
    }
}

/// Why an event cannot come about where members have certificates and operators ask for pages.
fn pages_refuse(fault: &Fault) -> Option<String> {
    if let Fault::Order { order: Order::Failover { to: None, .. }, .. } = fault {
        return Some("the HTTP interface takes no failover without its candidate".into());
    }
    let order = if let Fault::Order { order, .. } = fault { Some(order) } else { None };
    let added = if let Some(Order::Add { node, .. }) = order { Some(node) } else { None };
    let new = if let Fault::ReplaceMachine { node, .. } = fault { Some(node) } else { added };
    if new.is_some_and(|node| node.0 > MEMBERS_MAX) {
        return Some(format!("in --world sockets members are numbered up to {MEMBERS_MAX}"));
    }
    None
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

#[allow(clippy::disallowed_methods, reason = "who waits for a tool waits by the clock on the wall")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
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
    fn blocks_of_seeds_are_all_of_them_once() {
        let ends = |first, last| -> Vec<(u64, u64)> {
            let blocks = Seeds { first, last }.blocks(100);
            blocks.map(|block| (block.first, block.last)).collect()
        };
        assert_eq!(ends(1, 250), [(1, 100), (101, 200), (201, 250)]);
        assert_eq!(ends(7, 106), [(7, 106)]);
        assert_eq!(ends(u64::MAX - 1, u64::MAX), [(u64::MAX - 1, u64::MAX)]);
    }

    #[test]
    fn a_plan_is_run_where_it_shows_something() {
        let world = |head: &str, event: &str| {
            let text = format!("claim = \"c\"\nduration = \"9s\"\n{head}\n{event}");
            let plan = crate::scenario::read("test.toml", &text).expect("a scenario").plan(0);
            world_of(&plan)
        };
        let forgotten = "[[event]]\nat = \"1s\"\nfault = \"half-open\"\ntarget = \"primary\"\n";
        assert_eq!(world("", ""), WorldKind::Messages);
        assert_eq!(world("sockets_only = \"why\"", ""), WorldKind::Sockets);
        assert_eq!(world("", forgotten), WorldKind::Sockets);
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_every_option_says_what_it_is_for() {
        use clap::CommandFactory;
        let command = Cli::command();
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{} says nothing", verb.get_name());
            let silent = verb.get_arguments().find(|option| option.get_help().is_none());
            assert!(silent.is_none() || verb.is_hide_set(), "{}: {silent:?}", verb.get_name());
        }
    }
}
