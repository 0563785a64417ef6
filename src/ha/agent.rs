//! The agent's memory: what this member knows of its own Postgres, its lease, and what is under
//! way.
//!
//! It decides nothing; `desire` and `fencing` do, from what is kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::control::ControlState;
use crate::env::{Observation, Process, Side, StopHow, SyncNames};
use crate::ids::{ActionId, Epoch, Lsn, Moment, NodeId, WalPosition};
use crate::sabotage::{Sabotage, Saboteur};

use super::action::Verb;
use super::event::Chore;
use super::lease::Lease;
use super::report::{ReceiverReport, Report};
use super::role::Role;

/// How long a server may not answer before it is ended: longer than a busy moment, far shorter
/// than a person's patience.
pub(super) const HUNG_LIMIT: Duration = Duration::from_millis(1_000);
/// How long nothing is said again of what changes at every look.
const SAY_AGAIN: Duration = Duration::from_secs(5);
/// How many crashes within [`RESTART_WINDOW`] are answered by a restart in place.
pub(super) const RESTARTS_MAX: usize = 3;
/// See [`RESTARTS_MAX`].
pub(super) const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// How long an upstream has to insist that it will never stream before its word is acted on: a
/// copy of everything is dear, and what a server says in the middle of a change may not last.
const STARVED_LIMIT: Duration = Duration::from_secs(5);
/// For how long the word of a confirmed leader counts: a round trip, the review after it, and the
/// stop of a standby that is to be replaced.
const IN_FORCE_LIMIT: Duration = Duration::from_secs(2);

/// A verb under way.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    pub(super) id: ActionId,
    pub(super) epoch: Epoch,
    pub(super) verb: Verb,
    pub(super) since: Moment,
}

/// What Postgres's configuration names as its upstream. That it streams from nowhere says nothing
/// about it: between two attempts to connect no receiver is seen either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// A predecessor of this manager may have told it anything; or a word about it is under way, or
    /// ended nobody knows how.
    Unknown,
    /// Nobody: it was detached, or has not been told since it was started.
    Cleared,
    /// This primary, under the name of this epoch.
    To(NodeId, Epoch),
}

/// A server that was told to become primary. I5: whatever the last look saw, it counts as one from
/// then on until a look shows what came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unseen {
    /// The primacy for which it was told.
    pub(super) epoch: Epoch,
    /// No end of it is known: it may come true later than any look.
    pub(super) open: bool,
}

/// What the agent remembers. Nothing here survives a restart of the manager, and nothing has to.
#[derive(Debug)]
pub(super) struct Agent {
    /// The last look at Postgres, and when it was asked for.
    pub(super) observed: Option<(Observation, Moment)>,
    /// A look under way, and when it was asked for.
    pub(super) looking: Option<(ActionId, Moment)>,
    /// Since when every look has failed.
    pub(super) blind_since: Option<Moment>,
    /// Why not, as the last attempt said.
    pub(super) blind_why: String,
    blind_told: Option<Moment>,
    /// A stop has returned, and nobody has looked since.
    pub(super) ended: bool,
    /// Looks that were asked for before this instant may show what is no longer so.
    pub(super) stale_before: Moment,
    /// The lease in force: the guard is armed for it.
    pub(super) lease: Option<Lease>,
    /// The last action before the guard was disarmed: an answer to an earlier word to it is void.
    pub(super) disarmed_at: ActionId,
    /// A server that was told to become primary and was not looked at since.
    pub(super) unseen: Option<Unseen>,
    /// The verb under way.
    pub(super) busy: Option<Busy>,
    /// Whom Postgres was last told to follow.
    pub(super) attachment: Attachment,
    /// The synchronous configuration that Postgres was last told, where it is certain that it was:
    /// not while it is being told, and not where the end of that is unknown. Then another one than
    /// the last look saw may still come into force.
    pub(super) sync_told: Option<SyncNames>,
    /// Since when its upstream says that it will never stream to it.
    starving_since: Option<Moment>,
    /// What the upstream said, once that is more than a moment's state: only a copy helps.
    pub(super) starved: Option<String>,
    /// Since when the server of a holder that had a lease is not up.
    pub(super) not_up_since: Option<Moment>,
    /// Since when the server does not answer.
    pub(super) hung_since: Option<Moment>,
    /// Since when the server is shutting down.
    pub(super) stopping_since: Option<Moment>,
    /// When the server was restarted in place, oldest first; at most [`RESTARTS_MAX`].
    pub(super) restarts: Vec<Moment>,
    /// Before this instant nothing that failed is tried again.
    pub(super) retry_at: Moment,
    /// Before this instant no stop is tried again.
    pub(super) stop_again_at: Moment,
    /// A planned stop was cut short, so that only a recovery can tell where the log ends.
    pub(super) cut_short: bool,
    /// How often in a row something failed.
    pub(super) failures: u32,
    /// A rewind or a start failed for good: only a copy helps.
    pub(super) needs_clone: bool,
    /// The parameters that its Postgres did not take, and why.
    pub(super) not_taken: Option<(BTreeMap<String, String>, String)>,
    /// What an operator asked for, and was not done yet.
    pub(super) chores: BTreeSet<Chore>,
    /// The proposal under way.
    pub(super) proposal: Option<(ActionId, Moment)>,
    /// The promise made for a vacancy, and the position that goes with it.
    pub(super) detached: Option<(Epoch, Option<WalPosition>)>,
    /// Where the log of a primary ended when it was last started: what clients may not see before
    /// the standbys have it.
    pub(super) tail: Option<Lsn>,
    /// Where the directory was last seen to end, since it was last replaced. A server that is down
    /// may not be able to tell; it has not become less.
    pub(super) ended_at: Option<Lsn>,
    /// It would replace its directory, and waits to hear that its record is in force.
    pub(super) doubts: bool,
    /// What a confirmed leader last said to be in force, and when that was asked.
    pub(super) in_force: Option<(u64, Moment)>,
    /// Since when no leader has taken a report of this member in.
    pub(super) unheard_since: Option<Moment>,
    /// Heartbeats without an answer, in a row.
    pub(super) unanswered: u32,
    /// Whose turn it is to relay.
    pub(super) relay_turn: usize,
    /// What keeps this member from doing what the control state asks of it.
    pub(super) trouble: Option<String>,
    /// The role.
    pub(super) role: Role,
}

impl Agent {
    pub(super) fn new() -> Self {
        Self {
            observed: None,
            looking: None,
            blind_since: None,
            blind_why: String::new(),
            blind_told: None,
            ended: false,
            stale_before: Moment::default(),
            lease: None,
            disarmed_at: ActionId::default(),
            unseen: None,
            busy: None,
            attachment: Attachment::Unknown,
            sync_told: None,
            starving_since: None,
            starved: None,
            not_up_since: None,
            hung_since: None,
            stopping_since: None,
            restarts: Vec::new(),
            retry_at: Moment::default(),
            stop_again_at: Moment::default(),
            cut_short: false,
            failures: 0,
            needs_clone: false,
            not_taken: None,
            chores: BTreeSet::new(),
            proposal: None,
            detached: None,
            tail: None,
            ended_at: None,
            doubts: false,
            in_force: None,
            unheard_since: None,
            unanswered: 0,
            relay_turn: 0,
            trouble: None,
            role: Role::Idle,
        }
    }

    /// The last look, where nothing has happened since that could have outdated it.
    pub(super) fn fresh(&self) -> Option<&Observation> {
        let (observation, asked) = self.observed.as_ref()?;
        (*asked >= self.stale_before).then_some(observation)
    }

    /// Whether the directory has not come under the cluster's care yet: nothing in it was born in
    /// an epoch.
    pub(super) fn is_unmanaged(&self) -> bool {
        self.born() == Some(Epoch::default())
    }

    /// The last look, however old.
    pub(super) fn seen(&self) -> Option<&Observation> {
        self.observed.as_ref().map(|(observation, _)| observation)
    }

    /// The epoch in which the newest timeline of the directory was born.
    pub(super) fn born(&self) -> Option<Epoch> {
        self.seen()?.history.last().map(|birth| birth.born)
    }

    /// The synchronous configuration that is in force and stays so until another is told.
    fn sync_in_force(&self) -> Option<&SyncNames> {
        let seen = self.fresh()?;
        (self.sync_told.as_ref() == Some(&seen.sync)).then_some(&seen.sync)
    }

    /// Takes a look in, and keeps the clocks that hang on it.
    pub(super) fn observe(&mut self, observation: Observation, asked: Moment, now: Moment) {
        let hung = observation.process == Process::Hung;
        self.hung_since = hung.then(|| self.hung_since.unwrap_or(now));
        let stopping = observation.process == Process::Stopping;
        self.stopping_since = stopping.then(|| self.stopping_since.unwrap_or(now));
        if matches!(observation.process, Process::Down { .. }) && asked >= self.stale_before {
            // Whatever its configuration names is cleared before it is started.
            self.attachment = Attachment::Cleared;
        }
        let shown = observation.side == Side::Primary
            || matches!(observation.process, Process::Down { .. })
            || self.unseen.is_some_and(|unseen| !unseen.open);
        if shown && asked >= self.stale_before && !self.is_promoting() {
            self.unseen = None;
        }
        self.blind_since = None;
        self.ended = false;
        self.note_starvation(&observation, now);
        self.ended_at = observation.flushed.or(self.ended_at);
        self.observed = Some((observation, asked));
    }

    /// Silence is no reason for a copy, however long it lasts: a standby that is cut off, or whose
    /// primary is away, is as good as it was.
    fn note_starvation(&mut self, observation: &Observation, now: Moment) {
        let said = observation.starved.as_ref();
        self.starving_since = said.map(|_| self.starving_since.unwrap_or(now));
        if self.starving_since.is_some_and(|since| now.since(since) >= STARVED_LIMIT) {
            self.starved = said.cloned();
        }
        if observation.receiver.is_some() {
            self.starved = None;
            self.needs_clone = false;
        }
    }

    pub(super) fn forget_starvation(&mut self) {
        self.starved = None;
        self.starving_since = None;
    }

    /// The directory is another one: what was known of the one before is void.
    pub(super) fn note_replaced(&mut self) {
        self.forget_starvation();
        self.ended_at = None;
    }

    /// A look has failed. Returns whether that is to be said: it is news and was not just said.
    pub(super) fn note_blind(&mut self, why: &str, now: Moment) -> bool {
        let known = self.blind_since.is_some() && self.blind_why == why;
        let lately = self.blind_told.is_some_and(|told| now.since(told) < SAY_AGAIN);
        self.blind_since.get_or_insert(now);
        why.clone_into(&mut self.blind_why);
        let is_news = !known && !lately;
        if is_news {
            self.blind_told = Some(now);
        }
        is_news
    }

    /// In words, why nothing is known of Postgres.
    pub(super) fn unseen_because(&self) -> String {
        format!("cannot be looked at: {}", self.blind_why)
    }

    /// Whether Postgres cannot be looked at, for longer than a busy moment.
    pub(super) fn is_blind(&self, now: Moment) -> bool {
        self.blind_since.is_some_and(|since| now.since(since) >= HUNG_LIMIT)
    }

    /// A stop has returned: whatever the last look saw, if there was any, no process exists any
    /// more.
    pub(super) fn note_stopped(&mut self, now: Moment) {
        self.ended = true;
        if self.hung_since.take().is_some() && self.not_up_since.is_some() {
            // It could not come back before it was ended.
            self.not_up_since = Some(now);
        }
        self.chores.remove(&Chore::Restart);
        self.attachment = Attachment::Cleared;
        self.unseen = None;
        if let Some((observation, _)) = &mut self.observed {
            observation.process = Process::Down { clean: false };
            observation.flushed = None;
            observation.receiver = None;
        }
    }

    /// An immediate stop begins: where it cuts a planned one short, that is worth knowing.
    pub(super) fn note_cut_short(&mut self) {
        let planned = Verb::Stop(StopHow::Fast);
        let stopping = self.seen().is_some_and(|seen| seen.process == Process::Stopping);
        self.cut_short |= stopping || self.busy.as_ref().is_some_and(|busy| busy.verb == planned);
    }

    /// Whether it is being made a primary right now.
    fn is_promoting(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.verb.makes_primary())
    }

    /// What a person should know.
    pub(super) fn trouble(&self) -> Option<String> {
        let not_taken = self.not_taken.as_ref().map(|(_, why)| why.clone());
        self.trouble.clone().or(not_taken)
    }

    /// Whether Postgres may receive anything by itself from here on.
    pub(super) fn may_receive(&self, seen: &Observation, sabotage: Sabotage) -> bool {
        let configured = match self.attachment {
            Attachment::Unknown => !sabotage.is(Saboteur::PromiseWhileConfigured),
            Attachment::Cleared => false,
            Attachment::To(..) => true,
        };
        seen.receiver.is_some() || configured
    }

    /// Whether the record that this member knows was in force a moment ago.
    pub(super) fn is_up_to_date(&self, control: &ControlState, now: Moment) -> bool {
        self.in_force.is_some_and(|(version, asked)| {
            version <= control.version && now.since(asked) < IN_FORCE_LIMIT
        })
    }

    /// Forgets crashes that are too long ago to count.
    pub(super) fn may_restart(&mut self, now: Moment) -> bool {
        self.restarts.retain(|at| now.since(*at) < RESTART_WINDOW);
        self.restarts.len() < RESTARTS_MAX
    }

    /// What this member tells the coordinator.
    pub(super) fn report(&self, me: NodeId, control: &ControlState, now: Moment) -> Report {
        let seen = self.seen();
        let position = seen.and_then(Observation::position);
        let promise = self.detached.filter(|(epoch, _)| *epoch == control.primacy.epoch);
        Report {
            node: me,
            version: control.version,
            system: seen.and_then(|o| o.system),
            process: seen.map_or(Process::Down { clean: true }, |o| o.process),
            side: seen.map_or(Side::Standby, |o| o.side),
            birth: seen.and_then(|o| o.history.last().copied()),
            position: promise.map_or(position, |(_, promised)| promised),
            replayed: seen
                .and_then(|o| Some(WalPosition { flushed: o.replayed?, ..o.position()? })),
            // Who cannot look vouches for nobody.
            receiver: seen.filter(|_| !self.is_blind(now)).and_then(|o| o.receiver).map(
                |receiver| ReceiverReport {
                    upstream: receiver.upstream,
                    epoch: receiver.epoch,
                    silent_ms: u64::try_from(receiver.silent_for.as_millis()).unwrap_or(u64::MAX),
                },
            ),
            detached: promise.map(|(epoch, _)| epoch),
            streams: seen.map(|o| o.streams.clone()).unwrap_or_default(),
            sync: self.sync_in_force().cloned().unwrap_or_default(),
            admits: seen.is_some_and(|o| o.admits),
            leased: self.lease.is_some_and(|lease| {
                lease.covers(control.primacy.epoch, now, &control.settings.timing)
            }),
            trouble: self.trouble(),
            pending_restart: seen.map_or_else(Vec::new, |o| o.pending_restart.clone()),
        }
    }
}
