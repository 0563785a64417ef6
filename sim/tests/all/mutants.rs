//! Proof that the checks can fail: each rule of the product, broken on the stage that is built for
//! it, is noticed within a few seeds by the check that the stage names and by no other before it,
//! and the same run is clean where the rule is kept.

use std::path::PathBuf;

use pg_replica::sabotage::Saboteur;
use sim::scenario::{read_file, saboteur_name};
use sim::tools::{Hunt, hunt};
use sim::world::run;

use super::house::root;

/// How many seeds a broken rule may go unnoticed here. The tool `mutants` allows more; what is
/// noticed so late does not belong into a test that everybody waits for.
const SEEDS: u64 = 150;

fn stage(saboteur: Saboteur) -> PathBuf {
    root().join("scenarios/mutants").join(format!("{}.toml", saboteur_name(saboteur)))
}

/// Why what the tool finds on its stage is no proof, if it is none.
fn unnoticed(saboteur: Saboteur) -> Result<(), String> {
    let name = saboteur_name(saboteur);
    let stage = read_file(&stage(saboteur).to_string_lossy()).map_err(|bad| bad.to_string())?;
    let Some(wanted) = &stage.base().expect.violation else {
        return Err(format!("the stage of {name} names no check"));
    };
    let Hunt { kill, others, unproven } = hunt(run, &stage, saboteur, SEEDS);
    if !unproven.is_empty() {
        return Err(format!("{name}: seeds {unproven:?} fail with every rule kept"));
    }
    let survived =
        || format!("{wanted} did not notice {name} first in {SEEDS} seeds; others: {others:?}");
    kill.map(drop).ok_or_else(survived)
}

#[test]
fn every_broken_rule_is_noticed_on_its_stage_by_the_check_that_it_names() {
    let wrong: Vec<String> =
        Saboteur::ALL.iter().filter_map(|saboteur| unnoticed(*saboteur).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
