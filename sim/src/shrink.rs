//! The search for a smaller plan that fails in the same way: delta debugging.
//!
//! Events go first, in halves, quarters and at last one by one; then times, then machines and
//! clients, and all of that again until nothing gets smaller. What a run costs, how many are made
//! at a time and when there is no time left is the business of whoever makes them: see [`Trial`].
//!
//! A plan keeps its seed, because the random streams of a run are independent. Those of the network
//! and of the scheduler still shift with every event that is gone; so where no event can be left
//! out any more, a few other seeds are tried without each.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::scenario::{Plan, PlanEvent, fnv1a, unpromised};

/// The shortest run that a plan can ask for.
const SHORTEST: Duration = Duration::from_secs(1);
/// What is left of a plan after its violation: whoever judges may need a moment.
const AFTERMATH: Duration = Duration::from_secs(1);
/// How many other seeds are tried without one event, for every event that is left: the more is
/// left, the more it is worth.
const OTHER_SEEDS: u64 = 6;

/// Makes the runs that a search asks for.
pub trait Trial {
    /// How many plans are run at a time.
    fn width(&self) -> usize;
    /// Whether the search has to end.
    fn is_over(&self) -> bool;
    /// Which of these is the first to fail like the original, and when it does.
    fn first_failing(&mut self, plans: &[Plan]) -> Option<(usize, Duration)>;
    /// A smaller plan was found.
    fn found(&mut self, plan: &Plan);
}

/// The smallest plan that was found. `plan` itself fails for the first time at `failed_at`.
pub fn shrink(plan: &Plan, failed_at: Duration, trial: &mut impl Trial) -> Plan {
    let promised = unpromised(plan).is_none();
    let best = plan.clone();
    let mut search = Search { best, failed_at, promised, refused: BTreeSet::new(), trial };
    search.allow_idle_events();
    loop {
        let before = search.best.clone();
        search.end_sooner();
        search.drop_events();
        search.shorten();
        search.take_machines_away();
        search.take_clients_away();
        if search.best == before && !search.change_the_seed() || search.trial.is_over() {
            return search.best;
        }
    }
}

struct Search<'a, T> {
    best: Plan,
    /// When the best one fails.
    failed_at: Duration,
    /// The original stays within the guarantee, and so has every candidate to.
    promised: bool,
    /// The hashes of those that did not fail in the right way.
    refused: BTreeSet<u64>,
    trial: &'a mut T,
}

impl<T: Trial> Search<'_, T> {
    /// The first of these that is a valid plan, not known and fails like the original becomes the
    /// best; returns which.
    fn take_first(&mut self, candidates: Vec<Plan>) -> Option<usize> {
        let numbered: Vec<(usize, Plan)> = candidates
            .into_iter()
            .enumerate()
            .filter(|(_, plan)| self.is_worth_a_run(plan))
            .collect();
        for batch in numbered.chunks(self.trial.width().max(1)) {
            if self.trial.is_over() {
                return None;
            }
            let plans: Vec<Plan> = batch.iter().map(|(_, plan)| plan.clone()).collect();
            let failing = self.trial.first_failing(&plans);
            let passed = failing.map_or(plans.len(), |(index, _)| index);
            self.refused.extend(plans[..passed].iter().map(number));
            if let Some((index, at)) = failing {
                (self.best, self.failed_at) = (plans[index].clone(), at);
                self.trial.found(&self.best);
                return Some(batch[index].0);
            }
        }
        None
    }

    fn is_worth_a_run(&self, plan: &Plan) -> bool {
        plan.reads_back()
            && *plan != self.best
            && (!self.promised || unpromised(plan).is_none())
            && !self.refused.contains(&number(plan))
    }

    /// Where it is no part of the failure that an event found nobody, none has to.
    fn allow_idle_events(&mut self) {
        let plan = Plan { drawn: true, ..self.best.clone() };
        self.take_first(vec![plan]);
    }

    /// What comes after the violation did not cause it.
    fn end_sooner(&mut self) {
        let end = whole_seconds(self.failed_at) + AFTERMATH;
        let last = self.best.events.iter().map(end_of).max().unwrap_or_default();
        let half = whole_seconds(self.best.duration / 2);
        let ends = [end, last, whole_seconds(last) + AFTERMATH, half];
        let sooner = ends.into_iter().filter(|end| *end < self.best.duration && *end >= SHORTEST);
        let plans = sooner.map(|end| cut_at(&self.best, end)).collect();
        self.take_first(plans);
    }

    /// Leaves chunks of events out, ever smaller ones.
    fn drop_events(&mut self) {
        let mut size = self.best.events.len();
        while size > 0 && !self.trial.is_over() {
            let mut dropped = false;
            let mut from = 0;
            while from < self.best.events.len() && !self.trial.is_over() {
                let starts = (from..self.best.events.len()).step_by(size);
                let starts: Vec<usize> = starts.take(self.trial.width().max(1)).collect();
                let plans = starts.iter().map(|at| without(&self.best, *at, size)).collect();
                if let Some(index) = self.take_first(plans) {
                    dropped = true;
                    from = starts[index];
                } else {
                    from += size * starts.len();
                }
            }
            // Once one is gone, others may have become idle.
            size = if size == 1 && dropped { 1 } else { size / 2 };
        }
    }

    /// Rounds and shortens times: everything at once where that goes, or event by event.
    fn shorten(&mut self) {
        let rounded = map_events(&self.best, |event| PlanEvent {
            at: whole_seconds(event.at),
            lasts: event.lasts.map(|lasts| whole_seconds(lasts).max(SHORTEST).min(lasts)),
            ..event.clone()
        });
        self.take_first(vec![rounded]);
        self.begin_sooner();
        for index in 0..self.best.events.len() {
            loop {
                let event = self.best.events[index].clone();
                let simpler = simpler_times(&event).into_iter();
                let plans = simpler.map(|event| with_event(&self.best, index, event)).collect();
                if self.take_first(plans).is_none() {
                    break;
                }
            }
        }
        self.end_sooner();
    }

    /// Moves everything towards the beginning.
    fn begin_sooner(&mut self) {
        let Some(first) = self.best.events.first().map(|event| event.at) else { return };
        let shifts = [first.saturating_sub(SHORTEST), whole_seconds(first / 2)];
        let shifts = shifts.into_iter().filter(|by| !by.is_zero());
        let sooner = shifts.map(|by| {
            let shift =
                |event: &PlanEvent| PlanEvent { at: event.at.saturating_sub(by), ..event.clone() };
            let duration = self.best.duration.saturating_sub(by).max(SHORTEST);
            Plan { duration, ..map_events(&self.best, shift) }
        });
        let plans = sooner.collect();
        self.take_first(plans);
    }

    fn take_machines_away(&mut self) {
        let cluster = self.best.cluster.clone();
        let (data, witnesses) = (cluster.nodes, cluster.witnesses);
        let mut sizes: Vec<(u64, u64)> = (1..=data)
            .flat_map(|nodes| (0..=witnesses).map(move |witnesses| (nodes, witnesses)))
            .filter(|(nodes, few)| (nodes + few) % 2 == 1 && nodes + few < data + witnesses)
            .collect();
        sizes.sort_by_key(|(nodes, witnesses)| (nodes + witnesses, *witnesses));
        let plans = sizes.into_iter().map(|(nodes, witnesses)| {
            let mut plan = self.best.clone();
            (plan.cluster.nodes, plan.cluster.witnesses) = (nodes, witnesses);
            plan
        });
        let plans = plans.collect();
        self.take_first(plans);
    }

    fn take_clients_away(&mut self) {
        let now = self.best.workload.clone();
        for writers in [1, 2, now.writers / 2] {
            let stale = now.stale.min(writers);
            self.try_clients(|plan| (plan.writers, plan.stale) = (writers.max(1), stale));
        }
        self.try_clients(|plan| plan.readers = 0);
        self.try_clients(|plan| plan.stale = 0);
    }

    fn try_clients(&mut self, change: impl Fn(&mut crate::scenario::Workload)) {
        let mut plan = self.best.clone();
        change(&mut plan.workload);
        let now = &self.best.workload;
        if plan.workload.writers <= now.writers {
            self.take_first(vec![plan]);
        }
    }

    /// Leaves one event out under another seed. Whatever one seed needed an event for, another one
    /// may do by chance.
    fn change_the_seed(&mut self) -> bool {
        let last = OTHER_SEEDS * self.best.events.len() as u64;
        for index in (0..self.best.events.len()).rev() {
            let fewer = without(&self.best, index, 1);
            let seeds = (1..=last).map(|step| fewer.seed.wrapping_add(step));
            let plans = seeds.map(|seed| Plan { seed, ..fewer.clone() }).collect();
            if self.take_first(plans).is_some() {
                return true;
            }
        }
        false
    }
}

fn number(plan: &Plan) -> u64 {
    fnv1a(plan.to_toml().as_bytes())
}

fn end_of(event: &PlanEvent) -> Duration {
    event.at + event.lasts.unwrap_or_default()
}

fn whole_seconds(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs())
}

fn without(plan: &Plan, from: usize, count: usize) -> Plan {
    let gone = from..from.saturating_add(count);
    let events = plan.events.iter().enumerate().filter(|(index, _)| !gone.contains(index));
    Plan { events: events.map(|(_, event)| event.clone()).collect(), ..plan.clone() }
}

/// The plan without what comes after `end`.
fn cut_at(plan: &Plan, end: Duration) -> Plan {
    let before = plan.events.iter().filter(|event| event.at < end);
    let events = before.map(|event| {
        let lasts = event.lasts.map(|lasts| lasts.min(end.saturating_sub(event.at)));
        PlanEvent { lasts, ..event.clone() }
    });
    Plan { events: events.collect(), duration: end, ..plan.clone() }
}

fn map_events(plan: &Plan, change: impl Fn(&PlanEvent) -> PlanEvent) -> Plan {
    let mut events: Vec<PlanEvent> = plan.events.iter().map(change).collect();
    events.sort_by_key(|event| event.at);
    Plan { events, ..plan.clone() }
}

fn with_event(plan: &Plan, index: usize, event: PlanEvent) -> Plan {
    let mut plan = plan.clone();
    plan.events[index] = event;
    plan.events.sort_by_key(|event| event.at);
    plan
}

/// The same event with rounder or shorter times, the simplest first. Every time gets smaller, so
/// that a search for the simplest comes to an end.
fn simpler_times(event: &PlanEvent) -> Vec<PlanEvent> {
    let rounded = |span: Duration| {
        let tenth = Duration::from_millis(100 * (span.as_millis() as u64 / 100));
        [whole_seconds(span), tenth].into_iter().filter(move |round| *round < span)
    };
    let at = rounded(event.at).map(|at| PlanEvent { at, ..event.clone() });
    let lasts = event.lasts.into_iter().flat_map(|lasts| {
        let half = Duration::from_millis(lasts.as_millis() as u64 / 2);
        let shorter = [half].into_iter().chain(rounded(lasts));
        shorter.filter(|shorter| !shorter.is_zero())
    });
    at.chain(lasts.map(|lasts| PlanEvent { lasts: Some(lasts), ..event.clone() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Fault, read};
    use std::fmt::Write as _;

    /// Plans that fail at two seconds where `fails` says so, three at a time, as long as `left`.
    struct Pretended<F> {
        fails: F,
        left: usize,
    }

    impl<F: Fn(&Plan) -> bool> Trial for Pretended<F> {
        fn width(&self) -> usize {
            3
        }

        fn is_over(&self) -> bool {
            self.left == 0
        }

        fn first_failing(&mut self, plans: &[Plan]) -> Option<(usize, Duration)> {
            self.left = self.left.saturating_sub(plans.len());
            plans.iter().position(&self.fails).map(|index| (index, Duration::from_secs(2)))
        }

        fn found(&mut self, plan: &Plan) {
            assert!((self.fails)(plan), "only a plan that fails is taken");
        }
    }

    /// Twelve jumps of clocks, each by as many seconds as its number.
    fn plan() -> Plan {
        let mut text = String::from("claim = \"c\"\nduration = \"40s\"\n[cluster]\nnodes = 5\n");
        for number in 1..=12 {
            let _ = write!(
                text,
                "[[event]]\nat = \"{number}s\"\nfault = \"clock-jump\"\ntarget = \"primary\"\n\
                 by = \"{number}s\"\n"
            );
        }
        read("test.toml", &text).expect("a scenario").plan(7)
    }

    fn jumps(plan: &Plan) -> Vec<u64> {
        let jump = |event: &PlanEvent| {
            let Fault::ClockJump { by_ms, .. } = &event.fault else { panic!("{}", event.fault) };
            by_ms.unsigned_abs() / 1_000
        };
        plan.events.iter().map(jump).collect()
    }

    fn shrunk(left: usize, fails: impl Fn(&Plan) -> bool) -> Plan {
        shrink(&plan(), Duration::from_secs(20), &mut Pretended { fails, left })
    }

    #[test]
    fn what_the_failure_needs_is_left_and_nothing_else() {
        let needed = |plan: &Plan| [3, 11].iter().all(|number| jumps(plan).contains(number));
        let least = shrunk(usize::MAX, needed);
        assert_eq!(jumps(&least), [3, 11]);
        assert_eq!((least.cluster.nodes, least.workload.writers), (1, 1));
        assert!(least.duration < Duration::from_secs(12), "{:?}", least.duration);
    }

    #[test]
    fn another_seed_may_need_less() {
        let by_chance = |plan: &Plan| plan.seed == 9 && !plan.events.is_empty();
        let least = shrunk(usize::MAX, |plan| jumps(plan).len() >= 4 || by_chance(plan));
        assert_eq!((jumps(&least).len(), least.seed), (1, 9));
    }

    #[test]
    fn a_search_without_time_left_keeps_what_it_has() {
        assert_eq!(shrunk(0, |_| true), plan());
        assert!(jumps(&shrunk(8, |plan| jumps(plan).contains(&5))).contains(&5));
    }
}
