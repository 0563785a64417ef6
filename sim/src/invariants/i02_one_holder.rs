//! **I2 one holder per epoch.** Epochs grow by one per decision. A timeline belongs to exactly one
//! epoch's holder: two nodes never extend the same timeline from different histories.
//!
//! Checked on every control state that any member has seen: an epoch has the same holder in all of
//! them, and between two of them it grew by no more than the commands between them can give.
//! Checked on every acknowledgement: the server holds the epoch it acknowledges in. Checked on
//! every birth and every start as primary: a timeline with its birth epoch has one creator, one
//! first position and one history, in which no timeline begins before the one that it came after:
//! a server goes by what its history says, and would take, and send, what is not in it. Since the
//! epoch that put a database on record nobody is primary with another one's data, and in no epoch
//! does anybody acknowledge with them. (A founder that froze before its birth was on record may
//! wake up with a database of its own; no client was ever let in to it, and it is set aside.)

use std::collections::BTreeMap;
use std::time::Duration;

use pg_replica::control::ControlState;
use pg_replica::env::TimelineBirth;
use pg_replica::ids::{Epoch, NodeId, SystemId, Timeline};

use crate::witness::{Acknowledged, Row};

use super::{Findings, Invariant};

#[derive(Debug)]
struct Creation {
    server: NodeId,
    birth: TimelineBirth,
}

#[derive(Debug)]
struct Opened {
    server: NodeId,
    rows: Vec<Row>,
}

/// A server that came out of recovery or started as primary.
pub(super) struct Began<'a> {
    pub(super) server: NodeId,
    pub(super) epoch: Epoch,
    pub(super) history: &'a [TimelineBirth],
    pub(super) system: SystemId,
    pub(super) rows: &'a [Row],
}

/// The check.
#[derive(Debug, Default)]
pub(super) struct OneHolder {
    holders: BTreeMap<Epoch, NodeId>,
    created: BTreeMap<(Timeline, Epoch), Creation>,
    opened: BTreeMap<(Timeline, Epoch), Opened>,
    /// The cluster on record, and the epoch in which it was put there.
    system: Option<(SystemId, Epoch)>,
    /// The cluster that each server served, in each epoch.
    served: BTreeMap<(NodeId, Epoch), SystemId>,
    /// The cluster that the first acknowledgement belongs to.
    acknowledged: Option<SystemId>,
}

impl OneHolder {
    /// A control state, whether it is the newest or one that a straggler has just reached.
    pub(super) fn control(&mut self, at: Duration, state: &ControlState, findings: &mut Findings) {
        let first = state.timelines.keys().next().copied().unwrap_or_default();
        self.system = self.system.or(state.system.map(|system| (system, first)));
        let Some(holder) = state.primacy.holder else { return };
        let epoch = state.primacy.epoch;
        let known = *self.holders.entry(epoch).or_insert(holder);
        if known != holder {
            findings.broken(
                Invariant::I2,
                at,
                format!("{epoch} belongs to {known}, and now to {holder} as well"),
            );
        }
        if let Some(record) = state.timelines.get(&epoch)
            && record.holder != holder
        {
            findings.broken(
                Invariant::I2,
                at,
                format!("the timeline of {epoch} is recorded for {}, not {holder}", record.holder),
            );
        }
    }

    /// The newest control state followed another.
    pub(super) fn advanced(
        at: Duration,
        before: &ControlState,
        after: &ControlState,
        findings: &mut Findings,
    ) {
        let commands = after.version - before.version;
        let (old, new) = (before.primacy.epoch, after.primacy.epoch);
        // Every epoch needs its election, and the end of the one before it unless that is vacant.
        let most = if before.is_vacant() { commands.div_ceil(2) } else { commands / 2 };
        if new < old || new.0 - old.0 > most {
            findings.broken(
                Invariant::I2,
                at,
                format!("{old} was followed by {new} within {commands} commands"),
            );
        }
        if new == old && before.is_vacant() && !after.is_vacant() && old != Epoch(0) {
            findings.broken(Invariant::I2, at, format!("{old} had ended and was given again"));
        }
    }

    pub(super) fn acknowledged(&mut self, ack: &Acknowledged, findings: &mut Findings) {
        if let Some(served) = self.served.get(&(ack.server, ack.epoch)).copied() {
            let known = self.system.map(|(system, _)| system).or(self.acknowledged);
            if known.is_some_and(|known| known != served) {
                let what = format!("{} acknowledged a row of another cluster", ack.server);
                findings.broken(Invariant::I2, ack.at, what);
            }
            self.acknowledged.get_or_insert(served);
        }
        let what = match self.holders.get(&ack.epoch) {
            Some(holder) if *holder == ack.server => return,
            Some(holder) => format!(
                "{} acknowledged row {:?} in {}, which belongs to {holder}",
                ack.server, ack.row, ack.epoch
            ),
            None => format!(
                "{} acknowledged row {:?} in {}, which nobody was given",
                ack.server, ack.row, ack.epoch
            ),
        };
        findings.broken(Invariant::I2, ack.at, what);
    }

    pub(super) fn timeline_created(
        &mut self,
        at: Duration,
        server: NodeId,
        birth: TimelineBirth,
        findings: &mut Findings,
    ) {
        let key = (birth.timeline, birth.born);
        let known = self.created.entry(key).or_insert(Creation { server, birth });
        if known.server != server || known.birth != birth {
            findings.broken(
                Invariant::I2,
                at,
                format!(
                    "{} of {} was created by {} at {} and again by {server} at {}",
                    birth.timeline, birth.born, known.server, known.birth.begins, birth.begins
                ),
            );
        }
    }

    pub(super) fn became_primary(
        &mut self,
        at: Duration,
        began: &Began<'_>,
        findings: &mut Findings,
    ) {
        let Began { server, epoch, history, system, rows } = *began;
        let birth = *history.last().expect("a server has the timeline of its initdb at least");
        self.served.insert((server, epoch), system);
        if self.system.is_some_and(|(known, since)| epoch >= since && known != system) {
            findings.broken(
                Invariant::I2,
                at,
                format!("{server} is primary of {epoch} with the data of another cluster"),
            );
        }
        if !history.is_sorted_by_key(|birth| birth.begins) {
            findings.broken(
                Invariant::I2,
                at,
                format!("{server} is primary on a timeline that began before the one before it"),
            );
        }
        let key = (birth.timeline, birth.born);
        if let Some(creation) = self.created.get(&key)
            && creation.server != server
        {
            findings.broken(
                Invariant::I2,
                at,
                format!(
                    "{server} extends {} of {}, which {} created",
                    birth.timeline, birth.born, creation.server
                ),
            );
        }
        if let Some(opened) = self.opened.get(&key) {
            let forked = !rows.starts_with(&opened.rows);
            if opened.server != server || forked {
                findings.broken(
                    Invariant::I2,
                    at,
                    format!(
                        "{server} extends {} of {}, which {} extended from another history",
                        birth.timeline, birth.born, opened.server
                    ),
                );
            }
        }
        self.opened.insert(key, Opened { server, rows: rows.to_vec() });
    }
}

#[cfg(test)]
mod tests {
    use pg_replica::control::TimelineRecord;
    use pg_replica::ids::Lsn;

    use super::super::testing::{assert_broken, assert_kept, birth, commit, ms, rows, state};
    use super::*;

    fn began(server: u64, system: u64, rows: &[Row]) -> Began<'_> {
        Began {
            server: NodeId(server),
            epoch: Epoch(2),
            history: &[TimelineBirth { timeline: Timeline(2), born: Epoch(2), begins: Lsn(100) }],
            system: SystemId(system),
            rows,
        }
    }

    #[test]
    fn a_second_holder_of_one_epoch_is_seen() {
        let (mut check, mut findings) = (OneHolder::default(), Findings::default());
        check.control(ms(1), &state(2, 1, Some(1)), &mut findings);
        check.control(ms(2), &state(3, 1, None), &mut findings);
        check.control(ms(3), &state(4, 2, Some(2)), &mut findings);
        assert_kept(&findings);
        check.control(ms(4), &state(5, 2, Some(3)), &mut findings);
        assert_broken(&findings, Invariant::I2, "e2 belongs to n2, and now to n3");
    }

    #[test]
    fn a_history_that_runs_backwards_is_seen() {
        let (mut check, mut findings) = (OneHolder::default(), Findings::default());
        check.became_primary(ms(1), &began(1, 7, &[]), &mut findings);
        assert_kept(&findings);
        let history = [birth(2, 2, 100), birth(3, 3, 60)];
        let began = Began { epoch: Epoch(3), history: &history, ..began(1, 7, &[]) };
        check.became_primary(ms(2), &began, &mut findings);
        assert_broken(&findings, Invariant::I2, "began before the one before it");
    }

    #[test]
    fn an_epoch_that_was_skipped_is_seen() {
        let mut findings = Findings::default();
        let (held, vacant) = (state(4, 1, Some(1)), state(5, 1, None));
        OneHolder::advanced(ms(1), &held, &vacant, &mut findings);
        OneHolder::advanced(ms(1), &held, &state(6, 2, Some(2)), &mut findings);
        OneHolder::advanced(ms(1), &vacant, &state(6, 2, Some(2)), &mut findings);
        OneHolder::advanced(ms(1), &vacant, &state(8, 3, Some(2)), &mut findings);
        assert_kept(&findings);
        OneHolder::advanced(ms(1), &vacant, &state(6, 3, Some(2)), &mut findings);
        assert_broken(&findings, Invariant::I2, "e1 was followed by e3 within 1 commands");
    }

    #[test]
    fn an_ended_epoch_that_is_given_again_is_seen() {
        let mut findings = Findings::default();
        OneHolder::advanced(ms(1), &state(5, 1, None), &state(6, 1, Some(2)), &mut findings);
        assert_broken(&findings, Invariant::I2, "e1 had ended and was given again");
    }

    #[test]
    fn an_acknowledgement_in_somebody_elses_epoch_is_seen() {
        let (mut check, mut findings) = (OneHolder::default(), Findings::default());
        check.control(ms(1), &state(2, 1, Some(1)), &mut findings);
        check.acknowledged(&commit(2, 1, 1, 1), &mut findings);
        assert_kept(&findings);
        check.acknowledged(&commit(3, 2, 1, 2), &mut findings);
        assert_broken(&findings, Invariant::I2, "which belongs to n1");
    }

    #[test]
    fn a_timeline_with_two_creators_is_seen() {
        let (mut check, mut findings) = (OneHolder::default(), Findings::default());
        check.timeline_created(ms(1), NodeId(1), birth(2, 2, 100), &mut findings);
        check.timeline_created(ms(2), NodeId(1), birth(2, 2, 100), &mut findings);
        check.timeline_created(ms(2), NodeId(2), birth(2, 3, 90), &mut findings);
        assert_kept(&findings);
        check.timeline_created(ms(3), NodeId(2), birth(2, 2, 100), &mut findings);
        assert_broken(&findings, Invariant::I2, "created by n1 at 0/64 and again by n2");
    }

    #[test]
    fn a_restart_on_the_same_history_is_right_and_a_forked_one_is_seen() {
        let (mut check, mut findings) = (OneHolder::default(), Findings::default());
        check.became_primary(ms(1), &began(1, 7, &rows(&[1, 2])), &mut findings);
        check.became_primary(ms(2), &began(1, 7, &rows(&[1, 2, 3])), &mut findings);
        assert_kept(&findings);
        check.became_primary(ms(3), &began(1, 7, &rows(&[1, 2, 4])), &mut findings);
        assert_broken(&findings, Invariant::I2, "from another history");
    }

    #[test]
    fn a_primary_of_another_cluster_is_seen() {
        let (mut check, mut findings) = (OneHolder::default(), Findings::default());
        let mut born = state(3, 1, Some(1));
        born.system = Some(SystemId(7));
        check.control(ms(1), &born, &mut findings);
        check.became_primary(ms(1), &began(1, 7, &[]), &mut findings);
        assert_kept(&findings);
        check.became_primary(ms(2), &began(1, 8, &[]), &mut findings);
        assert_broken(&findings, Invariant::I2, "the data of another cluster");
    }

    #[test]
    fn a_founder_that_was_never_born_may_wake_up_and_may_not_acknowledge() {
        let (mut check, mut findings) = (OneHolder::default(), Findings::default());
        check.control(ms(1), &state(2, 1, Some(1)), &mut findings);
        let mut born = state(5, 2, Some(2));
        born.system = Some(SystemId(7));
        born.timelines
            .insert(Epoch(2), TimelineRecord { holder: NodeId(2), birth: birth(1, 2, 0) });
        check.control(ms(2), &born, &mut findings);
        let late = Began { epoch: Epoch(1), history: &[birth(1, 1, 0)], ..began(1, 8, &[]) };
        check.became_primary(ms(3), &late, &mut findings);
        assert_kept(&findings);
        check.acknowledged(&commit(4, 1, 1, 1), &mut findings);
        assert_broken(&findings, Invariant::I2, "a row of another cluster");
    }
}
