//! What the members agreed on, read from their own stores once all of them have ended, with the
//! times at which each applied it, read from their logs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use openraft::storage::RaftLogReader;
use openraft_rt_tokio::TokioRuntime;
use pg_replica::api::BY_SNAPSHOT;
use pg_replica::control::{Applied, Command, ControlState};
use pg_replica::ids::{Incarnation, NodeId};
use pg_replica::os::OsDisk;
use pg_replica::runtime::raft::{FILE, Store, StoreOwner, TypeConfig};
use pg_replica::sabotage::Sabotage;
use serde_json::Value;

use super::NodeCluster;
use crate::subject::{Entry, Record, Subject};

/// What all members have, in the order of time.
pub(super) async fn read(
    subject: &NodeCluster,
    members: Vec<NodeId>,
    lost: BTreeSet<NodeId>,
    began: Duration,
) -> Result<Record, String> {
    let mut record = Record::default();
    for node in members {
        let Some(source) = find(&subject.store(node)) else {
            if lost.contains(&node) {
                continue;
            }
            return Err(format!("{node} has no store"));
        };
        let log = fs::read_to_string(subject.log(node));
        let log = log.map_err(|error| format!("the log of {node} cannot be read: {error}"))?;
        let said = said_of_entries(&log, began);
        let Kept { commands, voters } = kept_by(subject, node, &source).await?;
        if said.is_empty() && !commands.is_empty() {
            return Err(format!("the log of {node} does not say when it applied anything"));
        }
        if !lost.contains(&node) {
            record.wrongs.extend(forgotten(node, &said, &commands));
        }
        record.wrongs.extend(leaps(node, &voters));
        let mut state = ControlState::default();
        for (index, command) in commands {
            let applied = state.apply(&command, Sabotage::NONE);
            // What was committed and not applied here before the end nobody acted on here.
            let Some((at, words)) = said.get(&index) else { continue };
            let otherwise = (!says(words, &command, &applied)).then(|| words.clone());
            let state = Arc::new(state.clone());
            record.entries.push(Entry { at: *at, node, index, command, applied, otherwise, state });
        }
    }
    record.entries.sort_by_key(|entry| (entry.at, entry.index));
    Ok(record)
}

/// What is in a member's store, by index.
#[derive(Default)]
struct Kept {
    commands: Vec<(u64, Command)>,
    /// Those whose votes count, from there on.
    voters: Vec<(u64, BTreeSet<u64>)>,
}

/// I8: what a member says that it applied is in its store, unless a snapshot stands for it.
fn forgotten(
    node: NodeId,
    said: &BTreeMap<u64, (Duration, String)>,
    commands: &[(u64, Command)],
) -> Option<(&'static str, String)> {
    let kept: BTreeSet<u64> = commands.iter().map(|(index, _)| *index).collect();
    let mut gone =
        said.iter().filter(|(index, (_, words))| words != BY_SNAPSHOT && !kept.contains(*index));
    let (index, (_, words)) = gone.next()?;
    let what = format!("{node} applied entry {index} (`{words}`), and its store does not have it");
    Some(("I8", what))
}

/// I6: voters change one at a time.
fn leaps(node: NodeId, voters: &[(u64, BTreeSet<u64>)]) -> Option<(&'static str, String)> {
    let leap =
        voters.windows(2).find(|pair| pair[0].1.symmetric_difference(&pair[1].1).count() > 1)?;
    let (from, (index, to)) = (&leap[0].1, &leap[1]);
    Some(("I6", format!("by entry {index} of {node} the voters {from:?} became {to:?} at once")))
}

/// Reads a member's store. It is copied first: what is examined stays as it is.
async fn kept_by(subject: &NodeCluster, node: NodeId, source: &Path) -> Result<Kept, String> {
    let told = |why: String| format!("the store of {node} cannot be read: {why}");
    let copy = subject.folder(node).join("examined");
    fs::create_dir_all(&copy).map_err(|error| told(error.to_string()))?;
    fs::copy(source, copy.join(FILE)).map_err(|error| told(error.to_string()))?;
    let disk = OsDisk::new(&copy).map_err(|error| told(error.to_string()))?;
    let owner = StoreOwner { node, cluster: "chaos".into(), fresh: Incarnation::default() };
    let opened = Store::open(&disk, owner, Sabotage::NONE).await;
    let (mut store, _) = opened.map_err(|error| told(error.to_string()))?;
    let kept = read_log(&mut store).await.map_err(|error| told(error.to_string()))?;
    let first = kept.commands.first().map_or(0, |(index, _)| *index);
    if first > 16 {
        return Err(told(format!("its log begins with entry {first}")));
    }
    Ok(kept)
}

async fn read_log(store: &mut Store<OsDisk>) -> std::io::Result<Kept> {
    let entries = RaftLogReader::<TypeConfig<TokioRuntime>>::try_get_log_entries(store, ..).await?;
    let mut kept = Kept::default();
    for entry in entries {
        let index = entry.log_id.index;
        match entry.payload {
            EntryPayload::Normal(command) => kept.commands.push((index, command)),
            EntryPayload::Membership(members) => {
                kept.voters.push((index, members.voter_ids().collect()));
            }
            EntryPayload::Blank => {}
        }
    }
    Ok(kept)
}

fn find(folder: &Path) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.path();
        if path.file_name().is_some_and(|name| name == FILE) {
            return Some(path);
        }
        if path.is_dir() && path.file_name().is_some_and(|name| name != "data") {
            folders.push(path);
        }
    }
    folders.iter().find_map(|folder| find(folder))
}

/// When a member applied which entry, and what it said of it then. The first time counts: a restart
/// applies nothing twice.
fn said_of_entries(log: &str, wall_at_start: Duration) -> BTreeMap<u64, (Duration, String)> {
    let mut said = BTreeMap::new();
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let Some(index) = line["index"].as_u64() else { continue };
        let Some(at) = line["timestamp"].as_str().and_then(wall_time) else { continue };
        let words = line["message"].as_str().unwrap_or_default().to_owned();
        said.entry(index).or_insert((at.saturating_sub(wall_at_start), words));
    }
    said
}

/// Whether these words are of this command, and of this end of it; a snapshot has no words of what
/// it covers.
fn says(words: &str, command: &Command, applied: &Applied) -> bool {
    match words.strip_prefix(&command.to_string()) {
        Some("") => *applied == Applied::Done,
        Some(end) => end == format!(": {applied}"),
        None => words == BY_SNAPSHOT,
    }
}

/// `2026-11-22T04:00:00.123456Z` since 1970.
fn wall_time(text: &str) -> Option<Duration> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split(':');
    let hours: u64 = time.next()?.parse().ok()?;
    let minutes: u64 = time.next()?.parse().ok()?;
    let seconds: f64 = time.next()?.parse().ok()?;
    // Years begin in March here, so that the day which some of them have more comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leaps + (month * 306 + 5) / 10 + day - 1 - 719_468;
    let whole = u64::try_from(days).ok()? * 86_400 + hours * 3_600 + minutes * 60;
    Some(Duration::from_secs(whole) + Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use pg_replica::control::VacateReason;
    use pg_replica::ids::Epoch;

    use super::*;

    #[test]
    fn a_time_of_day_is_read() {
        let secs = |text| wall_time(text).map(|time| time.as_secs());
        assert_eq!(secs("1970-01-01T00:00:00.000000Z"), Some(0));
        assert_eq!(secs("2024-02-29T12:00:01.5Z"), Some(1_709_208_001));
        assert_eq!(secs("2026-11-22T04:00:00.123456Z"), Some(1_795_320_000));
        assert_eq!(secs("yesterday"), None);
    }

    #[test]
    fn the_first_time_of_an_entry_counts() {
        let log = "{\"timestamp\":\"1970-01-01T00:00:10Z\",\"index\":3,\"message\":\"a\"}\nnoise\n\
                   {\"timestamp\":\"1970-01-01T00:00:20Z\",\"index\":3,\"message\":\"b\"}\n";
        let said = said_of_entries(log, Duration::from_secs(4));
        assert_eq!(said, [(3, (Duration::from_secs(6), "a".to_owned()))].into());
    }

    #[test]
    fn what_a_store_forgot_and_voters_that_leap_are_told() {
        let command = Command::Vacate { epoch: Epoch(1), why: VacateReason::Operator };
        let said = |index, words: &str| (index, (Duration::ZERO, words.to_owned()));
        let log = [said(3, BY_SNAPSHOT), said(4, "a"), said(5, "b")].into();
        let both = [(4, command.clone()), (5, command.clone())];
        assert_eq!(forgotten(NodeId(1), &log, &both), None);
        let (invariant, what) = forgotten(NodeId(1), &log, &both[..1]).unwrap();
        assert_eq!(invariant, "I8");
        assert!(what.contains("entry 5 (`b`)"), "{what}");
        let voters = |index, all: &[u64]| (index, all.iter().copied().collect());
        let one_by_one = [voters(1, &[1, 2, 3]), voters(9, &[1, 2, 3, 4]), voters(10, &[1, 2, 4])];
        assert_eq!(leaps(NodeId(1), &one_by_one), None);
        let (invariant, what) =
            leaps(NodeId(1), &[one_by_one[0].clone(), voters(7, &[1])]).unwrap();
        assert_eq!(invariant, "I6");
        assert!(what.contains("entry 7"), "{what}");
    }

    #[test]
    fn what_a_member_says_of_an_entry_is_compared_with_what_it_comes_to() {
        let command = Command::Vacate { epoch: Epoch(1), why: VacateReason::Operator };
        let refused = Applied::Refused("no".into());
        assert!(says(&command.to_string(), &command, &Applied::Done));
        assert!(says(&format!("{command}: done"), &command, &Applied::Done));
        assert!(says(&format!("{command}: refused: no"), &command, &refused));
        assert!(says(BY_SNAPSHOT, &command, &Applied::Done));
        assert!(!says(&command.to_string(), &command, &refused));
        assert!(!says(&format!("{command}: done"), &command, &refused));
        assert!(!says("something else", &command, &Applied::Done));
    }
}
