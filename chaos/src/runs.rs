//! Many plans, some at a time, each in a laboratory of its own; and what is kept of those that
//! fail.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sim::report::Violation;
use sim::scenario::Plan;
use sim::tools::{spread, words_of};

use crate::impossible::impossible;
use crate::needs;
use crate::world::{self, Options, Outcome};

/// Where what is left of failed runs is kept.
const FAILURES: &str = "target/chaos-failures";

/// How one plan ended.
#[derive(Debug)]
pub enum Verdict {
    /// It was run.
    Ran(Box<Outcome>),
    /// This world cannot run it.
    LeftOut(String),
    /// The laboratory could not be built.
    Broken(String),
}

/// A plan and how it ended.
#[derive(Debug)]
pub struct Run {
    /// The plan.
    pub plan: Plan,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// Runs all of these, so many at a time, and hands each over as it ends.
pub fn all(plans: Vec<Plan>, jobs: usize, options: &Options, mut each: impl FnMut(&Run)) {
    let numbered = (0..).zip(plans);
    let work = |(number, plan)| one(plan, number, options);
    spread(jobs, numbered, work, |run| {
        each(&run);
        true
    });
}

fn one(plan: Plan, number: u32, options: &Options) -> Run {
    let began = Instant::now();
    let verdict = match left_out(&plan) {
        Some(why) => Verdict::LeftOut(why),
        None => match caught(|| world::run(&plan, number, options)) {
            Ok(outcome) => Verdict::Ran(Box::new(outcome)),
            Err(error) => Verdict::Broken(error.to_string()),
        },
    };
    Run { plan, verdict, took: began.elapsed() }
}

/// Why this plan is not run here: no machine can, or this one cannot.
fn left_out(plan: &Plan) -> Option<String> {
    impossible(plan).map(str::to_owned).or_else(|| needs::missing_for_plan(plan))
}

/// A panic of one is not the end of all.
pub(crate) fn caught<T>(run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(io::Error::other(format!("a panic: {}", words_of(&*panic)))))
}

impl Run {
    /// Whether it proves that something is wrong.
    #[must_use]
    pub fn failed(&self) -> bool {
        match &self.verdict {
            Verdict::Ran(outcome) => !outcome.violations.is_empty(),
            Verdict::LeftOut(_) => false,
            Verdict::Broken(_) => true,
        }
    }

    /// The name of its plan, and its seed where it has one: plans of one profile have its name.
    fn called(&self) -> String {
        let Plan { name, seed, .. } = &self.plan;
        if *seed == 0 { name.clone() } else { format!("{name}-{seed}") }
    }

    /// A line for a person.
    #[must_use]
    pub fn line(&self) -> String {
        let name = self.called();
        let took = self.took.as_secs_f64();
        match &self.verdict {
            Verdict::LeftOut(why) => format!("skipped   {name:<50} {why}"),
            Verdict::Broken(why) => format!("BROKEN    {name:<50} {took:>5.1}s  {why}"),
            Verdict::Ran(outcome) => {
                let word = if self.failed() { "FAILED" } else { "ok" };
                let longest = outcome.outages.iter().max().copied().unwrap_or_default();
                let measured = &outcome.measured;
                format!(
                    "{word:<9} {name:<50} {took:>5.1}s  {} rows, {} lost, {} failovers, \
                     {} rewinds, {} clones, outage {:.2}s",
                    measured.acknowledged,
                    measured.lost,
                    measured.failovers,
                    measured.rewinds,
                    measured.clones,
                    longest.as_secs_f64()
                )
            }
        }
    }

    /// The same for a program.
    #[must_use]
    pub fn object(&self) -> Value {
        let mut object = json!({
            "name": self.plan.name,
            "seed": self.plan.seed,
            "claim": self.plan.claim,
            "seconds": self.took.as_secs_f64(),
        });
        match &self.verdict {
            Verdict::LeftOut(why) => object["skipped"] = why.as_str().into(),
            Verdict::Broken(why) => object["broken"] = why.as_str().into(),
            Verdict::Ran(outcome) => {
                let measured = &outcome.measured;
                object["clean"] = outcome.violations.is_empty().into();
                object["report"] = json!({
                    "violations": outcome.violations,
                    "outages": outcome.outages,
                    "acknowledged": measured.acknowledged,
                    "overlap": measured.overlap,
                    "late": measured.late,
                    "lost": measured.lost,
                    "failovers": measured.failovers,
                    "rewinds": measured.rewinds,
                    "clones": measured.clones,
                    "primary": measured.last_primary.map(|node| node.0),
                    "orders": outcome.orders,
                });
            }
        }
        object
    }

    /// What went wrong, in sentences.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        match &self.verdict {
            Verdict::Ran(outcome) => &outcome.violations,
            Verdict::LeftOut(_) | Verdict::Broken(_) => &[],
        }
    }

    /// Keeps the logs and the history of a run that failed, or why there are none; where.
    pub fn keep(&self) -> std::io::Result<Option<PathBuf>> {
        if matches!(self.verdict, Verdict::LeftOut(_)) {
            return Ok(None);
        }
        let folder = Path::new(FAILURES).join(self.called());
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("plan.toml"), self.plan.to_toml())?;
        if let Verdict::Broken(why) = &self.verdict {
            fs::write(folder.join("broken"), format!("{why}\n"))?;
        }
        let Verdict::Ran(outcome) = &self.verdict else { return Ok(Some(folder)) };
        fs::write(folder.join("history.jsonl"), outcome.history.join("\n") + "\n")?;
        let violations: Vec<String> = outcome.violations.iter().map(ToString::to_string).collect();
        fs::write(folder.join("violations"), violations.join("\n") + "\n")?;
        for (name, log) in &outcome.logs {
            fs::write(folder.join(name), log)?;
        }
        Ok(Some(folder))
    }
}

#[cfg(test)]
mod tests {
    use sim::scenario::read_file;

    use super::*;

    /// Otherwise its step would pass with one scenario that was run and the others skipped.
    #[test]
    fn every_scenario_that_the_gate_chose_can_be_run() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let gate = fs::read_to_string(root.join("ci/check")).expect("the gate");
        let chosen = gate.split_once("chosen=(").and_then(|(_, rest)| rest.split_once(')'));
        let names: Vec<&str> = chosen.expect("the gate's choice").0.split_whitespace().collect();
        assert_eq!(names.len(), 12);
        for name in names {
            let file = root.join("scenarios").join(name).with_extension("toml");
            let document = read_file(&file.to_string_lossy()).expect(name);
            assert_eq!(impossible(&document.plan(document.base().seed)), None, "{name}");
        }
    }
}
