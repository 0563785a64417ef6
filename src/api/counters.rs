//! What is counted: everything that an operator would want to see a graph of.
//!
//! Counters begin with the process and only grow. They are fed by the board, and read by `metrics`.

use std::collections::BTreeMap;

use crate::control::{Applied, Command, ControlState, VacateReason};
use crate::env::{Outcome, StopHow};
use crate::ha::{Action, Event, Role, Verb};
use crate::ids::{ActionId, Moment};

/// What happened since the node started, as this member saw it.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Steps of the loop.
    pub steps: u64,
    /// Changes of the role, by the new role.
    pub role_changes: BTreeMap<Role, u64>,
    /// Things done to Postgres, by what and how they ended.
    pub verbs: BTreeMap<(&'static str, &'static str), u64>,
    /// How often this member ended a Postgres that might have written.
    pub fences: u64,
    /// Primacies given.
    pub elections: u64,
    /// Primacies that ended, by the reason.
    pub vacancies: BTreeMap<&'static str, u64>,
    /// New timelines recorded.
    pub births: u64,
    /// Times in which the cluster had no primary, once they were over.
    pub outages: u64,
    /// How long all of them were together, in milliseconds.
    pub outage_ms: u64,
    /// How long the last of them was, in milliseconds.
    pub last_outage_ms: u64,
    /// Leases that the guard was armed with.
    pub renewals: u64,
    /// Leases that it could not be armed with.
    pub renewals_failed: u64,
    /// Heartbeats that nobody answered.
    pub unanswered: u64,
    /// Orders given through this member, by how they ended.
    pub orders: BTreeMap<&'static str, u64>,
    /// The last entry of the consensus log that was applied here.
    pub applied_index: u64,
    /// How often the control state came as a snapshot.
    pub snapshots: u64,
    under_way: Option<(ActionId, &'static str)>,
    no_primary_since: Option<Moment>,
}

impl Counters {
    pub(super) fn order_ended(&mut self, end: &'static str) {
        *self.orders.entry(end).or_default() += 1;
    }

    pub(super) fn role_changed(&mut self, to: Role) {
        *self.role_changes.entry(to).or_default() += 1;
        if to == Role::Fencing {
            self.fences += 1;
        }
    }

    pub(super) fn stepped(&mut self, now: Moment, event: &Event, actions: &[Action]) {
        self.steps += 1;
        match event {
            Event::VerbDone { id, outcome } => self.verb_ended(*id, outcome),
            Event::GuardArmed { ok: true, .. } => self.renewals += 1,
            Event::GuardArmed { ok: false, .. } => self.renewals_failed += 1,
            Event::HeartbeatAnswered { answer: None, .. } => self.unanswered += 1,
            Event::Control(control) => self.note_outage(now, control),
            Event::HeartbeatAnswered { answer: Some(_), .. }
            | Event::Started { .. }
            | Event::Wake
            | Event::Raft(_)
            | Event::LeadershipReady { .. }
            | Event::Chore { .. }
            | Event::Observed { .. }
            | Event::Heartbeat { .. }
            | Event::ReadConfirmed { .. }
            | Event::Proposed { .. } => {}
        }
        for action in actions {
            if let Action::Postgres { id, verb, .. } = action {
                // A stop overtakes whatever was under way, which then counts as cut short.
                if let Some((_, overtaken)) = self.under_way.replace((*id, name(verb))) {
                    *self.verbs.entry((overtaken, "cut short")).or_default() += 1;
                }
            }
        }
    }

    pub(super) fn applied(&mut self, index: u64, command: &Command, applied: &Applied) {
        self.applied_index = self.applied_index.max(index);
        if *applied != Applied::Done {
            return;
        }
        match command {
            Command::Elect { .. } => self.elections += 1,
            Command::Born { .. } => self.births += 1,
            Command::Vacate { why, .. } | Command::Release { why, .. } => {
                *self.vacancies.entry(cause(why)).or_default() += 1;
            }
            Command::Found { .. }
            | Command::ProposeSync { .. }
            | Command::SettleSync { .. }
            | Command::Join { .. }
            | Command::NoteProgress { .. }
            | Command::Operate { .. }
            | Command::EndHandover { .. } => {}
        }
    }

    pub(super) fn installed(&mut self, index: u64) {
        self.applied_index = self.applied_index.max(index);
        self.snapshots += 1;
    }

    fn verb_ended<T>(&mut self, id: ActionId, outcome: &Outcome<T>) {
        let Some((_, verb)) = self.under_way.take_if(|(known, _)| *known == id) else { return };
        let end = match outcome {
            Outcome::Done(_) => "done",
            Outcome::Failed(_) => "failed",
            Outcome::Unknown => "unknown",
        };
        *self.verbs.entry((verb, end)).or_default() += 1;
    }

    /// An outage lasts from the end of one primacy to the recorded birth of the next.
    fn note_outage(&mut self, now: Moment, control: &ControlState) {
        if !control.has_primary() && control.is_born() {
            self.no_primary_since.get_or_insert(now);
        } else if let Some(since) = self.no_primary_since.take() {
            let lasted = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
            self.outages += 1;
            self.outage_ms = self.outage_ms.saturating_add(lasted);
            self.last_outage_ms = lasted;
        }
    }
}

fn name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Initialise => "initialise",
        Verb::Clone(_) => "clone",
        Verb::Rewind(_) => "rewind",
        Verb::Start(_) => "start",
        Verb::Promote(_) => "promote",
        Verb::Follow(_) => "follow",
        Verb::Detach => "detach",
        Verb::SetSync(_) => "set_sync",
        Verb::Admit => "admit",
        Verb::Configure(_) => "configure",
        Verb::Stop(StopHow::Fast) => "stop_fast",
        Verb::Stop(StopHow::Immediate) => "stop_immediate",
    }
}

fn cause(why: &VacateReason) -> &'static str {
    match why {
        VacateReason::Silent => "silent",
        VacateReason::CannotRenew => "cannot_renew",
        VacateReason::NotPromoted => "not_promoted",
        VacateReason::PostgresFailed(_) => "postgres_failed",
        VacateReason::Operator => "operator",
    }
}
