//! Which primacy created which timeline of a data directory.
//!
//! PostgreSQL numbers timelines and says nothing of who began them, so two of them may bear one
//! number. A small file in the data directory keeps the epoch of each. It travels with the
//! directory: base backups and rewinds copy it, and a standby takes over its upstream's before it
//! streams one byte from there. A promotion is written down as intended before it is asked for;
//! which timeline came of it is settled by looking, whoever looks first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::env::TimelineBirth;
use crate::ids::{Epoch, Lsn, Timeline};

/// The file's name, in the data directory.
pub(super) const FILE: &str = "pg_replica.births";

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Births {
    format: u32,
    /// The epoch of each timeline. One that is missing was born before the cluster was managed.
    born: BTreeMap<Timeline, Epoch>,
    /// A promotion that was asked for: the epoch, and the timeline that it left.
    intended: Option<(Epoch, Timeline)>,
    /// Whether a server was ever started on the directory.
    pub(super) started: bool,
}

impl Births {
    /// Those of a directory that was created in `epoch`.
    pub(super) fn first(epoch: Epoch) -> Self {
        let born = BTreeMap::from([(Timeline(1), epoch)]);
        Self { format: FORMAT, born, intended: None, started: false }
    }

    /// Those of a directory that nobody wrote them for.
    pub(super) fn unknown() -> Self {
        Self { format: FORMAT, born: BTreeMap::new(), intended: None, started: true }
    }

    /// Reads them from a data directory.
    pub(super) fn read(data: &Path) -> io::Result<Self> {
        match fs::read(data.join(FILE)) {
            Ok(bytes) => Self::parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::unknown()),
            Err(error) => Err(error),
        }
    }

    /// Reads them from what a file held.
    pub(super) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let births: Self = serde_json::from_slice(bytes)
            .map_err(|error| io::Error::other(format!("{FILE} is damaged: {error}")))?;
        if births.format > FORMAT {
            return Err(io::Error::other(format!(
                "{FILE} has format {}, and this program knows {FORMAT}: run the newer version",
                births.format
            )));
        }
        Ok(births)
    }

    /// Writes them, durably and as a whole.
    pub(super) fn write(&self, data: &Path) -> io::Result<()> {
        write_whole(&data.join(FILE), &serde_json::to_vec(self).map_err(io::Error::other)?)
    }

    /// Whether any primacy is known to have created any of it, or was about to: what came of that
    /// shows only to whoever looks next.
    pub(super) fn any(&self) -> bool {
        !self.born.is_empty() || self.intended.is_some()
    }

    /// Says that a promotion in `epoch` follows, from `timeline`.
    pub(super) fn intend(&mut self, epoch: Epoch, timeline: Timeline) {
        self.intended = Some((epoch, timeline));
    }

    /// Whether a promotion was intended of which nothing was seen to come.
    pub(super) fn is_intended(&self) -> bool {
        self.intended.is_some()
    }

    /// Settles what was intended, now that the directory is on `timeline`. Returns whether
    /// anything changed.
    pub(super) fn settle(&mut self, timeline: Timeline) -> bool {
        let Some((epoch, from)) = self.intended else { return false };
        if timeline == from {
            return false;
        }
        self.intended = None;
        self.born.insert(timeline, epoch);
        true
    }

    /// Forgets what was intended: the directory follows somebody, on that one's timelines.
    pub(super) fn adopt(&mut self, upstream: &Self, own: Timeline) {
        self.intended = None;
        // What this directory has reached is its own history, whatever others think of the number.
        let further = upstream.born.iter().filter(|(timeline, _)| **timeline > own);
        self.born.retain(|timeline, _| *timeline <= own);
        self.born.extend(further);
    }

    /// The history of a directory that is on `timeline`, where `switches` says where each earlier
    /// timeline was left.
    pub(super) fn history(&self, timeline: Timeline, switches: &[Switch]) -> Vec<TimelineBirth> {
        let born = |timeline: Timeline| self.born.get(&timeline).copied().unwrap_or_default();
        let mut begins = Lsn(0);
        let mut history = Vec::new();
        for switch in switches {
            let timeline = switch.timeline;
            history.push(TimelineBirth { timeline, born: born(timeline), begins });
            begins = switch.left_at;
        }
        history.push(TimelineBirth { timeline, born: born(timeline), begins });
        history
    }
}

/// A line of PostgreSQL's history file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switch {
    /// The timeline.
    pub(super) timeline: Timeline,
    /// Where the next one left it.
    pub(super) left_at: Lsn,
}

/// The history file of `timeline`, in the log of the directory. The first timeline has none.
pub(super) fn switches(data: &Path, timeline: Timeline) -> io::Result<Vec<Switch>> {
    if timeline == Timeline(1) {
        return Ok(Vec::new());
    }
    let file = history_file(&data.join("pg_wal"), timeline);
    let text = fs::read_to_string(&file)
        .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
    parse_switches(&text)
        .ok_or_else(|| io::Error::other(format!("{} is no timeline history", file.display())))
}

/// The newest timeline of which the directory holds log. One that has no history has not begun: a
/// promotion makes its first log file before anything else, and may get no further.
pub(super) fn newest_in_log(data: &Path) -> Timeline {
    let log = data.join("pg_wal");
    let has_begun =
        |timeline: &u32| *timeline == 1 || history_file(&log, Timeline(*timeline)).exists();
    let entries = fs::read_dir(&log);
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let timelines = names.filter_map(|name| {
        let name = name.to_str()?;
        let is_segment = name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit());
        is_segment.then(|| u32::from_str_radix(&name[..8], 16).ok())?
    });
    Timeline(timelines.collect::<BTreeSet<_>>().into_iter().rfind(has_begun).unwrap_or(1))
}

/// The timelines whose histories are in the log, in order.
pub(super) fn histories(data: &Path) -> io::Result<Vec<Timeline>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data.join("pg_wal"))? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".history"));
        let number = number.filter(|number| number.len() == 8);
        found.extend(number.and_then(|number| u32::from_str_radix(number, 16).ok()).map(Timeline));
    }
    found.sort_unstable();
    Ok(found)
}

/// The file with the history of a timeline.
pub(super) fn history_file(log: &Path, timeline: Timeline) -> PathBuf {
    log.join(format!("{:08X}.history", timeline.0))
}

/// What is in such a file.
pub(super) fn parse_switches(text: &str) -> Option<Vec<Switch>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = Timeline(words.next()?.parse().ok()?);
            Some(Switch { timeline, left_at: parse_lsn(words.next()?)? })
        })
        .collect()
}

/// A position as PostgreSQL writes it, `16/B374D848`.
pub(super) fn parse_lsn(text: &str) -> Option<Lsn> {
    let (high, low) = text.trim().split_once('/')?;
    let high = u64::from(u32::from_str_radix(high, 16).ok()?);
    let low = u64::from(u32::from_str_radix(low, 16).ok()?);
    Some(Lsn(high << 32 | low))
}

/// Puts a file in the place of another: all of it or nothing, and on the disk.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path, "new");
    let mut file =
        fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    if let Ok(old) = fs::metadata(path.parent().unwrap_or(Path::new("/"))) {
        give_to(&beside, &old)?;
    }
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Which files are in a folder is on the disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// What stands beside a file or a directory, and is called after it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

/// A file belongs to whoever owns its folder: the node may be root, and PostgreSQL never is.
fn give_to(path: &Path, owner: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let own = fs::metadata(path)?;
    if own.uid() != owner.uid() {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_that_happened_is_settled_by_whoever_looks() {
        let mut births = Births::first(Epoch(1));
        births.intend(Epoch(4), Timeline(1));
        assert!(!births.settle(Timeline(1)), "not yet promoted");
        assert!(births.settle(Timeline(2)));
        let switches = [Switch { timeline: Timeline(1), left_at: Lsn(100) }];
        let history = births.history(Timeline(2), &switches);
        let expected = [
            TimelineBirth { timeline: Timeline(1), born: Epoch(1), begins: Lsn(0) },
            TimelineBirth { timeline: Timeline(2), born: Epoch(4), begins: Lsn(100) },
        ];
        assert_eq!(history, expected);
    }

    #[test]
    fn a_directory_that_a_primacy_was_to_be_promoted_in_is_somebodys() {
        let mut births = Births::unknown();
        assert!(!births.any());
        births.intend(Epoch(1), Timeline(1));
        assert!(births.any());
    }

    #[test]
    fn a_follower_learns_what_lies_ahead_and_keeps_what_it_has() {
        let mut own = Births::first(Epoch(1));
        own.born.insert(Timeline(2), Epoch(2));
        let mut upstream = Births::first(Epoch(1));
        upstream.born.insert(Timeline(2), Epoch(3));
        upstream.born.insert(Timeline(3), Epoch(5));
        own.adopt(&upstream, Timeline(2));
        assert_eq!(own.born.get(&Timeline(2)), Some(&Epoch(2)));
        assert_eq!(own.born.get(&Timeline(3)), Some(&Epoch(5)));
    }

    #[test]
    fn history_files_and_positions_are_read_as_postgres_writes_them() {
        let text = "1\t0/3000158\tno recovery target specified\n\n2\t16/B374D848\tno recovery\n";
        let expected = [
            Switch { timeline: Timeline(1), left_at: Lsn(0x300_0158) },
            Switch { timeline: Timeline(2), left_at: Lsn(0x16_B374_D848) },
        ];
        assert_eq!(parse_switches(text).unwrap(), expected);
        assert!(parse_switches("what is this").is_none());
        assert_eq!(parse_lsn("0/0"), Some(Lsn(0)));
        assert_eq!(parse_lsn("0"), None);
    }
}
