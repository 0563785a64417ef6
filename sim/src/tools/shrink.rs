//! `shrink`: a failing plan made as small as the time allows.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use crate::report::{RunOptions, RunReport, Runner, Violation, WorldKind};
use crate::scenario::{BadInput, Document, Plan, parse_duration, read_file, write_duration};
use crate::shrink::{Trial, shrink};

use super::failure::{SHRUNK, kept_as};
use super::progress::Progress;
use super::threads::{alone, spread};
use super::{Ending, now, ready, trouble, why_not};

/// How long a shrinking takes that nobody asked for.
pub(super) const USUAL: Duration = Duration::from_secs(60);

/// How many searches are under way.
static SEARCHES: AtomicUsize = AtomicUsize::new(0);

#[derive(Args)]
pub(super) struct ShrinkArgs {
    /// The failing plan.
    plan: String,
    /// Where to write the smaller one; without it, into target/sim-failures.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How long to search at most; it ends sooner where nothing can be left out any more.
    #[arg(long, value_parser = parse_duration, default_value = "60s")]
    within: Duration,
    /// How many smaller plans to try at most; that does not hang on how fast the machine is.
    #[arg(long)]
    tries: Option<u64>,
    /// How many runs at a time.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// What the members speak through.
    #[arg(long, value_enum, default_value_t)]
    world: WorldKind,
}

/// What a search may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// How many runs at a time.
    pub(super) jobs: usize,
    /// How long.
    pub(super) within: Duration,
    /// How many plans it tries, or as many as there is time for.
    pub(super) tries: Option<u64>,
    /// Whether its progress is told.
    pub(super) told: bool,
    /// What the members speak through.
    pub(super) world: WorldKind,
}

/// A smaller plan, and how it fails.
pub(super) struct Shrunk {
    pub(super) plan: Plan,
    pub(super) violation: Violation,
    pub(super) tried: u64,
}

pub(super) fn verb(runner: Runner, args: &ShrinkArgs) -> Result<Ending, BadInput> {
    let Document::Plan(plan) = read_file(&args.plan)? else {
        let what = "is a profile: shrink a plan that came out of it, from target/sim-failures";
        return Err(BadInput::about(&args.plan, what));
    };
    let file = args.out.clone().unwrap_or_else(|| kept_as(&plan, args.world, SHRUNK));
    let keep = |shrunk: &Shrunk| {
        write(&file, &plan, shrunk, args.world)
            .map_err(|error| trouble(format!("{} cannot be written: {error}", file.display())))
    };
    let world = args.world;
    if let Some(why) = why_not(&plan, world) {
        return Err(BadInput::about(&args.plan, why));
    }
    ready(world)?;
    let options = RunOptions { world, ..RunOptions::default() };
    let Some(violation) = first_violation(&alone(runner, &unjudged(&plan), &options)) else {
        return Err(BadInput::about(
            &args.plan,
            "is clean with this build: there is no failure that a smaller plan could keep",
        ));
    };
    // A place that cannot be written to is better known before the search than after it.
    keep(&Shrunk { plan: *plan.clone(), violation: violation.clone(), tried: 0 })?;
    let effort =
        Effort { jobs: args.jobs.get(), within: args.within, tries: args.tries, told: true, world };
    let shrunk = smaller(runner, &plan, violation, effort);
    keep(&shrunk)?;
    println!(
        "{} events instead of {} after {} runs: {}",
        shrunk.plan.events.len(),
        plan.events.len(),
        shrunk.tried,
        shrunk.violation
    );
    let world = world.name();
    println!("replay     cargo run -p sim -- replay {} --world {world}", file.display());
    Ok(Ending::Clean)
}

/// Whether a search is under way.
pub(super) fn is_searching() -> bool {
    SEARCHES.load(Ordering::Relaxed) > 0
}

/// Searches for a smaller plan that fails like this one, whose first violation is known.
pub(super) fn smaller(runner: Runner, plan: &Plan, violation: Violation, effort: Effort) -> Shrunk {
    SEARCHES.fetch_add(1, Ordering::Relaxed);
    let mut trial = Runs::new(runner, violation.clone(), effort);
    let best = shrink(&unjudged(plan), violation.at.in_plan(), &mut trial);
    trial.progress.end_line();
    let options = RunOptions { world: effort.world, ..RunOptions::default() };
    let last = first_violation(&alone(runner, &best, &options));
    SEARCHES.fetch_sub(1, Ordering::Relaxed);
    let expect = plan.expect.clone();
    Shrunk {
        plan: Plan { expect, ..best },
        violation: last.unwrap_or(violation),
        tried: trial.tried,
    }
}

/// The plan as if nobody had said which violation its broken rule has to lead to: then the run
/// tells it.
pub(super) fn unjudged(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    plan.expect.violation = None;
    plan
}

/// Writes the smaller plan, with what it came from and where it fails above it.
pub(super) fn write(
    file: &Path,
    plan: &Plan,
    shrunk: &Shrunk,
    world: WorldKind,
) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let what = shrunk.violation.to_string().replace('\n', " ");
    let head = format!(
        "# {} of {} events are left of a failing plan of this name, plan hash {:016x}.\n\
         # In the world of {}: {what}\n",
        shrunk.plan.events.len(),
        plan.events.len(),
        plan.hash(),
        world.name(),
    );
    fs::write(file, head + &shrunk.plan.to_toml())
}

pub(super) fn first_violation(report: &RunReport) -> Option<Violation> {
    report.violations.first().cloned()
}

/// How this plan fails, if it does so in the wanted way. Where a rule is broken on purpose, that is
/// to blame only if the same run is clean with the rule kept.
fn failure_like(
    runner: Runner,
    plan: &Plan,
    wanted: &Violation,
    world: WorldKind,
) -> Option<Violation> {
    let options = RunOptions { world, ..RunOptions::default() };
    let found = first_violation(&alone(runner, plan, &options))?;
    let kept = plan.sabotage.map(|_| Plan { sabotage: None, ..plan.clone() });
    let is_to_blame = |kept: Plan| alone(runner, &kept, &options).is_clean();
    (found.kind() == wanted.kind() && kept.is_none_or(is_to_blame)).then_some(found)
}

/// The runs of a search, each on a thread of its own.
struct Runs {
    runner: Runner,
    wanted: Violation,
    jobs: usize,
    world: WorldKind,
    end: Instant,
    tries: u64,
    tried: u64,
    progress: Progress,
}

impl Runs {
    fn new(runner: Runner, wanted: Violation, effort: Effort) -> Self {
        let Effort { jobs, within, tries, told, world } = effort;
        let (end, progress) = (now() + within, Progress::new(told));
        let tries = tries.unwrap_or(u64::MAX);
        Self { runner, wanted, jobs, world, end, tries, tried: 0, progress }
    }
}

impl Trial for Runs {
    fn width(&self) -> usize {
        self.jobs
    }

    fn is_over(&self) -> bool {
        self.tried >= self.tries || now() >= self.end
    }

    fn first_failing(&mut self, plans: &[Plan]) -> Option<(usize, Duration)> {
        self.tried += plans.len() as u64;
        let (runner, wanted, world) = (self.runner, &self.wanted, self.world);
        let run = |index: usize| (index, failure_like(runner, &plans[index], wanted, world));
        let mut failing: Option<(usize, Duration)> = None;
        spread(self.jobs.min(plans.len()), 0..plans.len(), run, |(index, found)| {
            if let Some(found) = found
                && failing.is_none_or(|(other, _)| index < other)
            {
                failing = Some((index, found.at.in_plan()));
            }
            true
        });
        failing
    }

    fn found(&mut self, plan: &Plan) {
        self.progress.show(|| {
            format!(
                "shrinking: {} events in {} are left, {} candidates tried",
                plan.events.len(),
                write_duration(plan.duration),
                self.tried
            )
        });
    }
}
