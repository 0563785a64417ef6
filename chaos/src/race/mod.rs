//! The race: this project's cluster against Patroni's, under the same faults, clients and
//! settings, in the same kind of laboratory.
//!
//! A heat is one fault on one kind of cluster, once. Its results are lines in a file; what is
//! there already is not run again, so that a race may be broken off and continued. The table is
//! made of the file alone.

mod table;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sim::scenario::{BadInput, Plan, read};
use sim::tools::spread;

use crate::runs::caught;
use crate::subject::{Kind, Log, Pace};
use crate::world;

pub use table::write as write_table;

/// How many heats of each kind there are meant to be.
pub const RUNS: u32 = 5;

/// The raw results, in the folder of a race.
pub const RESULTS: &str = "results.jsonl";
/// The heats that broke off, beside them.
const VOIDS: &str = "void.jsonl";

/// Raised with every change to what a heat does or measures: heats of another number are run anew,
/// and are in no table.
pub const HARNESS: u32 = 3;

/// Who races.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Runner {
    /// This project, as it comes.
    PgReplica,
    /// Patroni, with the fastest settings that its own check lets pass.
    PatroniFastest,
    /// Patroni, as it comes.
    Patroni,
}

/// How commits are replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// They wait for nobody.
    Async,
    /// They wait for one of two standbys.
    Quorum,
}

/// What befalls the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Its machine is gone, all at once.
    HostLost,
    /// Its server's first process is killed.
    PostgresKilled,
    /// Its manager is killed, and stays away.
    ManagerKilled,
    /// Its manager stands still.
    ManagerFrozen,
    /// Its server stands still.
    PostgresFrozen,
    /// Its machine stands still, and goes on after somebody else has taken over.
    HostFrozen,
    /// It is cut off from everybody.
    Isolated,
    /// It is cut off from the other members, and half of the clients with it.
    IsolatedWithClients,
    /// The other members do not hear it; it hears them.
    OneWay,
    /// Somebody asks for another primary.
    Switchover,
    /// Nothing happens, and nobody writes.
    Idle,
}

/// One fault on one kind of cluster, for one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Start {
    /// Who runs.
    pub runner: Runner,
    /// How.
    pub replication: Replication,
    /// Against what.
    pub fault: Fault,
    /// Which time.
    pub run: u32,
}

/// What came of one that reached its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heat {
    /// Which it was.
    #[serde(flatten)]
    pub start: Start,
    /// What is measured, and how; see [`HARNESS`].
    pub harness: u32,
    /// The commit that this was built from, as far as the folder of the race tells.
    pub commit: String,
    /// What there is to know.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The figures of a heat; times are seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// The longest time without a commit that a client was told of and that remained.
    pub outage: f64,
    /// Whether the fault was ended meanwhile: the outage would have lasted for longer.
    pub outage_cut_short: bool,
    /// For how long a former primary acknowledged rows which its successor does not have, while the
    /// successor acknowledged as well.
    pub overlap: f64,
    /// Whether it did so to the end of the fault: without that it would have gone on.
    pub overlap_cut_short: bool,
    /// Whether everybody streamed again before the count.
    pub whole: bool,
    /// Rows that clients were told of.
    pub acknowledged: u64,
    /// Those of them that are nowhere in the end.
    pub lost: u64,
    /// The same of the writer at every server's private socket, whom no fault cuts off.
    pub lost_beside: u64,
    /// Resident memory of the managers and guards, per machine, in megabytes.
    pub manager_mb: f64,
    /// What they took of a core while nothing happened, per machine, in per cent; of idle heats.
    pub manager_cpu: Option<f64>,
    /// The same of what the manager needs besides.
    pub needed_mb: f64,
    /// See `needed_mb`.
    pub needed_cpu: Option<f64>,
}

/// One that broke off, and is run again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Void {
    /// Which it was.
    #[serde(flatten)]
    pub start: Start,
    /// See [`HARNESS`].
    pub harness: u32,
    /// The commit that this was built from.
    pub commit: String,
    /// Why nothing came of it.
    pub why: String,
}

/// What to race, and how often.
#[derive(Clone, Debug)]
pub struct Card {
    /// The program of a node.
    pub node: PathBuf,
    /// Patroni's.
    pub patroni: PathBuf,
    /// Who.
    pub runners: Vec<Runner>,
    /// How.
    pub replications: Vec<Replication>,
    /// Against what.
    pub faults: Vec<Fault>,
    /// How often each.
    pub runs: u32,
    /// How many at a time.
    pub jobs: usize,
    /// Leave the folders where they are.
    pub keep: bool,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [name(&self.runner), name(&self.replication), name(&self.fault)];
        write!(f, "{:<16} {:<7} {:<22} {:>2}", words[0], words[1], words[2], self.run)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outage, overlap, lost, acknowledged, .. } = self;
        write!(f, "outage {outage:>6.2}s  overlap {overlap:>6.2}s  ")?;
        write!(f, "lost {lost:>4}  rows {acknowledged:>5}")
    }
}

/// What `kebab-case` calls it.
fn name<T: Serialize>(of: &T) -> String {
    let value = serde_json::to_value(of).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

impl Start {
    fn kind(&self, card: &Card) -> Kind {
        match self.runner {
            Runner::PgReplica => Kind::Ours(card.node.clone(), Log::AsUsual),
            Runner::PatroniFastest => Kind::Patroni(card.patroni.clone(), Pace::FASTEST),
            Runner::Patroni => Kind::Patroni(card.patroni.clone(), Pace::DEFAULT),
        }
    }

    /// Three machines and four clients; when what happens is not in it.
    fn plan(&self) -> Result<Plan, BadInput> {
        let mode = match self.replication {
            Replication::Async => "async",
            Replication::Quorum => "quorum-sync",
        };
        let mut text = String::new();
        let _ = write!(
            text,
            "claim = \"A heat of the race.\"\nduration = \"1s\"\nseed = {}\n\
             [cluster]\nnodes = 3\nmode = \"{mode}\"\ncommit_fence = false\n\
             [workload]\nwriters = 4\nreaders = 0\nstale = 0\n",
            self.run
        );
        Ok(read("the race's own plan", &text)?.plan(u64::from(self.run)))
    }

    fn heat(&self, number: u32, card: &Card) -> Result<Figures, String> {
        let plan = self.plan().map_err(|bad| bad.to_string())?;
        let options = world::Options { kind: self.kind(card), keep: card.keep };
        let heat = || world::heat(&plan, self.fault, number, &options);
        caught(heat).map_err(|error| error.to_string())
    }
}

impl Card {
    /// Every heat of it, so that one that is broken off has about as many of each.
    fn starts(&self) -> impl Iterator<Item = Start> {
        let faults = self.faults.iter().copied();
        (1..=self.runs)
            .flat_map(move |run| faults.clone().map(move |fault| (run, fault)))
            .flat_map(|(run, fault)| {
                let replications = self.replications.iter().copied();
                replications.map(move |replication| (run, fault, replication))
            })
            .flat_map(|(run, fault, replication)| {
                let runners = self.runners.iter().copied();
                runners.map(move |runner| Start { runner, replication, fault, run })
            })
    }
}

/// The results of this folder, as far as they were measured as they are today.
pub fn results(folder: &Path) -> io::Result<Vec<Heat>> {
    lines(&folder.join(RESULTS))
}

/// The heats of this folder that broke off.
pub fn voids(folder: &Path) -> io::Result<Vec<Void>> {
    lines(&folder.join(VOIDS))
}

/// What is in one of its files.
fn lines<T: DeserializeOwned>(file: &Path) -> io::Result<Vec<T>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let bad = |error: serde_json::Error| {
            let place = format!("{}:{}", file.display(), number + 1);
            let why = format!(
                "{place}: no result of a heat: {error}; without the line, its heat is run again"
            );
            io::Error::other(why)
        };
        let one: Value = serde_json::from_str(line).map_err(bad)?;
        if one["harness"] == HARNESS {
            found.push(serde_json::from_value(one).map_err(bad)?);
        }
    }
    Ok(found)
}

/// Runs what the folder has not, and adds there what came of it. Returns how many heats broke off;
/// they are tried again next time.
pub fn run(
    card: &Card,
    folder: &Path,
    mut each: impl FnMut(&Start, &Result<Figures, String>),
) -> io::Result<u32> {
    let known: BTreeSet<Start> = results(folder)?.iter().map(|heat| heat.start).collect();
    let waiting = card.starts().filter(|start| !known.contains(start));
    let commit = commit();
    let (mut broken, mut noted) = (0, Ok(()));
    let work = |(number, start): (u32, Start)| (start, start.heat(number, card));
    spread(card.jobs, (0..).zip(waiting), work, |(start, outcome)| {
        each(&start, &outcome);
        let (harness, commit) = (HARNESS, commit.clone());
        noted = match outcome {
            Ok(figures) => note(&folder.join(RESULTS), &Heat { start, harness, commit, figures }),
            Err(why) => {
                broken += 1;
                note(&folder.join(VOIDS), &Void { start, harness, commit, why })
            }
        };
        noted.is_ok()
    });
    noted.map(|()| broken)
}

fn note(file: &Path, what: &impl Serialize) -> io::Result<()> {
    let mut kept = fs::OpenOptions::new().create(true).append(true).open(file)?;
    // At once: half a line would be in the way of every later race.
    kept.write_all((serde_json::to_string(what)? + "\n").as_bytes())
}

/// What is checked out here, and whether anything besides the race's own files differs from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let asked = Command::new("git").args(arguments).output();
        let said = asked.ok().filter(|said| said.status.success());
        said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=10", "HEAD"]);
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs/bench"]);
    match (head, changed) {
        (Some(head), Some(changed)) if changed.is_empty() => head,
        (Some(head), _) => format!("{head}-changed"),
        (None, _) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let start = Start {
            runner: Runner::PatroniFastest,
            replication: Replication::Quorum,
            fault: Fault::OneWay,
            run: 2,
        };
        let figures = Figures { outage: 1.25, lost: 3, ..Figures::default() };
        let heat = Heat { start, harness: HARNESS, commit: "7accb67".into(), figures };
        let line = serde_json::to_string(&heat).unwrap();
        assert!(line.contains("\"runner\":\"patroni-fastest\""), "{line}");
        let back: Heat = serde_json::from_str(&line).unwrap();
        assert_eq!(back.start, start);
        assert_eq!(back.figures.lost, 3);
        assert!(start.plan().unwrap().cluster.members().count() == 3);
        assert!(serde_json::from_str::<Heat>(r#"{"runner":"patroni","run":1}"#).is_err());
    }

    #[test]
    fn a_heat_that_was_measured_otherwise_counts_for_nothing() {
        let folder = std::env::temp_dir().join(format!("chaos-race-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(RESULTS);
        let (replication, fault) = (Replication::Async, Fault::HostLost);
        let start = Start { runner: Runner::PgReplica, replication, fault, run: 1 };
        let heat = |harness| {
            let figures = Figures::default();
            serde_json::to_string(&Heat { start, harness, commit: String::new(), figures }).unwrap()
        };
        let before = r#"{"runner":"patroni","run":1}"#;
        fs::write(&file, [before, &heat(HARNESS - 1), &heat(HARNESS)].join("\n")).unwrap();
        let known = results(&folder);
        let start = Start { run: 2, ..start };
        let why = "nobody acknowledges".to_owned();
        let void = Void { start, harness: HARNESS, commit: String::new(), why };
        note(&folder.join(VOIDS), &void).unwrap();
        let broken = voids(&folder);
        fs::write(&file, "no JSON\n").unwrap();
        let bad = results(&folder).map(|_| ()).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(known.unwrap().len(), 1);
        assert_eq!(broken.unwrap()[0].start.run, 2);
        assert!(bad.contains("results.jsonl:1: no result of a heat"), "{bad}");
    }

    #[test]
    fn a_card_has_every_heat_once() {
        let card = Card {
            node: PathBuf::new(),
            patroni: PathBuf::new(),
            runners: vec![Runner::PgReplica, Runner::Patroni],
            replications: vec![Replication::Async, Replication::Quorum],
            faults: vec![Fault::HostLost, Fault::Idle],
            runs: 3,
            jobs: 1,
            keep: false,
        };
        let all: Vec<Start> = card.starts().collect();
        let each: BTreeSet<Start> = all.iter().copied().collect();
        assert_eq!((all.len(), each.len()), (24, 24));
        assert!(all[..8].iter().all(|start| start.run == 1));
    }
}
