//! The command line.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use sim::scenario::{BadInput, Plan, read_file};

use crate::race::{self, Card, Fault, Replication, Runner};
use crate::runs::{self, Run, Verdict};
use crate::subject::{Kind, Log};
use crate::world::Options;
use crate::{lab, needs};

/// Exit codes, as the simulator's.
const CLEAN: u8 = 0;
const VIOLATION: u8 = 1;
const BAD_INPUT: u8 = 2;
/// The machine cannot do it: nothing was proven, and nothing failed.
const NOT_HERE: u8 = 3;

/// Runs the simulator's scenarios against real nodes and real PostgreSQL, and races them against
/// Patroni. Needs root.
#[derive(Parser)]
#[command(name = "chaos", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run scenarios, each against a cluster of its own.
    Run(RunArgs),
    /// Race this project's cluster against Patroni's, under the same faults.
    Bench(BenchArgs),
    /// Say what this machine lacks for it, if anything.
    Check(CheckArgs),
    /// Wait for the end of a program and take its laboratory away. `run` starts it by itself.
    #[command(hide = true)]
    Reap(ReapArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Scenarios or plans.
    #[arg(required = true)]
    files: Vec<String>,
    /// One JSON object per file on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
    /// Leave the folders of the runs where they are.
    #[arg(long)]
    keep: bool,
    /// How many clusters at a time.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// What the file leaves open (which standby, which client) follows from it; without it, from
    /// the file's own.
    #[arg(long)]
    seed: Option<u64>,
    /// The program of a node; without it, the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    node: Option<PathBuf>,
}

#[derive(Args)]
struct BenchArgs {
    /// The folder of the results: `results.jsonl`, and the table that is made of it. What is there
    /// already is not run again.
    #[arg(short, long, default_value = "docs/bench")]
    output: PathBuf,
    /// How often each fault befalls each cluster.
    #[arg(long, default_value_t = race::RUNS, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How many clusters at a time.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// Who races; without it, everybody who is installed here.
    #[arg(long, value_enum, value_delimiter = ',')]
    runners: Vec<Runner>,
    /// How commits are replicated; without it, in both ways.
    #[arg(long, value_enum, value_delimiter = ',')]
    replications: Vec<Replication>,
    /// What happens; without it, everything there is.
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Run nothing, and make the table of the results that are there.
    #[arg(long)]
    table: bool,
    /// Leave the folders of the heats where they are.
    #[arg(long)]
    keep: bool,
    /// The program of a node; without it, the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    node: Option<PathBuf>,
    /// Patroni's program (`ci/install-patroni` installs it there).
    #[arg(long, value_name = "PROGRAM", default_value = needs::PATRONI)]
    patroni: PathBuf,
}

#[derive(Args)]
struct CheckArgs {
    /// The program of a node; without it, the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    node: Option<PathBuf>,
    /// Patroni's program (`ci/install-patroni` installs it there).
    #[arg(long, value_name = "PROGRAM", default_value = needs::PATRONI)]
    patroni: PathBuf,
}

#[derive(Args)]
struct ReapArgs {
    process: u32,
    number: u32,
    #[arg(long)]
    keep: bool,
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let code = match Cli::parse().verb {
        Verb::Run(args) => run(&args),
        Verb::Bench(args) => bench(&args),
        Verb::Check(args) => check(&args),
        Verb::Reap(args) => {
            lab::reap(args.process, args.number, args.keep);
            CLEAN
        }
    };
    ExitCode::from(code)
}

fn check(args: &CheckArgs) -> u8 {
    lab::sweep();
    let missing = needs::missing(&node_of(args.node.as_deref()));
    missing.iter().for_each(|sentence| println!("{sentence}"));
    if !missing.is_empty() {
        return NOT_HERE;
    }
    let some = needs::missing_for_some();
    let race = needs::missing_for_patroni(&from_anywhere(&args.patroni));
    some.iter().for_each(|sentence| println!("for some scenarios: {sentence}"));
    race.iter().for_each(|sentence| println!("for the race alone: {sentence}"));
    if some.is_empty() && race.is_empty() {
        println!("nothing is missing");
    }
    CLEAN
}

fn run(args: &RunArgs) -> u8 {
    let plans: Result<Vec<Plan>, BadInput> =
        args.files.iter().map(|file| plan(file, args)).collect();
    let plans = match plans {
        Ok(plans) => plans,
        Err(bad) => {
            eprintln!("{bad}");
            return BAD_INPUT;
        }
    };
    let program = node_of(args.node.as_deref());
    let missing = needs::missing(&program);
    if !missing.is_empty() {
        missing.iter().for_each(|sentence| eprintln!("{sentence}"));
        return NOT_HERE;
    }
    lab::sweep();
    let options = Options { kind: Kind::Ours(program, Log::Everything), keep: args.keep };
    let (mut ok, mut failed, mut broken, mut skipped) = (0, 0, 0, 0);
    let count = plans.len();
    runs::all(plans, args.jobs.get(), &options, |run| {
        match &run.verdict {
            Verdict::LeftOut(_) => skipped += 1,
            Verdict::Broken(_) => broken += 1,
            Verdict::Ran(_) if run.failed() => failed += 1,
            Verdict::Ran(_) => ok += 1,
        }
        tell(run, args.json);
    });
    if count > 1 && !args.json {
        println!("{count} scenarios: {ok} ok, {failed} failed, {broken} broken, {skipped} skipped");
    }
    if failed > 0 || broken > 0 {
        return VIOLATION;
    }
    // What was not run proves nothing.
    if ok == 0 { NOT_HERE } else { CLEAN }
}

fn bench(args: &BenchArgs) -> u8 {
    if args.table {
        let file = args.output.join(race::RESULTS);
        if !file.is_file() {
            eprintln!("{} is not there: there are no results to make a table of", file.display());
            return BAD_INPUT;
        }
        return ended(write_table(&args.output).map(|()| 0));
    }
    let mut card = Card {
        node: node_of(args.node.as_deref()),
        patroni: from_anywhere(&args.patroni),
        runners: chosen_or_all(&args.runners),
        replications: chosen_or_all(&args.replications),
        faults: chosen_or_all(&args.faults),
        runs: args.runs,
        jobs: args.jobs.get(),
        keep: args.keep,
    };
    let mut missing = needs::missing(&card.node);
    if card.runners.iter().any(|runner| *runner != Runner::PgReplica) {
        let patroni = needs::missing_for_patroni(&card.patroni);
        if args.runners.is_empty() && missing.is_empty() && !patroni.is_empty() {
            patroni.iter().for_each(|sentence| eprintln!("{sentence}"));
            eprintln!("pg_replica runs alone");
            card.runners = vec![Runner::PgReplica];
        } else {
            missing.extend(patroni);
        }
    }
    if !missing.is_empty() {
        missing.iter().for_each(|sentence| eprintln!("{sentence}"));
        return NOT_HERE;
    }
    lab::sweep();
    ended(raced(&card, &args.output))
}

/// The exit code of a race of which so many heats broke off.
fn ended(broken: io::Result<u32>) -> u8 {
    match broken {
        Ok(0) => CLEAN,
        Ok(broken) => {
            println!("{broken} heats broke off; the same command runs them again");
            VIOLATION
        }
        Err(error) => {
            eprintln!("{error}");
            BAD_INPUT
        }
    }
}

/// The program of a node: the one that was named, or the one beside this program.
fn node_of(named: Option<&Path>) -> PathBuf {
    from_anywhere(&named.map_or_else(needs::program, Path::to_owned))
}

/// The programs are not started in the folder that this one was called in.
fn from_anywhere(program: &Path) -> PathBuf {
    std::path::absolute(program).unwrap_or_else(|_| program.to_owned())
}

fn raced(card: &Card, folder: &Path) -> io::Result<u32> {
    std::fs::create_dir_all(folder)?;
    let broken = race::run(card, folder, |start, outcome| match outcome {
        Ok(figures) => println!("{start}  {figures}"),
        Err(why) => println!("{start}  BROKEN: {why}"),
    })?;
    write_table(folder)?;
    Ok(broken)
}

/// The table of the results that are there.
fn write_table(folder: &Path) -> io::Result<()> {
    let (results, voids) = (race::results(folder)?, race::voids(folder)?);
    let file = folder.join("table.md");
    std::fs::write(&file, race::write_table(&results, &voids, folder))?;
    println!("{} heats are in {}", results.len(), file.display());
    Ok(())
}

fn chosen_or_all<T: ValueEnum>(chosen: &[T]) -> Vec<T> {
    if chosen.is_empty() { T::value_variants().to_vec() } else { chosen.to_vec() }
}

fn plan(file: &str, args: &RunArgs) -> Result<Plan, BadInput> {
    let document = read_file(file)?;
    Ok(document.plan(args.seed.unwrap_or(document.base().seed)))
}

fn tell(run: &Run, as_json: bool) {
    let kept = if run.failed() { run.keep() } else { Ok(None) };
    if as_json {
        let mut object = run.object();
        if let Ok(Some(folder)) = &kept {
            object["kept"] = json!(folder);
        }
        println!("{object}");
        return;
    }
    println!("{}", run.line());
    for violation in run.violations() {
        println!("          {violation}");
    }
    match kept {
        Ok(Some(folder)) => println!("          its logs are in {}", folder.display()),
        Ok(None) => {}
        Err(error) => println!("          its logs could not be kept: {error}"),
    }
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
