//! How long things may take: which verb is cut short, and from when on a primacy is given up
//! because its Postgres does not come back.
//!
//! Every verb has a limit here. One that never returned would otherwise hold the member for ever,
//! since nothing but a stop may begin before it has ended.

use std::time::Duration;

use crate::control::{Command, ControlState, Mode, Timing, VacateReason};
use crate::env::{Process, StartAs, StopHow};
use crate::ids::Moment;
use crate::sabotage::Saboteur;

use super::action::Verb;
use super::agent::{Agent, Busy};
use super::state::Core;

/// In quorum-sync a failover loses nothing, so a restart in place is not waited for as long.
const QUORUM_RESTART_LIMIT: Duration = Duration::from_millis(1_500);
/// How long a holder may take to give its primacy back, from when it has waited for long enough.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(2);
/// For an immediate stop, which only waits for the operating system. Then it is asked for again.
const END_LIMIT: Duration = Duration::from_secs(10);
/// For a word with a server that answers, and for the creation of an empty database.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// For a recovery: the log of a busy day on a slow disk. Where it holds up a primacy, the limits of
/// that come first.
const RECOVERY_LIMIT: Duration = Duration::from_hours(12);
/// For a copy of everything: tens of terabytes over a slow link.
const COPY_LIMIT: Duration = Duration::from_hours(240);

/// How long a verb may take.
fn limit_of(verb: &Verb, timing: &Timing) -> Duration {
    match verb {
        Verb::Stop(StopHow::Fast) => Duration::from_millis(timing.stop_ms),
        Verb::Stop(StopHow::Immediate) => END_LIMIT,
        Verb::Initialise
        | Verb::Follow(_)
        | Verb::Detach
        | Verb::SetSync(_)
        | Verb::Admit
        | Verb::Configure(_) => COMMAND_LIMIT,
        Verb::Start(_) | Verb::Promote(_) => RECOVERY_LIMIT,
        Verb::Clone(_) | Verb::Rewind(_) => COPY_LIMIT,
    }
}

/// Whether a leased holder's server has been away for longer than its primacy waits for it.
pub(super) fn out_of_patience(agent: &Agent, control: &ControlState, now: Moment) -> bool {
    is_away_for(restart_limit(control), agent, now)
}

fn is_away_for(limit: Duration, agent: &Agent, now: Moment) -> bool {
    agent.not_up_since.is_some_and(|since| now.since(since) > limit)
}

fn restart_limit(control: &ControlState) -> Duration {
    let mut limit = Duration::from_millis(control.settings.timing.restart_ms);
    if control.settings.mode == Mode::QuorumSync {
        limit = limit.min(QUORUM_RESTART_LIMIT);
    }
    limit
}

impl Core {
    /// Why what is under way is to be cut short by an immediate stop, if it is.
    pub(super) fn why_cut_short(&self) -> Option<String> {
        let busy = self.agent.busy.as_ref()?;
        if self.now.since(busy.since) > limit_of(&busy.verb, &self.control.settings.timing) {
            return Some(format!("{} takes too long", busy.verb));
        }
        match &busy.verb {
            // A copy is worth less than this member's word in an election; cut short, it leaves the
            // directory as it was.
            Verb::Clone(_) if self.control.is_vacant() => Some("its word is needed".into()),
            // It lives on what an upstream sends, and that is primary no more, or sends nothing.
            Verb::Start(StartAs::Standby { upstream: Some(_) }) if self.starts_in_vain(busy) => {
                Some("its upstream has nothing for it".into())
            }
            // The recovery of a primary may take hours, and somebody else can serve in seconds.
            Verb::Start(StartAs::Primary { .. })
                if out_of_patience(&self.agent, &self.control, self.now) =>
            {
                Some("it does not come back in time".into())
            }
            Verb::Clone(_)
            | Verb::Start(_)
            | Verb::Initialise
            | Verb::Rewind(_)
            | Verb::Promote(_)
            | Verb::Follow(_)
            | Verb::Detach
            | Verb::SetSync(_)
            | Verb::Admit
            | Verb::Configure(_)
            | Verb::Stop(_) => None,
        }
    }

    fn starts_in_vain(&self, busy: &Busy) -> bool {
        let primacy = &self.control.primacy;
        let moved = primacy.holder.is_none() || primacy.epoch != busy.epoch;
        moved || self.agent.starved.is_some()
    }

    /// What a holder says of its Postgres that it cannot look at.
    fn lost_sight(&self) -> Option<String> {
        let lost = self.is_holder() && self.agent.is_blind(self.now);
        lost.then(|| format!("it {}", self.agent.unseen_because()))
    }

    /// I5, I9: a holder that cannot look at its Postgres knows nothing of it: neither whether it
    /// writes nor whether it lives. It is ended like one that hangs, and its primacy given back.
    pub(super) fn why_end_unseen(&self) -> Option<String> {
        let serves = self.agent.busy.is_none() && !self.is_down();
        self.lost_sight().filter(|_| serves)
    }

    /// What a holder proposes that cannot look at its Postgres and has ended it.
    pub(super) fn release_unseen(&self) -> Option<Command> {
        let why = VacateReason::PostgresFailed(self.lost_sight()?);
        Some(Command::Release { epoch: self.control.primacy.epoch, why })
    }

    /// Whether a holder asks for more time: not for a server that it has lost sight of, nor for one
    /// that neither comes back nor ends, because its lease keeps everybody else from serving. Where
    /// every stop fails, the lease ends, and the guard ends the server. For one that has ended it
    /// asks on, because with a lease it is started again or given back at once.
    pub(super) fn wants_lease(&self) -> bool {
        let stuck = !self.is_down() && out_of_patience(&self.agent, &self.control, self.now);
        self.is_holder() && !stuck && !self.is_held_up() && !self.agent.is_blind(self.now)
    }

    /// Whether what is under way keeps the member from giving back what it should have given back
    /// by now: a disk that stalls can hold up a start, and the stop that is to cut it short.
    fn is_held_up(&self) -> bool {
        let limit = restart_limit(&self.control) + GIVE_BACK_LIMIT;
        self.agent.busy.is_some() && is_away_for(limit, &self.agent, self.now)
    }

    /// Whether no server runs, by the last look or by a stop since. A manager that was restarted
    /// may never have been able to look.
    fn is_down(&self) -> bool {
        let ended = self.agent.ended && !self.sabotage.is(Saboteur::ForgetTheEnd);
        ended || self.agent.seen().is_some_and(|o| matches!(o.process, Process::Down { .. }))
    }

    /// Keeps the clock of a holder whose server is away, also while something is under way that is
    /// meant to bring it back.
    pub(super) fn note_availability(&mut self) {
        let timing = &self.control.settings.timing;
        let epoch = self.control.primacy.epoch;
        let leased = self.agent.lease.is_some_and(|l| l.covers(epoch, self.now, timing));
        let up = self.agent.seen().is_some_and(|o| o.process == Process::Up);
        // A founder has no server that could be away: it makes one, and that takes what it takes.
        let founds = !self.control.is_born();
        // A lease that ends and comes back in between is no new beginning.
        self.agent.not_up_since = if up || founds || !self.is_holder() {
            None
        } else {
            self.agent.not_up_since.or_else(|| leased.then_some(self.now))
        };
    }
}
