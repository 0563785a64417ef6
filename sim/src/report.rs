//! What a run came to, and whether that is what its plan expects.
//!
//! The world measures; this file compares. Invariants are not judged here: they hold in every run,
//! whatever a plan says, and their violations arrive from the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use pg_replica::ids::NodeId;
use pg_replica::sabotage::Saboteur;
use serde::Serialize;

use crate::invariants;
use crate::recording::Recording;
use crate::scenario::{EndPrimary, Expect, Overlap, Plan, write_duration};
use crate::since::Since;
use crate::sometimes::Sometimes;
use crate::workload::{Ended, History, Operation};

/// A gap between two acknowledged commits that is longer than this is an outage.
const OUTAGE_LEAST: Duration = Duration::from_millis(300);

/// A promise that was not kept, or an expectation that was not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// `I1` to `I10`; `expect` for what the plan expects, `client` for what a client was told,
    /// `health` for what a member's page said, `log` and `panic`.
    pub invariant: String,
    /// In true time.
    pub at: Since,
    /// One sentence.
    pub what: String,
}

/// What a run came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunReport {
    /// The seed.
    pub seed: u64,
    /// The plan's number.
    pub plan_hash: u64,
    /// A number for everything that happened.
    pub trace_hash: u64,
    /// How long the run was, in true time of the world.
    pub virtual_time: Duration,
    /// What went wrong; empty is a clean run.
    pub violations: Vec<Violation>,
    /// The rare states that were reached.
    pub sometimes: BTreeSet<&'static str>,
    /// How long clients waited for a commit, wherever that was noticeable.
    pub outages: Vec<Duration>,
    /// Acknowledged rows.
    pub acknowledged: u64,
    /// The longest time for which two servers were willing, where that is not promised away.
    pub overlap: Duration,
    /// Commits that were acknowledged out of order or after a lease, where that is not promised
    /// away.
    pub late: u64,
    /// Acknowledged rows that are missing in the end.
    pub lost: u64,
    /// Primacies after the first.
    pub failovers: u64,
    /// Rewinds that were done.
    pub rewinds: u64,
    /// Clones that were done after the standbys' first ones.
    pub clones: u64,
    /// When each primacy was given, and to which member.
    pub primacies: Vec<(Since, u64)>,
    /// Who is primary in the end.
    pub primary: Option<u64>,
    /// What the operator asked for and was told.
    pub orders: Vec<String>,
    /// What happened, one line per event; empty unless it was asked for.
    pub trace: Vec<String>,
    /// The numbers of the states that the cluster passed through: see [`crate::coverage`].
    #[serde(skip)]
    pub states: BTreeSet<u64>,
    /// The run to draw; nothing unless it was asked for.
    #[serde(skip)]
    pub recording: Option<Box<Recording>>,
}

/// What the members of a run speak through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WorldKind {
    /// Messages, which are moved from one to the other: the quickest.
    #[default]
    Messages,
    /// The product's own transport and HTTP interface, over simulated TCP.
    Sockets,
}

impl WorldKind {
    /// The name on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Sockets => "sockets",
        }
    }
}

/// How a run is made, beyond its plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Keep the trace's text, not only its hash.
    pub keep_trace: bool,
    /// Record the run, so that it can be drawn.
    pub record: bool,
    /// The rule to break, whatever the plan says about it.
    pub sabotage: Option<Saboteur>,
    /// Let true entropy in on purpose: the check of determinism has to notice.
    pub canary: bool,
    /// What the members speak through.
    pub world: WorldKind,
}

/// What makes a run of a plan.
pub type Runner = fn(&Plan, &RunOptions) -> RunReport;

/// What the world has seen of a run, beyond the invariants. Times count from the clients' begin.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// When a client was told of a commit, in order.
    pub commits: Vec<Duration>,
    /// The same for clients that were in touch with a majority of the machines at that time. The
    /// others' may hide for how long nobody could write where a majority was.
    pub served: Vec<Duration>,
    /// When everything had healed.
    pub healed: Duration,
    /// When the run ended.
    pub ended: Duration,
    /// The first primary that the clients saw.
    pub first_primary: Option<NodeId>,
    /// The last one.
    pub last_primary: Option<NodeId>,
    /// Acknowledged rows.
    pub acknowledged: u64,
    /// The longest time for which two servers were willing, where that is not promised away.
    pub overlap: Duration,
    /// Commits out of order or after a lease, where that is not promised away.
    pub late: u64,
    /// Acknowledged rows that are missing in the end.
    pub lost: u64,
    /// Primacies after the first.
    pub failovers: u64,
    /// Rewinds that were done.
    pub rewinds: u64,
    /// Clones that were done after the standbys' first ones.
    pub clones: u64,
    /// Orders whose answer was not the wanted one, in sentences.
    pub wrong_answers: Vec<String>,
    /// Rare states.
    pub sometimes: BTreeSet<Sometimes>,
}

/// A span without a single acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last acknowledgement before it.
    pub from: Duration,
    /// For how long.
    pub lasted: Duration,
}

/// Every noticeable gap between two of these commits that ends within or after `span` and begins
/// before its end; `ended` closes the last one. What comes after a plan's own time is the world's:
/// it takes members away once more, to see that a majority is enough.
#[must_use]
pub fn gaps(commits: &[Duration], ended: Duration, span: (Duration, Duration)) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut last = commits.first().copied().unwrap_or_default();
    for at in commits.iter().copied().chain([ended]) {
        let lasted = at.saturating_sub(last);
        if lasted >= OUTAGE_LEAST && at >= span.0 && last < span.1 {
            gaps.push(Gap { from: last, lasted });
        }
        last = last.max(at);
    }
    gaps
}

impl Measured {
    /// Takes in when clients were told of their commits, given who was out of touch with a majority
    /// from when on. Times of the world become times since `began`.
    pub fn hear(
        &mut self,
        history: &History,
        cut_off: &BTreeMap<Duration, BTreeSet<u32>>,
        began: Duration,
    ) {
        let in_touch = |operation: &&Operation| {
            let latest = cut_off.range(..=operation.ended_at).next_back();
            latest.is_none_or(|(_, clients)| !clients.contains(&operation.row.client))
        };
        let told = || history.operations().iter().filter(|o| o.ended == Ended::Acknowledged);
        let since = |operation: &Operation| operation.ended_at.saturating_sub(began);
        self.commits = told().map(since).collect();
        self.served = told().filter(in_touch).map(since).collect();
        self.commits.sort();
        self.served.sort();
    }

    /// How long clients waited for a commit from the plan's first event on.
    #[must_use]
    pub fn outages(&self, plan: &Plan) -> Vec<Duration> {
        let first = plan.events.first().map_or(Duration::ZERO, |event| event.at);
        let gaps = gaps(&self.served, self.ended, (first, plan.duration));
        gaps.into_iter().map(|gap| gap.lasted).collect()
    }

    /// Compares with what the plan expects, and returns what was found during the run, in the order
    /// of time, and the unmet expectations after that: they are only known in the end.
    #[must_use]
    pub fn judge(&self, plan: &Plan, found: Vec<Violation>) -> Vec<Violation> {
        let mut all = found;
        all.sort_by_key(|violation| violation.at);
        all.extend(self.unmet(plan));
        all
    }

    fn unmet(&self, plan: &Plan) -> Vec<Violation> {
        let expect = &plan.expect;
        let mut unmet = Vec::new();
        let mut miss = |at: Duration, what: String| {
            unmet.push(Violation { invariant: "expect".into(), at: at.into(), what });
        };
        let first = plan.events.first().map_or(Duration::ZERO, |event| event.at);
        if let Some(within) = expect.writable_within {
            let gaps = gaps(&self.served, self.ended, (first, plan.duration));
            for Gap { from, lasted } in gaps.into_iter().filter(|gap| gap.lasted > within) {
                let (gap, within) = (write_duration(lasted), write_duration(within));
                miss(from, format!("nothing was writable for {gap}, and {within} is the most"));
            }
        }
        if let Some(after) = expect.writable_after {
            let next = self.served.iter().find(|at| **at >= self.healed);
            if next.is_none_or(|at| *at > self.healed + after) {
                let after = write_duration(after);
                miss(self.healed, format!("nothing was writable within {after} of healing"));
            }
        }
        for (from, to) in &expect.silent {
            if let Some(at) = self.commits.iter().find(|at| (*from..*to).contains(*at)) {
                miss(*at, "a commit was acknowledged where nothing should have been".into());
            }
        }
        for sentence in self.unmet_in_the_end(expect) {
            miss(self.ended, sentence);
        }
        for answer in &self.wrong_answers {
            miss(self.ended, answer.clone());
        }
        unmet
    }

    fn unmet_in_the_end(&self, expect: &Expect) -> Vec<String> {
        let mut unmet = Vec::new();
        let overlap_most = match expect.overlap {
            Overlap::None => Some(Duration::ZERO),
            Overlap::AtMost(most) => Some(most),
            Overlap::Reported => None,
        };
        if let Some(most) = overlap_most.filter(|most| self.overlap > *most) {
            let (overlap, most) = (write_duration(self.overlap), write_duration(most));
            unmet.push(format!("two servers were willing for {overlap}, and {most} is the most"));
        }
        if let Some(most) = expect.lost_acknowledged
            && self.lost > most
        {
            unmet.push(format!("{} acknowledged rows are lost, and {most} is the most", self.lost));
        }
        let counts = [
            ("primacies after the first", self.failovers, expect.failovers),
            ("rewinds", self.rewinds, expect.rewinds),
            ("clones", self.clones, expect.clones),
        ];
        for (what, count, bounds) in counts {
            if let Some(bounds) = bounds
                && !bounds.holds(count)
            {
                unmet.push(format!("there were {count} {what}, and {bounds} are expected"));
            }
        }
        let named = |node: Option<NodeId>| node.map_or("nobody".into(), |node| node.to_string());
        let (first, last) = (named(self.first_primary), named(self.last_primary));
        let right = match expect.primary {
            None => true,
            Some(EndPrimary::Same) => self.last_primary == self.first_primary,
            Some(EndPrimary::Other) => {
                self.last_primary.is_some() && self.last_primary != self.first_primary
            }
            Some(EndPrimary::Node(node)) => self.last_primary == Some(node),
        };
        if !right {
            unmet.push(format!("{last} is primary in the end, where {first} was in the beginning"));
        }
        for state in &expect.sometimes {
            if !self.sometimes.contains(state) {
                unmet.push(format!("the state {state} was not reached"));
            }
        }
        unmet
    }
}

impl RunReport {
    /// Of a run that breaks a rule on purpose, and names the check that must notice, only this is
    /// to be reported: that the first violation was another one, or that there was none.
    #[must_use]
    pub fn with_the_wanted_violation(mut self, plan: &Plan) -> Self {
        let Some(wanted) = &plan.expect.violation else { return self };
        let first = self.violations.first();
        if first.is_some_and(|first| first.invariant == *wanted) {
            self.violations.clear();
            return self;
        }
        let other = first.map_or("nothing".into(), ToString::to_string);
        let at = first.map_or_else(|| plan.duration.into(), |first| first.at);
        let what = format!("a violation of {wanted} was to come first, and this came: {other}");
        self.violations = vec![Violation { invariant: "expect".into(), at, what }];
        self
    }

    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

/// What is said of a cluster that nothing had befallen yet, and that was never whole.
pub const NEVER_UP: &str = "the cluster did not come up";

impl Violation {
    /// What the oracle of a world found whose clients began then.
    #[must_use]
    pub fn found(found: &invariants::Violation, began: Duration) -> Self {
        let (invariant, what) = (found.invariant.to_string(), found.what.clone());
        Self { invariant, at: Since::of(found.at, began), what }
    }

    /// What two violations have in common that are the same story: the invariant, where a cluster
    /// that does not come up is another story than one that does not recover. What has no invariant
    /// has its words besides, but for numbers: a plan expects many things, and a panic or a line
    /// that was logged can be any.
    #[must_use]
    pub fn kind(&self) -> String {
        let is_digit = |c: char| c.is_ascii_digit();
        if self.invariant.strip_prefix('I').is_some_and(|number| number.chars().all(is_digit)) {
            let founding = if self.what.starts_with(NEVER_UP) { " from the beginning" } else { "" };
            return format!("{}{founding}", self.invariant);
        }
        let words = self.what.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        format!("{}: {}", self.invariant, words.join(" "))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.invariant, self.at, self.what)
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        for order in &self.orders {
            writeln!(f, "order        {order}")?;
        }
        let longest = self.outages.iter().max().copied().unwrap_or_default();
        writeln!(
            f,
            "seed {}: {:.1} virtual seconds, {} rows acknowledged, {} lost, {} failovers, \
             {} rewinds, {} clones, longest write outage {:.2}s",
            self.seed,
            self.virtual_time.as_secs_f64(),
            self.acknowledged,
            self.lost,
            self.failovers,
            self.rewinds,
            self.clones,
            longest.as_secs_f64()
        )?;
        if self.overlap > Duration::ZERO || self.late > 0 {
            writeln!(
                f,
                "outside the promise: two servers willing for {:.3}s, {} commits after their time",
                self.overlap.as_secs_f64(),
                self.late
            )?;
        }
        writeln!(f, "plan {:016x}, trace {:016x}", self.plan_hash, self.trace_hash)?;
        if !self.sometimes.is_empty() {
            let names: Vec<&str> = self.sometimes.iter().copied().collect();
            writeln!(f, "reached: {}", names.join(", "))?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION    {violation}")?;
        }
        write!(f, "{}", if self.is_clean() { "clean" } else { "NOT CLEAN" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_a_gap_and_the_end_of_a_run_closes_it() {
        let ms = Duration::from_millis;
        let commits = [0, 100, 1_900, 2_000].map(ms);
        let lengths = |from, until| -> Vec<u128> {
            let gaps = gaps(&commits, ms(3_000), (from, until));
            gaps.into_iter().map(|gap| gap.lasted.as_millis()).collect()
        };
        assert_eq!(lengths(Duration::ZERO, Duration::MAX), [1_800, 1_000]);
        assert_eq!(lengths(ms(2_500), Duration::MAX), [1_000]);
        assert_eq!(lengths(Duration::ZERO, ms(2_000)), [1_800]);
    }

    #[test]
    fn what_was_found_comes_in_the_order_of_time_and_what_is_expected_of_the_end_after_it() {
        let text = "claim = \"c\"\nduration = \"3s\"\n[expect]\nfailovers = \"1\"\n";
        let plan = crate::scenario::read("test.toml", text).expect("a scenario").plan(0);
        let found = [("I3", 2_000), ("client", 900), ("log", 1_500), ("I9", 2_000)];
        let found = found.map(|(invariant, ms)| Violation {
            invariant: invariant.into(),
            at: Duration::from_millis(ms).into(),
            what: "it happened".into(),
        });
        let all = Measured::default().judge(&plan, found.into());
        let names: Vec<&str> = all.iter().map(|violation| violation.invariant.as_str()).collect();
        assert_eq!(names, ["client", "log", "I3", "I9", "expect"]);
    }

    #[test]
    fn an_invariant_is_its_number_and_anything_else_its_words() {
        let kind = |invariant: &str, what: &str| {
            let at = Since::default();
            Violation { invariant: invariant.into(), at, what: what.into() }.kind()
        };
        assert_eq!(kind("I3", "row 4 is lost"), kind("I3", "n2 has less"));
        assert_eq!(kind("I10", "one answer"), kind("I10", "another"));
        assert_ne!(kind("I3", "row 4 is lost"), kind("I1", "row 4 is lost"));
        assert_ne!(kind("I9", NEVER_UP), kind("I9", "60 s after the faults ended, n2 is behind"));
        for word in ["expect", "client", "health", "log", "panic"] {
            assert_eq!(kind(word, "there were 2 rewinds"), kind(word, "there were 14 rewinds"));
            assert_ne!(kind(word, "there were 2 rewinds"), kind(word, "there were 2 clones"));
        }
        assert_ne!(kind("panic", "it broke"), kind("log", "it broke"));
    }

    #[test]
    fn a_broken_rule_is_proven_by_the_wanted_violation_and_by_no_other() {
        let text = "claim = \"c\"\nduration = \"3s\"\n[expect]\nviolation = \"I3\"\n\
                    [sabotage]\nname = \"share-epoch\"\n";
        let plan = crate::scenario::read("test.toml", text).expect("a scenario").plan(0);
        let judged = |found: &[&str]| {
            let violations = found.iter().map(|name| Violation {
                invariant: (*name).into(),
                at: Since::default(),
                what: "it happened".into(),
            });
            let report = RunReport { violations: violations.collect(), ..RunReport::default() };
            report.with_the_wanted_violation(&plan).is_clean()
        };
        assert!(judged(&["I3"]) && judged(&["I3", "I9"]));
        assert!(!judged(&[]) && !judged(&["I9", "I3"]) && !judged(&["expect"]));
    }

    #[test]
    fn a_commit_on_the_wrong_side_of_a_cut_ends_no_outage() {
        let ms = Duration::from_millis;
        let text = "claim = \"c\"\nduration = \"3s\"\n[expect]\nwritable_within = \"2s\"\n";
        let plan = crate::scenario::read("test.toml", text).expect("a scenario").plan(0);
        let commits: Vec<Duration> = [0, 1_500, 3_000].map(ms).into();
        let served = |served: &[Duration]| {
            let (commits, served) = (commits.clone(), served.to_vec());
            let seen = Measured { commits, served, ended: ms(3_100), ..Measured::default() };
            seen.judge(&plan, Vec::new()).len()
        };
        assert_eq!(served(&commits), 0);
        assert_eq!(served(&[ms(0), ms(3_000)]), 1);
    }
}
