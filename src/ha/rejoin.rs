//! Rejoin: does a data directory's history agree with the recorded one, and if not, since when?
//!
//! The comparison is by birth, not by number: a timeline that was born in another epoch than the
//! record says is another history, even where number and switch point are the same.

use crate::env::TimelineBirth;
use crate::ids::Lsn;
use crate::sabotage::{Sabotage, Saboteur};

use super::state::Core;

/// How a directory relates to the recorded history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// A part of it: streaming brings it up to date.
    Behind,
    /// It has log that the recorded history lacks, from here on.
    Diverged {
        /// The first position that only the directory has.
        from: Lsn,
    },
    /// The record does not reach back far enough, or has no line in common.
    Unrelated,
    /// Only a recovery can tell where the directory ends.
    Unknown,
}

/// Compares a directory's `history`, which ends at `flushed`, with the recorded lineage.
#[must_use]
pub(super) fn compare(
    history: &[TimelineBirth],
    flushed: Option<Lsn>,
    lineage: &[TimelineBirth],
    sabotage: Sabotage,
) -> Relation {
    let Some(newest) = history.last() else { return Relation::Unrelated };
    let same = |a: &TimelineBirth, b: &TimelineBirth| {
        if sabotage.is(Saboteur::IgnoreTimelineBirth) {
            a.timeline == b.timeline
        } else {
            a.timeline == b.timeline && a.born == b.born
        }
    };
    // The newest line that both have is the last stretch of common log.
    let common = history
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, birth)| lineage.iter().position(|l| same(l, birth)).map(|l| (at, l)));
    let Some((at, line)) = common else { return Relation::Unrelated };
    // Both leave the common timeline somewhere: where they first differ, the directory diverged.
    let recorded_end = lineage.get(line + 1).map(|next| next.begins);
    let own_next = history.get(at + 1).map(|next| next.begins);
    match (own_next, recorded_end) {
        (Some(own), Some(recorded)) => Relation::Diverged { from: own.min(recorded) },
        (Some(own), None) => Relation::Diverged { from: own },
        (None, None) => Relation::Behind,
        (None, Some(end)) => {
            assert_eq!(history.get(at), Some(newest), "the common line is the newest");
            match flushed {
                None => Relation::Unknown,
                Some(flushed) if flushed > end => Relation::Diverged { from: end },
                Some(_) => Relation::Behind,
            }
        }
    }
}

impl Core {
    /// Remembers which log only this directory has, because it may not be seen any more when a copy
    /// is about to replace it.
    pub(super) fn note_divergence(&mut self) {
        let Some(seen) = self.agent.seen() else { return };
        let relation = compare(&seen.history, seen.flushed, &self.control.lineage, self.sabotage);
        match (relation, seen.flushed) {
            (Relation::Diverged { from }, Some(to)) => self.agent.diverged = Some((from, to)),
            (Relation::Behind, _) => self.agent.diverged = None,
            (Relation::Diverged { .. } | Relation::Unrelated | Relation::Unknown, _) => {}
        }
    }

    /// I7: what the operator is told before a copy replaces the directory.
    pub(super) fn what_a_copy_replaces(&self) -> Option<String> {
        let newest = self.agent.seen()?.history.last()?;
        let why = self.agent.starved.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
        Some(match self.agent.diverged {
            Some((from, to)) => format!(
                "copying anew{why}: the log from {from} to {to} is only in the old directory, \
                 which is set aside"
            ),
            None => format!(
                "copying anew{why}: the old directory, on {} of {}, is set aside",
                newest.timeline, newest.born
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Timeline};

    fn birth(timeline: u32, born: u64, begins: u64) -> TimelineBirth {
        TimelineBirth { timeline: Timeline(timeline), born: Epoch(born), begins: Lsn(begins) }
    }

    fn relation(history: &[TimelineBirth], flushed: u64, births: &[TimelineBirth]) -> Relation {
        compare(history, Some(Lsn(flushed)), births, Sabotage::NONE)
    }

    #[test]
    fn a_standby_of_the_last_primary_is_behind() {
        let births = [birth(1, 1, 0), birth(2, 2, 100)];
        assert_eq!(relation(&births[..1], 90, &births), Relation::Behind);
        assert_eq!(relation(&births[..1], 100, &births), Relation::Behind);
        assert_eq!(relation(&births, 500, &births), Relation::Behind);
    }

    #[test]
    fn an_old_primary_with_a_tail_has_diverged_from_the_switch_point() {
        let births = [birth(1, 1, 0), birth(2, 2, 100)];
        assert_eq!(relation(&births[..1], 130, &births), Relation::Diverged { from: Lsn(100) });
    }

    #[test]
    fn the_same_number_born_in_another_epoch_is_another_history() {
        let recorded = [birth(1, 1, 0), birth(2, 3, 100)];
        let own = [birth(1, 1, 0), birth(2, 2, 100)];
        assert_eq!(relation(&own, 140, &recorded), Relation::Diverged { from: Lsn(100) });
    }

    #[test]
    fn an_unrecorded_promotion_on_top_of_the_last_record_has_diverged() {
        let recorded = [birth(1, 1, 0)];
        let own = [birth(1, 1, 0), birth(2, 2, 70)];
        assert_eq!(relation(&own, 80, &recorded), Relation::Diverged { from: Lsn(70) });
    }

    #[test]
    fn a_crashed_directory_at_the_fork_is_unknown_until_it_recovers() {
        let births = [birth(1, 1, 0), birth(2, 2, 100)];
        let crashed = compare(&births[..1], None, &births, Sabotage::NONE);
        assert_eq!(crashed, Relation::Unknown);
    }

    #[test]
    fn nothing_in_common_is_unrelated() {
        assert_eq!(relation(&[birth(1, 9, 0)], 5, &[birth(1, 1, 0)]), Relation::Unrelated);
        assert_eq!(relation(&[], 5, &[birth(1, 1, 0)]), Relation::Unrelated);
    }
}
