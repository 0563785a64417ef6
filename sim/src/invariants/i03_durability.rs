//! **I3 durability.** In `quorum-sync` mode every acknowledged commit is in the history of every
//! later primary.
//!
//! Checked at every start as primary: each commit that waited for a confirmation or had to, and
//! each row that a client read on a primary under such a configuration, is in the history of the
//! new one. Checked on every acknowledgement: it waited for as many confirmations as its mode and
//! its members demand. That number is computed here, from the mode that the operator chose and from
//! who votes, holds the data and may be primary; what the product has on record as its
//! configuration only tells when a change of either has taken effect, and by the end of a run every
//! change must have. Checked once more at the end, against the last primary. Exempt is what an
//! operator gave up by a forced failover; a commit that was made before the operator went over to
//! asynchronous mode falls under I4 from that moment on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::control::{ControlState, MemberKind, Mode};
use pg_replica::ids::{Epoch, NodeId};

use crate::witness::{Acknowledged, Row, Untold};

use super::{Findings, Invariant};

#[derive(Clone, Copy, Debug)]
struct Kept {
    at: Duration,
    server: NodeId,
    /// The newest epoch whose primary is known to have had it.
    epoch: Epoch,
    how: &'static str,
}

/// How many confirmations a commit has to wait for.
#[derive(Debug, Default)]
struct Demands {
    /// By mode and members alone.
    now: u32,
    /// The same by epoch; less only while a change of mode or members is on its way into force.
    least: BTreeMap<Epoch, u32>,
}

impl Demands {
    fn control(&mut self, state: &ControlState) {
        let (epoch, before) = (state.primacy.epoch, self.now);
        self.now = demanded(state);
        // A state may bring an election and a change at once, where the one between was not seen.
        let least = self.least.entry(epoch).or_insert(before);
        *least = self.now.min(*least);
        // The record says when, and only when: what counts after it is computed here.
        let mut own = state.sync.configs.iter().filter(|config| config.epoch == epoch).peekable();
        if own.peek().is_some() && own.all(|config| config.confirmations >= self.now) {
            *least = self.now;
        }
    }

    fn least(&self, epoch: Epoch) -> u32 {
        self.least.get(&epoch).copied().unwrap_or_default()
    }
}

/// With the primary, those who confirm are a majority of the voters that may be primary; a newcomer
/// without data is none yet. There is no quorum of one.
fn demanded(state: &ControlState) -> u32 {
    if state.settings.mode == Mode::Async {
        return 0;
    }
    let members = state.admitted.len();
    // An even number of voters is never made.
    let voters = state.admitted.iter().take(members.saturating_sub((members + 1) % 2));
    let may_lead = voters.filter(|node| {
        let member = state.members.get(node);
        let fit = member.is_some_and(|m| m.kind == MemberKind::Data && !m.no_failover);
        fit && !state.newcomers.contains(node)
    });
    let may_lead = may_lead.count();
    let others = (0..).find(|others| (others + 1) * 2 > may_lead).unwrap_or_default();
    u32::try_from(others).unwrap_or(u32::MAX).max(1)
}

/// The check.
#[derive(Debug, Default)]
pub(super) struct Durability {
    kept: BTreeMap<Row, Kept>,
    /// Epochs that an operator ended with a forced failover.
    given_up: BTreeSet<Epoch>,
    /// When nothing was demanded last.
    asynchronous_at: Option<Duration>,
    asynchronous_now: bool,
    /// Who was admitted and is not counted on yet.
    newcomers: BTreeSet<NodeId>,
    demands: Demands,
    /// How many rows the operator gave up.
    pub(super) given_up_rows: u64,
}

impl Durability {
    pub(super) fn control(&mut self, at: Duration, state: &ControlState) {
        if let Some(ended) = ended_by_force(state) {
            self.given_up.insert(ended);
        }
        let now = demanded(state) == 0;
        if now || self.asynchronous_now {
            // It counted until this very moment, also where this state is the one that ends it.
            self.asynchronous_at = Some(at);
        }
        self.asynchronous_now = now;
        self.newcomers.clone_from(&state.newcomers);
        self.demands.control(state);
    }

    /// A commit was acknowledged: it waited for enough, and from now on it has to last.
    pub(super) fn acknowledged(&mut self, ack: &Acknowledged, findings: &mut Findings) {
        let least = self.demands.least(ack.epoch);
        let waited = ack.sync.confirmations;
        if waited < least {
            let what = format!(
                "{} acknowledged row {:?} in {} with {waited} confirmations, where {least} are \
                 demanded",
                ack.server, ack.row, ack.epoch
            );
            findings.broken(Invariant::I3, ack.at, what);
        }
        if waited > 0 || least > 0 {
            let how = "acknowledged";
            let kept = Kept { at: ack.at, server: ack.server, epoch: ack.epoch, how };
            self.kept.insert(ack.row, kept);
        }
    }

    /// The end of a run in which everything has recovered: no change is under way any more.
    pub(super) fn finish(&self, at: Duration, findings: &mut Findings) {
        if let Some(newcomer) = self.newcomers.first() {
            let what = format!("{newcomer} was admitted and is not counted on to this day");
            findings.broken(Invariant::I3, at, what);
        }
        if let Some((epoch, least)) = self.demands.least.last_key_value()
            && *least < self.demands.now
        {
            let what = format!(
                "{} confirmations are demanded, and {epoch} still acknowledges with {least}",
                self.demands.now
            );
            findings.broken(Invariant::I3, at, what);
        }
    }

    /// A client saw these rows. One for which nobody waited is promised by this as little as it is
    /// by its acknowledgement.
    pub(super) fn read(&mut self, at: Duration, server: NodeId, epoch: Epoch, rows: &[Untold]) {
        let least = self.demands.least(epoch);
        let how = "shown to a client";
        for untold in rows.iter().filter(|untold| untold.waited > 0 || least > 0) {
            self.kept.entry(untold.row).or_insert(Kept { at, server, epoch, how });
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
    use pg_replica::env::SyncNames;
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
        check.acknowledged(&sync_commit(10, 1, 1, 1), &mut Findings::default());
        check.acknowledged(&sync_commit(11, 1, 1, 2), &mut Findings::default());
        assert_kept(&successor(&mut check, 2, &[1, 2, 3]));
    }

    #[test]
    fn a_successor_that_lacks_a_confirmed_row_is_seen() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 1, 1), &mut Findings::default());
        check.acknowledged(&sync_commit(11, 1, 1, 2), &mut Findings::default());
        assert_broken(&successor(&mut check, 2, &[1]), Invariant::I3, "without 1 rows");
    }

    #[test]
    fn a_row_that_a_client_saw_counts_like_one_that_was_acknowledged() {
        let mut check = Durability::default();
        check.read(ms(10), NodeId(1), Epoch(1), &untold(4, 1));
        assert_broken(&successor(&mut check, 2, &[]), Invariant::I3, "shown to a client by n1");
    }

    fn untold(number: u64, waited: u32) -> Vec<Untold> {
        rows(&[number]).into_iter().map(|row| Untold { row, waited }).collect()
    }

    #[test]
    fn a_row_for_which_nobody_waited_is_promised_once_the_change_is_in_force() {
        let mut check = Durability::default();
        check.control(ms(1), &state(2, 1, Some(1)));
        check.control(ms(2), &strict(3, &[asynchronous(1), any_one(1, &[2, 3])]));
        check.read(ms(3), NodeId(1), Epoch(1), &untold(4, 0));
        assert_kept(&successor(&mut check, 2, &[]));
        check.read(ms(4), NodeId(1), Epoch(1), &untold(5, 0));
        check.control(ms(5), &strict(4, &[any_one(1, &[2, 3])]));
        check.read(ms(6), NodeId(1), Epoch(1), &untold(6, 0));
        assert_broken(&successor(&mut check, 2, &[5]), Invariant::I3, "without 1 rows");
    }

    #[test]
    fn an_elder_primary_that_comes_back_is_no_later_primary() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 2, 1), &mut Findings::default());
        assert_kept(&successor(&mut check, 1, &[]));
    }

    #[test]
    fn a_restart_in_the_same_epoch_must_keep_the_rows_too() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 2, 1, 1), &mut Findings::default());
        assert_broken(&successor(&mut check, 1, &[]), Invariant::I3, "n2 is primary of e1");
    }

    #[test]
    fn an_asynchronous_commit_is_none_of_this_files_business() {
        let mut check = Durability::default();
        check.acknowledged(&commit(10, 1, 1, 1), &mut Findings::default());
        assert_kept(&successor(&mut check, 2, &[]));
    }

    fn strict(version: u64, configs: &[SyncNames]) -> ControlState {
        let mut strict = state(version, 1, Some(1));
        strict.settings.mode = Mode::QuorumSync;
        strict.sync.configs = configs.to_vec();
        strict
    }

    fn acknowledged(check: &mut Durability, ack: &Acknowledged) -> Findings {
        let mut findings = Findings::default();
        check.acknowledged(ack, &mut findings);
        findings
    }

    #[test]
    fn what_is_demanded_is_a_majority_of_those_who_may_be_primary() {
        let mut cluster = strict(2, &[]);
        assert_eq!(demanded(&cluster), 1);
        let tagged = cluster.members.get_mut(&NodeId(3)).expect("a member");
        tagged.no_failover = true;
        assert_eq!(demanded(&cluster), 1);
        let one = cluster.members[&NodeId(1)].clone();
        cluster.members.insert(NodeId(4), one.clone());
        cluster.members.insert(NodeId(5), one);
        cluster.admitted.extend([NodeId(4), NodeId(5)]);
        assert_eq!(demanded(&cluster), 2);
        cluster.newcomers.insert(NodeId(5));
        assert_eq!(demanded(&cluster), 1);
        cluster.settings.mode = Mode::Async;
        assert_eq!(demanded(&cluster), 0);
    }

    #[test]
    fn a_record_that_asks_for_less_than_mode_and_members_is_not_believed() {
        let mut check = Durability::default();
        check.control(ms(1), &strict(2, &[any_one(1, &[2, 3])]));
        check.control(ms(2), &strict(3, &[any_one(1, &[2, 3]), asynchronous(1)]));
        check.control(ms(3), &strict(4, &[asynchronous(1)]));
        let findings = acknowledged(&mut check, &commit(12, 1, 1, 3));
        assert_broken(&findings, Invariant::I3, "with 0 confirmations, where 1 are demanded");
    }

    #[test]
    fn a_change_of_mode_counts_once_it_is_in_force_and_never_later_than_the_end() {
        let mut check = Durability::default();
        check.control(ms(1), &state(2, 1, Some(1)));
        check.control(ms(2), &strict(3, &[asynchronous(1)]));
        check.control(ms(3), &strict(4, &[asynchronous(1), any_one(1, &[2, 3])]));
        assert_kept(&acknowledged(&mut check, &commit(10, 1, 1, 1)));
        let mut findings = Findings::default();
        check.finish(ms(11), &mut findings);
        assert_broken(&findings, Invariant::I3, "e1 still acknowledges with 0");
        check.control(ms(12), &strict(5, &[any_one(1, &[2, 3])]));
        assert_kept(&acknowledged(&mut check, &sync_commit(13, 1, 1, 2)));
        let findings = acknowledged(&mut check, &commit(14, 1, 1, 3));
        assert_broken(&findings, Invariant::I3, "where 1 are demanded");
    }

    #[test]
    fn a_newcomer_that_is_never_counted_is_seen_at_the_end() {
        let mut check = Durability::default();
        let mut cluster = strict(2, &[any_one(1, &[2, 3])]);
        check.control(ms(1), &cluster);
        let mut findings = Findings::default();
        check.finish(ms(11), &mut findings);
        assert_kept(&findings);
        cluster.newcomers.insert(NodeId(3));
        check.control(ms(2), &cluster);
        check.finish(ms(11), &mut findings);
        assert_broken(&findings, Invariant::I3, "n3 was admitted and is not counted");
    }

    #[test]
    fn an_epoch_begins_with_what_is_demanded_when_it_is_given() {
        let mut check = Durability::default();
        check.control(ms(1), &strict(2, &[any_one(1, &[2, 3])]));
        let mut next = strict(3, &[asynchronous(2)]);
        next.primacy.epoch = Epoch(2);
        check.control(ms(2), &next);
        let findings = acknowledged(&mut check, &commit(12, 2, 2, 3));
        assert_broken(&findings, Invariant::I3, "where 1 are demanded");
    }

    #[test]
    fn a_change_to_asynchronous_mode_ends_the_promise_for_what_was_before() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 1, 1), &mut Findings::default());
        let mut changed = state(5, 1, Some(1));
        changed.sync.configs = vec![asynchronous(1)];
        check.control(ms(20), &changed);
        assert_kept(&successor(&mut check, 2, &[]));
        let mut back = strict(6, &[any_one(2, &[1, 3])]);
        back.primacy.epoch = Epoch(2);
        check.control(ms(60), &back);
        check.acknowledged(&sync_commit(61, 2, 2, 2), &mut Findings::default());
        assert_broken(&successor(&mut check, 3, &[]), Invariant::I3, "in e2");
    }

    #[test]
    fn what_an_operator_gave_up_is_exempt_and_what_survived_is_not() {
        let mut check = Durability::default();
        check.acknowledged(&sync_commit(10, 1, 1, 1), &mut Findings::default());
        check.acknowledged(&sync_commit(11, 1, 1, 2), &mut Findings::default());
        let mut forced = state(5, 2, Some(2));
        forced.settings.mode = Mode::QuorumSync;
        let kind = HandoverKind::Failover { accept_data_loss: true };
        let (id, from) = (CommandId(1), Epoch(1));
        forced.handover = Some(Handover { id, kind, from, former: None, to: None, begun: true });
        check.control(ms(20), &forced);
        assert_kept(&successor(&mut check, 2, &[1]));
        assert_eq!(check.given_up_rows, 1);
        assert_broken(&successor(&mut check, 3, &[]), Invariant::I3, "without 1 rows");
    }
}
