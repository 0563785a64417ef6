//! What a data directory says of itself while no server runs on it: `pg_controldata`, in English.

use std::collections::BTreeMap;

use crate::ids::{Lsn, SystemId, Timeline};

use super::births::parse_lsn;

/// The control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ControlFile {
    /// The cluster that the directory belongs to.
    pub(super) system: SystemId,
    /// Whether the server was shut down.
    pub(super) clean: bool,
    /// Whether it was a standby when it was last heard of.
    pub(super) in_recovery: bool,
    /// The newest timeline that it knows of: that of the last checkpoint, or of the point that a
    /// recovery has to reach.
    pub(super) timeline: Timeline,
    /// Where the last checkpoint's record begins.
    pub(super) checkpoint: Lsn,
    /// How large a log file is.
    pub(super) segment_bytes: u64,
    /// What a standby may not have less of than the primary had whose log it replays.
    pub(super) at_least: Vec<(&'static str, u64)>,
}

/// What the program calls that, and the parameter.
const AT_LEAST: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

impl ControlFile {
    /// Reads what the program printed.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let fields: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let field = |key: &str| {
            fields.get(key).copied().ok_or_else(|| format!("pg_controldata does not say `{key}`"))
        };
        let number = |key: &str| {
            let value = field(key)?;
            value.parse::<u64>().map_err(|_| format!("pg_controldata: `{key}` is `{value}`"))
        };
        let state = field("Database cluster state")?;
        let timeline = number("Latest checkpoint's TimeLineID")?
            .max(number("Min recovery ending loc's timeline")?);
        let checkpoint = field("Latest checkpoint location")?;
        Ok(Self {
            system: SystemId(number("Database system identifier")?),
            clean: matches!(state, "shut down" | "shut down in recovery"),
            in_recovery: matches!(state, "shut down in recovery" | "in archive recovery"),
            timeline: Timeline(u32::try_from(timeline).map_err(|error| error.to_string())?),
            checkpoint: parse_lsn(checkpoint)
                .ok_or_else(|| format!("pg_controldata: the checkpoint is at `{checkpoint}`"))?,
            segment_bytes: number("Bytes per WAL segment")?,
            at_least: AT_LEAST
                .into_iter()
                .filter_map(|(key, name)| Some((name, number(key).ok()?)))
                .collect(),
        })
    }
}

/// What a page of the log holds.
const PAGE: u64 = 8_192;
/// The header of a page, and that of the first page of a file.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// Where a record of `length` bytes that begins at `start` ends, as the server counts: with the
/// headers of the pages that it crosses, and rounded up to eight.
pub(super) fn end_of_record(start: Lsn, length: u64, segment_bytes: u64) -> Lsn {
    let mut at = start.0;
    let mut left = length;
    loop {
        let room = PAGE - at % PAGE;
        if left <= room {
            return Lsn((at + left).next_multiple_of(8));
        }
        left -= room;
        at += room;
        at += if at.is_multiple_of(segment_bytes) { LONG_HEADER } else { SHORT_HEADER };
    }
}

/// Whether a page ends there, and no record begins.
pub(super) fn is_page_end(at: Lsn) -> bool {
    at.0.is_multiple_of(PAGE)
}

/// The total length of the first record that `pg_waldump` printed.
pub(super) fn record_length(dump: &str) -> Option<u64> {
    let after = dump.split_once("len (rec/tot):")?.1;
    let total = after.split_once('/')?.1;
    total.split(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHUT_DOWN: &str = "\
pg_control version number:            1300
Database system identifier:           7575757575757575757
Database cluster state:               shut down
Latest checkpoint location:           0/1500028
Latest checkpoint's TimeLineID:       2
Min recovery ending loc's timeline:   3
Bytes per WAL segment:                16777216
";

    #[test]
    fn a_control_file_is_read() {
        let read = ControlFile::parse(SHUT_DOWN).unwrap();
        assert_eq!(read.system, SystemId(7_575_757_575_757_575_757));
        assert!(read.clean && !read.in_recovery);
        assert_eq!((read.timeline, read.checkpoint), (Timeline(3), Lsn(0x150_0028)));
        let crashed = SHUT_DOWN.replace("shut down", "in production");
        assert!(!ControlFile::parse(&crashed).unwrap().clean);
        let cut = ControlFile::parse("Database system identifier: 7").unwrap_err();
        assert!(cut.contains("Database cluster state"), "{cut}");
    }

    #[test]
    fn what_a_standby_needs_is_read() {
        let said = "wal_level setting:                    replica\n\
                    max_connections setting:              100\n\
                    max_prepared_xacts setting:           0\n";
        let read = ControlFile::parse(&(SHUT_DOWN.to_owned() + said)).unwrap();
        // Nothing is asked of max_wal_senders here.
        assert_eq!(read.at_least, [("max_connections", 100), ("max_prepared_transactions", 0)]);
    }

    #[test]
    fn a_record_ends_after_the_headers_that_it_crosses() {
        let megabytes = 16 << 20;
        assert_eq!(end_of_record(Lsn(0x150_0028), 114, megabytes), Lsn(0x150_00A0));
        // Twenty bytes fit on the page; the rest follows after the next page's header.
        assert_eq!(end_of_record(Lsn(2 * PAGE - 20), 114, megabytes), Lsn(2 * PAGE + 24 + 96));
        // The same where a new file begins.
        assert_eq!(end_of_record(Lsn(megabytes - 20), 114, megabytes), Lsn(megabytes + 40 + 96));
    }

    #[test]
    fn the_length_of_a_record_is_read() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, \
                    lsn: 0/1500028, prev 0/14FFFB0, desc: CHECKPOINT_SHUTDOWN";
        assert_eq!(record_length(line), Some(114));
        assert_eq!(record_length("nothing"), None);
    }
}
