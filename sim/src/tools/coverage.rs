//! What a sweep has seen so far, counted in states of the cluster, and what it does with that: it
//! may stop when nothing new comes any more, and it may stay near the plans that showed it
//! something new.
//!
//! Seeds are taken in blocks, and what a block has seen counts once it is over, in the order of the
//! seeds: so a sweep comes to the same whatever the number of its jobs.

use std::collections::BTreeSet;

use crate::scenario::{Plan, Profile};
use crate::streams::Stream;

/// How many seeds are drawn with the same knowledge.
pub(super) const BLOCK: u64 = 100;
/// What a plateau is judged by, in runs. A seed whose plan cannot be run tells nothing.
const PLATEAU: usize = 1_000;
/// How many plans are remembered: the newest, because what is found late is rare.
const PLANS_MAX: usize = 2_000;
/// How many plans compete for being varied.
const COMPETITORS: usize = 3;
/// The stream that chooses among them; the plan's variation has the one before.
const CHOICE_STREAM: u64 = (9 << 56) + 1;

/// The states that were seen, and the plans that led to new ones.
#[derive(Debug, Default)]
pub(super) struct Seen {
    states: BTreeSet<u64>,
    /// How many runs each block was, and how many new ones it brought.
    new: Vec<(usize, u64)>,
    /// How many new ones each plan brought, oldest first.
    plans: Vec<(u64, Plan)>,
}

impl Seen {
    /// A block is over, in which the runs of these plans passed through these states.
    pub(super) fn end_block(&mut self, mut runs: Vec<(Plan, BTreeSet<u64>)>) {
        runs.sort_by_key(|(plan, _)| plan.seed);
        let (run, before) = (runs.len(), self.states.len());
        for (plan, states) in runs {
            let known = self.states.len();
            self.states.extend(states);
            let new = (self.states.len() - known) as u64;
            if new > 0 {
                self.plans.push((new, plan));
            }
        }
        let surplus = self.plans.len().saturating_sub(PLANS_MAX);
        self.plans.drain(..surplus);
        self.new.push((run, (self.states.len() - before) as u64));
    }

    /// How many states there were.
    pub(super) fn count(&self) -> usize {
        self.states.len()
    }

    /// How many new ones each thousand runs brought, in whole blocks; the last may be fewer.
    pub(super) fn new_per_thousand(&self) -> Vec<u64> {
        let mut thousands = Vec::new();
        let (mut runs, mut sum) = (0, 0);
        for (run, new) in &self.new {
            (runs, sum) = (runs + run, sum + new);
            if runs >= PLATEAU {
                thousands.push(sum);
                (runs, sum) = (0, 0);
            }
        }
        if runs > 0 {
            thousands.push(sum);
        }
        thousands
    }

    /// Whether the last thousand runs brought fewer than `least` new ones.
    pub(super) fn is_flat(&self, least: u64) -> bool {
        let (mut runs, mut sum) = (0, 0);
        for (run, new) in self.new.iter().rev() {
            (runs, sum) = (runs + run, sum + new);
            if runs >= PLATEAU {
                return sum < least;
            }
        }
        false
    }

    /// The plan for this seed: for every other one its own, for the rest a variation of one that
    /// led to something new.
    pub(super) fn biased(&self, profile: &Profile, seed: u64) -> Plan {
        let draw = Stream::of(seed, CHOICE_STREAM);
        if self.plans.is_empty() || draw.chance(0.5) {
            return profile.plan(seed);
        }
        let competitors = (0..COMPETITORS).map(|_| draw.pick(&self.plans));
        let best = competitors.max_by_key(|(new, _)| *new);
        let (_, known) = best.expect("there are competitors");
        profile.vary(known, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Document, read_file};

    fn profile() -> Box<Profile> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../chaos/profiles/everything.toml");
        match read_file(file) {
            Ok(Document::Profile(profile)) => profile,
            Ok(Document::Plan(_)) => panic!("it is a profile"),
            Err(bad) => panic!("{bad}"),
        }
    }

    /// A block in which the run of seed `s` sees the states below `s`.
    fn block(seeds: impl Iterator<Item = u64>, seen: &mut Seen, profile: &Profile) {
        let runs = seeds.map(|seed| (seen.biased(profile, seed), (0..seed).collect()));
        let runs = runs.collect();
        seen.end_block(runs);
    }

    #[test]
    fn what_a_block_has_seen_does_not_depend_on_the_order_of_its_runs() {
        let profile = profile();
        let (mut forwards, mut backwards) = (Seen::default(), Seen::default());
        for first in [1, 11] {
            block(first..first + 10, &mut forwards, &profile);
            block((first..first + 10).rev(), &mut backwards, &profile);
        }
        assert_eq!(forwards.plans, backwards.plans);
        assert_eq!(forwards.new_per_thousand(), [20]);
        let drawn = (21..60).filter(|seed| {
            assert_eq!(forwards.biased(&profile, *seed), backwards.biased(&profile, *seed));
            forwards.biased(&profile, *seed) == profile.plan(*seed)
        });
        assert!((10..30).contains(&drawn.count()));
    }

    #[test]
    fn a_plateau_is_a_thousand_runs_with_little_new() {
        let plan = profile().plan(0);
        let mut seen = Seen::default();
        // Half of the seeds of each block have plans that cannot be run.
        let mut block = |states: u64| {
            let known = (0..states).collect();
            let mut runs = vec![(plan.clone(), BTreeSet::new()); 49];
            runs.push((plan.clone(), known));
            seen.end_block(runs);
            (seen.is_flat(6), seen.is_flat(5), seen.new_per_thousand())
        };
        for number in 1..20 {
            assert!(!block(5).0, "block {number}");
        }
        assert_eq!(block(5), (true, false, vec![5]));
        assert_eq!(block(9), (true, true, vec![5, 4]));
    }
}
