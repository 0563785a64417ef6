//! `mutants`: proof that the checks can fail. Each rule of the product is broken in turn, and the
//! seeds are counted until a check notices.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use pg_replica::sabotage::Saboteur;
use serde_json::json;

use crate::report::{RunOptions, Runner, Violation};
use crate::scenario::{BadInput, Document, read_file, saboteur_name};

use super::threads::{alone, spread};
use super::{EVERYTHING, Ending, parse_saboteur, trouble};

/// Where a saboteur may have a scenario of its own, named after it.
const DIRECTED: &str = "scenarios/mutants";

#[derive(Args)]
pub(super) struct MutantsArgs {
    /// End with one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// How many seeds a mutant may survive before it counts as alive.
    #[arg(long, default_value_t = 500)]
    max_seeds: u64,
    /// Only these.
    #[arg(long, value_parser = parse_saboteur)]
    only: Vec<Saboteur>,
    /// The profile of those that have no scenario of their own in scenarios/mutants.
    #[arg(long, default_value = EVERYTHING)]
    profile: String,
    /// How many mutants at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
}

/// How a mutant fared.
struct Fate {
    saboteur: Saboteur,
    stage: String,
    /// The check that has to notice, by the stage's word.
    wanted: Option<String>,
    killed: Option<Kill>,
}

/// What killed it.
struct Kill {
    seeds: u64,
    seed: u64,
    by: Violation,
}

pub(super) fn mutants(runner: Runner, args: &MutantsArgs) -> Result<Ending, BadInput> {
    let wanted = if args.only.is_empty() { Saboteur::ALL.to_vec() } else { args.only.clone() };
    let mut stages = BTreeMap::new();
    for saboteur in &wanted {
        let own = format!("{DIRECTED}/{}.toml", saboteur_name(*saboteur));
        let file = if Path::new(&own).exists() { own } else { args.profile.clone() };
        stages.insert(*saboteur, (read_file(&file)?, file));
    }
    if args.max_seeds == 0 {
        return Err(trouble("--max-seeds is one at least"));
    }
    let mut fates = Vec::new();
    let work = |saboteur: Saboteur| {
        let (document, file) = &stages[&saboteur];
        let killed = hunt(runner, document, saboteur, args.max_seeds);
        let wanted = document.base().expect.violation.clone();
        Fate { saboteur, stage: file.clone(), wanted, killed }
    };
    spread(args.jobs, wanted.into_iter(), work, |fate| {
        tell(&fate, args.max_seeds);
        fates.push(fate);
        true
    });
    let survivors: Vec<String> = fates
        .iter()
        .filter(|fate| fate.killed.is_none())
        .map(|fate| saboteur_name(fate.saboteur))
        .collect();
    let mut seeds: Vec<u64> =
        fates.iter().filter_map(|fate| fate.killed.as_ref().map(|kill| kill.seeds)).collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or(0);
    eprintln!(
        "{} mutants, {} killed, median {median} seeds, most {}",
        fates.len(),
        seeds.len(),
        seeds.last().copied().unwrap_or(0)
    );
    if args.json {
        let each: BTreeMap<String, Option<u64>> = fates
            .iter()
            .map(|fate| (saboteur_name(fate.saboteur), fate.killed.as_ref().map(|k| k.seeds)))
            .collect();
        let by: BTreeMap<String, String> = fates
            .iter()
            .filter_map(|fate| Some((saboteur_name(fate.saboteur), fate.killed.as_ref()?)))
            .map(|(name, kill)| (name, kill.by.invariant.clone()))
            .collect();
        let wanted: BTreeMap<String, Option<String>> =
            fates.iter().map(|fate| (saboteur_name(fate.saboteur), fate.wanted.clone())).collect();
        println!(
            "{}",
            json!({
                "total": fates.len(), "killed": seeds.len(), "median_seeds": median,
                "survivors": survivors, "seeds_to_kill": each, "killed_by": by,
                "named_check": wanted,
            })
        );
    }
    Ok(if survivors.is_empty() { Ending::Clean } else { Ending::Violation })
}

/// The first seed whose run is clean with every rule kept, and with this one broken meets the
/// violation that the stage names before any other.
fn hunt(runner: Runner, document: &Document, saboteur: Saboteur, max_seeds: u64) -> Option<Kill> {
    let wanted = document.base().expect.violation.clone();
    for seed in 1..=max_seeds {
        let mut plan = document.plan(seed);
        // The run is to be judged as if nobody had broken anything.
        plan.expect.violation = None;
        plan.sabotage = None;
        let broken = RunOptions { sabotage: Some(saboteur), ..RunOptions::default() };
        let report = alone(runner, &plan, &broken);
        let first = report.violations.into_iter().next();
        let named = first.filter(|violation| {
            wanted.as_ref().is_none_or(|wanted| violation.invariant == *wanted)
        });
        let Some(by) = named else { continue };
        if alone(runner, &plan, &RunOptions::default()).is_clean() {
            return Some(Kill { seeds: seed, seed, by });
        }
        eprintln!(
            "{}: seed {seed} of {} fails with every rule kept, so it proves nothing",
            saboteur_name(saboteur),
            plan.name
        );
    }
    None
}

fn tell(fate: &Fate, max_seeds: u64) {
    let name = saboteur_name(fate.saboteur);
    match &fate.killed {
        Some(kill) => eprintln!(
            "killed    {name:<32} {:>4} seeds, seed {} of {}: {}",
            kill.seeds, kill.seed, fate.stage, kill.by
        ),
        None => {
            let named = fate.wanted.as_deref().unwrap_or("any check");
            eprintln!("SURVIVED  {name:<32} {max_seeds:>4} seeds of {}: {named}", fate.stage);
        }
    }
}
