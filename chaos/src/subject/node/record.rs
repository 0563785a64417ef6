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
use crate::subject::{Entry, Subject};

/// What all members have, in the order of time.
pub(super) async fn read(
    subject: &NodeCluster,
    members: Vec<NodeId>,
    lost: BTreeSet<NodeId>,
    began: Duration,
) -> Result<Vec<Entry>, String> {
    let mut all = Vec::new();
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
        let commands = commands_of(subject, node, &source).await?;
        if said.is_empty() && !commands.is_empty() {
            return Err(format!("the log of {node} does not say when it applied anything"));
        }
        let mut state = ControlState::default();
        for (index, command) in commands {
            let applied = state.apply(&command, Sabotage::NONE);
            // What was committed and not applied here before the end nobody acted on here.
            let Some((at, words)) = said.get(&index) else { continue };
            let otherwise = (!says(words, &command, &applied)).then(|| words.clone());
            let state = Arc::new(state.clone());
            all.push(Entry { at: *at, node, index, command, applied, otherwise, state });
        }
    }
    all.sort_by_key(|entry| (entry.at, entry.index));
    Ok(all)
}

/// The commands in a member's store, by index. It is copied first: what is examined stays as it is.
async fn commands_of(
    subject: &NodeCluster,
    node: NodeId,
    source: &Path,
) -> Result<Vec<(u64, Command)>, String> {
    let told = |why: String| format!("the store of {node} cannot be read: {why}");
    let copy = subject.folder(node).join("examined");
    fs::create_dir_all(&copy).map_err(|error| told(error.to_string()))?;
    fs::copy(source, copy.join(FILE)).map_err(|error| told(error.to_string()))?;
    let disk = OsDisk::new(&copy).map_err(|error| told(error.to_string()))?;
    let owner = StoreOwner { node, cluster: "chaos".into(), fresh: Incarnation::default() };
    let opened = Store::open(&disk, owner, Sabotage::NONE).await;
    let (mut store, _) = opened.map_err(|error| told(error.to_string()))?;
    let commands = read_log(&mut store).await.map_err(|error| told(error.to_string()))?;
    let first = commands.first().map_or(0, |(index, _)| *index);
    if first > 16 {
        return Err(told(format!("its log begins with entry {first}")));
    }
    Ok(commands)
}

async fn read_log(store: &mut Store<OsDisk>) -> std::io::Result<Vec<(u64, Command)>> {
    let entries = RaftLogReader::<TypeConfig<TokioRuntime>>::try_get_log_entries(store, ..).await?;
    let commands = entries.into_iter().filter_map(|entry| match entry.payload {
        EntryPayload::Normal(command) => Some((entry.log_id.index, command)),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    });
    Ok(commands.collect())
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
