//! What should this member's Postgres be? One decision, as a function of what is known.
//!
//! The answer is the single next thing to do. It is asked again after every event, so a plan that
//! takes several steps needs no memory: each step is decided from where things stand.

use std::time::Duration;

use crate::control::{
    Command, ControlState, Handover, HandoverKind, MemberKind, OrderOutcome, VacateReason,
};
use crate::env::{Observation, Process, Side, StartAs, StopHow, SyncNames, Upstream};
use crate::ids::{CommandId, Epoch, Moment, NodeId};
use crate::sabotage::{Sabotage, Saboteur};

use super::action::Verb;
use super::agent::{Agent, Attachment, HUNG_LIMIT};
use super::event::Chore;
use super::fencing::is_strangers;
use super::patience::out_of_patience;
use super::rejoin::{Mend, Relation, compare};

/// How soon Postgres is looked at again while something is awaited from it.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// The same, where nothing hurries.
const LOOK_LATER: Duration = Duration::from_millis(100);

/// The next thing to do.
#[derive(Debug, PartialEq)]
pub(super) enum Desire {
    /// Nothing.
    Rest,
    /// Look again after a while.
    Look(Duration),
    /// Something to Postgres.
    Do(Verb),
    /// Something to the control state.
    Propose(Command),
    /// Nothing, before it is known that the record is in force.
    Doubt,
    /// Nothing, and a person should know why.
    Trouble(String),
}

/// Everything that the decision rests on.
pub(super) struct Situation<'a> {
    pub(super) me: NodeId,
    pub(super) now: Moment,
    pub(super) control: &'a ControlState,
    pub(super) agent: &'a Agent,
    pub(super) seen: &'a Observation,
    pub(super) may_restart: bool,
    pub(super) sabotage: Sabotage,
}

impl Situation<'_> {
    /// The decision.
    pub(super) fn desire(&self) -> Desire {
        let next = self.of_role();
        match next {
            // What is only a setting waits for everything else.
            Desire::Rest | Desire::Look(_) | Desire::Do(Verb::Start(_)) => {
                self.housekeeping().unwrap_or(next)
            }
            Desire::Do(_) | Desire::Propose(_) | Desire::Doubt | Desire::Trouble(_) => next,
        }
    }

    /// Parameters, and a restart that an operator asked for.
    fn housekeeping(&self) -> Option<Desire> {
        let ours = self.seen.system.is_some() && self.seen.system == self.control.system;
        let able = matches!(self.seen.process, Process::Up | Process::Down { .. });
        if !ours || !able || is_strangers(self.agent, self.control) {
            return None;
        }
        let wanted = &self.control.settings.parameters;
        if self.sabotage.is(Saboteur::ForgetParameters) {
            return None;
        }
        let refused = self.agent.not_taken.as_ref().is_some_and(|(refused, _)| refused == wanted);
        if (self.seen.parameters != *wanted && !refused) || self.asked(Chore::Reload) {
            return Some(Desire::Do(Verb::Configure(wanted.clone())));
        }
        let restart = self.asked(Chore::Restart) && self.seen.process == Process::Up;
        restart.then_some(Desire::Do(Verb::Stop(StopHow::Fast)))
    }

    fn asked(&self, chore: Chore) -> bool {
        self.agent.chores.contains(&chore)
    }

    fn of_role(&self) -> Desire {
        let Some(member) = self.control.members.get(&self.me) else { return self.outside() };
        if member.kind == MemberKind::Witness {
            return Desire::Rest;
        }
        let primacy = &self.control.primacy;
        match primacy.holder {
            _ if primacy.epoch == Epoch::default() => self.before_genesis(),
            Some(holder) if holder == self.me => self.as_holder(primacy.epoch),
            _ if is_strangers(self.agent, self.control) => Desire::Trouble(
                "its data directory belongs to another cluster; move it away, and a copy is made"
                    .into(),
            ),
            Some(holder) => self.behind_holder(holder, primacy.epoch),
            None => self.in_vacancy(),
        }
    }

    fn outside(&self) -> Desire {
        let retired = self.control.retired.contains(&self.me);
        let running = !matches!(self.seen.process, Process::Down { .. });
        match (retired, running) {
            (true, true) => Desire::Do(Verb::Stop(StopHow::Fast)),
            (true, false) => Desire::Trouble("was removed from the cluster".into()),
            // A machine that waits to be admitted is told what will stand in the way.
            (false, _) => self.before_genesis(),
        }
    }

    fn before_genesis(&self) -> Desire {
        if self.seen.system.is_some() && self.seen.system != self.control.system {
            return Desire::Trouble(
                "its data directory holds a database that this cluster did not make; found the \
                 cluster on it (`node adopt`), or empty the directory"
                    .into(),
            );
        }
        Desire::Rest
    }

    /// I1, I5: with a lease, step by step to a primary; without one, nothing that could write.
    fn as_holder(&self, epoch: Epoch) -> Desire {
        let timing = &self.control.settings.timing;
        let leased = self.agent.lease.is_some_and(|l| l.covers(epoch, self.now, timing));
        if !leased && !self.sabotage.is(Saboteur::PromoteWithoutLease) {
            return self.detach_or_rest();
        }
        if self.seen.system.is_none() {
            return if self.control.system.is_some() {
                self.release(epoch, "its data directory is empty")
            } else {
                Desire::Do(Verb::Initialise)
            };
        }
        if self.is_foreign() {
            return self.release(epoch, "its data directory belongs to another cluster");
        }
        match (self.seen.process, self.seen.side) {
            (Process::Hung, _) => self.end_if_hung(),
            (Process::Starting | Process::Stopping, _)
                if self.is_stuck() || self.out_of_patience() =>
            {
                Desire::Do(Verb::Stop(StopHow::Immediate))
            }
            (Process::Starting | Process::Stopping, _) => Desire::Look(LOOK_LATER),
            (Process::Down { .. }, side) => self.bring_up(epoch, side),
            (Process::Up, Side::Standby) if self.may_receive() => Desire::Do(Verb::Detach),
            (Process::Up, Side::Standby) => match self.target(epoch) {
                Some(sync) => Desire::Do(Verb::Promote(sync)),
                None => Desire::Rest,
            },
            (Process::Up, Side::Primary) => self.keep_primary(epoch),
        }
    }

    fn bring_up(&self, epoch: Epoch, side: Side) -> Desire {
        if let Some(handover) = self.switchover_from(epoch) {
            return Desire::Propose(self.hand_over(epoch, handover.id));
        }
        let was_primary = side == Side::Primary && self.agent.born() == Some(epoch);
        if !was_primary {
            return Desire::Do(Verb::Start(StartAs::Standby { upstream: None }));
        }
        if self.out_of_patience() {
            return self.release(epoch, "it does not come back in time");
        }
        if !self.may_restart {
            return self.release(epoch, "it crashes again and again");
        }
        match self.target(epoch) {
            Some(sync) => Desire::Do(Verb::Start(StartAs::Primary { epoch, sync })),
            None => Desire::Rest,
        }
    }

    /// A switchover loses nothing, in any mode. What only this member has would be lost by it where
    /// the shutdown was not clean and nobody was waited for; then it comes back itself instead.
    fn hand_over(&self, epoch: Epoch, id: CommandId) -> Command {
        let clean = self.seen.process == Process::Down { clean: true };
        let confirmed = self.control.sync.relies_on_standbys();
        if clean || confirmed || self.sabotage.is(Saboteur::HandOverUnclean) {
            return Command::Release { epoch, why: VacateReason::Operator };
        }
        let why = format!("{} did not shut down cleanly, and stays primary", self.me);
        Command::EndHandover { id, outcome: OrderOutcome::Refused(why) }
    }

    fn keep_primary(&self, epoch: Epoch) -> Desire {
        if !self.control.timelines.contains_key(&epoch) {
            let Some(system) = self.seen.system else { return Desire::Rest };
            let history = self.seen.history.clone();
            return Desire::Propose(Command::Born { epoch, system, history });
        }
        let Some(target) = self.target(epoch) else { return Desire::Rest };
        // A change is settled on certain news only: where the end of an earlier word is unknown, it
        // is said once more.
        let told = self.agent.sync_told.as_ref() == Some(&target);
        if self.seen.sync != target || (self.control.sync.is_joint() && !told) {
            return Desire::Do(Verb::SetSync(target));
        }
        if !self.seen.admits {
            return if self.tail_is_safe(&target) {
                Desire::Do(Verb::Admit)
            } else {
                Desire::Look(LOOK_SOON)
            };
        }
        if let Some(handover) = self.switchover_from(epoch) {
            return if self.successor_is_ready(handover.to) {
                Desire::Do(Verb::Stop(StopHow::Fast))
            } else {
                Desire::Look(LOOK_SOON)
            };
        }
        Desire::Rest
    }

    /// I3: nobody reads what a failover would take back. The tail that a recovery or a promotion
    /// left is on enough standbys before the first client is let in.
    fn tail_is_safe(&self, target: &SyncNames) -> bool {
        if target.confirmations == 0 || self.sabotage.is(Saboteur::AdmitBeforeTailConfirmed) {
            return true;
        }
        let Some(tail) = self.agent.tail.or(self.seen.flushed) else { return false };
        let confirmed = self.seen.streams.iter().filter(|stream| {
            stream.epoch == target.epoch
                && stream.flushed >= tail
                && target.standbys.contains(&stream.node)
        });
        confirmed.count() >= target.confirmations as usize
    }

    fn successor_is_ready(&self, wanted: Option<NodeId>) -> bool {
        let Some(end) = self.seen.flushed else { return false };
        let max_lag = self.control.settings.max_lag_bytes;
        self.seen.streams.iter().any(|stream| {
            stream.epoch == self.control.primacy.epoch
                && wanted.is_none_or(|to| to == stream.node)
                && self.control.is_candidate(stream.node)
                && end.ahead_of(stream.flushed) <= max_lag
        })
    }

    fn behind_holder(&self, holder: NodeId, epoch: Epoch) -> Desire {
        if self.is_stuck() || self.starts_in_vain() {
            return Desire::Do(Verb::Stop(StopHow::Immediate));
        }
        if self.seen.process == Process::Hung {
            return self.end_if_hung();
        }
        if !self.control.timelines.contains_key(&epoch) {
            // The new primary's switch point is not known yet, so nothing can be compared with it.
            return self.detach_or_recover();
        }
        let Some(upstream) = self.upstream(holder, epoch) else { return Desire::Rest };
        if self.seen.system.is_none() {
            // The first epoch's standbys are empty by right; a later one that is makes the damage.
            let builds = self.sabotage.is(Saboteur::InitialiseOverRecord) && epoch > Epoch(1);
            return Desire::Do(if builds { Verb::Initialise } else { Verb::Clone(upstream) });
        }
        // What this cluster's own first start left behind is set aside, and so is a directory that
        // is not under its care: a former standby of the database that was taken over.
        let copy =
            self.agent.needs_clone || self.asked(Chore::Reinitialise) || self.agent.is_unmanaged();
        if self.is_foreign() || copy {
            return self.replace(Verb::Clone(upstream));
        }
        match self.relation() {
            Relation::Behind | Relation::Unknown if self.agent.starved.is_some() => {
                self.replace(Verb::Clone(upstream))
            }
            Relation::Behind => self.follow(upstream),
            Relation::Diverged { .. } if self.sabotage.is(Saboteur::RejoinWithoutRewind) => {
                self.follow(upstream)
            }
            Relation::Diverged { mend: Mend::Rewind, .. } => self.replace(Verb::Rewind(upstream)),
            Relation::Diverged { mend: Mend::Copy, .. } | Relation::Unrelated => {
                self.replace(Verb::Clone(upstream))
            }
            Relation::Unknown => match self.seen.process {
                // It was up, and its planned stop did not end. To recover it so as to measure it
                // once more would only lead to the same stop; a rewind recovers first by itself.
                Process::Down { .. } if self.agent.cut_short => {
                    self.replace(Verb::Rewind(upstream))
                }
                Process::Down { .. } => self.start_behind(upstream),
                Process::Starting | Process::Up | Process::Stopping | Process::Hung => {
                    Desire::Look(LOOK_LATER)
                }
            },
        }
    }

    /// How the directory relates to the record. One that cannot say where it ends was seen to reach
    /// so far at least, which may be enough to know that it has diverged.
    fn relation(&self) -> Relation {
        let by = |end| compare(&self.seen.history, end, &self.control.lineage, self.sabotage);
        let known = by(self.seen.flushed);
        let at_least = by(self.agent.ended_at);
        let diverged = matches!(at_least, Relation::Diverged { .. });
        if known == Relation::Unknown && diverged { at_least } else { known }
    }

    /// A directory that is consistent by itself is attached once it is seen to be; any other needs
    /// what the primary has in order to start at all.
    fn start_behind(&self, upstream: Upstream) -> Desire {
        let upstream = (!self.seen.complete).then_some(upstream);
        Desire::Do(Verb::Start(StartAs::Standby { upstream }))
    }

    /// A server that starts and lacks log, while nobody waits for it any more: whatever it streams
    /// from was chosen before.
    fn starts_in_vain(&self) -> bool {
        self.seen.process == Process::Starting && !self.seen.complete
    }

    fn follow(&self, upstream: Upstream) -> Desire {
        match self.seen.process {
            Process::Down { .. } => self.start_behind(upstream),
            Process::Starting | Process::Stopping | Process::Hung => Desire::Look(LOOK_LATER),
            Process::Up => {
                if self.agent.attachment != Attachment::To(upstream.node, upstream.epoch) {
                    return Desire::Do(Verb::Follow(upstream));
                }
                Desire::Rest
            }
        }
    }

    /// Detach first, then report: nothing is decided from a position that still moves.
    fn in_vacancy(&self) -> Desire {
        if self.is_stuck() || self.starts_in_vain() {
            return Desire::Do(Verb::Stop(StopHow::Immediate));
        }
        match self.seen.process {
            Process::Hung => self.end_if_hung(),
            Process::Starting | Process::Stopping => Desire::Look(LOOK_LATER),
            Process::Up => self.detach_or_rest(),
            Process::Down { .. } if self.needs_recovery() => {
                Desire::Do(Verb::Start(StartAs::Standby { upstream: None }))
            }
            Process::Down { .. } => Desire::Rest,
        }
    }

    fn detach_or_rest(&self) -> Desire {
        let standby = self.seen.process == Process::Up && self.seen.side == Side::Standby;
        let attached = standby && self.may_receive();
        if attached && !self.sabotage.is(Saboteur::ElectWithoutDetaching) {
            return Desire::Do(Verb::Detach);
        }
        Desire::Rest
    }

    fn may_receive(&self) -> bool {
        self.agent.may_receive(self.seen, self.sabotage)
    }

    fn detach_or_recover(&self) -> Desire {
        let down = matches!(self.seen.process, Process::Down { .. });
        if down && self.needs_recovery() {
            return Desire::Do(Verb::Start(StartAs::Standby { upstream: None }));
        }
        self.detach_or_rest()
    }

    /// Only a start tells where the directory ends, and a start would tell.
    fn needs_recovery(&self) -> bool {
        let foreign = self.agent.is_unmanaged() && self.control.is_born();
        !foreign && self.seen.system.is_some() && self.seen.flushed.is_none() && self.seen.complete
    }

    /// I7: what a directory has and its replacement lacks can only be told from the record, and
    /// this member's may be old: whom it names as primary may be one again, with another history.
    fn replace(&self, verb: Verb) -> Desire {
        let in_force = self.agent.is_up_to_date(self.control, self.now);
        if !in_force && !self.sabotage.is(Saboteur::ReplaceOnAnOldRecord) {
            return Desire::Doubt;
        }
        match self.seen.process {
            Process::Down { .. } => Desire::Do(verb),
            Process::Up | Process::Starting => Desire::Do(Verb::Stop(StopHow::Fast)),
            Process::Stopping | Process::Hung => Desire::Look(LOOK_LATER),
        }
    }

    fn end_if_hung(&self) -> Desire {
        let hung = self.agent.hung_since.map_or(Duration::ZERO, |since| self.now.since(since));
        if hung >= HUNG_LIMIT {
            Desire::Do(Verb::Stop(StopHow::Immediate))
        } else {
            Desire::Look(LOOK_LATER)
        }
    }

    /// A planned stop that nobody waits for any more, because its manager was restarted, say, and
    /// that does not end.
    fn is_stuck(&self) -> bool {
        let limit = Duration::from_millis(self.control.settings.timing.stop_ms);
        self.agent.stopping_since.is_some_and(|since| self.now.since(since) > limit)
    }

    fn out_of_patience(&self) -> bool {
        out_of_patience(self.agent, self.control, self.now)
    }

    fn release(&self, epoch: Epoch, why: &str) -> Desire {
        let why = VacateReason::PostgresFailed(why.to_owned());
        Desire::Propose(Command::Release { epoch, why })
    }

    fn switchover_from(&self, epoch: Epoch) -> Option<&Handover> {
        let handover = self.control.handover.as_ref()?;
        (handover.from == epoch && handover.kind == HandoverKind::Switchover).then_some(handover)
    }

    fn is_foreign(&self) -> bool {
        match (self.seen.system, self.control.system) {
            (Some(own), Some(known)) => own != known,
            _ => false,
        }
    }

    fn target(&self, epoch: Epoch) -> Option<SyncNames> {
        self.control.sync.target().filter(|sync| sync.epoch == epoch).cloned()
    }

    fn upstream(&self, holder: NodeId, epoch: Epoch) -> Option<Upstream> {
        let address = self.control.members.get(&holder)?.postgres.clone();
        let stale = self.sabotage.is(Saboteur::AttachUnderOldEpoch) && epoch > Epoch(1);
        let epoch = if stale { Epoch(epoch.0 - 1) } else { epoch };
        Some(Upstream { node: holder, address, epoch })
    }
}
