//! What a data directory holds, as a plain value: the log, the timelines, the control file.
//!
//! It knows no time, no process and no network. Every rule about which log continues which is
//! here, and it is Postgres's rule: timelines are compared by number and switch point. The epoch
//! in which a timeline was born is recorded beside it and never consulted by the server itself.

use std::collections::BTreeMap;

use pg_replica::env::{TimelineBirth, Upstream};
use pg_replica::ids::{Epoch, Lsn, SystemId, Timeline, WalPosition};

use crate::witness::Row;

/// Where the log of a directory that `initdb` has just made ends.
const FIRST_LSN: Lsn = Lsn(0x0150_0000);

/// One record of the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its end.
    pub end: Lsn,
    /// The timeline that it was written on.
    pub timeline: Timeline,
    /// The epoch under which its writer was primary.
    pub epoch: Epoch,
    /// What it commits; `None` for a checkpoint or an end of recovery.
    pub row: Option<Row>,
}

/// What was moved out of the way instead of being destroyed.
#[derive(Clone, Debug)]
pub struct SetAside {
    /// The records that were kept.
    pub records: Vec<Record>,
    /// The timelines of the directory that they come from.
    pub history: Vec<TimelineBirth>,
}

/// What a promotion leaves that is cut short, once it has begun: the server is still a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutPromotion {
    /// A log file of the new timeline.
    Segment,
    /// The same, and no sign any more that the server starts in recovery.
    Signal,
    /// The same, and the timeline's history: its number is taken.
    History,
    /// The same, and the record that opens the timeline, of which the control file knows nothing.
    Record,
}

impl CutPromotion {
    /// All of it, in the order in which a server comes by it.
    pub const ALL: [Self; 4] = [Self::Segment, Self::Signal, Self::History, Self::Record];
}

/// Where two directories part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The index of the last timeline that both have.
    pub last_common: usize,
    /// The end of what both have.
    pub at: Lsn,
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The cluster that it belongs to.
    pub system: SystemId,
    /// Whether a server ever ran in it, or in what it is a copy of.
    pub ever_started: bool,
    /// Whether the control file says that the server was shut down.
    pub clean: bool,
    /// Whether the server starts in recovery.
    pub standby_signal: bool,
    /// A rewind was cut short: nothing but a clone mends it.
    pub broken: bool,
    /// The upstream that the configuration names.
    pub upstream: Option<Upstream>,
    /// Where its next recovery begins: what a server had replayed when it ended.
    pub replayed: Lsn,
    /// The position that has to be reached, on this timeline, before it is consistent: where the
    /// source of a rewind had got to when that ended.
    pub min_recovery: Option<(Timeline, Lsn)>,
    wal: Vec<Record>,
    base: Lsn,
    recycled_to: Lsn,
    flushed: Lsn,
    history: Vec<TimelineBirth>,
    highest_timeline: Timeline,
    /// Lines that an upstream told it of, by the number of their newest timeline, as they lie in
    /// the files of its log. One that is there already is not asked for again.
    told: BTreeMap<Timeline, Vec<TimelineBirth>>,
    rows: u64,
}

impl Directory {
    /// What `initdb` makes.
    #[must_use]
    pub fn new(system: SystemId, epoch: Epoch) -> Self {
        Self {
            system,
            ever_started: false,
            clean: true,
            standby_signal: false,
            broken: false,
            upstream: None,
            replayed: FIRST_LSN,
            min_recovery: None,
            wal: Vec::new(),
            base: FIRST_LSN,
            recycled_to: FIRST_LSN,
            flushed: FIRST_LSN,
            history: vec![TimelineBirth { timeline: Timeline(1), born: epoch, begins: Lsn(0) }],
            highest_timeline: Timeline(1),
            told: BTreeMap::new(),
            rows: 0,
        }
    }

    /// A base backup of this directory: everything that is on its disk, to be started in recovery.
    #[must_use]
    pub fn backup(&self) -> Self {
        let mut copy = self.clone();
        copy.lose_unflushed();
        copy.clean = true;
        copy.standby_signal = true;
        copy.ever_started = true;
        copy.upstream = None;
        copy.told.clear();
        copy.replayed = copy.flushed;
        copy
    }

    /// Whether what is on the disk reaches the point of consistency.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.min_recovery.is_none_or(|(_, lsn)| self.flushed >= lsn)
    }

    /// Whether the timelines of `upstream` lead through the point of consistency, judged by number.
    #[must_use]
    pub fn can_complete_with(&self, upstream: &[TimelineBirth]) -> bool {
        let Some((timeline, lsn)) = self.min_recovery else { return true };
        let next = upstream.iter().position(|birth| birth.timeline == timeline).map(|at| at + 1);
        next.is_some_and(|next| upstream.get(next).is_none_or(|birth| lsn <= birth.begins))
    }

    /// The end of the last record, on disk or not.
    #[must_use]
    pub fn written(&self) -> Lsn {
        self.wal.last().map_or(self.base, |record| record.end)
    }

    /// The end of what is on disk.
    #[must_use]
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// The timelines, oldest first.
    #[must_use]
    pub fn history(&self) -> &[TimelineBirth] {
        &self.history
    }

    /// The newest timeline.
    #[must_use]
    pub fn birth(&self) -> TimelineBirth {
        *self.history.last().expect("a directory has at least the timeline of its initdb")
    }

    /// The timeline that the newest one came after, as its history says.
    #[must_use]
    pub fn parent(&self) -> Timeline {
        self.history.iter().nth_back(1).map_or(Timeline(0), |birth| birth.timeline)
    }

    /// The newest timeline and the end of what is on disk.
    #[must_use]
    pub fn position(&self) -> WalPosition {
        let birth = self.birth();
        WalPosition { born: birth.born, timeline: birth.timeline, flushed: self.flushed }
    }

    /// How many rows the log holds, on disk or not.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.rows
    }

    /// The newest row, on disk or not.
    #[must_use]
    pub fn last_row(&self) -> Option<Row> {
        self.wal.iter().rev().find_map(|record| record.row)
    }

    /// The rows that are on disk, in order.
    pub fn flushed_rows(&self) -> impl Iterator<Item = Row> + '_ {
        let end = self.index_after(self.flushed);
        self.wal[..end].iter().filter_map(|record| record.row)
    }

    /// The records that begin at `from` and are on disk.
    #[must_use]
    pub fn flushed_after(&self, from: Lsn) -> &[Record] {
        let end = self.index_after(self.flushed);
        &self.wal[self.index_after(from).min(end)..end]
    }

    /// Bytes that a recovery has to read: the whole log stands for what follows a checkpoint.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.written().ahead_of(self.base)
    }

    /// Writes a record without flushing it, and returns its end.
    pub fn append(&mut self, epoch: Epoch, row: Option<Row>, bytes: u64) -> Lsn {
        let end = Lsn(self.written().0 + bytes.max(1));
        self.wal.push(Record { end, timeline: self.birth().timeline, epoch, row });
        self.rows += u64::from(row.is_some());
        end
    }

    /// Writes what came from an upstream whose timelines are `upstream`, without flushing it. A
    /// record on a timeline that this directory has not reached yet brings the timeline with it.
    pub fn receive(&mut self, records: &[Record], upstream: &[TimelineBirth]) {
        let known = self.written();
        for record in records.iter().filter(|record| record.end > known) {
            let newest = self.birth().timeline;
            let births = upstream
                .iter()
                .filter(|birth| birth.timeline > newest && birth.timeline <= record.timeline);
            self.history.extend(births);
            self.wal.push(*record);
            self.rows += u64::from(record.row.is_some());
        }
        self.know(upstream);
    }

    /// Keeps the histories of timelines that exist elsewhere, before it has anything of these: the
    /// next timeline gets a greater number.
    pub fn know(&mut self, upstream: &[TimelineBirth]) {
        let own = self.birth().timeline;
        for (at, birth) in upstream.iter().enumerate().filter(|(_, birth)| birth.timeline > own) {
            self.told.entry(birth.timeline).or_insert_with(|| upstream[..=at].to_vec());
        }
    }

    /// The newest line that it was told of and has not come to.
    #[must_use]
    pub fn hearsay(&self) -> Option<&[TimelineBirth]> {
        let (timeline, line) = self.told.last_key_value()?;
        (*timeline > self.birth().timeline).then_some(line)
    }

    /// Forgets what it was only told of.
    pub fn forget_hearsay(&mut self) {
        let own = self.birth().timeline;
        self.told.retain(|timeline, _| *timeline <= own);
    }

    /// The line that a server goes by from now on which went by `line`: the newest that it was told
    /// of, where that is a child of the other and leaves it at a place that is still ahead.
    #[must_use]
    pub fn next_line(&self, line: &[TimelineBirth]) -> Option<Vec<TimelineBirth>> {
        let newest = self.hearsay()?;
        let parent = line.last()?.timeline;
        let at = newest.iter().position(|birth| birth.timeline == parent)?;
        let left_at = newest.get(at + 1)?.begins;
        (self.written() <= left_at).then(|| newest.to_vec())
    }

    /// Everything up to `lsn` is on disk now.
    pub fn flush_to(&mut self, lsn: Lsn) {
        self.flushed = self.flushed.max(lsn.min(self.written()));
    }

    /// How many records are written and not flushed.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.wal.len() - self.index_after(self.flushed)
    }

    /// The process died: of the records that were not flushed the operating system has `kept`.
    pub fn survive_crash(&mut self, kept: usize) {
        let end = self.index_after(self.flushed) + kept;
        self.truncate(end);
    }

    /// The machine lost its power: what was not flushed is gone.
    pub fn lose_unflushed(&mut self) {
        self.survive_crash(0);
    }

    /// Ends recovery: a new timeline from the end of the log, with the record that opens it. It
    /// came after the newest one of the `line` that the server goes by, says its history, also
    /// where that was not reached.
    pub fn promote(&mut self, epoch: Epoch, line: &[TimelineBirth]) -> TimelineBirth {
        let timeline = self.next_timeline();
        let birth = TimelineBirth { timeline, born: epoch, begins: self.written() };
        let own = self.birth().timeline;
        self.history.extend(line.iter().filter(|birth| birth.timeline > own));
        self.history.push(birth);
        self.highest_timeline = timeline;
        self.standby_signal = false;
        self.upstream = None;
        self.append(epoch, None, 48);
        self.flush_to(self.written());
        birth
    }

    /// Ends a promotion before it is done. What is left is a standby's to whoever knows that a
    /// promotion was under way, and it starts in recovery again. Returns the timeline that was
    /// opened, if one was.
    pub fn cut_promotion(
        &mut self,
        epoch: Epoch,
        line: &[TimelineBirth],
        left: CutPromotion,
    ) -> Option<TimelineBirth> {
        match left {
            CutPromotion::Segment | CutPromotion::Signal => None,
            CutPromotion::History => {
                self.highest_timeline = self.next_timeline();
                None
            }
            CutPromotion::Record => {
                let birth = self.promote(epoch, line);
                self.standby_signal = true;
                Some(birth)
            }
        }
    }

    fn next_timeline(&self) -> Timeline {
        let told = self.told.keys().next_back().copied().unwrap_or_default();
        Timeline(self.highest_timeline.max(self.birth().timeline).max(told).0 + 1)
    }

    /// Whether a standby that has `timeline` up to `start` can stream from this log, judged as
    /// Postgres judges it.
    pub fn can_continue(&self, timeline: Timeline, start: Lsn) -> Result<(), String> {
        let Some(index) = self.history.iter().position(|birth| birth.timeline == timeline) else {
            return Err(if timeline > self.birth().timeline {
                format!(
                    "the highest timeline of the primary is behind recovery timeline {timeline}"
                )
            } else {
                format!("requested timeline {timeline} is not in this server's history")
            });
        };
        if start > self.end_of(index) {
            return Err(format!(
                "requested starting point {start} on timeline {timeline} is not in this server's \
                 history"
            ));
        }
        if start < self.recycled_to {
            return Err("the requested write-ahead log has already been removed".to_owned());
        }
        Ok(())
    }

    /// Where this directory and `source` part, judged as `pg_rewind` judges it: by the numbers and
    /// the beginnings of the timelines. `None` where they have no timeline in common.
    #[must_use]
    pub fn fork_with(&self, source: &Self) -> Option<Fork> {
        let common = self
            .history
            .iter()
            .zip(&source.history)
            .take_while(|(own, other)| own.timeline == other.timeline && own.begins == other.begins)
            .count();
        let last_common = common.checked_sub(1)?;
        let at = self.end_of(last_common).min(source.end_of(last_common));
        Some(Fork { last_common, at })
    }

    /// Whether a record of this log ends there: what lies before a fork has to be readable.
    #[must_use]
    pub fn has_record_ending_at(&self, lsn: Lsn) -> bool {
        lsn == self.base || self.wal.binary_search_by_key(&lsn, |record| record.end).is_ok()
    }

    /// Whether the log between `from` and now was recycled in part.
    #[must_use]
    pub fn lacks_log_since(&self, from: Lsn) -> bool {
        from < self.recycled_to
    }

    /// Removes what is older than the end of what is on disk, as a checkpoint without a
    /// replication slot does. The rows stay: they are in the tables.
    pub fn recycle(&mut self) {
        self.recycle_to(self.flushed);
    }

    /// Removes what is older than that. A copy never had it: it comes with the log that was written
    /// since it was begun.
    pub fn recycle_to(&mut self, from: Lsn) {
        self.recycled_to = self.recycled_to.max(from);
    }

    /// Goes back to the fork and returns what only this directory had.
    pub fn rewind_to(&mut self, fork: Fork) -> SetAside {
        let history = self.history.clone();
        let keep = self.index_after(fork.at);
        let records = self.wal[keep..].to_vec();
        self.truncate(keep);
        self.history.truncate(fork.last_common + 1);
        self.told.clear();
        self.flushed = self.written();
        // What follows the fork comes from the source, whose log this directory has from there on.
        self.recycled_to = self.recycled_to.min(self.flushed);
        SetAside { records, history }
    }

    /// Everything, to be moved aside.
    #[must_use]
    pub fn set_aside(self) -> SetAside {
        SetAside { records: self.wal, history: self.history }
    }

    /// Where the timeline at `index` ends: where the next one left it, or at the end of the disk.
    fn end_of(&self, index: usize) -> Lsn {
        self.history.get(index + 1).map_or(self.flushed, |next| next.begins)
    }

    fn index_after(&self, lsn: Lsn) -> usize {
        self.wal.partition_point(|record| record.end <= lsn)
    }

    fn truncate(&mut self, records: usize) {
        let gone = self.wal[records..].iter().filter(|record| record.row.is_some()).count();
        self.rows -= u64::try_from(gone).expect("a count fits into 64 bits");
        self.wal.truncate(records);
        self.flushed = self.flushed.min(self.written());
        let written = self.written();
        self.replayed = self.replayed.min(written);
        // A timeline of which no record is left has not been reached.
        while self.history.len() > 1 && self.birth().begins >= written {
            self.history.pop();
        }
    }
}

/// Up to where two lines are the same to a server, which knows of no epochs; `None` where they do
/// not part.
#[must_use]
pub(super) fn parting(one: &[TimelineBirth], other: &[TimelineBirth]) -> Option<Lsn> {
    let same = |(a, b): &(&TimelineBirth, &TimelineBirth)| {
        a.timeline == b.timeline && a.begins == b.begins
    };
    let common = one.iter().zip(other).take_while(same).count();
    let next = [one, other].map(|line| line.get(common).map(|birth| birth.begins));
    next.into_iter().flatten().min()
}

impl SetAside {
    /// The rows in what was kept.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.positions().map(|(_, row)| row)
    }

    /// The same, with the end of the record of each.
    pub fn positions(&self) -> impl Iterator<Item = (Lsn, Row)> + '_ {
        self.records.iter().filter_map(|record| Some((record.end, record.row?)))
    }
}
