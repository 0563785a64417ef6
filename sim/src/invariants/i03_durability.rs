//! **I3 durability.** In `quorum-sync` mode every acknowledged commit is in the history of every
//! later primary.
//!
//! Checked at every start as primary: each commit that was acknowledged while it waited for at
//! least one confirmation, and each row that a client read on a primary under such a configuration,
//! is in the history of the new one. Checked on every acknowledgement: it waited for as many
//! confirmations as the recorded configurations of its epoch demand. Checked once more at the end,
//! against the last primary. Exempt is what an operator gave up by a forced failover; a commit that
//! was made before the operator went over to asynchronous mode falls under I4 from that moment on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::control::ControlState;
use pg_replica::ids::{Epoch, NodeId};

use crate::witness::{Acknowledged, Row};

use super::{Findings, Invariant};

#[derive(Clone, Copy, Debug)]
struct Kept {
    at: Duration,
    server: NodeId,
    /// The newest epoch whose primary is known to have had it.
    epoch: Epoch,
    how: &'static str,
}

/// The check.
#[derive(Debug, Default)]
pub(super) struct Durability {
    kept: BTreeMap<Row, Kept>,
    /// Epochs that an operator ended with a forced failover.
    given_up: BTreeSet<Epoch>,
    /// When a configuration without confirmations was last seen in force.
    asynchronous_at: Option<Duration>,
    asynchronous_now: bool,
    /// How many rows the operator gave up.
    pub(super) given_up_rows: u64,
}

impl Durability {
    pub(super) fn control(&mut self, at: Duration, state: &ControlState) {
        if let Some(ended) = ended_by_force(state) {
            self.given_up.insert(ended);
        }
        let now = state.sync.configs.iter().any(|config| config.confirmations == 0);
        if now || self.asynchronous_now {
            // It counted until this very moment, also where this state is the one that ends it.
            self.asynchronous_at = Some(at);
        }
        self.asynchronous_now = now;
    }

    /// Whether the commit waited for as many confirmations as the record demands: a configuration
    /// leaves the record only after Postgres obeys its successor, so every member's Postgres is at
    /// least as strict as the weakest that the newest record holds for its epoch.
    pub(super) fn confirmed(ack: &Acknowledged, newest: &ControlState, findings: &mut Findings) {
        let recorded = newest.sync.configs.iter().filter(|config| config.epoch == ack.epoch);
        let least = recorded.map(|config| config.confirmations).min().unwrap_or_default();
        if ack.sync.confirmations < least {
            let what = format!(
                "{} acknowledged row {:?} in {} with {} confirmations, where {least} are demanded",
                ack.server, ack.row, ack.epoch, ack.sync.confirmations
            );
            findings.broken(Invariant::I3, ack.at, what);
        }
    }

    pub(super) fn acknowledged(&mut self, ack: &Acknowledged) {
        if ack.sync.confirmations > 0 {
            let how = "acknowledged";
            let kept = Kept { at: ack.at, server: ack.server, epoch: ack.epoch, how };
            self.kept.insert(ack.row, kept);
        }
    }

    pub(super) fn read(&mut self, at: Duration, server: NodeId, epoch: Epoch, rows: &[Row]) {
        for row in rows {
            self.kept.entry(*row).or_insert(Kept { at, server, epoch, how: "shown to a client" });
        }
    }

    pub(super) fn became_primary(
        &mut self,
        at: Duration,
        server: NodeId,
        epoch: Epoch,
        rows: &[Row],
        findings: &mut Findings,
    ) {
        let present: BTreeSet<&Row> = rows.iter().collect();
        let mut missing = Vec::new();
        for (row, kept) in &mut self.kept {
            if kept.epoch > epoch {
                continue;
            }
            if present.contains(row) {
                kept.epoch = epoch;
            } else {
                missing.push((*row, *kept));
            }
        }
        let mut first_lost = None;
        let mut lost = 0_u64;
        for (row, kept) in missing {
            self.kept.remove(&row);
            if self.given_up.range(kept.epoch..epoch).next().is_some() {
                self.given_up_rows += 1;
                continue;
            }
            let fell_under_i4 = self.asynchronous_now
                || self.asynchronous_at.is_some_and(|changed| changed >= kept.at);
            if !fell_under_i4 {
                lost += 1;
                first_lost.get_or_insert((row, kept));
            }
        }
        if let Some((row, kept)) = first_lost {
            findings.broken(
                Invariant::I3,
                at,
                format!(
                    "{server} is primary of {epoch} without {lost} rows that were safe; one is \
                     {row:?}, {} by {} at {:.3}s in {}",
                    kept.how,
                    kept.server,
                    kept.at.as_secs_f64(),
                    kept.epoch
                ),
            );
        }
    }
}

/// The epoch that this state's holder was put after by force, if it was.
fn ended_by_force(state: &ControlState) -> Option<Epoch> {
    let handover = state.handover.as_ref()?;
    let elected = !state.is_vacant() && state.primacy.epoch == handover.from.next();
    (elected && state.accepts_data_loss(handover.from)).then_some(handover.from)
}

#[cfg(test)]
mod tests {
    use pg_replica::control::{Handover, HandoverKind};
    use pg_replica::ids::CommandId;

    use super::super::testing::{
        any_one, assert_broken, assert_kept, asynchronous, commit, ms, rows, state, sync_commit,
    };
    use super::*;

    fn successor(check: &mut Durability, epoch: u64, numbers: &[u64]) -> Findings {
        let mut findings = Findings::default();
        check.became_primary(ms(50), NodeId(2), Epoch(epoch), &rows(numbers), &mut findings);
        findings
    }

    #[test]
    fn a_successor_that_has_every_confirmed_row_is_right() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 1, 1));
        check.acknowledged(&sync_commit(11, 1, 1, 2));
        assert_kept(&successor(&mut check, 2, &[1, 2, 3]));
    }

    #[test]
    fn a_successor_that_lacks_a_confirmed_row_is_seen() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 1, 1));
        check.acknowledged(&sync_commit(11, 1, 1, 2));
        assert_broken(&successor(&mut check, 2, &[1]), Invariant::I3, "without 1 rows");
    }

    #[test]
    fn a_row_that_a_client_saw_counts_like_one_that_was_acknowledged() {
        let mut check = Durability::default();
        check.read(ms(10), NodeId(1), Epoch(1), &rows(&[4]));
        assert_broken(&successor(&mut check, 2, &[]), Invariant::I3, "shown to a client by n1");
    }

    #[test]
    fn an_elder_primary_that_comes_back_is_no_later_primary() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 2, 1));
        assert_kept(&successor(&mut check, 1, &[]));
    }

    #[test]
    fn a_restart_in_the_same_epoch_must_keep_the_rows_too() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 2, 1, 1));
        assert_broken(&successor(&mut check, 1, &[]), Invariant::I3, "n2 is primary of e1");
    }

    #[test]
    fn an_asynchronous_commit_is_none_of_this_files_business() {
        let mut check = Durability::default();
        check.acknowledged(&commit(10, 1, 1, 1));
        assert_kept(&successor(&mut check, 2, &[]));
    }

    #[test]
    fn a_commit_that_waited_for_fewer_than_the_record_demands_is_seen() {
        let mut findings = Findings::default();
        let mut strict = state(5, 1, Some(1));
        strict.sync.configs = vec![asynchronous(1), any_one(1, &[2, 3])];
        Durability::confirmed(&commit(10, 1, 1, 1), &strict, &mut findings);
        assert_kept(&findings);
        strict.sync.configs.remove(0);
        Durability::confirmed(&sync_commit(11, 1, 1, 2), &strict, &mut findings);
        assert_kept(&findings);
        Durability::confirmed(&commit(12, 1, 1, 3), &strict, &mut findings);
        assert_broken(&findings, Invariant::I3, "with 0 confirmations, where 1 are demanded");
    }

    #[test]
    fn a_change_to_asynchronous_mode_ends_the_promise_for_what_was_before() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 1, 1));
        let mut changed = state(5, 1, Some(1));
        changed.sync.configs = vec![asynchronous(1)];
        check.control(ms(20), &changed);
        assert_kept(&successor(&mut check, 2, &[]));
        check.control(ms(60), &state(6, 2, Some(2)));
        check.acknowledged(&sync_commit(61, 2, 2, 2));
        assert_broken(&successor(&mut check, 3, &[]), Invariant::I3, "in e2");
    }

    #[test]
    fn what_an_operator_gave_up_is_exempt_and_what_survived_is_not() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 1, 1));
        check.acknowledged(&sync_commit(11, 1, 1, 2));
        let mut forced = state(5, 2, Some(2));
        let kind = HandoverKind::Failover { accept_data_loss: true };
        let (id, from) = (CommandId(1), Epoch(1));
        forced.handover = Some(Handover { id, kind, from, former: None, to: None, begun: true });
        check.control(ms(20), &forced);
        assert_kept(&successor(&mut check, 2, &[1]));
        assert_eq!(check.given_up_rows, 1);
        assert_broken(&successor(&mut check, 3, &[]), Invariant::I3, "without 1 rows");
    }
}
