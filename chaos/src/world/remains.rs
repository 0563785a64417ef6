//! I7, seen from outside: a row that was acknowledged and is nowhere in the end is still in the log
//! of whoever acknowledged it. It is in use there, or set aside, and then the operator was told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pg_replica::ids::{Lsn, NodeId, Timeline};
use sim::witness::Row;

use super::sql::parse_lsn;
use super::tale::Ack;
use crate::subject::Subject;

/// A file of the server's log, as its servers are built.
const SEGMENT: u64 = 16 << 20;
/// A page of such a file.
const PAGE: u64 = 8 << 10;
/// What a page begins with: the rest of it is log.
const HEADER: usize = 24;
/// The same of the first page of a file.
const LONG_HEADER: usize = 40;
/// How far before the position that its client was told of a row may be: each of its tables and
/// indexes may have been written as a whole page.
const BEHIND: usize = 4 * (PAGE as usize);

/// All that is left of a machine's log, wherever it is.
struct Remains {
    node: NodeId,
    /// The data directory.
    in_use: PathBuf,
    /// By the name that the server gave it.
    files: BTreeMap<String, Vec<PathBuf>>,
    /// What its operator was told is set aside.
    told: Vec<(Lsn, Option<Lsn>)>,
}

/// What became of the first of these rows, which are nowhere, that its machine has lost as well.
pub(super) fn destroyed(subject: &dyn Subject, lost: &[Ack]) -> Option<String> {
    let mut machines: BTreeMap<NodeId, Remains> = BTreeMap::new();
    for ack in lost {
        let remains =
            machines.entry(ack.server).or_insert_with(|| Remains::of(subject, ack.server));
        if let Err(why) = remains.has(ack.row, ack.timeline, ack.lsn) {
            return Some(why);
        }
    }
    None
}

impl Remains {
    fn of(subject: &dyn Subject, node: NodeId) -> Self {
        let mut files = BTreeMap::new();
        collect(&subject.folder(node), &mut files);
        let log = fs::read_to_string(subject.log(node)).unwrap_or_default();
        Self {
            node,
            in_use: subject.data(node),
            files,
            told: log.lines().filter_map(told).collect(),
        }
    }

    fn has(&self, row: Row, timeline: Timeline, lsn: Lsn) -> Result<(), String> {
        let Self { node, .. } = self;
        let name = segment(timeline, lsn.0.saturating_sub(1));
        let all = self.files.get(&name).map_or(&[][..], Vec::as_slice);
        let mut holding = all.iter().filter(|file| holds(file, timeline, lsn, row)).peekable();
        if holding.peek().is_none() {
            return Err(format!(
                "{node} acknowledged {row:?} at {lsn} of {timeline}, which is nowhere, and of the \
                 {} files {name} on its machine none has it",
                all.len()
            ));
        }
        let announced =
            |(from, to): &(Lsn, Option<Lsn>)| *from < lsn && to.is_none_or(|to| lsn <= to);
        if holding.any(|file| file.starts_with(&self.in_use)) || self.told.iter().any(announced) {
            return Ok(());
        }
        Err(format!(
            "{node} acknowledged {row:?} at {lsn} of {timeline}, which is nowhere, and set its log \
             aside; its operator was told {:?}",
            self.told
        ))
    }
}

/// Every file below a folder that is named like a part of the log.
fn collect(folder: &Path, files: &mut BTreeMap<String, Vec<PathBuf>>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, files);
            continue;
        }
        let name = name.strip_suffix(".partial").unwrap_or(&name);
        if name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            files.entry(name.to_owned()).or_default().push(path);
        }
    }
}

/// The name of the file with this byte of the log.
fn segment(timeline: Timeline, byte: u64) -> String {
    let (number, of_one) = (byte / SEGMENT, (1 << 32) / SEGMENT);
    format!("{:08X}{:08X}{:08X}", timeline.0, number / of_one, number % of_one)
}

/// Whether a file of the log has the row, not far before this position.
fn holds(file: &Path, timeline: Timeline, lsn: Lsn, row: Row) -> bool {
    let Ok(before) = Before::read(file, timeline, lsn.0) else { return false };
    let bytes = [u64::from(row.client).to_le_bytes(), row.number.to_le_bytes()].concat();
    // What goes on in this file was begun in the one before, and was kept with it.
    before.is_cut || before.words.windows(bytes.len()).any(|window| window == bytes)
}

/// What the log says before a position, as far as one file has it.
struct Before {
    words: Vec<u8>,
    /// The file begins too late.
    is_cut: bool,
}

impl Before {
    /// Its pages are of this timeline, or of one before it, with a copy of whose last file the
    /// timeline began.
    fn read(file: &Path, timeline: Timeline, lsn: u64) -> io::Result<Self> {
        let file = File::open(file)?;
        let mut words = Vec::new();
        let mut end = lsn;
        while words.len() < BEHIND {
            let last = end.saturating_sub(1);
            let begin = last - last % PAGE;
            let mut page = vec![0; usize::try_from(end - begin).unwrap_or_default()];
            file.read_exact_at(&mut page, begin % SEGMENT)?;
            let number = |at: usize, length: usize| {
                let bytes = page.get(at..at + length).unwrap_or_default();
                bytes.iter().rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte))
            };
            let its = number(8, 8) == begin && (1..=timeline.0.into()).contains(&number(4, 4));
            if !its {
                break;
            }
            let is_first = begin.is_multiple_of(SEGMENT);
            let header = if is_first { LONG_HEADER } else { HEADER };
            words.splice(0..0, page.get(header..).unwrap_or_default().iter().copied());
            if is_first {
                return Ok(Self { is_cut: words.len() < BEHIND, words });
            }
            end = begin;
        }
        Ok(Self { words, is_cut: false })
    }
}

/// The range of a line that tells an operator what is set aside.
fn told(line: &str) -> Option<(Lsn, Option<Lsn>)> {
    let (from, rest) = line.split_once("the log from ")?.1.split_once(" to ")?;
    let (to, _) = rest.split_once(" may be on this machine alone")?;
    Some((parse_lsn(from)?, if to == "its end" { None } else { Some(parse_lsn(to)?) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row = Row { client: 3, number: 7_000 };

    /// A file of the log with one page of this timeline, and this row right before the position.
    fn file(folder: &Path, timeline: u32, at: Lsn, row: Row) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let page = at.0 - at.0 % PAGE;
        let mut bytes = vec![0; usize::try_from(page % SEGMENT).unwrap()];
        bytes.extend([0; 4]);
        bytes.extend(timeline.to_le_bytes());
        bytes.extend(page.to_le_bytes());
        bytes.resize(usize::try_from(at.0 % SEGMENT).unwrap() - 16, 0xaa);
        bytes.extend(u64::from(row.client).to_le_bytes());
        bytes.extend(row.number.to_le_bytes());
        let path = folder.join(segment(Timeline(2), at.0));
        fs::write(&path, bytes).unwrap();
        path
    }

    fn remains(root: &Path, told: &[(Lsn, Option<Lsn>)]) -> Remains {
        let mut files = BTreeMap::new();
        collect(root, &mut files);
        Remains { node: NodeId(1), in_use: root.join("data"), files, told: told.to_vec() }
    }

    #[test]
    fn a_file_is_named_as_the_server_names_it() {
        assert_eq!(segment(Timeline(2), 0x1_2345_6789), "000000020000000100000023");
    }

    #[test]
    fn what_an_operator_is_told_is_read() {
        let line =
            "{\"message\":\"the log from 0/150C118 to 0/15096F8 may be on this machine alone";
        assert_eq!(told(line), Some((Lsn(0x0150_c118), Some(Lsn(0x0150_96f8)))));
        let line = "the log from 0/A0 to its end may be on this machine alone and is set aside";
        assert_eq!(told(line), Some((Lsn(0xa0), None)));
        assert_eq!(told("the log from yesterday"), None);
    }

    #[test]
    fn a_row_in_use_is_kept_and_one_aside_has_to_be_announced() {
        let root = std::env::temp_dir().join(format!("chaos-remains-{}", std::process::id()));
        let at = Lsn(0x0300_9100);
        let _ = fs::remove_dir_all(&root);
        let looked = |told: &[(Lsn, Option<Lsn>)]| remains(&root, told).has(ROW, Timeline(2), at);
        assert!(looked(&[]).unwrap_err().contains("of the 0 files"));
        // Another history's page, and another row on the right one, are not it.
        file(&root.join("aside/first"), 3, at, ROW);
        file(&root.join("aside/second"), 2, at, Row { number: 7_001, ..ROW });
        assert!(looked(&[]).unwrap_err().contains("of the 2 files"));
        file(&root.join("aside/third"), 2, at, ROW);
        assert!(looked(&[]).unwrap_err().contains("was told []"));
        assert!(looked(&[(Lsn(0x0300_0000), Some(Lsn(0x0300_90ff)))]).is_err());
        assert!(looked(&[(at, None)]).is_err());
        assert!(looked(&[(Lsn(0x0300_0000), Some(at))]).is_ok());
        assert!(looked(&[(Lsn(0x0300_0000), None)]).is_ok());
        file(&root.join("data/pg_wal"), 2, at, ROW);
        assert!(looked(&[]).is_ok());
        fs::remove_dir_all(&root).unwrap();
    }
}
