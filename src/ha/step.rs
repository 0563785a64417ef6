//! The step: one event in, actions out. Dispatch, bookkeeping, then the two reviews.

use std::sync::Arc;
use std::time::Duration;

use crate::control::{Applied, Command, ControlState};
use crate::env::{Armed, Outcome, PostgresError, StartAs, StopHow};
use crate::ids::{ActionId, Epoch, Moment, NodeId};
use crate::sabotage::Saboteur;

use super::action::{Action, Verb};
use super::agent::{Attachment, Busy, Unseen};
use super::coordinator::Coordinator;
use super::desire::{Desire, Situation};
use super::event::{Ask, Chore, Event, Finished, HeartbeatAnswer, RaftView, RequestId};
use super::fencing::must_fence;
use super::lease::Lease;
use super::membership;
use super::report::Report;
use super::state::Core;
use super::timers::Timer;

/// The first wait after a failure; doubles up to [`RETRY_MAX`].
pub(super) const RETRY_MIN: Duration = Duration::from_millis(100);
/// See [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_secs(3);
/// How long a member that does not lead may take to apply what the leader has applied.
const SETTLE: Duration = Duration::from_millis(10);
/// The wait after a stop that failed: short, because what must be ended may still write, and long
/// enough that one which fails at once leaves room for anything else.
const STOP_AGAIN: Duration = Duration::from_millis(50);
/// How long a proposal may be under way before its answer is taken for lost.
const PROPOSAL_LIMIT: Duration = Duration::from_secs(2);
/// So many heartbeats without an answer, and the next ones go through another member.
const RELAY_AFTER: u32 = 2;

impl Core {
    /// Processes one event and appends what is to be done, in order.
    pub fn step(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        match event {
            Event::Started { armed } => self.on_started(armed, actions),
            Event::Wake => self.on_wake(actions),
            Event::Control(control) => self.on_control(control, actions),
            Event::Raft(view) => self.on_raft(view),
            Event::LeadershipReady { term } => self.on_leadership(term),
            Event::Observed { id, outcome } => self.on_observed(id, outcome, actions),
            Event::VerbDone { id, outcome } => self.on_verb_done(id, outcome, actions),
            Event::GuardArmed { id, lease, ok } => self.on_guard_armed(id, lease, ok),
            Event::Heartbeat { request, report, ask } => {
                self.on_heartbeat(request, *report, ask, actions);
            }
            Event::HeartbeatAnswered { to: _, sent, answer } => {
                self.on_answered(sent, answer, actions);
            }
            Event::ReadConfirmed { request, term } => self.on_confirmed(request, term, actions),
            Event::Chore { request, chore } => {
                let answer = self.take_on(chore);
                actions.push(Action::AnswerChore { request, answer });
            }
            Event::Proposed { id, applied } => self.on_proposed(id, applied.as_ref()),
        }
        self.review_agent(actions);
        self.review_coordinator(actions);
        self.settle_role(actions);
    }

    fn on_started(&mut self, armed: Option<Armed>, actions: &mut Vec<Action>) {
        if let Some(Armed { epoch, until, .. }) = armed {
            // The guard keeps the lease while the manager is away.
            self.take_lease(Lease { epoch, until });
        }
        self.timers.set(Timer::Heartbeat, self.now);
        self.look(actions);
    }

    fn on_wake(&mut self, actions: &mut Vec<Action>) {
        while let Some(timer) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Heartbeat => {
                    let every = self.control.settings.timing.heartbeat_ms;
                    self.timers.set(Timer::Heartbeat, self.now + Duration::from_millis(every));
                    self.look(actions);
                    self.send_heartbeat(actions);
                }
                Timer::LeaseEnd | Timer::AgentReview => self.look(actions),
                Timer::CoordinatorReview => {}
            }
        }
    }

    fn on_control(&mut self, control: Arc<ControlState>, actions: &mut Vec<Action>) {
        let moved = control.primacy != self.control.primacy;
        let newest = |control: &ControlState| control.timelines.keys().next_back().copied();
        let born = newest(&control) != newest(&self.control);
        self.control = control;
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.on_control(&self.control, self.now);
        }
        if moved {
            // A verb may be about to change what the last look saw: look again before deciding.
            self.agent.stale_before = self.now;
            self.agent.detached = None;
            self.agent.not_up_since = None;
            // That was said by the primary before.
            self.agent.forget_starvation();
            if self.is_holder() {
                // Its data are the ones that others copy: what was asked before is asked no more.
                self.agent.chores.remove(&Chore::Reinitialise);
                self.send_heartbeat(actions);
            }
            if self.sabotage.is(Saboteur::ReportBeforeDetached) {
                self.note_detachment(actions);
            }
        }
        if moved || born {
            self.agent.failures = 0;
            self.agent.retry_at = self.now;
            self.look(actions);
        }
    }

    fn on_raft(&mut self, view: RaftView) {
        if view.leads {
            if self.leads_since.is_none_or(|(term, _)| term != view.term) {
                self.leads_since = Some((view.term, self.now));
            }
        } else {
            self.leads_since = None;
        }
        let lost = self.coordinator.as_ref().is_some_and(|c| !view.leads || c.term != view.term);
        if lost {
            self.coordinator = None;
            self.proposal = None;
            self.timers.clear(Timer::CoordinatorReview);
        }
        self.raft = view;
    }

    fn on_leadership(&mut self, term: crate::ids::Term) {
        let Some((leads, since)) = self.leads_since.filter(|_| self.coordinator.is_none()) else {
            return;
        };
        if leads == term {
            self.coordinator = Some(Coordinator::new(term, since, &self.control));
            if let Some(coordinator) = &mut self.coordinator {
                coordinator.on_control(&self.control, self.now);
            }
            self.timers.set(Timer::CoordinatorReview, self.now);
        }
    }

    fn on_verb_done(
        &mut self,
        id: ActionId,
        outcome: Outcome<Finished>,
        actions: &mut Vec<Action>,
    ) {
        let Some(busy) = self.agent.busy.take_if(|busy| busy.id == id) else { return };
        self.agent.stale_before = self.now;
        if let Some(unseen) = self.agent.unseen.as_mut().filter(|_| busy.verb.makes_primary()) {
            unseen.open = outcome == Outcome::Unknown;
        }
        match outcome {
            Outcome::Done(finished) => self.on_success(&busy, finished, actions),
            Outcome::Failed(why) => self.on_failure(&busy, &why, actions),
            Outcome::Unknown => {
                let why = PostgresError::Unknown("the verb was cut short".into());
                self.on_failure(&busy, &why, actions);
            }
        }
        self.look(actions);
    }

    fn on_success(&mut self, busy: &Busy, finished: Finished, actions: &mut Vec<Action>) {
        self.agent.failures = 0;
        self.agent.trouble = None;
        if matches!(busy.verb, Verb::Clone(_) | Verb::Rewind(_) | Verb::Start(_)) {
            self.agent.cut_short = false;
        }
        match &busy.verb {
            Verb::Follow(upstream) => {
                self.agent.attachment = Attachment::To(upstream.node, upstream.epoch);
            }
            Verb::Clone(_) => {
                self.agent.needs_clone = false;
                self.agent.chores.remove(&Chore::Reinitialise);
                self.agent.note_replaced();
            }
            Verb::Start(StartAs::Primary { epoch, sync }) => {
                self.agent.attachment = Attachment::Cleared;
                self.agent.sync_told = Some(sync.clone());
                self.rearm(*epoch, actions);
            }
            Verb::Promote(sync) => {
                self.agent.sync_told = Some(sync.clone());
                self.rearm(sync.epoch, actions);
            }
            Verb::SetSync(sync) => self.agent.sync_told = Some(sync.clone()),
            Verb::Start(StartAs::Standby { upstream: Some(upstream) }) => {
                self.agent.attachment = Attachment::To(upstream.node, upstream.epoch);
            }
            Verb::Start(StartAs::Standby { upstream: None }) | Verb::Detach => {
                self.agent.attachment = Attachment::Cleared;
            }
            Verb::Stop(_) => self.agent.note_stopped(self.now),
            Verb::Rewind(_) => self.agent.note_replaced(),
            Verb::Configure(_) => {
                self.agent.not_taken = None;
                self.agent.chores.remove(&Chore::Reload);
            }
            Verb::Initialise | Verb::Admit => {}
        }
        if let Finished::Rewound(report) = finished {
            actions.push(Action::Say(format!(
                "rewound: the log from {} to {} was only here and was set aside",
                report.diverged_from, report.diverged_to
            )));
        }
    }

    fn on_failure(&mut self, busy: &Busy, why: &PostgresError, actions: &mut Vec<Action>) {
        if matches!(busy.verb, Verb::Stop(_)) {
            // It keeps a pace of its own, and holds up nothing that comes after it.
            self.agent.stop_again_at = self.now + STOP_AGAIN;
            self.agent.retry_at = self.agent.stop_again_at;
        } else {
            self.agent.failures = self.agent.failures.saturating_add(1);
            let wait = RETRY_MIN * 2u32.saturating_pow(self.agent.failures.min(8) - 1);
            self.agent.retry_at = self.now + wait.min(RETRY_MAX);
        }
        self.timers.set_no_later(Timer::AgentReview, self.agent.retry_at);
        let for_good = !why.is_transient();
        if let (true, Verb::Configure(parameters)) = (for_good, &busy.verb) {
            self.agent.chores.remove(&Chore::Reload);
            self.agent.not_taken = Some((parameters.clone(), format!("parameters: {why}")));
        }
        if for_good && matches!(busy.verb, Verb::Rewind(_) | Verb::Start(StartAs::Standby { .. })) {
            // Among others: a rewind that was cut short leaves a directory that only a copy mends.
            self.agent.needs_clone = true;
        }
        actions.push(Action::Say(format!("{} failed: {why}", busy.verb)));
        self.agent.trouble = Some(format!("{} failed: {why}", busy.verb));
    }

    /// A server that has just become able to write has no lease of its own yet: hand it the present
    /// one, so that its first commit need not wait for the next renewal.
    fn rearm(&mut self, epoch: Epoch, actions: &mut Vec<Action>) {
        if let Some(lease) = self.agent.lease.filter(|lease| lease.epoch == epoch) {
            self.arm(lease, actions);
        }
    }

    fn arm(&mut self, lease: Lease, actions: &mut Vec<Action>) {
        let deadline = lease.guard_at(&self.control.settings.timing);
        let id = self.next_action_id();
        actions.push(Action::ArmGuard { id, lease, deadline });
    }

    fn on_guard_armed(&mut self, id: ActionId, lease: Lease, ok: bool) {
        if ok && id > self.agent.disarmed_at {
            self.take_lease(lease);
        }
    }

    fn take_lease(&mut self, lease: Lease) {
        let newer = self.agent.lease.is_none_or(|old| {
            lease.epoch > old.epoch || (lease.epoch == old.epoch && lease.until > old.until)
        });
        if newer {
            self.agent.lease = Some(lease);
            self.timers.set(Timer::LeaseEnd, lease.fence_at(&self.control.settings.timing));
        }
    }

    fn on_answered(
        &mut self,
        sent: Moment,
        answer: Option<HeartbeatAnswer>,
        actions: &mut Vec<Action>,
    ) {
        let Some(answer) = answer else {
            self.agent.unanswered = self.agent.unanswered.saturating_add(1);
            return;
        };
        if answer.heard {
            self.agent.unheard_since = None;
        }
        let wanted = self.is_holder();
        if answer.renewed.is_some() || !wanted {
            self.agent.unanswered = 0;
        } else {
            self.agent.unanswered = self.agent.unanswered.saturating_add(1);
        }
        if let Some(version) = answer.in_force {
            self.agent.in_force = Some((version, sent));
        }
        let Some(epoch) = answer.renewed else { return };
        let lease = Duration::from_millis(answer.lease_ms);
        let lease = Lease::granted(epoch, sent, self.now, lease, self.sabotage);
        if self.now < lease.fence_at(&self.control.settings.timing) {
            self.arm(lease, actions);
        }
    }

    fn on_heartbeat(
        &mut self,
        request: RequestId,
        report: Report,
        ask: Ask,
        actions: &mut Vec<Action>,
    ) {
        let mut answer = HeartbeatAnswer::nothing(self.raft.leader);
        let Some(coordinator) = &mut self.coordinator else {
            actions.push(Action::AnswerHeartbeat { request, answer });
            return;
        };
        let node = report.node;
        coordinator.on_report(report, &self.control, self.now, self.sabotage);
        if ask == Ask::Nothing {
            answer.heard = true;
            actions.push(Action::AnswerHeartbeat { request, answer });
        } else {
            coordinator.asked.insert(request, (node, ask));
            actions.push(Action::ConfirmLeadership { request });
        }
    }

    /// L2: only after a quorum has confirmed this leadership since the request arrived, and only
    /// while the applied state names this holder and this epoch.
    fn on_confirmed(
        &mut self,
        request: RequestId,
        term: Option<crate::ids::Term>,
        actions: &mut Vec<Action>,
    ) {
        let mut answer = HeartbeatAnswer::nothing(self.raft.leader);
        if let Some(coordinator) = &mut self.coordinator
            && let Some((node, ask)) = coordinator.asked.remove(&request)
            && term == Some(coordinator.term)
        {
            answer.heard = true;
            answer.in_force = Some(self.control.version);
            if let Ask::Renewal(epoch) = ask {
                let primacy = &self.control.primacy;
                let held = primacy.holder == Some(node) && primacy.epoch == epoch;
                if held || self.sabotage.is(Saboteur::RenewAfterVacate) {
                    coordinator.ledger.renewal_confirmed(self.now);
                    answer.renewed = Some(epoch);
                    answer.lease_ms = self.control.settings.timing.lease_ms;
                }
            }
        }
        actions.push(Action::AnswerHeartbeat { request, answer });
    }

    fn on_proposed(&mut self, id: ActionId, applied: Option<&Applied>) {
        if self.agent.proposal.is_some_and(|(known, _)| known == id) {
            self.agent.proposal = None;
            // Where it was applied, the control state that it led to is here, or about to be.
            let done = applied == Some(&Applied::Done);
            self.agent.retry_at = self.now + if done { SETTLE } else { RETRY_MIN };
            self.timers.set_no_later(Timer::AgentReview, self.agent.retry_at);
        }
        if self.proposal.is_some_and(|(known, _)| known == id) {
            let refused = !matches!(applied, Some(Applied::Done));
            self.proposal = None;
            self.propose_after = if refused { self.now + RETRY_MIN } else { self.now };
        }
    }

    /// End what must be ended first; then, if nothing is under way, the next thing that Postgres
    /// needs.
    fn review_agent(&mut self, actions: &mut Vec<Action>) {
        self.note_availability();
        let unfit = must_fence(&self.agent, self.me, &self.control, self.now, self.sabotage);
        let why = unfit
            .map(|why| format!("fencing: {why}"))
            .or_else(|| self.why_cut_short())
            .or_else(|| self.why_end_unseen());
        if let Some(why) = why {
            if self.now >= self.agent.stop_again_at {
                actions.push(Action::Say(why));
                self.start_verb(Verb::Stop(StopHow::Immediate), actions);
            }
            return;
        }
        if self.agent.busy.is_some() || self.now < self.agent.retry_at {
            return;
        }
        if let Some(command) = self.release_unseen() {
            self.propose(command, actions);
            return;
        }
        let may_restart = self.agent.may_restart(self.now);
        let Some(seen) = self.agent.fresh() else { return };
        let situation = Situation {
            me: self.me,
            now: self.now,
            control: &self.control,
            agent: &self.agent,
            seen,
            may_restart,
            sabotage: self.sabotage,
        };
        let desire = situation.desire();
        let doubted = std::mem::replace(&mut self.agent.doubts, desire == Desire::Doubt);
        match desire {
            Desire::Rest => self.agent.trouble = None,
            Desire::Look(after) => {
                self.timers.set_no_later(Timer::AgentReview, self.now + after);
            }
            Desire::Do(verb) => self.start_verb(verb, actions),
            Desire::Propose(command) => self.propose(command, actions),
            Desire::Trouble(why) => self.agent.trouble = Some(why),
            // Asked at once, and then with every heartbeat.
            Desire::Doubt if doubted => {}
            Desire::Doubt => self.send_heartbeat(actions),
        }
    }

    fn start_verb(&mut self, verb: Verb, actions: &mut Vec<Action>) {
        let id = self.next_action_id();
        let epoch = self.control.primacy.epoch;
        match &verb {
            Verb::Start(StartAs::Primary { .. }) => {
                self.agent.restarts.push(self.now);
                self.agent.sync_told = None;
            }
            Verb::Promote(_) | Verb::SetSync(_) => self.agent.sync_told = None,
            // Until it ends well either may be so.
            Verb::Follow(_)
            | Verb::Detach
            | Verb::Start(StartAs::Standby { upstream: Some(_) }) => {
                self.agent.attachment = Attachment::Unknown;
            }
            Verb::Stop(StopHow::Fast) => {
                let limit = Duration::from_millis(self.control.settings.timing.stop_ms);
                self.timers.set_no_later(Timer::AgentReview, self.now + limit);
            }
            Verb::Stop(StopHow::Immediate) => self.agent.note_cut_short(),
            Verb::Clone(_) => self.tell_what_goes(true, actions),
            Verb::Rewind(_) => self.tell_what_goes(false, actions),
            Verb::Initialise
            | Verb::Start(StartAs::Standby { upstream: None })
            | Verb::Admit
            | Verb::Configure(_) => {}
        }
        if verb.makes_primary() {
            self.agent.unseen = Some(Unseen { epoch, open: true });
        }
        self.agent.busy = Some(Busy { id, verb: verb.clone(), epoch, since: self.now });
        actions.push(Action::Postgres { id, epoch, verb });
    }

    fn propose(&mut self, command: Command, actions: &mut Vec<Action>) {
        let waiting =
            self.agent.proposal.is_some_and(|(_, at)| self.now.since(at) < PROPOSAL_LIMIT);
        if waiting {
            return;
        }
        let id = self.next_action_id();
        self.agent.proposal = Some((id, self.now));
        self.timers.set_no_later(Timer::AgentReview, self.now + PROPOSAL_LIMIT);
        let command = Box::new(command);
        actions.push(Action::Propose { id, through_leader: true, command });
    }

    fn review_coordinator(&mut self, actions: &mut Vec<Action>) {
        let Some(coordinator) = &mut self.coordinator else { return };
        let next = coordinator.next_look(self.now, &self.control);
        self.timers.set_no_later(Timer::CoordinatorReview, next);
        let waiting = self.proposal.is_some_and(|(_, at)| self.now.since(at) < PROPOSAL_LIMIT)
            || self.now < self.propose_after;
        if !waiting
            && let Some(command) = coordinator.next_command(self.now, &self.control, self.sabotage)
        {
            let id = ActionId::following(&mut self.next_id);
            self.proposal = Some((id, self.now));
            let command = Box::new(command);
            actions.push(Action::Propose { id, through_leader: false, command });
        }
        let next = membership::next_move(
            coordinator,
            self.me,
            self.now,
            &self.control,
            &self.raft,
            self.sabotage,
        );
        if let Some(action) = next {
            coordinator.moved_at = Some(self.now);
            actions.push(action);
        }
    }

    /// L1: the instant of sending is noted before the message leaves. A relay only makes it older.
    pub(super) fn send_heartbeat(&mut self, actions: &mut Vec<Action>) {
        self.agent.unheard_since.get_or_insert(self.now);
        let Some(to) = self.heartbeat_target() else { return };
        let ask = if self.wants_lease() {
            Ask::Renewal(self.control.primacy.epoch)
        } else if self.agent.doubts {
            Ask::Currency
        } else {
            Ask::Nothing
        };
        let report = Box::new(self.agent.report(self.me, &self.control, self.now));
        actions.push(Action::SendHeartbeat { to, sent: self.now, report, ask });
    }

    /// The leader, or, where it does not answer, the other members in turn: one of them may reach
    /// it.
    fn heartbeat_target(&mut self) -> Option<NodeId> {
        let leader = self.raft.leader;
        if leader == Some(self.me) || (leader.is_some() && self.agent.unanswered < RELAY_AFTER) {
            return leader;
        }
        let others: Vec<NodeId> =
            self.control.members.keys().copied().filter(|node| *node != self.me).collect();
        self.agent.relay_turn = self.agent.relay_turn.wrapping_add(1);
        others.get(self.agent.relay_turn % others.len().max(1)).copied().or(leader)
    }

    pub(super) fn is_holder(&self) -> bool {
        self.control.primacy.holder == Some(self.me)
    }
}
