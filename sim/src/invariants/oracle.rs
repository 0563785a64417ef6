//! The oracle: hands each fact to the checks that need it.
//!
//! It keeps the newest control state and the windows in which the guarantee table promises less;
//! everything else is kept by the checks themselves. It is shared by everything in a world and
//! locks itself: nothing that it does can call back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pg_replica::control::{Applied, Command, ControlState};
use pg_replica::ha::{Divergence, RaftView};
use pg_replica::ids::{CommandId, Epoch, NodeId};

use crate::sometimes::{Reached, Sometimes};
use crate::witness::{Acknowledged, Fact, Row, Witness};

use super::i01_single_writer::SingleWriter;
use super::i02_one_holder::{Began, OneHolder};
use super::i03_durability::Durability;
use super::i04_bounded_loss::BoundedLoss;
use super::i05_self_fencing::SelfFencing;
use super::i06_membership::Membership;
use super::i07_nothing_destroyed::{NothingDestroyed, Replaced};
use super::i08_raft::Raft;
use super::i09_liveness::Liveness;
use super::i10_answers::Answers;
use super::rare::RareStates;
use super::view::{Excuse, Excuses, Healed, OrderAnswer, Promise, Window, WorldView};
use super::{Findings, Violation};

/// How late a guard may wake up after a thaw: the longest that its stream draws, and a little more.
pub const GUARD_WAKES_WITHIN: Duration = Duration::from_millis(20);

/// What a run came to, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Acknowledged commits.
    pub acknowledged: u64,
    /// When a server became primary in an epoch in which none had been, and which, each time.
    pub primacies: Vec<(Duration, NodeId)>,
    /// When each epoch's first commit was acknowledged.
    pub first_words: BTreeMap<Epoch, Duration>,
    /// Acknowledged rows that a successor lacked.
    pub lost_rows: u64,
    /// The longest stretch of the log that was lost at once.
    pub loss_bytes_max: u64,
    /// Confirmed rows that an operator gave up by a forced failover.
    pub given_up_rows: u64,
    /// The longest overlap that the guarantee table does not promise away.
    pub overlap_longest: Duration,
    /// Commits out of order or after a lease that it does not promise away.
    pub late_acknowledgements: u64,
}

#[derive(Default)]
struct Inner {
    findings: Findings,
    excuses: Excuses,
    newest: Arc<ControlState>,
    summary: Summary,
    newest_primacy: Epoch,
    single_writer: SingleWriter,
    one_holder: OneHolder,
    durability: Durability,
    bounded_loss: BoundedLoss,
    self_fencing: SelfFencing,
    membership: Membership,
    nothing_destroyed: NothingDestroyed,
    raft: Raft,
    liveness: Liveness,
    answers: Answers,
    rare: RareStates,
    raft_views: BTreeMap<NodeId, RaftView>,
}

/// Watches a run from above.
pub struct Oracle {
    inner: Mutex<Inner>,
    true_time: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl fmt::Debug for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oracle").finish_non_exhaustive()
    }
}

impl Oracle {
    /// An oracle for a run that may promise this; `true_time` is the time of the world itself.
    pub fn new(promise: Promise, true_time: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let inner = Inner { excuses: Excuses { promise, windows: Vec::new() }, ..Inner::default() };
        Self { inner: Mutex::new(inner), true_time: Box::new(true_time) }
    }

    /// A member's core has got a control state.
    pub fn control(&self, node: NodeId, state: &Arc<ControlState>) {
        let at = (self.true_time)();
        self.lock().control(at, node, state);
    }

    /// A member has applied an entry of the consensus log. Called by every member for every entry.
    pub fn committed(&self, node: NodeId, index: u64, command: &Command, applied: &Applied) {
        let at = (self.true_time)();
        self.lock().committed(at, node, (index, command, applied));
    }

    /// A member's view of the consensus has changed.
    pub fn raft(&self, node: NodeId, view: &RaftView) {
        let at = (self.true_time)();
        self.lock().raft(at, node, view);
    }

    /// A renewal of `epoch` was answered: `node` may act on it until `until_true`. That is the true
    /// time at which the request was seen to go, and the lease by the node's own clock from there.
    pub fn lease(&self, node: NodeId, epoch: Epoch, until_true: Duration) {
        self.lock().self_fencing.lease(node, epoch, until_true);
    }

    /// A report that left at `at` and told where the log of the holder of `epoch` ends was
    /// answered.
    pub fn located(&self, at: Duration, node: NodeId, epoch: Epoch) {
        self.lock().bounded_loss.located(at, node, epoch);
    }

    /// One that told of no position was.
    pub fn told_of_nothing(&self, at: Duration, node: NodeId, epoch: Epoch) {
        self.lock().bounded_loss.told_of_nothing(at, node, epoch);
    }

    /// A member tells its Postgres something.
    pub fn verb(&self, node: NodeId) {
        let at = (self.true_time)();
        let inner = &mut *self.lock();
        inner.liveness.verb(at, node, &mut inner.findings);
    }

    /// A member told its operator what only its directory has.
    pub fn told(&self, node: NodeId, divergence: Divergence) {
        self.lock().nothing_destroyed.told(node, divergence);
    }

    /// A member's store is gone with its machine: what it knew, it need not know any more.
    pub fn store_lost(&self, node: NodeId) {
        let inner = &mut *self.lock();
        inner.raft.store_lost(node);
        inner.raft_views.remove(&node);
    }

    /// A whole machine goes on that stood still since `since`. The guarantee table promises less
    /// only where that was past its lease, and no longer than what is left of it can last.
    pub fn thawed(&self, node: NodeId, since: Duration, with_clock: bool) {
        let at = (self.true_time)();
        let inner = &mut *self.lock();
        let Some(lease_end) = inner.self_fencing.last_end(node) else { return };
        let caught = since..=at + GUARD_WAKES_WITHIN;
        let (excuse, until) = if with_clock {
            // By its own clock the lease ends later, by as long as the machine stood still.
            (Excuse::HostFrozenWithClock, lease_end + at.saturating_sub(since))
        } else if caught.contains(&lease_end) {
            (Excuse::HostFrozen, at + GUARD_WAKES_WITHIN)
        } else {
            return;
        };
        inner.excuses.windows.push(Window { node: Some(node), excuse, from: at, until });
    }

    /// From now on clocks differ by more than the bound, or may be off from when they did.
    pub fn clocks_beyond_rate(&self) {
        let from = (self.true_time)();
        let excuse = Excuse::ClockBeyondRate;
        let window = Window { node: None, excuse, from, until: Duration::MAX };
        self.lock().excuses.windows.push(window);
    }

    /// The next end of a lease: an instant at which it matters to look.
    #[must_use]
    pub fn next_lease_end(&self) -> Option<Duration> {
        let at = (self.true_time)();
        self.lock().self_fencing.next_end(at)
    }

    /// When the last lease of this member ends, in true time.
    #[must_use]
    pub fn lease_end(&self, node: NodeId) -> Option<Duration> {
        self.lock().self_fencing.last_end(node)
    }

    /// All servers at this instant, as far as no instant may be missed: whenever something happens
    /// to one of them.
    pub fn look(&self, view: &WorldView) {
        let at = (self.true_time)();
        let inner = &mut *self.lock();
        inner.single_writer.look(at, view, &inner.excuses, &mut inner.findings);
        inner.self_fencing.look(at, view, &inner.excuses, &mut inner.findings);
    }

    /// The same, and what is only looked at ten times a second.
    pub fn tick(&self, view: &WorldView) {
        self.look(view);
        let at = (self.true_time)();
        let inner = &mut *self.lock();
        let leading = inner.raft_views.iter().filter(|(_, view)| view.leads);
        let leader = leading.max_by_key(|(_, view)| view.term).map(|(node, _)| *node);
        inner.liveness.led_by(leader);
        inner.liveness.look(at, view, &mut inner.findings);
    }

    /// Nothing is broken any more: orders that are asked for from here on have to be taken.
    pub fn faults_over(&self) {
        let at = (self.true_time)();
        self.lock().answers.healed(at);
    }

    /// Faults have ended for these servers: they have to recover within the bound.
    pub fn healed(&self, healed: Healed) {
        self.lock().liveness.healed(healed);
    }

    /// When the expected recovery was complete.
    #[must_use]
    pub fn recovered_at(&self) -> Option<Duration> {
        self.lock().liveness.recovered_at()
    }

    /// An operator has sent an order.
    pub fn order_sent(&self, id: CommandId) {
        let at = (self.true_time)();
        self.lock().answers.sent(at, id);
    }

    /// An operator was told about an order.
    pub fn order_answered(&self, id: CommandId, answer: &OrderAnswer) {
        let at = (self.true_time)();
        let inner = &mut *self.lock();
        inner.answers.answered(at, id, answer, &mut inner.findings);
    }

    /// Notes a rare state that only the world can see.
    pub fn mark(&self, state: Sometimes) {
        self.lock().rare.reached.mark(state);
    }

    /// The end of the run: `last` is the primary that is left, with all its rows, if there is one;
    /// `settled` says that the cluster recovered and had time to finish what operators asked for.
    pub fn finish(&self, last: Option<(NodeId, Epoch, &[Row])>, settled: bool) {
        let at = (self.true_time)();
        let inner = &mut *self.lock();
        // Such a run has left its operators without an answer itself.
        let broke_off = inner.findings.violations_total > 0;
        if let Some((server, epoch, rows)) = last {
            inner.durability.became_primary(at, server, epoch, rows, &mut inner.findings);
            inner.bounded_loss.count(at, server, epoch, rows, &mut inner.findings);
        }
        if settled {
            inner.durability.finish(at, &mut inner.findings);
        }
        if !broke_off {
            inner.answers.finish(at, settled, &mut inner.findings);
        }
    }

    /// Everything found so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        self.lock().findings.clone()
    }

    /// How many promises were broken so far: cheap enough to ask at every step.
    #[must_use]
    pub fn violations_total(&self) -> u64 {
        self.lock().findings.violations_total
    }

    /// The first broken promise.
    #[must_use]
    pub fn first_violation(&self) -> Option<Violation> {
        self.lock().findings.violations.first().cloned()
    }

    /// The run in numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let inner = self.lock();
        Summary {
            lost_rows: inner.bounded_loss.lost_rows,
            loss_bytes_max: inner.bounded_loss.loss_bytes_max,
            given_up_rows: inner.durability.given_up_rows,
            overlap_longest: inner.findings.overlap_longest,
            late_acknowledgements: inner.findings.late_acknowledgements,
            ..inner.summary.clone()
        }
    }

    /// The rare states that were reached.
    #[must_use]
    pub fn reached(&self) -> Reached {
        self.lock().rare.reached.clone()
    }

    /// The newest control state that any member has seen.
    #[must_use]
    pub fn newest(&self) -> Arc<ControlState> {
        Arc::clone(&self.lock().newest)
    }

    /// The member that leads the consensus in the highest term, as far as it says so itself.
    #[must_use]
    pub fn raft_leader(&self) -> Option<NodeId> {
        let inner = self.lock();
        let leading = inner.raft_views.iter().filter(|(_, view)| view.leads);
        leading.max_by_key(|(_, view)| view.term).map(|(node, _)| *node)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere must not hide what the oracle has seen.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Oracle {
    fn fact(&self, fact: Fact) {
        let at = (self.true_time)();
        self.lock().fact(at, &fact);
    }
}

impl Inner {
    fn fact(&mut self, at: Duration, fact: &Fact) {
        self.rare.fact(fact);
        match fact {
            Fact::Acknowledged(ack) => self.acknowledged(ack),
            Fact::Read { server, epoch, unacknowledged, sync, .. } => {
                if sync.confirmations > 0 {
                    self.durability.read(at, *server, *epoch, unacknowledged);
                }
            }
            Fact::BecamePrimary { server, epoch, history, system, rows } => {
                let (server, epoch, system) = (*server, *epoch, *system);
                let began = Began { server, epoch, history, system, rows };
                self.became_primary(at, &began);
            }
            Fact::DirectoryReplaced { server, lost, span, kept_aside } => {
                let replaced = Replaced { server: *server, lost, span: *span };
                let findings = &mut self.findings;
                self.nothing_destroyed.replaced(at, replaced, *kept_aside, findings);
            }
            Fact::TimelineCreated { server, birth, .. } => {
                self.one_holder.timeline_created(at, *server, *birth, &mut self.findings);
            }
            Fact::ProcessEnded { .. } | Fact::Attached { .. } | Fact::CommitRefused { .. } => {}
        }
    }

    fn acknowledged(&mut self, ack: &Acknowledged) {
        let findings = &mut self.findings;
        self.summary.acknowledged += 1;
        self.summary.first_words.entry(ack.epoch).or_insert(ack.at);
        let overlaps =
            self.single_writer.acknowledged(ack, &self.excuses, &mut self.rare.reached, findings);
        self.one_holder.acknowledged(ack, findings);
        self.self_fencing.acknowledged(ack, &self.excuses, findings);
        let lease_until = self.self_fencing.until(ack.server, ack.epoch);
        let is_late_word = self.single_writer.is_late_word(ack, &self.excuses);
        self.membership.acknowledged(ack, lease_until, is_late_word, findings);
        self.durability.acknowledged(ack, findings);
        if !overlaps {
            self.bounded_loss.acknowledged(ack);
        }
    }

    fn became_primary(&mut self, at: Duration, began: &Began<'_>) {
        let Began { server, epoch, history, rows, .. } = *began;
        if epoch > self.newest_primacy {
            self.newest_primacy = epoch;
            self.summary.primacies.push((at, server));
        }
        self.single_writer.became_primary(epoch, rows);
        self.one_holder.became_primary(at, began, &mut self.findings);
        self.durability.became_primary(at, server, epoch, rows, &mut self.findings);
        let began = (server, epoch, history);
        self.bounded_loss.became_primary(at, began, rows, &mut self.findings);
    }

    fn control(&mut self, at: Duration, node: NodeId, state: &Arc<ControlState>) {
        let findings = &mut self.findings;
        self.raft.control(at, node, state, findings);
        self.one_holder.control(at, state, findings);
        if state.version <= self.newest.version {
            return;
        }
        OneHolder::advanced(at, &self.newest, state, findings);
        Membership::advanced(at, &self.newest, state, findings);
        self.membership.control(at, state, findings);
        self.durability.control(at, state);
        self.bounded_loss.control(state);
        self.answers.control(at, state, findings);
        self.rare.advanced(&self.newest, state);
        self.newest = Arc::clone(state);
    }

    fn committed(&mut self, at: Duration, node: NodeId, entry: (u64, &Command, &Applied)) {
        let (index, command, applied) = entry;
        let is_new = self.raft.is_new(index);
        self.raft.applied(at, node, entry, &mut self.findings);
        if !is_new {
            return;
        }
        self.rare.applied(applied);
        if *applied == Applied::Done {
            self.bounded_loss.elected(at, command, &self.newest, &mut self.findings);
        }
    }

    fn raft(&mut self, at: Duration, node: NodeId, view: &RaftView) {
        self.raft.raft(at, node, view, &mut self.findings);
        self.membership.raft(at, node, view, &mut self.findings);
        self.rare.raft(node, view);
        self.raft_views.insert(node, view.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Invariant;
    use super::super::testing::{birth, commit, ms, primary, rows, standby, state, sync_commit};
    use super::*;
    use pg_replica::control::Mode;
    use pg_replica::ids::SystemId;

    fn oracle() -> Oracle {
        Oracle::new(Promise::default(), || ms(100))
    }

    fn became(server: u64, epoch: u64, numbers: &[u64]) -> Fact {
        Fact::BecamePrimary {
            server: NodeId(server),
            epoch: Epoch(epoch),
            history: vec![birth(u32::try_from(epoch).expect("small"), epoch, 0)],
            system: SystemId(1),
            rows: rows(numbers),
        }
    }

    fn held(oracle: &Oracle, version: u64, epoch: u64, holder: u64) {
        oracle.control(NodeId(holder), &Arc::new(state(version, epoch, Some(holder))));
        oracle.lease(NodeId(holder), Epoch(epoch), ms(10_000));
    }

    #[test]
    fn a_whole_failover_without_a_fault_is_right() {
        let oracle = oracle();
        held(&oracle, 2, 1, 1);
        oracle.fact(became(1, 1, &[]));
        oracle.fact(Fact::Acknowledged(sync_commit(10, 1, 1, 1)));
        oracle.fact(Fact::ProcessEnded {
            server: NodeId(1),
            side: pg_replica::env::Side::Primary,
            by: "guard",
        });
        oracle.control(NodeId(2), &Arc::new(state(3, 1, None)));
        held(&oracle, 4, 2, 2);
        oracle.fact(became(2, 2, &[1]));
        oracle.fact(Fact::Acknowledged(sync_commit(20, 2, 2, 2)));
        let servers = [2, 3].map(NodeId).into();
        oracle.healed(Healed { at: ms(0), within: ms(50), servers });
        oracle.tick(&WorldView { servers: vec![primary(2, 2), standby(3, 2, 2)] });
        oracle.finish(Some((NodeId(2), Epoch(2), &rows(&[1, 2]))), true);
        assert_eq!(oracle.findings().violations, Vec::new());
        assert_eq!(oracle.recovered_at(), Some(ms(100)));
        let summary = oracle.summary();
        assert_eq!((summary.acknowledged, summary.primacies.len(), summary.lost_rows), (2, 2, 0));
        assert_eq!(oracle.reached().count(Sometimes::PromotionRacedDemotion), 0);
    }

    #[test]
    fn a_second_writer_breaks_more_than_one_promise_and_each_is_told() {
        let oracle = oracle();
        held(&oracle, 2, 1, 1);
        oracle.fact(became(1, 1, &[]));
        held(&oracle, 4, 2, 2);
        oracle.fact(became(2, 2, &[]));
        oracle.fact(Fact::Acknowledged(commit(20, 2, 2, 1)));
        oracle.fact(Fact::Acknowledged(commit(10_001, 1, 1, 2)));
        let broken: Vec<Invariant> =
            oracle.findings().violations.iter().map(|v| v.invariant).collect();
        assert_eq!(broken, [Invariant::I1, Invariant::I5]);
        assert_eq!(oracle.violations_total(), 2);
    }

    #[test]
    fn a_freeze_is_an_excuse_only_where_it_went_past_the_lease() {
        let covered = |since, lease_end, with_clock| {
            let oracle = oracle();
            oracle.lease(NodeId(1), Epoch(1), ms(lease_end));
            oracle.thawed(NodeId(1), ms(since), with_clock);
            let inner = oracle.lock();
            let covers = |at| inner.excuses.cover(NodeId(1), ms(at));
            (0..1_000).filter(|at| covers(*at)).max()
        };
        assert_eq!(covered(10, 400, false), None);
        assert_eq!(covered(10, 90, false), Some(120));
        assert_eq!(covered(10, 9, false), None);
        assert_eq!(covered(10, 400, true), Some(490));
    }

    #[test]
    fn a_row_that_is_gone_at_the_end_is_told() {
        let oracle = oracle();
        let mut strict = state(2, 1, Some(1));
        strict.settings.mode = Mode::QuorumSync;
        oracle.control(NodeId(1), &Arc::new(strict));
        oracle.lease(NodeId(1), Epoch(1), ms(10_000));
        oracle.fact(Fact::Acknowledged(sync_commit(10, 1, 1, 1)));
        oracle.finish(Some((NodeId(1), Epoch(1), &[])), true);
        let first = oracle.first_violation().expect("a lost row");
        assert_eq!(first.invariant, Invariant::I3);
    }

    #[test]
    fn a_straggler_that_applies_old_states_breaks_nothing() {
        let oracle = oracle();
        let states: Vec<Arc<ControlState>> = [(2, 1, Some(1)), (3, 1, None), (4, 2, Some(2))]
            .into_iter()
            .map(|(version, epoch, holder)| Arc::new(state(version, epoch, holder)))
            .collect();
        for (node, last) in [(2, 3), (3, 1), (1, 3), (3, 3)] {
            for state in &states[..last] {
                if node != 3 || last == 1 || state.version > 2 {
                    oracle.control(NodeId(node), state);
                }
            }
        }
        assert_eq!(oracle.findings().violations, Vec::new());
        assert_eq!(oracle.newest().version, 4);
    }
}
