//! **I10 answers.** An operator's order is done once, refused, or reported as unknown; it is never
//! silently dropped or doubled, and called done only where what it asked for happened.
//!
//! Checked on every control state: an order that ended never changes its outcome, and the handover
//! that an order asks for begins once at most, never after the order was refused, and is done only
//! where primacy went where it was to go. Checked on
//! what operators are told: a final answer never changes, agrees with the control state, and by the
//! end of a run every order has one, even if that is "unknown"; none is left pending. "Unknown" is
//! no answer where nothing was broken any more for a good while before the operator gave up: then
//! the order must be on record.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use pg_replica::control::{ControlState, Handover, OrderOutcome, OrderRecord};
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
    under_way: Option<Handover>,
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
        for OrderRecord { id, outcome, .. } in &state.orders {
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
        if let Some(before) = &self.under_way
            && matches!(state.outcome_of(before.id), Some(OrderOutcome::Done(_)))
            && !is_as_asked(before, state)
        {
            let what = format!("order {} is done, and nobody sees it: {before:?}", before.id);
            findings.broken(Invariant::I10, at, what);
        }
        let before = self.under_way.as_ref().map(|handover| handover.id);
        let now = state.handover.as_ref().map(|handover| handover.id);
        if now != before
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
        self.under_way.clone_from(&state.handover);
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

/// Whether the next primary was the one that the handover asked for.
fn is_as_asked(handover: &Handover, state: &ControlState) -> bool {
    let later = state.timelines.range((Bound::Excluded(handover.from), Bound::Unbounded)).next();
    let next = later.map(|(_, record)| record.holder);
    match handover.to {
        Some(to) => next == Some(to),
        None => next.is_some() && next != handover.former,
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
    use pg_replica::control::{HandoverKind, Order, TimelineRecord};
    use pg_replica::env::TimelineBirth;
    use pg_replica::ids::{Epoch, Lsn, NodeId, Timeline};

    use super::super::testing::{assert_broken, assert_kept, ms, state};
    use super::*;

    const ID: CommandId = CommandId(9);

    fn with(version: u64, outcome: OrderOutcome, under_way: bool) -> ControlState {
        let mut state = state(version, 1, Some(1));
        let order = Order::Switchover { to: None };
        state.orders.push_back(OrderRecord { id: ID, order, outcome });
        let kind = HandoverKind::Switchover;
        let (from, former) = (Epoch(1), Some(NodeId(1)));
        let handover = Handover { id: ID, kind, from, former, to: None, begun: false };
        state.handover = under_way.then_some(handover);
        if !under_way {
            become_primary(&mut state, 2);
        }
        state
    }

    /// The next primary.
    fn become_primary(state: &mut ControlState, node: u64) {
        let birth = TimelineBirth { timeline: Timeline(2), born: Epoch(2), begins: Lsn(100) };
        state.timelines.insert(Epoch(2), TimelineRecord { holder: NodeId(node), birth });
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
    fn an_order_that_is_called_done_and_is_not_is_seen() {
        let (mut check, mut findings) = (Answers::default(), Findings::default());
        check.control(ms(2), &with(2, OrderOutcome::Pending, true), &mut findings);
        let mut elsewhere = with(3, done(), false);
        become_primary(&mut elsewhere, 1);
        check.control(ms(4), &elsewhere, &mut findings);
        assert_broken(&findings, Invariant::I10, "is done, and nobody sees it");
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
