//! Proof that the checks can fail: each rule of the product, broken on the stage that is built for
//! it, is noticed within a few seeds by the check that the stage names and by no other before it,
//! and the same run is clean where the rule is kept.

use std::path::PathBuf;

use pg_replica::sabotage::Saboteur;
use sim::report::{RunOptions, RunReport};
use sim::scenario::{Plan, read_file, saboteur_name};
use sim::world::run;

use super::house::root;

/// How many seeds a broken rule may go unnoticed here. The tool `mutants` allows more; what is
/// noticed so late does not belong into a test that everybody waits for.
const SEEDS: u64 = 150;

fn stage(saboteur: Saboteur) -> PathBuf {
    root().join("scenarios/mutants").join(format!("{}.toml", saboteur_name(saboteur)))
}

/// A run on a thread of its own, as every run of the tools is.
fn alone(plan: &Plan, sabotage: Option<Saboteur>) -> RunReport {
    sim::tools::alone(run, plan, &RunOptions { sabotage, ..RunOptions::default() })
}

/// The first seed that proves something, with what was noticed.
fn noticed(saboteur: Saboteur) -> Result<(), String> {
    let name = saboteur_name(saboteur);
    let document = read_file(&stage(saboteur).to_string_lossy()).map_err(|bad| bad.to_string())?;
    let Some(wanted) = document.base().expect.violation.clone() else {
        return Err(format!("the stage of {name} names no check"));
    };
    let mut others = std::collections::BTreeSet::new();
    for seed in 1..=SEEDS {
        let mut plan = document.plan(seed);
        // The run is to be judged as if nobody had broken anything.
        plan.expect.violation = None;
        plan.sabotage = None;
        let broken = alone(&plan, Some(saboteur));
        let Some(first) = broken.violations.first() else { continue };
        if first.invariant != wanted {
            others.insert(first.invariant.clone());
            continue;
        }
        let kept = alone(&plan, None);
        if kept.is_clean() {
            return Ok(());
        }
        return Err(format!("{name}: seed {seed} fails with every rule kept:\n{kept}"));
    }
    Err(format!("{wanted} did not notice {name} first in {SEEDS} seeds; others: {others:?}"))
}

#[test]
fn every_broken_rule_is_noticed_on_its_stage_by_the_check_that_it_names() {
    let wrong: Vec<String> =
        Saboteur::ALL.iter().filter_map(|saboteur| noticed(*saboteur).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
