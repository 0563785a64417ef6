//! `mutants`: proof that the checks can fail. Each rule of the product is broken in turn, and the
//! seeds are counted until a check notices. With `--shrink` each of these failures is also made
//! smaller and drawn, as a failure of the product would be: see `exhibit`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use pg_replica::sabotage::Saboteur;
use serde_json::json;

use crate::report::{RunOptions, Runner, Violation, WorldKind};
use crate::scenario::{BadInput, Document, Plan, parse_duration, read_file, saboteur_name};

use super::exhibit::{EVENTS_MOST, Exhibit, exhibit, table};
use super::shrink::{Effort, first_violation};
use super::threads::{alone, spread};
use super::{EVERYTHING, Ending, parse_saboteur, ready, trouble, world_of};

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
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// Make each failure smaller and draw it, print a table of them, and fail where one keeps more
    /// than six events.
    #[arg(long)]
    shrink: bool,
    /// With --shrink, how long to search for each at most.
    #[arg(long, value_parser = parse_duration, default_value = "60s", requires = "shrink")]
    within: Duration,
    /// With --shrink, how many smaller plans to try for each at most.
    #[arg(long, requires = "shrink")]
    tries: Option<u64>,
}

/// How a mutant fared.
pub(super) struct Fate {
    pub(super) saboteur: Saboteur,
    stage: String,
    /// The check that has to notice, by the stage's word.
    wanted: Option<String>,
    pub(super) killed: Option<Kill>,
    /// The failure made smaller and drawn, where that was asked for.
    pub(super) exhibit: Option<Exhibit>,
}

/// What killed it.
#[derive(Clone, Debug)]
pub struct Kill {
    /// How many seeds it took.
    pub seeds: u64,
    /// The check that noticed.
    pub by: Violation,
    /// The run, with the rule broken.
    pub plan: Plan,
}

/// What came of breaking one rule under seed after seed.
#[derive(Debug, Default)]
pub struct Hunt {
    /// What killed it, if anything did.
    pub kill: Option<Kill>,
    /// The checks that noticed first, under seeds where the stage names another.
    pub others: BTreeSet<String>,
    /// The seeds that prove nothing: the same run fails with every rule kept.
    pub unproven: Vec<u64>,
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
    ready(WorldKind::Sockets)?;
    let mut fates = Vec::new();
    let mut trouble_met = None;
    let (within, tries) = (args.within, args.tries);
    let work = |saboteur: Saboteur| {
        let (document, file) = &stages[&saboteur];
        let hunt = hunt(runner, document, saboteur, args.max_seeds);
        for seed in &hunt.unproven {
            let (name, stage) = (saboteur_name(saboteur), &document.base().name);
            eprintln!("{name}: seed {seed} of {stage} fails with every rule kept");
        }
        let killed = hunt.kill;
        let kill = killed.as_ref().filter(|_| args.shrink);
        let world = kill.map(|kill| world_of(&kill.plan)).unwrap_or_default();
        let effort = Effort { jobs: 1, within, tries, told: false, world };
        let exhibit = kill.map(|kill| exhibit(runner, document, kill, effort)).transpose()?;
        let wanted = document.base().expect.violation.clone();
        Ok(Fate { saboteur, stage: file.clone(), wanted, killed, exhibit })
    };
    spread(args.jobs.get(), wanted.into_iter(), work, |fate| match fate {
        Ok(fate) => {
            tell(&fate, args.max_seeds);
            fates.push(fate);
            true
        }
        Err(error) => {
            trouble_met = Some(error);
            false
        }
    });
    if let Some(error) = trouble_met {
        return Err(error);
    }
    fates.sort_by_key(|fate| fate.saboteur);
    Ok(conclude(&fates, args))
}

/// Says what all of them came to.
fn conclude(fates: &[Fate], args: &MutantsArgs) -> Ending {
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
    if args.shrink && !args.json {
        print!("{}", table(fates));
    }
    let large: Vec<&Fate> = fates
        .iter()
        .filter(|fate| fate.exhibit.as_ref().is_some_and(|exhibit| exhibit.after > EVENTS_MOST))
        .collect();
    for fate in &large {
        eprintln!("{} keeps more than {EVENTS_MOST} events", saboteur_name(fate.saboteur));
    }
    if args.json {
        let shrunk: BTreeMap<String, &Exhibit> = fates
            .iter()
            .filter_map(|fate| Some((saboteur_name(fate.saboteur), fate.exhibit.as_ref()?)))
            .collect();
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
                "named_check": wanted, "shrunk": shrunk,
            })
        );
    }
    if survivors.is_empty() && large.is_empty() { Ending::Clean } else { Ending::Violation }
}

/// Looks for the first seed whose run is clean with every rule kept, and with this one broken meets
/// the violation that the stage names before any other.
pub fn hunt(runner: Runner, stage: &Document, saboteur: Saboteur, max_seeds: u64) -> Hunt {
    let wanted = stage.base().expect.violation.as_ref();
    let mut hunt = Hunt::default();
    for seed in 1..=max_seeds {
        let mut kept = stage.plan(seed);
        // The run is to be judged as if nobody had broken anything.
        kept.expect.violation = None;
        kept.sabotage = None;
        let plan = Plan { sabotage: Some(saboteur), ..kept.clone() };
        let options = RunOptions { world: world_of(&plan), ..RunOptions::default() };
        let first = first_violation(&alone(runner, &plan, &options));
        let Some(by) = first else { continue };
        if wanted.is_some_and(|wanted| by.invariant != *wanted) {
            hunt.others.insert(by.invariant);
            continue;
        }
        if alone(runner, &kept, &options).is_clean() {
            hunt.kill = Some(Kill { seeds: seed, by, plan });
            break;
        }
        hunt.unproven.push(seed);
    }
    hunt
}

fn tell(fate: &Fate, max_seeds: u64) {
    let name = saboteur_name(fate.saboteur);
    match &fate.killed {
        Some(kill) => {
            let shrunk = fate.exhibit.as_ref().map_or_else(String::new, |exhibit| {
                format!("; {} of {} events are left", exhibit.after, exhibit.before)
            });
            eprintln!(
                "killed    {name:<32} {:>4} seeds, seed {} of {}: {}{shrunk}",
                kill.seeds, kill.plan.seed, fate.stage, kill.by
            );
        }
        None => {
            let named = fate.wanted.as_deref().unwrap_or("any check");
            eprintln!("SURVIVED  {name:<32} {max_seeds:>4} seeds of {}: {named}", fate.stage);
        }
    }
}
