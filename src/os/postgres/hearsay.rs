//! What a server was only told of.
//!
//! Before it streams one byte a receiver fetches the histories of all newer timelines. The server
//! goes by the newest of them as long as it runs, and after every start, and does not ask again for
//! a history that it has under that number. Where its upstream was lost before anything of that
//! timeline came, this is in the way: of a line that begins elsewhere under the same number, and of
//! a promotion, which would name as its parent a timeline that begins later
//! (docs/postgres.md, "Timelines and rewinding").

use std::fs;
use std::io;
use std::path::Path;

use crate::env::{Observation, Postgres, PostgresError, Process, Side, StartAs};
use crate::ids::{Lsn, Timeline};

use super::births::{Switch, histories, history_file, parse_switches, switches, sync_folder};
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

    /// Whether a timeline of it begins after that place.
    fn goes_on_beyond(&self, end: Lsn) -> bool {
        self.switches.iter().any(|switch| switch.left_at > end)
    }

    /// Whether the other one comes by way of it.
    fn is_part_of(&self, other: &Self) -> bool {
        let at = other.switches.iter().position(|switch| switch.timeline == self.timeline);
        let before = at.map_or(&other.switches[..], |at| &other.switches[..at]);
        (at.is_some() || other.timeline == self.timeline) && before == self.switches
    }
}

impl OsPostgres {
    /// Before it follows a server on that line.
    pub(super) async fn forget_what_lost(
        &self,
        upstream: Option<&Line>,
    ) -> Result<(), PostgresError> {
        let Some((_, told)) = self.hearsay(&self.observe().await?)? else { return Ok(()) };
        let Some(upstream) = upstream else {
            return Err(PostgresError::Transient("it is to follow a server in recovery".into()));
        };
        if told.is_part_of(upstream) {
            return Ok(());
        }
        // Nothing of it may come any more.
        self.end_following().await?;
        let seen = self.observe().await?;
        if let Some((own, told)) = self.hearsay(&seen)? {
            self.forget(&seen, own, &told).await?;
        }
        Ok(())
    }

    /// Before it is promoted. It follows nobody.
    pub(super) async fn forget_what_begins_later(
        &self,
        seen: &Observation,
    ) -> Result<(), PostgresError> {
        let Some((own, told)) = self.hearsay(seen)? else { return Ok(()) };
        if !told.goes_on_beyond(seen.flushed.max(seen.replayed).unwrap_or_default()) {
            return Ok(());
        }
        self.forget(seen, own, &told).await?;
        // Nor does it know any more whom its commits are to wait for.
        Err(PostgresError::Transient(format!(
            "it was told of {}, has nothing of it, and was started anew to forget it",
            told.timeline
        )))
    }

    /// The timeline that a standby has come to, and what it was told of beyond.
    fn hearsay(&self, seen: &Observation) -> Result<Option<(Timeline, Line)>, PostgresError> {
        let stays = seen.side == Side::Standby && seen.promoting.is_none();
        if seen.process != Process::Up || !stays {
            return Ok(None);
        }
        let own = seen.history.last().map(|birth| birth.timeline).unwrap_or_default();
        let told = Line::told(&self.plan().data, own).map_err(transient)?;
        Ok(told.map(|told| (own, told)))
    }

    /// Nothing but an end makes a server forget. It follows nobody afterwards.
    async fn forget(
        &self,
        seen: &Observation,
        own: Timeline,
        told: &Line,
    ) -> Result<(), PostgresError> {
        if seen.flushed.is_none() {
            let why = format!("it does not know yet whether it has come to {}", told.timeline);
            return Err(PostgresError::Transient(why));
        }
        let data = &self.plan().data;
        server::stop_now(data).await;
        let log = data.join("pg_wal");
        for timeline in histories(data).map_err(transient)?.into_iter().filter(|it| *it > own) {
            fs::remove_file(history_file(&log, timeline)).map_err(transient)?;
        }
        sync_folder(&log).map_err(transient)?;
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
    fn what_begins_at_the_end_does_not_begin_later() {
        let told = line(3, "1\t0/64\tno\n\n2\t0/80\tno\n");
        assert!(told.goes_on_beyond(Lsn(0x64)));
        assert!(!told.goes_on_beyond(Lsn(0x80)));
    }
}
