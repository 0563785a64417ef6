//! A mutant's failure, made smaller and drawn without a person's help: the proof that a defect of
//! the product would be caught, shrunk and shown.
//!
//! Where a stage was written by hand, its plan is small before anybody shrinks it; the table says
//! which are.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::report::Runner;
use crate::scenario::{BadInput, Document, saboteur_name};

use super::failure::{FAILURES, SHRUNK, keep_smaller, kept_as};
use super::mutants::{Fate, Kill};
use super::shrink::{Effort, smaller};
use super::trouble;

/// So many events a person takes in at a glance.
pub(super) const EVENTS_MOST: usize = 6;

/// What is left of a failure, and where it is kept.
#[derive(Debug, Serialize)]
pub(super) struct Exhibit {
    /// Whether the plan was drawn from a budget of faults, and not written by hand.
    pub(super) drawn: bool,
    /// How many events it had.
    pub(super) before: usize,
    /// How many are left.
    pub(super) after: usize,
    /// How many plans were tried.
    pub(super) tried: u64,
    /// The smaller plan.
    pub(super) plan: PathBuf,
    /// Its run, drawn.
    pub(super) page: PathBuf,
}

/// Makes the run that killed a mutant smaller, writes that down and draws it.
pub(super) fn exhibit(
    runner: Runner,
    document: &Document,
    kill: &Kill,
    effort: Effort,
) -> Result<Exhibit, BadInput> {
    let shrunk = smaller(runner, &kill.plan, kill.by.clone(), effort);
    let page = keep_smaller(runner, &kill.plan, Some(&shrunk), effort.world)
        .map_err(|error| trouble(format!("{FAILURES} cannot be written: {error}")))?;
    Ok(Exhibit {
        drawn: matches!(document, Document::Profile(_)),
        before: kill.plan.events.len(),
        after: shrunk.plan.events.len(),
        tried: shrunk.tried,
        plan: kept_as(&kill.plan, effort.world, SHRUNK),
        page,
    })
}

/// All of them, for a document.
pub(super) fn table(fates: &[Fate]) -> String {
    let mut out = String::from(
        "| saboteur | noticed by | seeds | stage | events before | events after | page |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for fate in fates {
        let (Some(kill), Some(exhibit)) = (&fate.killed, &fate.exhibit) else { continue };
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            saboteur_name(fate.saboteur),
            kill.by.invariant,
            kill.seeds,
            if exhibit.drawn { "drawn" } else { "written" },
            exhibit.before,
            exhibit.after,
            exhibit.page.display()
        );
    }
    out
}
