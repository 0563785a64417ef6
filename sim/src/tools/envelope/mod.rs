//! `envelope`: how far the promise carries. The same cut under clocks that are ever more wrong and
//! freezes that are ever longer, in each mode: where the first overlap is, and how long.
//!
//! Every cell of a figure is one pair of a drift and a freeze, run in several phases: the freeze
//! begins at different points of the lease. What is written down is the worst of them. A cell
//! inside of the guarantee has to be empty, and fails the command where it is not; the others are
//! measured.

mod figure;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use pg_replica::control::Mode;
use pg_replica::ids::NodeId;

use crate::report::{RunOptions, RunReport, Runner};
use crate::scenario::{
    BadInput, Document, Fault, Overlap, Plan, PlanEvent, Process, Target, read, unpromised,
    write_duration,
};

use super::threads::spread;
use super::{Ending, alone, failure, trouble};

/// The cut and the clients, the same in every run: half of them stay with the primary.
const BASE: &str = include_str!("base.toml");
/// Who is primary first, and what everything happens to. By the time of a freeze another may be.
const FIRST: NodeId = NodeId(1);
/// How much slower than the others' the primary's clock is, in parts per million.
const DRIFTS_PPM: [u32; 9] = [0, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 300_000, 500_000];
/// How long the freeze is, in quarters of a lease.
const FREEZES: [u32; 8] = [0, 1, 2, 3, 4, 6, 10, 20];
/// When the cut is; a freeze begins up to this much earlier or later.
const AROUND_THE_CUT: (Duration, Duration) = (Duration::from_secs(6), Duration::from_millis(500));

#[derive(Args)]
pub(super) struct EnvelopeArgs {
    /// The folder into which table.md and figure.svg are written; without it the tables are
    /// printed.
    #[arg(short)]
    out: Option<PathBuf>,
    /// In how many phases of the lease each pair is run.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    phases: u32,
    /// How many runs at a time.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
}

/// Who acknowledges when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fencing {
    QuorumSync,
    CommitFence,
    GuardOnly,
}

/// What stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Frozen {
    Manager,
    Host,
    HostWithClock,
}

/// One figure: a mode, and what freezes in it.
type Case = (Fencing, Frozen);

/// A cell of it: drift and freeze, as indices.
type Cell = (usize, usize);

/// The worst that was seen in a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Worst {
    /// For how long two servers were willing.
    overlap: Duration,
    /// Commits that were acknowledged after their time.
    late: u64,
}

/// All that was measured.
type Measured = BTreeMap<Case, BTreeMap<Cell, Worst>>;

impl Fencing {
    const ALL: [Self; 3] = [Self::QuorumSync, Self::CommitFence, Self::GuardOnly];

    fn name(self) -> &'static str {
        match self {
            Self::QuorumSync => "quorum-sync",
            Self::CommitFence => "async with the commit fence",
            Self::GuardOnly => "async, guard only",
        }
    }
}

impl Frozen {
    const ALL: [Self; 3] = [Self::Manager, Self::Host, Self::HostWithClock];

    fn name(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Host => "host",
            Self::HostWithClock => "host with its clock",
        }
    }

    fn fault(self) -> Fault {
        let process = if self == Self::Manager { Process::Manager } else { Process::Host };
        let with_clock = self == Self::HostWithClock;
        Fault::Pause { process, target: Target::Node(FIRST), with_clock }
    }
}

impl Worst {
    /// Whether nothing is wrong with it. A word that is late is wrong only where commits wait for
    /// nobody: where they wait for standbys, every later history has its row.
    fn is_clean(self, mode: Fencing) -> bool {
        self.overlap.is_zero() && (self.late == 0 || mode == Fencing::QuorumSync)
    }

    fn with(self, report: &RunReport) -> Self {
        let overlap = self.overlap.max(report.overlap);
        Self { overlap, late: self.late.max(report.late) }
    }
}

pub(super) fn envelope(runner: Runner, args: &EnvelopeArgs) -> Result<Ending, BadInput> {
    let base = base()?;
    let work = |(case, cell, phase): (Case, Cell, u32)| {
        let plan = plan(&base, case, cell, (phase, args.phases));
        let report = alone(runner, &plan, &RunOptions::default());
        (case, cell, plan, report)
    };
    let mut measured = Measured::new();
    let (mut broken, mut elsewhere) = (0, 0);
    spread(args.jobs.get(), runs(args.phases), work, |(case, cell, plan, report)| {
        let worst = measured.entry(case).or_default().entry(cell).or_default();
        *worst = worst.with(&report);
        elsewhere += u32::from(struck_another(&plan, &report));
        if !report.is_clean() {
            broken += 1;
            failure::tell(runner, &plan, &report, &RunOptions::default());
        }
        true
    });
    let lease = lease(&base);
    let tables = table::markdown(&measured, lease, args.phases);
    match &args.out {
        None => print!("{tables}"),
        Some(folder) => {
            write(folder, "table.md", &tables)?;
            let promised = |case, cell| unpromised(&plan(&base, case, cell, (0, 1))).is_none();
            write(folder, "figure.svg", &figure::svg(&measured, lease, promised))?;
        }
    }
    if elsewhere > 0 {
        eprintln!("in {elsewhere} runs {FIRST} was not primary any more: they measured nothing");
    }
    Ok(if broken + elsewhere == 0 { Ending::Clean } else { Ending::Violation })
}

/// Whether another one was primary than whom the cut and the freeze befell, when they began.
fn struck_another(plan: &Plan, report: &RunReport) -> bool {
    let clocks = |event: &&PlanEvent| !matches!(event.fault, Fault::ClockRate { .. });
    let struck = plan.events.iter().filter(clocks).map(|event| event.at).min();
    let until = struck.unwrap_or_default().into();
    let primary = report.primacies.iter().rfind(|(at, _)| *at <= until);
    primary.is_some_and(|(_, node)| *node != FIRST.0)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), BadInput> {
    let file = folder.join(name);
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&file, text));
    written.map_err(|error| trouble(format!("{} cannot be written: {error}", file.display())))?;
    println!("{}", file.display());
    Ok(())
}

fn base() -> Result<Plan, BadInput> {
    match read("envelope", BASE)? {
        Document::Plan(plan) => Ok(*plan),
        Document::Profile(_) => Err(trouble("the envelope's base is a profile")),
    }
}

fn lease(base: &Plan) -> Duration {
    Duration::from_millis(base.cluster.timing.lease_ms)
}

fn cases() -> impl Iterator<Item = Case> + Clone {
    Fencing::ALL.into_iter().flat_map(|mode| Frozen::ALL.map(|frozen| (mode, frozen)))
}

fn runs(phases: u32) -> impl Iterator<Item = (Case, Cell, u32)> + Send {
    cases().flat_map(move |case| {
        let cells =
            (0..DRIFTS_PPM.len()).flat_map(|drift| (0..FREEZES.len()).map(move |f| (drift, f)));
        cells.flat_map(move |cell| (0..phases).map(move |phase| (case, cell, phase)))
    })
}

/// One run of a cell, in one of so many phases.
fn plan(base: &Plan, (mode, frozen): Case, cell: Cell, (phase, phases): (u32, u32)) -> Plan {
    let mut plan = base.clone();
    plan.seed = u64::from(phase);
    plan.cluster.mode = if mode == Fencing::QuorumSync { Mode::QuorumSync } else { Mode::Async };
    plan.cluster.commit_fence = mode == Fencing::CommitFence;
    plan.expect.overlap = Overlap::Reported;
    let drift = DRIFTS_PPM[cell.0];
    if drift > 0 {
        let fault = Fault::ClockRate { target: Target::Node(FIRST), ppm: -i64::from(drift) };
        plan.events.push(PlanEvent { at: Duration::from_secs(1), fault, lasts: None });
    }
    let lasts = freeze(lease(base), cell.1);
    if !lasts.is_zero() {
        let (cut, around) = AROUND_THE_CUT;
        let at = cut - around + (lease(base) + 2 * around) * phase / phases;
        plan.events.push(PlanEvent { at, fault: frozen.fault(), lasts: Some(lasts) });
    }
    plan.events.sort_by_key(|event| event.at);
    // Each has a file of its own, should it be kept.
    let word = |name: &str| name.replace(", ", "-").replace(' ', "-");
    plan.name = format!(
        "envelope-{}-{}-{drift}ppm-{}ms",
        word(mode.name()),
        word(frozen.name()),
        lasts.as_millis()
    );
    plan.claim = format!(
        "{}: a clock {} slow, {} frozen for {}.",
        mode.name(),
        percent(drift),
        frozen.name(),
        write_duration(lasts)
    );
    plan
}

/// How long the freeze of this number is.
fn freeze(lease: Duration, number: usize) -> Duration {
    lease * FREEZES[number] / 4
}

/// Milliseconds as people say them.
fn millis(span: Duration) -> String {
    if span.as_millis() == 0 && !span.is_zero() {
        return "&lt;1".to_owned();
    }
    span.as_millis().to_string()
}

/// Parts per million as people say them.
fn percent(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_a_plan_that_a_file_can_hold() {
        let base = base().expect("a good base");
        for (case, cell, phase) in runs(3) {
            let plan = plan(&base, case, cell, (phase, 3));
            let Ok(Document::Plan(again)) = read("envelope", &plan.to_toml()) else {
                panic!("{}", plan.to_toml())
            };
            assert_eq!(*again, plan);
        }
    }

    #[test]
    fn whoever_is_frozen_wakes_up_before_it_hears_anybody() {
        let base = base().expect("a good base");
        for (case, cell, phase) in runs(12) {
            let plan = plan(&base, case, cell, (phase, 12));
            let is_cut = |event: &&PlanEvent| matches!(event.fault, Fault::Partition { .. });
            let end = |event: &PlanEvent| event.at + event.lasts.unwrap_or_default();
            let healed = plan.events.iter().find(is_cut).map(end).expect("there is a cut");
            let others = plan.events.iter().filter(|event| !is_cut(event));
            let woke = others.map(end).max().unwrap_or_default();
            assert!(woke + lease(&base) / 4 < healed, "{}: {woke:?}, {healed:?}", plan.name);
        }
    }

    #[test]
    fn the_figures_reach_both_sides_of_the_promise() {
        let base = base().expect("a good base");
        let promised = |case, cell| unpromised(&plan(&base, case, cell, (0, 1))).is_none();
        let last = (DRIFTS_PPM.len() - 1, FREEZES.len() - 1);
        for case in cases() {
            assert!(promised(case, (0, 0)) && promised(case, (2, 0)), "{case:?}");
            assert_eq!(promised(case, last), case.0 == Fencing::QuorumSync, "{case:?}");
        }
        assert!(!promised((Fencing::GuardOnly, Frozen::Host), (0, 4)));
        assert!(promised((Fencing::CommitFence, Frozen::Host), (0, 7)));
        assert!(promised((Fencing::GuardOnly, Frozen::Manager), (0, 7)));
    }
}
