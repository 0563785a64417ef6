//! `timeline`: a run drawn as one page.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::report::{RunOptions, RunReport, Runner, WorldKind};
use crate::scenario::{BadInput, Document, Plan, read_file};
use crate::timeline::page;

use super::shrink::unjudged;
use super::threads::alone;
use super::{Ending, ready, trouble, why_not};

#[derive(Args)]
pub(super) struct TimelineArgs {
    /// The plan or scenario.
    plan: String,
    /// Where to write the page, which is HTML.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// What the members speak through.
    #[arg(long, value_enum, default_value_t)]
    world: WorldKind,
}

pub(super) fn verb(runner: Runner, args: &TimelineArgs) -> Result<Ending, BadInput> {
    let Document::Plan(plan) = read_file(&args.plan)? else {
        let what = "is a profile: a timeline shows one run, so write its plan out first";
        return Err(BadInput::about(&args.plan, what));
    };
    if let Some(why) = why_not(&plan, args.world) {
        return Err(BadInput::about(&args.plan, why));
    }
    ready(args.world)?;
    let report = draw(runner, &plan, args.world, &args.out)
        .map_err(|error| trouble(format!("{} cannot be written: {error}", args.out.display())))?;
    match report.violations.first() {
        Some(violation) => println!("{}: {violation}", args.out.display()),
        None => println!("{}: the run is clean", args.out.display()),
    }
    Ok(Ending::Clean)
}

/// Runs the plan once more, recorded, and writes its page.
pub(super) fn draw(
    runner: Runner,
    plan: &Plan,
    world: WorldKind,
    file: &Path,
) -> std::io::Result<RunReport> {
    let options = RunOptions { record: true, world, ..RunOptions::default() };
    let report = alone(runner, &unjudged(plan), &options);
    // A run that broke off before there was a world has nothing to show but why.
    let recording = report.recording.as_deref().cloned().unwrap_or_default();
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, page(plan, &report, &recording))?;
    Ok(report)
}
