//! `determinism`: a seed stands for one trace, wherever and whenever it is run.

use std::collections::BTreeMap;
use std::process::Command;

use clap::Args;
use serde_json::json;

use crate::report::{RunOptions, Runner, WorldKind};
use crate::scenario::{BadInput, read_file};

use super::threads::alone;
use super::{EVERYTHING, Ending, Seeds, parse_seeds, ready, trouble};

#[derive(Args)]
pub(super) struct DeterminismArgs {
    /// The seeds, both ends included.
    #[arg(long, value_parser = parse_seeds, default_value = "1..20")]
    seeds: Seeds,
    /// The profile or scenario.
    #[arg(long, default_value = EVERYTHING)]
    profile: String,
    /// What the members speak through.
    #[arg(long, value_enum, default_value_t)]
    world: WorldKind,
    /// Let true entropy in on purpose; the check has to notice, and then ends well.
    #[arg(long)]
    canary: bool,
    /// End with one JSON object on standard output, and print nothing else there.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct TraceHashArgs {
    profile: String,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    canary: bool,
    #[arg(long, value_enum, default_value_t)]
    world: WorldKind,
}

pub(super) fn determinism(runner: Runner, args: &DeterminismArgs) -> Result<Ending, BadInput> {
    let document = read_file(&args.profile)?;
    ready(args.world)?;
    let options = RunOptions { canary: args.canary, world: args.world, ..RunOptions::default() };
    let hash = |seed: u64| alone(runner, &document.plan(seed), &options).trace_hash;
    // Forwards, then backwards: but for the middle one, every seed has another position in the
    // process and other runs before it.
    let first: BTreeMap<u64, u64> = args.seeds.iter().map(|seed| (seed, hash(seed))).collect();
    let mut differing = Vec::new();
    for seed in args.seeds.iter().rev() {
        let second = hash(seed);
        let third = in_a_fresh_process(args, seed)?;
        if second != first[&seed] || third != first[&seed] {
            eprintln!(
                "seed {seed}: {:016x} at first, {second:016x} later in the process, {third:016x} \
                 in a fresh process",
                first[&seed]
            );
            differing.push(seed);
        }
    }
    let count = args.seeds.count();
    let unlike = differing.len() as u64;
    let clean = unlike == if args.canary { count } else { 0 };
    if args.json {
        let object = json!({
            "profile": args.profile, "seeds": count, "differing": differing,
            "canary": args.canary, "clean": clean,
        });
        println!("{object}");
    } else {
        println!("{count} seeds, run three times each: {unlike} differ");
        if args.canary && clean {
            println!("the canary was caught in every seed, as it has to be");
        } else if args.canary {
            println!("the canary's entropy went unnoticed in {} seeds", count - unlike);
        }
    }
    Ok(if clean { Ending::Clean } else { Ending::Violation })
}

pub(super) fn trace_hash(runner: Runner, args: &TraceHashArgs) -> Result<Ending, BadInput> {
    let document = read_file(&args.profile)?;
    ready(args.world)?;
    let options = RunOptions { canary: args.canary, world: args.world, ..RunOptions::default() };
    println!("{:016x}", alone(runner, &document.plan(args.seed), &options).trace_hash);
    Ok(Ending::Clean)
}

fn in_a_fresh_process(args: &DeterminismArgs, seed: u64) -> Result<u64, BadInput> {
    let program = std::env::current_exe()
        .map_err(|error| trouble(format!("this program cannot be found again: {error}")))?;
    let mut command = Command::new(program);
    command.arg("trace-hash").arg(&args.profile).arg("--seed").arg(seed.to_string());
    command.arg("--world").arg(args.world.name());
    if args.canary {
        command.arg("--canary");
    }
    let output = command
        .output()
        .map_err(|error| trouble(format!("a fresh process could not be started: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    u64::from_str_radix(text.trim(), 16).map_err(|_| {
        let errors = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
        trouble(format!("the fresh process printed no hash for seed {seed}: {text} {errors}"))
    })
}
