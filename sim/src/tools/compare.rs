//! `compare`: one plan in both worlds, and what came of it in each.
//!
//! Two worlds draw differently, so their traces have nothing in common. What a plan comes to should
//! not hang on that: the classes of the outcome are compared. One seed may cost an asynchronous row
//! in one world and none in the other, so a plan whose classes differ is run under more seeds,
//! until each class has once been the same in both. One that has not, under any of these seeds, is
//! a difference: the transport made it, or one of the worlds is wrong. A violation that one world
//! alone has under a seed is a difference by itself, and no other seed mends it. Expectations are
//! written for a file's own seed, and count under that one alone.
//!
//! That is no comparison of how often: where both worlds once lose nothing, the plan counts as
//! alike, and what one of them would have lost under another seed is for sweeps to find.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;

use clap::Args;
use serde_json::json;

use crate::report::{RunOptions, RunReport, Runner, Violation, WorldKind};
use crate::scenario::{BadInput, Document, Plan, read_file};

use super::threads::{alone, spread};
use super::{Ending, parse_seeds, ready, tell_skipped, trouble, why_not};

#[derive(Args)]
pub(super) struct CompareArgs {
    /// Scenarios, plans or profiles.
    #[arg(required = true)]
    files: Vec<String>,
    /// The seeds; without them, each file's own.
    #[arg(long, value_parser = parse_seeds)]
    seeds: Option<super::Seeds>,
    /// How many more seeds a plan is run under before what differs is no chance.
    #[arg(long, default_value_t = 8)]
    tries: u64,
    /// How many plans at a time.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// One JSON object per plan on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

const VIOLATED: &str = "violated first";
const CLEAN: &str = "nothing";

/// What came of a run, as far as two worlds should agree on it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class(BTreeMap<&'static str, String>);

pub(super) fn compare(runner: Runner, args: &CompareArgs) -> Result<Ending, BadInput> {
    let documents: Result<Vec<Document>, BadInput> =
        args.files.iter().map(|file| read_file(file)).collect();
    let documents = documents?;
    ready(WorldKind::Sockets)?;
    let mut plans = Vec::new();
    for document in documents {
        let own = [document.base().seed];
        let seeds: Vec<u64> = args.seeds.map_or_else(|| own.into(), |seeds| seeds.iter().collect());
        plans.extend(seeds.into_iter().map(|seed| document.plan(seed)));
    }
    let (total, mut differing, mut skipped) = (plans.len(), 0, 0);
    let work = |plan: Plan| {
        let worlds = [WorldKind::Messages, WorldKind::Sockets];
        let why = worlds.into_iter().find_map(|world| why_not(&plan, world));
        let classes = why.map_or_else(|| Ok(differences(runner, &plan, args.tries)), Err);
        (plan, classes)
    };
    spread(args.jobs.get(), plans.into_iter(), work, |(plan, classes)| {
        match classes {
            Err(why) => {
                skipped += 1;
                tell_skipped(&plan, &why, args.json);
            }
            Ok(unlike) => {
                differing += usize::from(!unlike.is_empty());
                tell(&plan, &unlike, args.json);
            }
        }
        true
    });
    if !args.json {
        println!("{total} plans, {differing} differ, {skipped} skipped");
    }
    if skipped == total {
        return Err(trouble("nothing was compared: no plan can be run in both worlds"));
    }
    Ok(if differing == 0 { Ending::Clean } else { Ending::Violation })
}

/// What came out differently in the two worlds under each seed: this plan's own, and as many more
/// as it takes until nothing did, up to `tries`.
fn differences(runner: Runner, plan: &Plan, tries: u64) -> Vec<Unlike> {
    let mut seen = Seen::default();
    let (own, mut unlike) = (plan.seed, Vec::new());
    for seed in (0..=tries).map(|n| plan.seed.wrapping_add(n)) {
        let plan = Plan { seed, ..plan.clone() };
        let run = |world| {
            let options = RunOptions { world, ..RunOptions::default() };
            let mut report = alone(runner, &plan, &options);
            report.violations.retain(|violation| own == seed || violation.invariant != "expect");
            Class::of(&report)
        };
        seen.add(run(WorldKind::Messages), run(WorldKind::Sockets));
        unlike = seen.unlike();
        if unlike.is_empty() {
            break;
        }
    }
    unlike
}

fn tell(plan: &Plan, unlike: &[Unlike], as_json: bool) {
    if as_json {
        let unlike: Vec<_> = unlike
            .iter()
            .map(
                |one| json!({ "what": one.what, "messages": one.messages, "sockets": one.sockets }),
            )
            .collect();
        println!("{}", json!({ "name": plan.name, "seed": plan.seed, "differing": unlike }));
        return;
    }
    let word = if unlike.is_empty() { "alike" } else { "DIFFER" };
    println!("{word:<9} {} (seed {})", plan.name, plan.seed);
    for one in unlike {
        println!("          {one}");
    }
}

/// One thing that came out differently.
struct Unlike {
    what: &'static str,
    messages: String,
    sockets: String,
}

impl fmt::Display for Unlike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, messages, sockets } = self;
        write!(f, "{what}: {messages} in messages, {sockets} in sockets")
    }
}

impl Class {
    fn of(report: &RunReport) -> Self {
        let some = |number: u64| if number > 0 { "some" } else { "none" }.to_owned();
        let first = report.violations.first().map_or(CLEAN.to_owned(), Violation::kind);
        Self(BTreeMap::from([
            (VIOLATED, first),
            ("rows acknowledged", some(report.acknowledged)),
            ("rows lost", some(report.lost)),
            ("failovers", some(report.failovers)),
            ("primary in the end", some(u64::from(report.primary.is_some()))),
            ("two servers willing", some(u64::from(!report.overlap.is_zero()))),
            ("orders", ends_of_orders(report)),
        ]))
    }
}

/// What some seeds of one plan came to, in each world.
#[derive(Default)]
struct Seen {
    values: BTreeMap<&'static str, [BTreeSet<String>; 2]>,
    /// Under some seed one of them alone was clean.
    parted: bool,
}

impl Seen {
    fn add(&mut self, messages: Class, sockets: Class) {
        let is_clean = |class: &Class| class.0.get(VIOLATED).is_some_and(|what| what == CLEAN);
        self.parted |= is_clean(&messages) != is_clean(&sockets);
        for (world, class) in [messages, sockets].into_iter().enumerate() {
            for (what, value) in class.0 {
                self.values.entry(what).or_default()[world].insert(value);
            }
        }
    }

    /// What the worlds have not once had in common; of violations, whatever one has alone.
    fn unlike(&self) -> Vec<Unlike> {
        let differs = |what: &str, [messages, sockets]: &[BTreeSet<String>; 2]| match what {
            VIOLATED => self.parted || messages.is_disjoint(sockets),
            _ => messages.is_disjoint(sockets),
        };
        let list = |values: &BTreeSet<String>| Vec::from_iter(values.iter().cloned()).join(" or ");
        let different = self.values.iter().filter(|(what, worlds)| differs(what, worlds));
        different
            .map(|(what, [messages, sockets])| Unlike {
                what,
                messages: list(messages),
                sockets: list(sockets),
            })
            .collect()
    }
}

/// How many orders were carried out, refused and neither.
fn ends_of_orders(report: &RunReport) -> String {
    let ended = |word: &str| report.orders.iter().filter(|line| line.contains(word)).count();
    let (done, refused) = (ended("Known(Done"), ended("Known(Refused"));
    let open = report.orders.len() - done - refused;
    format!("{done} done, {refused} refused, {open} open")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Violation;
    use crate::since::Since;

    fn unlike(seeds: &[(&RunReport, &RunReport)]) -> Vec<String> {
        let mut seen = Seen::default();
        for (messages, sockets) in seeds {
            seen.add(Class::of(messages), Class::of(sockets));
        }
        seen.unlike().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_one_seed_lost_is_chance_once_both_worlds_lost_something() {
        let one = RunReport { acknowledged: 1, failovers: 1, ..RunReport::default() };
        let other = RunReport { acknowledged: 900, failovers: 2, ..RunReport::default() };
        assert!(unlike(&[(&one, &other)]).is_empty(), "numbers are no classes");
        let lost = RunReport { lost: 1, ..other.clone() };
        let said = ["rows lost: none in messages, some in sockets"];
        assert_eq!(unlike(&[(&one, &lost)]), said);
        assert_eq!(unlike(&[(&one, &lost), (&other, &lost)]), said);
        assert!(unlike(&[(&one, &lost), (&lost, &lost)]).is_empty());
    }

    #[test]
    fn a_violation_that_one_world_alone_has_is_no_chance() {
        let clean = RunReport::default();
        let (at, what) = (Since::default(), String::new());
        let violation = Violation { invariant: "I1".to_owned(), at, what };
        let broken = RunReport { violations: vec![violation], ..RunReport::default() };
        let said = ["violated first: nothing in messages, I1 or nothing in sockets"];
        assert_eq!(unlike(&[(&clean, &clean), (&clean, &broken)]), said);
        let said = ["violated first: I1 or nothing in messages, I1 or nothing in sockets"];
        assert_eq!(unlike(&[(&clean, &broken), (&broken, &clean)]), said, "no seed mends it");
        let expected = |what: &str| {
            let violation = Violation { invariant: "expect".to_owned(), at, what: what.to_owned() };
            RunReport { violations: vec![violation], ..RunReport::default() }
        };
        let (silent, lost) = (expected("nothing was writable"), expected("a row is lost"));
        let said = ["violated first: expect: nothing was writable in messages, \
                     expect: a row is lost in sockets"];
        assert_eq!(unlike(&[(&silent, &lost)]), said);
    }
}
