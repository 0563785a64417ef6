//! Rejoin: does a data directory's history agree with the recorded one, and if not, since when?
//!
//! The comparison is by birth, not by number: a timeline that was born in another epoch than the
//! record says, or at another place, is another history, even where the number is the same. The
//! server's own tools compare by number alone (docs/postgres.md); where that would mislead them,
//! they are not asked.

use crate::control::ControlState;
use crate::env::{Observation, TimelineBirth};
use crate::ids::Lsn;
use crate::sabotage::{Sabotage, Saboteur};

use super::action::{Action, Divergence};
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
        /// How it comes back.
        mend: Mend,
    },
    /// The record does not reach back far enough, or has no line in common.
    Unrelated,
    /// Only a recovery can tell where the directory ends.
    Unknown,
}

/// How a diverged directory comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// A rewind sees the same fork.
    Rewind,
    /// One number names two births, or a timeline begins before the one that it came after. A
    /// rewind goes by the numbers and by the next one: it finds nothing to do, or the wrong fork,
    /// and leaves rows behind that the primary does not have.
    Copy,
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
        if sabotage.is(Saboteur::IgnoreTimelineBirth) { a.timeline == b.timeline } else { a == b }
    };
    // The newest line that both have is the last stretch of common log.
    let common = history
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, birth)| lineage.iter().position(|l| same(l, birth)).map(|l| (at, l)));
    let Some((at, line)) = common else { return Relation::Unrelated };
    // Both leave the common timeline somewhere: where they first differ, the directory diverged.
    let diverged = |from| Relation::Diverged { from, mend: mend(history, lineage, sabotage) };
    let recorded_end = left_at(&lineage[line + 1..]);
    let own_next = left_at(&history[at + 1..]);
    match (own_next, recorded_end) {
        (Some(own), Some(recorded)) => diverged(own.min(recorded)),
        (Some(own), None) => diverged(own),
        (None, None) => Relation::Behind,
        (None, Some(end)) => {
            assert_eq!(history.get(at), Some(newest), "the common line is the newest");
            match flushed {
                None => Relation::Unknown,
                Some(flushed) if flushed > end => diverged(end),
                Some(_) => Relation::Behind,
            }
        }
    }
}

/// Where a line ends that these came after: where the first of them begins. That is not always the
/// next one: a server that is promoted before it has come to the newest timeline that it knows of
/// calls that one its parent, and begins before it (docs/postgres.md).
fn left_at(later: &[TimelineBirth]) -> Option<Lsn> {
    later.iter().map(|birth| birth.begins).min()
}

impl Core {
    /// I7: told before it happens, because nobody may be left to tell it afterwards.
    pub(super) fn tell_what_goes(&self, is_copy: bool, actions: &mut Vec<Action>) {
        let Some(seen) = self.agent.seen() else { return };
        if let Some(newest) = seen.history.last().filter(|_| is_copy) {
            let said = self.agent.starved.as_ref();
            let why = said.map(|said| format!(" ({said})")).unwrap_or_default();
            actions.push(Action::Say(format!(
                "copying anew{why}: the old directory, on {} of {}, is set aside",
                newest.timeline, newest.born
            )));
        }
        if !self.sabotage.is(Saboteur::ReplaceInSilence) {
            actions.extend(divergence(seen, &self.control, self.sabotage).map(Action::Tell));
        }
    }
}

/// I7: what the directory has and the recorded history lacks, as far as that can be known now. Too
/// much rather than too little: where nobody can tell its end, it has one beyond every fork.
fn divergence(
    seen: &Observation,
    control: &ControlState,
    sabotage: Sabotage,
) -> Option<Divergence> {
    seen.system?;
    let foreign = control.system.is_some() && seen.system != control.system;
    let end = seen.flushed.unwrap_or(Lsn(u64::MAX));
    let from = match compare(&seen.history, Some(end), &control.lineage, sabotage) {
        Relation::Behind | Relation::Diverged { .. } | Relation::Unknown if foreign => Lsn(0),
        Relation::Diverged { from, .. } => from,
        Relation::Unrelated => Lsn(0),
        Relation::Behind | Relation::Unknown => return None,
    };
    Some(Divergence { from, to: seen.flushed })
}

fn mend(history: &[TimelineBirth], lineage: &[TimelineBirth], sabotage: Sabotage) -> Mend {
    let mistakable = history
        .iter()
        .any(|own| lineage.iter().any(|other| own.timeline == other.timeline && own != other));
    let overtaken =
        [history, lineage].iter().any(|line| !line.is_sorted_by_key(|birth| birth.begins));
    if (mistakable || overtaken) && !sabotage.is(Saboteur::IgnoreTimelineBirth) {
        Mend::Copy
    } else {
        Mend::Rewind
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

    fn diverged(from: u64, mend: Mend) -> Relation {
        Relation::Diverged { from: Lsn(from), mend }
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
        assert_eq!(relation(&births[..1], 130, &births), diverged(100, Mend::Rewind));
    }

    #[test]
    fn the_same_number_born_in_another_epoch_is_another_history_that_no_rewind_sees() {
        let recorded = [birth(1, 1, 0), birth(2, 3, 100)];
        let own = [birth(1, 1, 0), birth(2, 2, 100)];
        assert_eq!(relation(&own, 140, &recorded), diverged(100, Mend::Copy));
        // Nor does it once the recorded history has gone on to a number of its own.
        let recorded = [birth(1, 1, 0), birth(2, 3, 100), birth(3, 4, 200)];
        assert_eq!(relation(&own, 140, &recorded), diverged(100, Mend::Copy));
    }

    #[test]
    fn an_unrecorded_promotion_on_top_of_the_last_record_has_diverged() {
        let recorded = [birth(1, 1, 0)];
        let own = [birth(1, 1, 0), birth(2, 2, 70)];
        assert_eq!(relation(&own, 80, &recorded), diverged(70, Mend::Rewind));
    }

    #[test]
    fn a_timeline_that_began_before_its_parent_ends_every_line_before_it_there() {
        // The holder of 3 knew of 2, had 60 of 1, and its history says that it came from 2.
        let births = [birth(1, 1, 0), birth(2, 2, 100), birth(3, 3, 60)];
        assert_eq!(relation(&births[..1], 60, &births), Relation::Behind);
        assert_eq!(relation(&births[..1], 61, &births), diverged(60, Mend::Copy));
        assert_eq!(relation(&births[..1], 100, &births), diverged(60, Mend::Copy));
        assert_eq!(relation(&births[..2], 130, &births), diverged(60, Mend::Copy));
        assert_eq!(relation(&births, 70, &births), Relation::Behind);
    }

    #[test]
    fn a_crashed_directory_at_the_fork_is_unknown_until_it_recovers() {
        let births = [birth(1, 1, 0), birth(2, 2, 100)];
        let crashed = compare(&births[..1], None, &births, Sabotage::NONE);
        assert_eq!(crashed, Relation::Unknown);
    }

    #[test]
    fn the_same_birth_at_another_place_is_another_history() {
        let births = [birth(1, 1, 0), birth(2, 2, 100)];
        assert_eq!(relation(&[births[0], birth(2, 2, 70)], 140, &births), diverged(70, Mend::Copy));
    }

    #[test]
    fn nothing_in_common_is_unrelated() {
        assert_eq!(relation(&[birth(1, 9, 0)], 5, &[birth(1, 1, 0)]), Relation::Unrelated);
        assert_eq!(relation(&[], 5, &[birth(1, 1, 0)]), Relation::Unrelated);
    }
}
