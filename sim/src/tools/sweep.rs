//! `sweep`: many seeds, and what they came to together.
//!
//! Runs end in any order where several are made at a time. What they came to is taken in the order
//! of their seeds, and those that are early are held back, never more than a block of them: so a
//! sweep ends with the lowest seed that fails, and says the same however many jobs there are.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use clap::Args;
use pg_replica::sabotage::Saboteur;
use serde_json::json;

use crate::report::{RunOptions, RunReport, Runner, WorldKind};
use crate::scenario::{BadInput, Document, read_file};
use crate::sometimes::Sometimes;

use super::coverage::{self, Seen};
use super::failure::Failures;
use super::progress::Progress;
use super::threads::{InOrder, alone, spread};
use super::{Ending, Seeds, failure, now, parse_saboteur, parse_seeds, ready, why_not};

#[derive(Args)]
pub(super) struct SweepArgs {
    /// The profile, or a scenario to be run under many seeds.
    profile: String,
    /// The seeds, both ends included.
    #[arg(long, value_parser = parse_seeds, default_value = "1..100")]
    seeds: Seeds,
    /// How many runs at a time.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// End with one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// Fail, and name them, where some rare states were never reached.
    #[arg(long)]
    require_all_states: bool,
    /// Stop when a thousand runs brought fewer new states of the cluster than this.
    #[arg(long)]
    until_plateau: Option<u64>,
    /// Draw every other plan from one that has led to a new state.
    #[arg(long)]
    bias: bool,
    /// Leave failures as they are, instead of searching for a smaller plan for up to a minute.
    #[arg(long)]
    no_shrink: bool,
    /// What the members speak through.
    #[arg(long, value_enum, default_value_t)]
    world: WorldKind,
    /// Break this rule of the product.
    #[arg(long, value_parser = parse_saboteur)]
    sabotage: Option<Saboteur>,
}

/// What a sweep has come to so far.
struct Tally {
    began: Instant,
    /// How many seeds have come to something, taken in or held back.
    ended: u64,
    /// How many were run, of those taken in.
    seeds: u64,
    /// How many this world cannot run, by the reason.
    skipped: BTreeMap<String, u64>,
    failed: Vec<u64>,
    virtual_time: Duration,
    acknowledged: u64,
    outages: Vec<Duration>,
    reached: BTreeMap<&'static str, u64>,
    seen: Seen,
}

pub(super) fn sweep(runner: Runner, args: &SweepArgs) -> Result<Ending, BadInput> {
    let document = read_file(&args.profile)?;
    if args.bias && matches!(document, Document::Plan(_)) {
        let what = "is no profile: --bias draws plans, and there is nothing to draw from here";
        return Err(BadInput::about(&args.profile, what));
    }
    ready(args.world)?;
    let options =
        RunOptions { sabotage: args.sabotage, world: args.world, ..RunOptions::default() };
    let mut tally = Tally::new();
    let mut progress = Progress::new(true);
    let mut failures = Failures::default();
    for block in args.seeds.blocks(coverage::BLOCK) {
        let known = std::mem::take(&mut tally.seen);
        let work = |(number, seed): (usize, u64)| {
            let plan = match &document {
                Document::Profile(profile) if args.bias => known.biased(profile, seed),
                Document::Profile(_) | Document::Plan(_) => document.plan(seed),
            };
            let outcome = match why_not(&plan, args.world) {
                Some(why) => Err(why),
                None => Ok(alone(runner, &plan, &options)),
            };
            (number, (plan, outcome))
        };
        let mut outcomes = InOrder::new();
        let mut runs = Vec::new();
        spread(args.jobs.get(), block.iter().enumerate(), work, |(number, outcome)| {
            outcomes.add(number, outcome);
            tally.ended += 1;
            while let Some((plan, outcome)) = outcomes.next() {
                let report = match outcome {
                    Ok(report) => report,
                    Err(why) => {
                        *tally.skipped.entry(why).or_default() += 1;
                        continue;
                    }
                };
                tally.add(&report);
                if !report.is_clean() {
                    progress.end_line();
                    failure::tell(runner, &plan, &report, &options);
                    failures.note(&plan, &report, &options);
                }
                let go_on = report.is_clean() || args.keep_going;
                runs.push((plan, report.states));
                if !go_on {
                    return false;
                }
            }
            progress.show(|| tally.progress(args.seeds.count()));
            true
        });
        tally.seen = known;
        tally.seen.end_block(runs);
        if (!tally.failed.is_empty() && !args.keep_going)
            || args.until_plateau.is_some_and(|least| tally.seen.is_flat(least))
        {
            break;
        }
    }
    progress.end_line();
    conclude(runner, args, &tally, &failures)
}

/// Says what all seeds came to.
fn conclude(
    runner: Runner,
    args: &SweepArgs,
    tally: &Tally,
    failures: &Failures,
) -> Result<Ending, BadInput> {
    if tally.seeds == 0 {
        let reasons: Vec<&str> = tally.skipped.keys().map(String::as_str).collect();
        let world = args.world.name();
        let what =
            format!("has no seed among these that --world {world} can run: {}", reasons.join("; "));
        return Err(BadInput::about(&args.profile, what));
    }
    tally.tell();
    if args.json {
        println!("{}", tally.json());
    }
    failures.explain(runner, args.jobs.get(), args.no_shrink);
    let lacking = args.require_all_states && !tally.never().is_empty();
    if lacking {
        eprintln!("these seeds prove nothing about: {}", tally.never().join(", "));
    }
    Ok(if tally.failed.is_empty() && !lacking { Ending::Clean } else { Ending::Violation })
}

impl Tally {
    fn new() -> Self {
        Self {
            began: now(),
            ended: 0,
            seeds: 0,
            skipped: BTreeMap::new(),
            failed: Vec::new(),
            virtual_time: Duration::ZERO,
            acknowledged: 0,
            outages: Vec::new(),
            reached: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    fn add(&mut self, report: &RunReport) {
        self.seeds += 1;
        if !report.is_clean() {
            self.failed.push(report.seed);
        }
        self.virtual_time += report.virtual_time;
        self.acknowledged += report.acknowledged;
        self.outages.push(report.outages.iter().max().copied().unwrap_or_default());
        for name in &report.sometimes {
            *self.reached.entry(name).or_default() += 1;
        }
    }

    fn wall(&self) -> Duration {
        now().saturating_duration_since(self.began)
    }

    fn pace(&self) -> (f64, f64) {
        let wall = self.wall().as_secs_f64().max(0.001);
        (self.seeds as f64 / wall, self.virtual_time.as_secs_f64() / wall)
    }

    /// The longest outage of a run: the median over the runs, and the worst.
    fn outage(&self) -> (Duration, Duration) {
        let mut sorted = self.outages.clone();
        sorted.sort();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        (median, sorted.last().copied().unwrap_or_default())
    }

    fn never(&self) -> Vec<&'static str> {
        let all = Sometimes::ALL.iter().map(|state| state.name());
        all.filter(|name| !self.reached.contains_key(name)).collect()
    }

    fn progress(&self, total: u64) -> String {
        let (seeds_a_second, pace) = self.pace();
        let first =
            self.failed.first().map_or_else(String::new, |s| format!(", first failure {s}"));
        format!(
            "{}/{total} seeds, {seeds_a_second:.1} seeds/s, {pace:.0} virtual s/s, {} failed\
             {first}",
            self.ended,
            self.failed.len()
        )
    }

    fn tell(&self) {
        let (seeds_a_second, pace) = self.pace();
        let (median, worst) = self.outage();
        eprintln!(
            "{} seeds, {} failed, {:.0} virtual seconds in {:.1} s ({seeds_a_second:.1} seeds/s, \
             {pace:.0} virtual s/s), {} rows acknowledged",
            self.seeds,
            self.failed.len(),
            self.virtual_time.as_secs_f64(),
            self.wall().as_secs_f64(),
            self.acknowledged,
        );
        for (why, seeds) in &self.skipped {
            eprintln!("{seeds} more seeds skipped: {why}");
        }
        eprintln!(
            "longest write outage of a run: median {:.2} s, worst {:.2} s",
            median.as_secs_f64(),
            worst.as_secs_f64()
        );
        let new: Vec<String> =
            self.seen.new_per_thousand().iter().map(ToString::to_string).collect();
        eprintln!(
            "{} states of the cluster; new ones per thousand runs: {}",
            self.seen.count(),
            new.join(", ")
        );
        for (name, runs) in &self.reached {
            eprintln!("  {runs:>6} runs reached {name}");
        }
        let never = self.never();
        if !never.is_empty() {
            eprintln!("  never reached: {}", never.join(", "));
        }
    }

    fn json(&self) -> serde_json::Value {
        let (median, worst) = self.outage();
        json!({
            "seeds": self.seeds,
            "skipped": self.skipped,
            "failed": self.failed.len(),
            "failed_seeds": self.failed,
            "virtual_s": self.virtual_time.as_secs_f64(),
            "wall_s": self.wall().as_secs_f64(),
            "outage_median_s": median.as_secs_f64(),
            "outage_worst_s": worst.as_secs_f64(),
            "states": self.seen.count(),
            "new_states_per_thousand_runs": self.seen.new_per_thousand(),
            "sometimes": self.reached,
            "never": self.never(),
        })
    }
}
