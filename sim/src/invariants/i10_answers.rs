//! **I10 answers.** An operator's command is done once, refused, or reported as unknown; it is
//! never silently dropped or doubled.
//!
//! Checked on every control state: an order that ended never changes its outcome, and the handover
//! that an order asks for begins once at most, and never after the order was refused. Checked on
//! what operators are told: a final answer never changes, agrees with the control state, and by the
//! end of a run every order has one, even if that is "unknown"; none is left pending. "Unknown" is
//! no answer where nothing was broken any more for a good while before the operator gave up: then
//! the order must be on record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::control::{ControlState, OrderOutcome};
use pg_replica::ids::CommandId;

use super::{Findings, Invariant, OrderAnswer};

/// For how long an order may be asked for in a healthy cluster until it has to be on record: a
/// leader, a proposal, and the operator's own round over all members.
const RECORDED_WITHIN: Duration = Duration::from_secs(15);

/// The check.
#[derive(Debug, Default)]
pub(super) struct Answers {
    sent: BTreeMap<CommandId, Duration>,
    told: BTreeMap<CommandId, OrderAnswer>,
    recorded: BTreeMap<CommandId, OrderOutcome>,
    under_way: Option<CommandId>,
    begun: BTreeSet<CommandId>,
    /// When each operator stopped asking.
    gave_up: BTreeMap<CommandId, Duration>,
    /// When nothing was broken any more.
    healed: Option<Duration>,
}

impl Answers {
    pub(super) fn sent(&mut self, at: Duration, id: CommandId) {
        self.sent.entry(id).or_insert(at);
    }

    /// From here on nothing is broken.
    pub(super) fn healed(&mut self, at: Duration) {
        self.healed = Some(at);
    }

    pub(super) fn answered(
        &mut self,
        at: Duration,
        id: CommandId,
        answer: &OrderAnswer,
        findings: &mut Findings,
    ) {
        self.gave_up.insert(id, at);
        let before = self.told.insert(id, answer.clone());
        if let Some(OrderAnswer::Known(before)) = before
            && !may_become(&before, answer)
        {
            // What was known stays known, also to this check.
            self.told.insert(id, OrderAnswer::Known(before.clone()));
            if *answer != OrderAnswer::Unknown {
                let what = format!("order {id} was told to be {before:?}, then {answer:?}");
                findings.broken(Invariant::I10, at, what);
            }
        }
    }

    /// The newest control state.
    pub(super) fn control(&mut self, at: Duration, state: &ControlState, findings: &mut Findings) {
        for (id, outcome) in &state.outcomes {
            let known = self.recorded.get(id);
            if known == Some(outcome) {
                continue;
            }
            if let Some(known) = known
                && *known != OrderOutcome::Pending
            {
                let what = format!("order {id} had ended as {known:?} and is {outcome:?} now");
                findings.broken(Invariant::I10, at, what);
            }
            self.recorded.insert(*id, outcome.clone());
        }
        let now = state.handover.as_ref().map(|handover| handover.id);
        if now != self.under_way
            && let Some(id) = now
        {
            if !self.begun.insert(id) {
                let what = format!("the handover of order {id} has begun a second time");
                findings.broken(Invariant::I10, at, what);
            }
            if matches!(self.recorded.get(&id), Some(OrderOutcome::Refused(_))) {
                let what = format!("order {id} was refused and is carried out");
                findings.broken(Invariant::I10, at, what);
            }
        }
        self.under_way = now;
    }

    /// The end of the run; `settled` says that the cluster had recovered and had time to finish.
    pub(super) fn finish(&self, at: Duration, settled: bool, findings: &mut Findings) {
        for (id, sent) in &self.sent {
            let recorded = self.recorded.get(id);
            let what = match (self.told.get(id), recorded) {
                (None, _) => {
                    format!("order {id}, sent at {:.3}s, was never answered", sent.as_secs_f64())
                }
                (Some(OrderAnswer::Unknown), None)
                    if settled && self.was_asked_long(*id, *sent) =>
                {
                    format!("order {id} was asked for in a healthy cluster and never recorded")
                }
                (Some(_), Some(OrderOutcome::Pending)) if settled => {
                    format!("order {id} is pending for ever")
                }
                (Some(OrderAnswer::Known(told)), recorded)
                    if *told != OrderOutcome::Pending
                        && recorded.is_some_and(|recorded| recorded != told) =>
                {
                    format!("order {id} was told to be {told:?} and is recorded as {recorded:?}")
                }
                (Some(OrderAnswer::Known(OrderOutcome::Done(_))), None) => {
                    format!("order {id} was told to be done and no member ever recorded it")
                }
                (Some(_), _) => continue,
            };
            findings.broken(Invariant::I10, at, what);
        }
    }
}

impl Answers {
    /// Whether the operator went on asking for long enough after everything had healed.
    fn was_asked_long(&self, id: CommandId, sent: Duration) -> bool {
        let (Some(healed), Some(gave_up)) = (self.healed, self.gave_up.get(&id)) else {
            return false;
        };
        *gave_up >= healed.max(sent) + RECORDED_WITHIN
    }
}

fn may_become(before: &OrderOutcome, answer: &OrderAnswer) -> bool {
    match answer {
        OrderAnswer::Known(now) => *before == OrderOutcome::Pending || before == now,
        OrderAnswer::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use pg_replica::control::{Handover, HandoverKind};
    use pg_replica::ids::Epoch;

    use super::super::testing::{assert_broken, assert_kept, ms, state};
    use super::*;

    const ID: CommandId = CommandId(9);

    fn with(version: u64, outcome: OrderOutcome, under_way: bool) -> ControlState {
        let mut state = state(version, 1, Some(1));
        state.outcomes.push_back((ID, outcome));
        let kind = HandoverKind::Switchover;
        state.handover = under_way.then_some(Handover { id: ID, kind, from: Epoch(1), to: None });
        state
    }

    fn done() -> OrderOutcome {
        OrderOutcome::Done("n2 is primary".into())
    }

    #[test]
    fn an_order_that_is_carried_out_once_is_right() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        check.sent(ms(1), ID);
        check.control(ms(2), &with(2, OrderOutcome::Pending, true), &mut findings);
        check.answered(ms(3), ID, &OrderAnswer::Known(OrderOutcome::Pending), &mut findings);
        check.control(ms(4), &with(3, done(), false), &mut findings);
        check.answered(ms(5), ID, &OrderAnswer::Known(done()), &mut findings);
        check.answered(ms(6), ID, &OrderAnswer::Unknown, &mut findings);
        check.finish(ms(9), true, &mut findings);
        assert_kept(&findings);
    }

    #[test]
    fn an_order_that_nobody_answered_is_seen() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        check.sent(ms(1), ID);
        check.finish(ms(9), false, &mut findings);
        assert_broken(&findings, Invariant::I10, "was never answered");
    }

    #[test]
    fn an_order_of_unknown_outcome_is_answered() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        check.sent(ms(1), ID);
        check.answered(ms(2), ID, &OrderAnswer::Unknown, &mut findings);
        check.finish(ms(9), true, &mut findings);
        assert_kept(&findings);
    }

    #[test]
    fn an_order_that_a_healthy_cluster_never_records_is_seen() {
        let given_up_after = |seconds: u64| {
            let (mut check, mut findings) = (Answers::default(), Findings::default());
            check.sent(ms(1), ID);
            check.healed(ms(1_000));
            check.answered(ms(1_000 + seconds * 1_000), ID, &OrderAnswer::Unknown, &mut findings);
            check.finish(ms(99_000), true, &mut findings);
            findings
        };
        assert_kept(&given_up_after(14));
        assert_broken(&given_up_after(15), Invariant::I10, "and never recorded");
    }

    #[test]
    fn an_outcome_that_changes_is_seen() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        check.control(ms(2), &with(2, done(), false), &mut findings);
        let refused = OrderOutcome::Refused("paused already".into());
        check.control(ms(3), &with(3, refused, false), &mut findings);
        assert_broken(&findings, Invariant::I10, "had ended as Done");
    }

    #[test]
    fn a_handover_that_begins_twice_is_seen() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        check.control(ms(2), &with(2, OrderOutcome::Pending, true), &mut findings);
        check.control(ms(3), &with(3, OrderOutcome::Pending, false), &mut findings);
        check.control(ms(4), &with(4, OrderOutcome::Pending, true), &mut findings);
        assert_broken(&findings, Invariant::I10, "has begun a second time");
    }

    #[test]
    fn a_refused_order_that_is_carried_out_is_seen() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        let refused = OrderOutcome::Refused("no".into());
        check.control(ms(2), &with(2, refused, true), &mut findings);
        assert_broken(&findings, Invariant::I10, "was refused and is carried out");
    }

    #[test]
    fn an_order_that_stays_pending_is_seen_once_the_cluster_has_settled() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        check.sent(ms(1), ID);
        check.control(ms(2), &with(2, OrderOutcome::Pending, true), &mut findings);
        check.answered(ms(3), ID, &OrderAnswer::Unknown, &mut findings);
        check.finish(ms(9), false, &mut findings);
        assert_kept(&findings);
        check.finish(ms(9), true, &mut findings);
        assert_broken(&findings, Invariant::I10, "pending for ever");
    }

    #[test]
    fn an_answer_that_the_members_do_not_share_is_seen() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        check.sent(ms(1), ID);
        check.answered(ms(3), ID, &OrderAnswer::Known(done()), &mut findings);
        check.finish(ms(9), true, &mut findings);
        assert_broken(&findings, Invariant::I10, "no member ever recorded it");
    }
}
