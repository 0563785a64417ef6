//! What a server was only told of.
//!
//! Before it streams one byte a receiver fetches the histories of all newer timelines. The server
//! goes by the newest as long as it runs, and by the newest in its log after every start, and does
//! not ask again for one that it has under that number. Where its upstream was lost before anything
//! of that timeline came, this is in the way: of a line that begins elsewhere under the same
//! number, and of a promotion, which would name as its parent a timeline that begins elsewhere
//! (docs/postgres.md, "Timelines and rewinding"). So a start forgets histories of which there is no
//! log, and whoever runs and is misled is started anew.

use std::fs;
use std::io;
use std::path::Path;

use crate::env::{Observation, PostgresError, Process, Side, StartAs};
use crate::ids::{Lsn, Timeline};

use super::births::{
    Switch, histories, history_file, newest_in_log, parse_switches, switches, sync_folder,
};
use super::{OsPostgres, server, transient};

/// A timeline, and the history by which one comes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    timeline: Timeline,
    switches: Vec<Switch>,
}

impl Line {
    /// What a server has in its log, or says to have: no history is the first timeline's.
    pub(super) fn of(timeline: Timeline, history: Option<&str>) -> Option<Self> {
        Some(Self { timeline, switches: parse_switches(history.unwrap_or_default())? })
    }

    /// The newest one in the log of a directory that has come to `own`, where that is another.
    fn told(data: &Path, own: Timeline) -> io::Result<Option<Self>> {
        let newest = histories(data)?.last().copied().filter(|newest| *newest > own);
        let line =
            newest.map(|timeline| Ok(Self { timeline, switches: switches(data, timeline)? }));
        line.transpose()
    }

    /// Whether all that follows `own` on it begins at that place: nothing lies in between.
    fn goes_on_at(&self, own: Timeline, end: Lsn) -> bool {
        let at = self.switches.iter().position(|switch| switch.timeline == own);
        at.is_some_and(|at| self.switches[at..].iter().all(|switch| switch.left_at == end))
    }

    /// Whether the other one comes by way of it.
    fn is_part_of(&self, other: &Self) -> bool {
        let at = other.switches.iter().position(|switch| switch.timeline == self.timeline);
        let before = at.map_or(&other.switches[..], |at| &other.switches[..at]);
        (at.is_some() || other.timeline == self.timeline) && before == self.switches
    }
}

/// What a standby was told of, and how far it has come itself.
struct Hearsay {
    own: Timeline,
    told: Line,
    end: Lsn,
}

/// Before a standby is started: what it has no log of, it knows from others alone.
pub(super) fn forget_at_rest(data: &Path, in_control: Timeline) -> io::Result<()> {
    forget_beyond(data, in_control.max(newest_in_log(data)))
}

fn forget_beyond(data: &Path, own: Timeline) -> io::Result<()> {
    let log = data.join("pg_wal");
    let beyond: Vec<Timeline> = histories(data)?.into_iter().filter(|it| *it > own).collect();
    for timeline in &beyond {
        fs::remove_file(history_file(&log, *timeline))?;
    }
    if beyond.is_empty() { Ok(()) } else { sync_folder(&log) }
}

impl OsPostgres {
    /// Before it follows a server on that line. It follows nobody.
    pub(super) async fn forget_what_lost(
        &self,
        seen: &Observation,
        upstream: Option<&Line>,
    ) -> Result<(), PostgresError> {
        let Some(hearsay) = self.hearsay(seen)? else { return Ok(()) };
        let Some(upstream) = upstream else {
            return Err(PostgresError::Transient("it is to follow a server in recovery".into()));
        };
        if hearsay.told.is_part_of(upstream) { Ok(()) } else { self.forget(&hearsay).await }
    }

    /// Before it is promoted. It follows nobody.
    pub(super) async fn forget_what_is_no_parent(
        &self,
        seen: &Observation,
    ) -> Result<(), PostgresError> {
        let Some(hearsay) = self.hearsay(seen)? else { return Ok(()) };
        let Hearsay { own, told, end } = &hearsay;
        if told.goes_on_at(*own, *end) {
            return Ok(());
        }
        self.forget(&hearsay).await?;
        // Nor does it know any more whom its commits are to wait for.
        Err(PostgresError::Transient(format!(
            "it was told of {}, has nothing of it, and was started anew to forget it",
            told.timeline
        )))
    }

    fn hearsay(&self, seen: &Observation) -> Result<Option<Hearsay>, PostgresError> {
        let stays = seen.side == Side::Standby && seen.promoting.is_none();
        if seen.process != Process::Up || !stays {
            return Ok(None);
        }
        let own = seen.history.last().map(|birth| birth.timeline).unwrap_or_default();
        let Some(told) = Line::told(&self.plan().data, own).map_err(transient)? else {
            return Ok(None);
        };
        match seen.flushed {
            Some(end) => Ok(Some(Hearsay { own, told, end })),
            None => Err(PostgresError::Transient(format!(
                "it does not know yet whether it has come to {}",
                told.timeline
            ))),
        }
    }

    /// Nothing but an end makes a server forget.
    async fn forget(&self, hearsay: &Hearsay) -> Result<(), PostgresError> {
        let data = &self.plan().data;
        server::stop_now(data).await;
        forget_beyond(data, hearsay.own).map_err(transient)?;
        self.bring_up(&StartAs::Standby { upstream: None }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(timeline: u32, history: &str) -> Line {
        Line::of(Timeline(timeline), Some(history)).unwrap()
    }

    #[test]
    fn a_line_is_part_of_those_that_came_by_way_of_it() {
        let told = line(2, "1\t0/64\tno recovery target specified\n");
        assert!(told.is_part_of(&told));
        assert!(told.is_part_of(&line(3, "1\t0/64\tno\n\n2\t0/80\tno\n")));
        // Another one of that number, and one that came by way of another.
        assert!(!told.is_part_of(&line(2, "1\t0/60\tno\n")));
        assert!(!told.is_part_of(&line(3, "1\t0/60\tno\n\n2\t0/80\tno\n")));
        assert!(!told.is_part_of(&line(3, "1\t0/64\tno\n")));
        assert!(!told.is_part_of(&Line::of(Timeline(1), None).unwrap()));
    }

    #[test]
    fn a_parent_is_one_that_begins_where_its_child_does() {
        let told = line(3, "1\t0/64\tno\n\n2\t0/80\tno\n");
        assert!(!told.goes_on_at(Timeline(1), Lsn(0x64)), "nothing is there of 2");
        assert!(told.goes_on_at(Timeline(2), Lsn(0x80)));
        assert!(!told.goes_on_at(Timeline(2), Lsn(0x70)));
        assert!(!told.goes_on_at(Timeline(2), Lsn(0x90)), "it left the line before");
        assert!(!told.goes_on_at(Timeline(4), Lsn(0x80)));
    }
}
