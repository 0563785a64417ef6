//! Looks at Postgres: asking for one, taking it in, and the promise that rests on one.

use std::time::Duration;

use crate::env::{Observation, Outcome, Process, Side};
use crate::ids::{ActionId, Epoch, Moment};
use crate::sabotage::Saboteur;

use super::action::Action;
use super::fencing::writable_epoch;
use super::state::Core;
use super::step::RETRY_MIN;
use super::timers::Timer;

/// How long a look at Postgres may take before it is asked for again.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

impl Core {
    pub(super) fn look(&mut self, actions: &mut Vec<Action>) {
        let under_way =
            self.agent.looking.is_some_and(|(_, since)| self.now.since(since) < LOOK_LIMIT);
        if !under_way {
            if self.agent.looking.is_some() {
                self.say_blind("it does not answer", actions);
            }
            let id = self.next_action_id();
            self.agent.looking = Some((id, self.now));
            actions.push(Action::Observe { id });
        }
    }

    pub(super) fn on_observed(
        &mut self,
        id: ActionId,
        outcome: Outcome<Observation>,
        actions: &mut Vec<Action>,
    ) {
        // The answer to a look that was given up would pass for younger than it is.
        let Some((_, asked)) = self.agent.looking.take_if(|(known, _)| *known == id) else {
            return;
        };
        match outcome {
            Outcome::Done(observation) => self.take_observation(observation, asked, actions),
            Outcome::Failed(why) => self.on_blind(&why.to_string(), actions),
            Outcome::Unknown => self.on_blind("it does not answer", actions),
        }
        if asked < self.agent.stale_before {
            self.look(actions);
        }
    }

    fn on_blind(&mut self, why: &str, actions: &mut Vec<Action>) {
        self.agent.trouble = Some(self.say_blind(why, actions));
        self.timers.set_no_later(Timer::AgentReview, self.now + RETRY_MIN);
    }

    /// Notes that a look told nothing, and says so where that is news. Returns the sentence.
    fn say_blind(&mut self, why: &str, actions: &mut Vec<Action>) -> String {
        let is_news = self.agent.note_blind(why, self.now);
        let sentence = format!("its Postgres {}", self.agent.unseen_because());
        if is_news {
            actions.push(Action::Say(sentence.clone()));
        }
        sentence
    }

    fn take_observation(
        &mut self,
        mut observation: Observation,
        asked: Moment,
        actions: &mut Vec<Action>,
    ) {
        if self.sabotage.is(Saboteur::TrustARecovery) {
            observation.promoting = None;
        }
        // Of a process only: what its directory held before it was started may be another one.
        let runs = observation.process == Process::Up && observation.side == Side::Primary;
        let waits = runs && !observation.admits;
        self.agent.tail = if waits { self.agent.tail.or(observation.flushed) } else { None };
        let harmless = !observation.may_write() && asked >= self.agent.stale_before;
        self.agent.observe(observation, asked, self.now);
        if harmless && writable_epoch(&self.agent, &self.control).is_none() {
            self.disarm(actions);
        }
        self.note_detachment(actions);
    }

    /// Nothing writes here, and nothing is about to: a lease that is over, or that its epoch has
    /// outlived, is given back. The guard would only end what follows from here on, a rewind, say.
    fn disarm(&mut self, actions: &mut Vec<Action>) {
        let Some(lease) = self.agent.lease else { return };
        let held = self.is_holder() && self.control.primacy.epoch == lease.epoch;
        if held && lease.covers(lease.epoch, self.now, &self.control.settings.timing) {
            return;
        }
        actions.push(Action::DisarmGuard { epoch: lease.epoch });
        self.agent.disarmed_at = ActionId(self.next_id);
        self.agent.lease = None;
        self.timers.clear(Timer::LeaseEnd);
    }

    /// The promise of a vacancy: nothing attached, nothing writable, and the position that follows
    /// from it. Made from a look that began after the vacancy was known and after the last verb.
    pub(super) fn note_detachment(&mut self, actions: &mut Vec<Action>) {
        let epoch = self.control.primacy.epoch;
        let vacant = self.control.is_vacant() && epoch > Epoch::default();
        if !vacant || self.agent.detached.is_some() || self.agent.busy.is_some() {
            return;
        }
        let careless = self.sabotage.is(Saboteur::ElectWithoutDetaching)
            || self.sabotage.is(Saboteur::ReportBeforeDetached);
        let seen = if careless { self.agent.seen() } else { self.agent.fresh() };
        let Some(seen) = seen else { return };
        let attached = self.agent.may_receive(seen, self.sabotage);
        if seen.may_write() || (attached && !careless) {
            return;
        }
        let promise = match (seen.system, seen.position()) {
            (None, _) => None,
            (Some(_), Some(position)) => Some(position),
            // There are data, and only a recovery can tell where they end.
            (Some(_), None) => return,
        };
        self.agent.detached = Some((epoch, promise));
        self.send_heartbeat(actions);
    }
}
