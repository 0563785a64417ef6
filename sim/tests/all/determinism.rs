//! A seed stands for one trace, whatever ran before it, and the comparison is able to fail.

use std::collections::BTreeMap;
use std::thread;

use sim::report::RunOptions;
use sim::scenario::{Document, read_file};
use sim::world::run;

use super::house::{root, said_by_sim};

const PROFILE: &str = "chaos/profiles/everything.toml";
const SEEDS: std::ops::RangeInclusive<u64> = 41..=46;

fn everything() -> Document {
    read_file(&root().join(PROFILE).to_string_lossy()).unwrap_or_else(|bad| panic!("{bad}"))
}

/// The trace's hash of one run, on a thread of its own like every run.
fn trace_hash(profile: &Document, seed: u64, canary: bool) -> u64 {
    let plan = profile.plan(seed);
    let options = RunOptions { canary, ..RunOptions::default() };
    let thread = thread::Builder::new()
        .stack_size(16 << 20)
        .spawn(move || run(&plan, &options).trace_hash)
        .expect("the operating system grants a thread");
    thread.join().expect("a run catches its panics")
}

#[test]
fn a_seed_has_the_same_trace_at_any_position_in_a_process() {
    let profile = everything();
    let first: BTreeMap<u64, u64> =
        SEEDS.map(|seed| (seed, trace_hash(&profile, seed, false))).collect();
    // Backwards: every seed has other runs before it, and another position.
    for seed in SEEDS.rev() {
        assert_eq!(trace_hash(&profile, seed, false), first[&seed], "seed {seed}");
    }
    let mut different: Vec<u64> = first.into_values().collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), SEEDS.count(), "two seeds have one trace");
}

#[test]
fn runs_beside_each_other_do_not_disturb_each_other() {
    let alone: Vec<u64> = SEEDS.map(|seed| trace_hash(&everything(), seed, false)).collect();
    let together: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> =
            SEEDS.map(|seed| scope.spawn(move || trace_hash(&everything(), seed, false))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn entropy_that_no_seed_determines_changes_the_trace() {
    let profile = everything();
    for seed in SEEDS {
        let honest = trace_hash(&profile, seed, false);
        assert_ne!(
            trace_hash(&profile, seed, true),
            honest,
            "the canary of seed {seed} is unheard"
        );
    }
}

#[test]
fn the_tool_finds_nothing_and_catches_the_canary_in_every_seed() {
    let honest = said_by_sim(&["determinism", "--seeds", "41..44"]);
    let said = String::from_utf8_lossy(&honest.stdout);
    assert_eq!(honest.status.code(), Some(0), "{said}");
    assert!(said.contains("4 seeds, run three times each: 0 differ"), "{said}");

    let canary = said_by_sim(&["determinism", "--seeds", "41..42", "--canary"]);
    let said = String::from_utf8_lossy(&canary.stdout);
    assert_eq!(canary.status.code(), Some(0), "{said}");
    assert!(said.contains("2 seeds, run three times each: 2 differ"), "{said}");
}
