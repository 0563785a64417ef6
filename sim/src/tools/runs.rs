//! `run`, `replay` and `list`.

use std::fs;

use clap::Args;
use pg_replica::sabotage::Saboteur;
use serde_json::json;

use crate::report::{RunOptions, RunReport, Runner, WorldKind};
use crate::scenario::{BadInput, Document, Plan, read_file};

use super::failure::Failures;
use super::threads::alone;
use super::{Ending, failure, parse_saboteur, ready, tell_skipped, trouble, why_not};

#[derive(Args)]
pub(super) struct RunArgs {
    /// Scenarios, plans or profiles.
    #[arg(required = true)]
    files: Vec<String>,
    /// The seed; without it, the file's own, which is zero where it names none.
    #[arg(long)]
    seed: Option<u64>,
    /// Show the trace: one line per event, a column per node.
    #[arg(long)]
    trace: bool,
    /// One JSON object per file on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
    /// Leave failures as they are, instead of searching for a smaller plan for up to a minute.
    #[arg(long)]
    no_shrink: bool,
    /// Break this rule of the product.
    #[arg(long, value_parser = parse_saboteur)]
    sabotage: Option<Saboteur>,
    /// What the members speak through.
    #[arg(long, value_enum, default_value_t)]
    world: WorldKind,
}

#[derive(Args)]
pub(super) struct ReplayArgs {
    /// The plan.
    plan: String,
    /// What the members speak through.
    #[arg(long, value_enum, default_value_t)]
    world: WorldKind,
    /// Leave the trace out.
    #[arg(long)]
    quiet: bool,
    /// One JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// The folder.
    #[arg(default_value = "scenarios")]
    folder: String,
}

pub(super) fn run(runner: Runner, args: &RunArgs) -> Result<Ending, BadInput> {
    let documents: Result<Vec<Document>, BadInput> =
        args.files.iter().map(|file| read_file(file)).collect();
    let documents = documents?;
    ready(args.world)?;
    let options = RunOptions {
        keep_trace: args.trace,
        sabotage: args.sabotage,
        world: args.world,
        ..RunOptions::default()
    };
    let (mut failed, mut skipped) = (0, 0);
    let mut failures = Failures::default();
    for document in &documents {
        let plan = document.plan(args.seed.unwrap_or(document.base().seed));
        if let Some(why) = why_not(&plan, args.world) {
            skipped += 1;
            tell_skipped(&plan, &why, args.json);
            continue;
        }
        let report = alone(runner, &plan, &options);
        if args.json {
            println!("{}", object(&plan, &report));
        } else if documents.len() == 1 {
            println!("{}: {}", plan.name, plan.claim);
            println!("{report}");
        } else {
            println!("{}", line(&plan, &report));
        }
        if !report.is_clean() {
            failed += 1;
            failure::tell(runner, &plan, &report, &options);
            failures.note(&plan, &report, &options);
        }
    }
    if documents.len() > 1 && !args.json {
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        println!("{} scenarios, {failed} failed{skipped}", documents.len());
    }
    failures.explain(runner, 1, args.no_shrink);
    if skipped == documents.len() {
        return Err(trouble(format!(
            "nothing was run: --world {} can run none",
            args.world.name()
        )));
    }
    Ok(if failed == 0 { Ending::Clean } else { Ending::Violation })
}

pub(super) fn replay(runner: Runner, args: &ReplayArgs) -> Result<Ending, BadInput> {
    let Document::Plan(plan) = read_file(&args.plan)? else {
        return Err(BadInput::about(
            &args.plan,
            "is a profile: `sweep` or `run --seed` draw from it",
        ));
    };
    let options =
        RunOptions { keep_trace: !args.quiet, world: args.world, ..RunOptions::default() };
    if let Some(why) = why_not(&plan, args.world) {
        return Err(BadInput::about(&args.plan, why));
    }
    ready(args.world)?;
    let report = alone(runner, &plan, &options);
    if args.json {
        println!("{}", object(&plan, &report));
    } else {
        println!("{}: {}", plan.name, plan.claim);
        println!("{report}");
    }
    Ok(if report.is_clean() { Ending::Clean } else { Ending::Violation })
}

pub(super) fn list(args: &ListArgs) -> Result<Ending, BadInput> {
    let entries = fs::read_dir(&args.folder)
        .map_err(|error| trouble(format!("{} cannot be read: {error}", args.folder)))?;
    let mut files: Vec<String> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    files.sort();
    for file in &files {
        let document = read_file(file)?;
        println!("{}\n    {}", document.base().name, document.base().claim);
    }
    println!("{} scenarios", files.len());
    Ok(Ending::Clean)
}

/// A run for a program to read: the report, and of what it is one.
fn object(plan: &Plan, report: &RunReport) -> serde_json::Value {
    json!({
        "name": plan.name,
        "claim": plan.claim,
        "clean": report.is_clean(),
        "report": report,
    })
}

fn line(plan: &Plan, report: &RunReport) -> String {
    let longest = report.outages.iter().max().copied().unwrap_or_default();
    format!(
        "{:<9} {:<44} {:>6} rows, {} lost, {} failovers, outage {:.2}s",
        if report.is_clean() { "clean" } else { "VIOLATED" },
        plan.name,
        report.acknowledged,
        report.lost,
        report.failovers,
        longest.as_secs_f64()
    )
}
