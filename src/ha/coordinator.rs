//! The coordinator: it runs where Raft leads, and answers who should hold primacy.
//!
//! Its memory begins with a leadership and ends with it; whatever must survive is in the control
//! state. Each rule below is one question with one answer; `next_command` asks them in order.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::control::{Command, ControlState, Handover, HandoverKind, OrderOutcome, VacateReason};
use crate::env::Side;
use crate::ids::{Epoch, Moment, NodeId, Term, WalPosition};
use crate::sabotage::{Sabotage, Saboteur};

use super::election::{Ballot, Failure, Obstacle};
use super::event::{Ask, RequestId};
use super::lease::LeaseLedger;
use super::report::{Report, report_limit};
use super::sync::SyncWatch;

/// How long a handover may take before its order is refused, beyond the planned stop.
const HANDOVER_LIMIT: Duration = Duration::from_secs(8);
/// The same, for one that an operator forces and that lacks evidence.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
/// How long the first holder may take to create the database and to start it. One that cannot must
/// not keep the others from it.
const FOUNDING_LIMIT: Duration = Duration::from_secs(20);
/// How long a holder that failed by itself comes last among equals. Longer than any fault that one
/// node mends by itself; whoever has no equal is chosen all the same.
const FAILURE_REMEMBERED: Duration = Duration::from_secs(60);
/// The part of `max_lag` by which the primary advances before its position is noted.
const PROGRESS_DIVISOR: u64 = 4;

/// A member's last report.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) report: Report,
    pub(super) at: Moment,
}

impl Seen {
    /// Whether it still speaks for the member.
    fn speaks(&self, now: Moment, control: &ControlState) -> bool {
        now.since(self.at) <= report_limit(&control.settings.timing)
    }
}

/// The coordinator's memory.
#[derive(Debug)]
pub(super) struct Coordinator {
    /// The term in which this member leads.
    pub(super) term: Term,
    /// Since when.
    led_since: Moment,
    /// L4.
    pub(super) ledger: LeaseLedger,
    /// What the members last said.
    pub(super) seen: BTreeMap<NodeId, Seen>,
    /// Who asked for what, while the confirmation of this leadership is under way.
    pub(super) asked: BTreeMap<RequestId, (NodeId, Ask)>,
    /// The epoch and the vacancy as they were last looked at, and since when they are so.
    epoch: Epoch,
    given_at: Moment,
    /// No standby has heard this epoch's Postgres yet, as far as is known here.
    unheard: bool,
    vacant_since: Option<Moment>,
    /// Where the holder of the present epoch was last known to be.
    primary_position: Option<WalPosition>,
    /// Since when the holder reports that it lets clients in.
    admits_since: Option<Moment>,
    /// Since when the holder reports without a lease.
    unleased_since: Option<Moment>,
    /// Holders that lost primacy by a fault of their own, and when.
    failed: BTreeMap<NodeId, Failure>,
    /// The handover under way, and since when it is known.
    handover_since: Option<Moment>,
    sync: SyncWatch,
    /// Why nobody is elected, for people.
    pub(super) obstacle: Option<Obstacle>,
    /// When leadership or voters were last moved.
    pub(super) moved_at: Option<Moment>,
}

/// Whether the last holder could have gone on but for itself: among equals another one goes first.
fn failed_by_itself(control: &ControlState) -> bool {
    match &control.primacy.vacated {
        Some(
            VacateReason::NotPromoted | VacateReason::CannotRenew | VacateReason::PostgresFailed(_),
        ) => true,
        Some(VacateReason::Silent | VacateReason::Operator) | None => false,
    }
}

impl Coordinator {
    pub(super) fn new(term: Term, led_since: Moment, control: &ControlState) -> Self {
        Self {
            term,
            led_since,
            ledger: LeaseLedger::new(led_since),
            seen: BTreeMap::new(),
            asked: BTreeMap::new(),
            epoch: control.primacy.epoch,
            given_at: led_since,
            unheard: false,
            vacant_since: None,
            primary_position: None,
            admits_since: None,
            unleased_since: None,
            failed: BTreeMap::new(),
            handover_since: None,
            sync: SyncWatch::default(),
            obstacle: None,
            moved_at: None,
        }
    }

    /// Takes note of a control state: what is new in it begins now.
    pub(super) fn on_control(&mut self, control: &ControlState, now: Moment) {
        if control.primacy.epoch > self.epoch {
            self.epoch = control.primacy.epoch;
            self.given_at = now;
            self.unheard = true;
            self.primary_position = None;
            self.admits_since = None;
            self.unleased_since = None;
            self.sync = SyncWatch::default();
            self.ledger.epoch_given(self.epoch);
        }
        let vacant = control.is_vacant() && self.epoch > Epoch::default();
        if vacant && self.vacant_since.is_none() && failed_by_itself(control) {
            let failure = Failure { at: now, born: control.timelines.contains_key(&self.epoch) };
            self.failed.extend(control.primacy.last_holder.map(|holder| (holder, failure)));
        }
        self.failed.retain(|_, failure| now.since(failure.at) < FAILURE_REMEMBERED);
        self.vacant_since = vacant.then(|| self.vacant_since.unwrap_or(now));
        let handover = control.handover.is_some();
        self.handover_since = handover.then(|| self.handover_since.unwrap_or(now));
        if !vacant {
            self.obstacle = None;
        }
        self.seen.retain(|node, _| control.members.contains_key(node));
    }

    /// For how long the present epoch's primary has been let in clients, as far as is known here.
    pub(super) fn settled_for(&self, now: Moment, control: &ControlState) -> Duration {
        let held = control.primacy.holder.is_some();
        self.admits_since.filter(|_| held).map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Takes a member's report in, unless a later one has overtaken it: a member never forgets what
    /// it has applied, so an older version is an older word. Nobody but members is believed.
    pub(super) fn on_report(
        &mut self,
        report: Report,
        control: &ControlState,
        now: Moment,
        sabotage: Sabotage,
    ) {
        let overtaken = self.seen.get(&report.node).is_some_and(|seen| {
            seen.report.version > report.version && !sabotage.is(Saboteur::SettleByALateReport)
        });
        if overtaken || !control.members.contains_key(&report.node) {
            return;
        }
        if control.primacy.holder == Some(report.node)
            && report.birth.is_some_and(|b| b.born == self.epoch)
        {
            self.primary_position = self.primary_position.max(report.position);
        }
        if control.primacy.holder == Some(report.node) {
            let admits = report.admits && report.side == Side::Primary;
            self.admits_since = admits.then(|| self.admits_since.unwrap_or(now));
            let unleased = !report.leased;
            self.unleased_since = unleased.then(|| self.unleased_since.unwrap_or(now));
        }
        if let Some(receiver) = report.receiver
            && receiver.epoch == self.epoch
        {
            self.unheard = false;
        }
        self.seen.insert(report.node, Seen { report, at: now });
    }

    /// The members that are alive, by their last reports.
    pub(super) fn alive(&self, now: Moment, control: &ControlState) -> BTreeMap<NodeId, Report> {
        let alive = self.seen.iter().filter(|(_, seen)| seen.speaks(now, control));
        alive.map(|(node, seen)| (*node, seen.report.clone())).collect()
    }

    /// Whether this one is.
    pub(super) fn hears(&self, node: NodeId, now: Moment, control: &ControlState) -> bool {
        self.seen.get(&node).is_some_and(|seen| seen.speaks(now, control))
    }

    /// The next command that the control state needs, if any. One at a time: the next is decided
    /// from the state that this one leads to.
    pub(super) fn next_command(
        &mut self,
        now: Moment,
        control: &ControlState,
        sabotage: Sabotage,
    ) -> Option<Command> {
        if control.cluster.is_empty() {
            return None;
        }
        if let Some(command) = self.overdue_handover(now, control) {
            return Some(command);
        }
        let Some(holder) = control.primacy.holder else {
            return self.fill_vacancy(now, control, sabotage);
        };
        if let Some(why) = self.why_vacate(now, control, holder, sabotage) {
            return Some(Command::Vacate { epoch: control.primacy.epoch, why });
        }
        let report = &self.seen.get(&holder).filter(|seen| seen.speaks(now, control))?.report;
        if let Some(command) = self.sync.next_step(now, control, report, sabotage) {
            return Some(command);
        }
        self.progress(control)
    }

    fn fill_vacancy(
        &mut self,
        now: Moment,
        control: &ControlState,
        sabotage: Sabotage,
    ) -> Option<Command> {
        if sabotage.is(Saboteur::NeverElect) && control.is_born() {
            return None;
        }
        let wait = control.settings.timing.lease_wait(control.settings.longest_lease_ms);
        let mut alive = self.alive(now, control);
        self.drop_the_silent(control, &mut alive);
        let ballot = Ballot {
            now,
            control,
            alive: &alive,
            vacant_since: self.vacant_since.unwrap_or(self.led_since),
            lease_clear_at: self.ledger.clear_at(control.primacy.epoch, wait, sabotage),
            primary_position: self.primary_position,
            failed: &self.failed,
            sabotage,
        };
        match ballot.decide() {
            Ok(command) => {
                self.obstacle = None;
                Some(command)
            }
            Err(obstacle) => {
                self.obstacle = Some(obstacle);
                None
            }
        }
    }

    /// A holder that was found dead is not waited for, unless it has been heard since.
    fn drop_the_silent(&self, control: &ControlState, alive: &mut BTreeMap<NodeId, Report>) {
        if control.primacy.vacated != Some(VacateReason::Silent) {
            return;
        }
        let Some(former) = control.primacy.last_holder else { return };
        let heard_since = self.seen.get(&former).is_some_and(|s| Some(s.at) > self.vacant_since);
        if !heard_since {
            alive.remove(&former);
        }
    }

    /// Two signals before a failover: the holder is silent, and no standby hears its Postgres.
    fn why_vacate(
        &self,
        now: Moment,
        control: &ControlState,
        holder: NodeId,
        sabotage: Sabotage,
    ) -> Option<VacateReason> {
        let timing = &control.settings.timing;
        let forced = control.handover.as_ref().is_some_and(|handover| {
            handover.from == control.primacy.epoch
                && matches!(handover.kind, HandoverKind::Failover { .. })
        });
        if forced {
            return Some(VacateReason::Operator);
        }
        if control.settings.paused || !self.someone_else_could(now, control, holder) {
            return None;
        }
        let promotion = Duration::from_millis(timing.promote_ms);
        let limit = if control.is_born() { promotion } else { promotion.max(FOUNDING_LIMIT) };
        let born = control.timelines.contains_key(&control.primacy.epoch);
        if !born && now.since(self.given_at) > limit {
            return Some(VacateReason::NotPromoted);
        }
        let suspect = Duration::from_millis(timing.suspect_ms);
        let patience = suspect + Duration::from_millis(timing.lease_ms) / 2;
        // That nobody hears it says nothing before somebody could.
        let suspicious = if born && self.unheard { patience } else { suspect };
        let silent = now.since(self.last_heard(holder));
        if silent <= suspicious {
            // Its requests arrive and the answers do not: without a lease it is fenced, for good.
            let unleased = self.unleased_since.is_some_and(|since| now.since(since) > patience);
            return unleased.then_some(VacateReason::CannotRenew);
        }
        let wait = timing.lease_wait(control.settings.longest_lease_ms);
        // Once the lease is over its Postgres has been fenced, whatever a standby believes to hear.
        let fenced = silent > wait + suspect;
        let heard = self.heard_by_a_standby(now, control.primacy.epoch, holder, suspect);
        let one_is_enough = sabotage.is(Saboteur::OneSignalIsEnough);
        (!heard || fenced || one_is_enough).then_some(VacateReason::Silent)
    }

    fn last_heard(&self, node: NodeId) -> Moment {
        let reported = self.seen.get(&node).map_or(self.led_since, |seen| seen.at);
        reported.max(self.given_at).max(self.led_since)
    }

    fn someone_else_could(&self, now: Moment, control: &ControlState, holder: NodeId) -> bool {
        self.seen.iter().any(|(node, seen)| {
            *node != holder
                && seen.speaks(now, control)
                && control.is_candidate(*node)
                && (seen.report.has_data() || control.system.is_none())
        })
    }

    fn heard_by_a_standby(
        &self,
        now: Moment,
        epoch: Epoch,
        holder: NodeId,
        suspect: Duration,
    ) -> bool {
        self.seen.values().any(|seen| {
            let age = now.since(seen.at);
            seen.report.receiver.is_some_and(|receiver| {
                receiver.upstream == holder
                    && receiver.epoch == epoch
                    && age + Duration::from_millis(receiver.silent_ms) <= suspect
            })
        })
    }

    /// An operator gets an answer: a handover that does not come about is refused with the reason.
    fn overdue_handover(&self, now: Moment, control: &ControlState) -> Option<Command> {
        let handover = control.handover.as_ref()?;
        let since = self.handover_since?;
        let stop = Duration::from_millis(control.settings.timing.stop_ms);
        let limit = match handover.kind {
            HandoverKind::Switchover => stop + HANDOVER_LIMIT,
            HandoverKind::Failover { .. } => FAILOVER_LIMIT,
        };
        if now.since(since) <= limit {
            return None;
        }
        let why = self.why_not_handed_over(now, control, handover);
        let outcome = OrderOutcome::Refused(why);
        Some(Command::EndHandover { id: handover.id, outcome })
    }

    fn why_not_handed_over(
        &self,
        now: Moment,
        control: &ControlState,
        handover: &Handover,
    ) -> String {
        if let Some(obstacle) = &self.obstacle {
            return obstacle.to_string();
        }
        let Some(to) = handover.to else { return "no standby was ready in time".into() };
        let Some(seen) = self.seen.get(&to).filter(|seen| seen.speaks(now, control)) else {
            return format!("{to} does not answer");
        };
        if let Some(trouble) = &seen.report.trouble {
            return format!("{to} cannot take over: {trouble}");
        }
        match (self.primary_position, seen.report.position) {
            (Some(primary), Some(own)) => format!(
                "{to} is {} bytes behind, max_lag is {}",
                primary.flushed.ahead_of(own.flushed),
                control.settings.max_lag_bytes
            ),
            _ => format!("{to} was not ready in time"),
        }
    }

    fn progress(&self, control: &ControlState) -> Option<Command> {
        if control.sync.relies_on_standbys() {
            return None;
        }
        let position = self.primary_position?;
        let step = control.settings.max_lag_bytes / PROGRESS_DIVISOR;
        let due = match control.progress {
            None => true,
            Some(noted) if noted.born < position.born => true,
            Some(noted) => position.flushed.ahead_of(noted.flushed) > step.max(1),
        };
        due.then_some(Command::NoteProgress { epoch: control.primacy.epoch, position })
    }

    /// When this must be looked at again although nothing happens.
    pub(super) fn next_look(&self, now: Moment, control: &ControlState) -> Moment {
        let heartbeat = Duration::from_millis(control.settings.timing.heartbeat_ms);
        let mut soon = now + heartbeat / 2;
        if let Some(holder) = control.primacy.holder {
            let suspect = Duration::from_millis(control.settings.timing.suspect_ms);
            let suspicious = self.last_heard(holder) + suspect + Duration::from_millis(1);
            if suspicious > now {
                soon = soon.min(suspicious);
            }
        }
        match &self.obstacle {
            Some(Obstacle::LeaseUntil(at)) if *at > now => (*at).min(soon),
            _ => soon,
        }
    }
}
