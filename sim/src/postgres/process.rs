//! The life of a server's process: one task that takes what arrives and what is due, in order.
//!
//! Every change of a running server happens in this task, so a machine that is frozen changes
//! nothing, and a process that was killed can do nothing any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::env::{PostgresError, Side, StartAs, SyncNames, TimelineBirth};
use pg_replica::ids::Epoch;
use pg_replica::sabotage::Saboteur;
use tokio::sync::{Notify, oneshot};

use super::control::{Control, Reply};
use super::durable::{CutPromotion, Directory};
use super::server::{Core, Server};
use super::state::{Ending, Flaws, Phase, Running, State, Timer, Timers};
use super::wire::{Answer, Input, Streamed};
use crate::clock::{TrueSleep, sleep_until_true, true_now};
use crate::host::ProcessKind;
use crate::scenario::PostgresFlaw;
use crate::witness::{Fact, Untold};

/// A running server, for the length of one step.
pub(super) struct Live<'a> {
    pub(super) core: &'a Core,
    pub(super) dir: &'a mut Directory,
    pub(super) run: &'a mut Running,
    pub(super) flaws: &'a Flaws,
    pub(super) now: Duration,
}

impl Core {
    /// Runs a step of the process, where one exists, and ends it if the step says so.
    pub(super) fn with_live(&self, state: &mut State, step: impl FnOnce(&mut Live<'_>)) {
        let State { directory: Some(dir), running: Some(run), flaws, .. } = state else { return };
        let mut live = Live { core: self, dir, run, flaws, now: true_now() };
        step(&mut live);
        if let Some(ending) = run.ending {
            self.end_process(state, ending);
        }
    }

    /// The process is gone: its connections break, and of its log only what the disk and the
    /// operating system have remains. Returns whether there was a process.
    pub(super) fn end_process(&self, state: &mut State, ending: Ending) -> bool {
        let Some(mut run) = state.running.take() else { return false };
        let (side, promotion) = (run.side, run.promotion.take());
        let line = std::mem::take(&mut run.line);
        let replayed = run.advance_replay(true_now(), state.flaws.has(PostgresFlaw::ReplayStuck));
        self.host.kill(ProcessKind::Postgres);
        if !state.dark {
            run.hang_up();
        }
        let directory = state.directory.as_mut().expect("a process has a directory");
        if side == Side::Standby {
            directory.replayed = directory.replayed.max(replayed);
        }
        if ending.clean {
            directory.flush_to(directory.written());
            directory.clean = true;
        } else {
            let unflushed = u64::try_from(directory.unflushed()).expect("a count fits");
            let kept = self.stream.below(unflushed + 1);
            directory.survive_crash(usize::try_from(kept).expect("a count fits"));
            if let Some(promotion) = promotion.filter(|it| it.opens_at <= true_now()) {
                let left = usize::try_from(self.stream.below(5)).expect("it is below five");
                if let Some(left) = CutPromotion::ALL.get(left) {
                    self.cut_promotion(directory, promotion.epoch, &line, *left);
                }
            }
        }
        self.report(Fact::ProcessEnded { server: self.node, side, by: ending.by });
        true
    }

    /// What a promotion left on the disk that its server did not survive.
    pub(super) fn cut_promotion(
        &self,
        directory: &mut Directory,
        epoch: Epoch,
        line: &[TimelineBirth],
        left: CutPromotion,
    ) {
        if let Some(birth) = directory.cut_promotion(epoch, line, left) {
            self.report(Fact::TimelineCreated {
                server: self.node,
                birth,
                parent: directory.parent(),
            });
        }
    }
}

impl Server {
    /// Starts the process. The receiver gets a word when it answers, and loses its other end when
    /// it dies before that.
    pub(super) fn launch(&self, how: &StartAs) -> Result<oneshot::Receiver<()>, PostgresError> {
        let core = self.core();
        let mut state = core.state();
        state.dark = false;
        state.check_can_start(how)?;
        let generation = core.host.start(ProcessKind::Postgres);
        let State { directory, flaws, parameters, pending, .. } = &mut *state;
        pending.clear();
        let directory = directory.as_mut().expect("the check asks for a directory");
        let (side, epoch, sync) = match how {
            StartAs::Primary { epoch, sync } => (Side::Primary, *epoch, sync.clone()),
            StartAs::Standby { .. } => (Side::Standby, Epoch::default(), SyncNames::default()),
        };
        directory.standby_signal = side == Side::Standby;
        let misled = [Saboteur::DescendFromHearsay, Saboteur::AwaitALostLine];
        if side == Side::Standby && !misled.iter().any(|rule| core.sabotage.is(*rule)) {
            directory.forget_hearsay();
        }
        if let StartAs::Standby { upstream: Some(upstream) } = how {
            directory.upstream = Some(upstream.clone());
        } else if !core.sabotage.is(Saboteur::StartWithOldUpstream) {
            directory.upstream = None;
        }
        let (started, receive) = oneshot::channel();
        let mut run = Running::new(generation, side);
        run.epoch = epoch;
        run.line = directory.history().to_vec();
        run.sync = sync;
        run.parameters.clone_from(parameters);
        run.was_clean = directory.clean;
        run.starting.push(started);
        let wake = run.wake.clone();
        let slow_start = flaws.slowness(PostgresFlaw::SlowStart);
        let recovered_at = true_now() + slow_start + recovery_span(core, directory, flaws);
        run.timers.add(recovered_at, Timer::Recovered);
        directory.clean = false;
        directory.ever_started = true;
        state.running = Some(run);
        drop(state);
        core.host.spawn_on(ProcessKind::Postgres, serve(self.clone(), generation, wake));
        Ok(receive)
    }
}

impl State {
    fn check_can_start(&self, how: &StartAs) -> Result<(), PostgresError> {
        if self.running.is_some() {
            return Err(PostgresError::Transient("a server is running already".to_owned()));
        }
        let permanent = |why: &str| Err(PostgresError::Permanent(why.to_owned()));
        let Some(directory) = &self.directory else {
            return permanent("the data directory is empty");
        };
        if directory.broken {
            return permanent("a rewind of the data directory was cut short; clone it");
        }
        if directory.standby_signal && matches!(how, StartAs::Primary { .. }) {
            return permanent("the data directory is a standby's; start it so and promote it");
        }
        if self.flaws.has(PostgresFlaw::DiskFull) {
            return Err(PostgresError::Transient("no space left on device".to_owned()));
        }
        Ok(())
    }

    /// Ends the tool that works on the directory, if any.
    pub(super) fn end_tool(&mut self) {
        self.tool = None;
    }
}

/// How long a start takes: after a crash the log has to be read.
fn recovery_span(core: &Core, directory: &Directory, flaws: &Flaws) -> Duration {
    let start = core.stream.long_tail(Duration::from_millis(110), Duration::from_millis(900));
    if directory.clean {
        return start;
    }
    let redo = Duration::from_micros((directory.log_bytes() / 20).min(1_500_000));
    start
        + flaws.slow_replay()
        + core.stream.long_tail(Duration::from_millis(60) + redo, Duration::from_secs(5))
}

/// The process itself.
async fn serve(server: Server, generation: u64, wake: Arc<Notify>) {
    let mut alarm: Option<TrueSleep> = None;
    while let Some(deadline) = server.core().work(generation) {
        // An alarm that rings too early costs a look; one that is replaced costs a timer.
        if alarm.as_ref().is_none_or(|set| set.deadline() > deadline) {
            alarm = Some(sleep_until_true(deadline));
        }
        let set = alarm.as_mut().expect("an alarm was set just now");
        let woken = std::pin::pin!(wake.notified());
        if let Either::Right(((), _)) = select(woken, set).await {
            alarm = None;
        }
    }
}

impl Core {
    /// Deals with everything that has arrived and everything that is due, and returns when to look
    /// again; `None` when this life of the process is over.
    fn work(&self, generation: u64) -> Option<Duration> {
        /// Where nothing is due, the process still looks now and then.
        const IDLE: Duration = Duration::from_secs(3600);
        let mut state = self.state();
        loop {
            let run = state.running.as_mut().filter(|run| run.generation == generation)?;
            if let Some(input) = run.inbox.pop_front() {
                self.with_live(&mut state, |live| live.on_input(input));
            } else if let Some(timer) = run.timers.take_due(true_now()) {
                self.with_live(&mut state, |live| live.on_timer(timer));
            } else {
                return Some(run.timers.next().unwrap_or(true_now() + IDLE));
            }
        }
    }
}

impl Live<'_> {
    fn on_input(&mut self, input: Input) {
        match input {
            Input::Control(control) => self.on_control(control),
            Input::Connect(link) => self.on_connect(link),
            Input::Ask(link, request, ask) => self.on_ask(link, request, ask),
            Input::Closed(link) => self.on_closed(&link),
            Input::Attach(link, hello) => self.on_attach(link, hello),
            Input::Confirm(link, flushed) => self.on_confirm(&link, flushed),
            Input::ReceiverGone(link) => self.on_receiver_gone(&link),
            Input::Streamed(link, message) => self.on_streamed(link, message),
            Input::Copy(request) => self.on_copy(request),
            Input::Word(reply) => reply(self.check_up().map_err(|why| why.to_string())),
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Recovered => self.on_recovered(),
            Timer::OwnLogReplayed => self.on_own_log_replayed(),
            Timer::Promoted => self.on_promoted(),
            Timer::Flushed => self.on_flushed(),
            Timer::Keepalive => self.on_keepalive_due(),
            Timer::Silence => self.on_silence_check(),
            Timer::Reconnect => self.on_reconnect(),
            Timer::Checkpointed => self.on_checkpointed(),
        }
    }

    fn on_control(&mut self, control: Control) {
        // A manager that gave up is not there to hear the answer.
        match control {
            Control::Promote(epoch, reply) => self.on_promote(epoch, reply),
            Control::Follow(upstream, reply) => {
                let _ = reply.send(self.follow(upstream));
            }
            Control::Detach(reply) => self.on_detach(reply),
            Control::SetSync(sync, reply) => self.on_set_sync(sync, reply),
            Control::Admit(reply) => {
                let up = self.check_up();
                if up.is_ok() {
                    self.admit();
                }
                let _ = reply.send(up);
            }
            Control::ExtendLease(epoch, until, reply) => {
                let extended = self.check_up().map(|()| self.extend_lease(epoch, until));
                let _ = reply.send(extended);
            }
            Control::StopFast => self.on_stop_fast(),
        }
    }

    /// Commits that wait for nobody go on waiting for nobody until every session was told: the
    /// setting of it is no proof.
    fn on_set_sync(&mut self, sync: SyncNames, reply: Reply<()>) {
        if let Err(why) = self.check_up() {
            let _ = reply.send(Err(why));
            return;
        }
        let waits = self.run.sync.confirmations > 0 || self.run.side == Side::Standby;
        let stuck = self.flaws.has(PostgresFlaw::CheckpointerStuck);
        let told = if waits || sync.confirmations == 0 || !stuck {
            self.run.told_sync = None;
            self.obey(sync);
            reply
        } else if self.core.sabotage.is(Saboteur::BelieveTheSetting) {
            self.run.told_sync = Some((sync, None));
            reply
        } else {
            self.run.told_sync = Some((sync, Some(reply)));
            return;
        };
        let _ = told.send(Ok(()));
    }

    /// What it was told is known to every session now.
    pub(super) fn take_up_sync(&mut self) {
        let Some((sync, reply)) = self.run.told_sync.take() else { return };
        self.obey(sync);
        if let Some(reply) = reply {
            let _ = reply.send(Ok(()));
        }
    }

    fn obey(&mut self, sync: SyncNames) {
        self.run.sync = sync;
        self.release();
    }

    fn on_recovered(&mut self) {
        self.dir.flush_to(self.dir.written());
        match self.run.side {
            Side::Primary => {
                if !self.run.was_clean {
                    self.dir.append(self.run.epoch, None, 120);
                    self.dir.flush_to(self.dir.written());
                }
                self.become_primary();
                self.answer();
            }
            Side::Standby => {
                self.go_by_the_newest_line();
                self.run.replayed = self.dir.replayed.min(self.dir.flushed());
                let span = self.own_replay_span();
                self.run.own_log_replayed_at = Some(self.now + span);
                self.run.timers.add(self.now + span, Timer::OwnLogReplayed);
                self.answer_if_complete();
            }
        }
    }

    /// A standby answers as soon as it is consistent, which may be long before it has replayed what
    /// is on its own disk.
    fn own_replay_span(&self) -> Duration {
        let (typical, worst) = if self.run.replayed < self.dir.flushed() {
            (Duration::from_millis(60), Duration::from_secs(2))
        } else {
            (Duration::from_millis(5), Duration::from_millis(100))
        };
        self.core.stream.long_tail(typical, worst)
    }

    fn on_own_log_replayed(&mut self) {
        self.run.own_log_replayed_at = None;
        self.run.replayed = self.dir.flushed();
        if let Some(upstream) = self.dir.upstream.clone() {
            self.attach_to(upstream);
        }
    }

    pub(super) fn answer_if_complete(&mut self) {
        if self.run.phase == Phase::Starting && self.dir.is_complete() {
            self.run.admits = true;
            self.answer();
        }
    }

    fn answer(&mut self) {
        self.run.phase = Phase::Up;
        self.dir.min_recovery = None;
        for waiting in self.run.starting.drain(..) {
            let _ = waiting.send(());
        }
    }

    /// Everything in the log becomes visible, whoever confirmed it.
    pub(super) fn become_primary(&mut self) {
        let rows: Vec<_> = self.dir.flushed_rows().collect();
        self.run.visible = self.dir.flushed();
        self.run.visible_rows = self.dir.row_count();
        // Whom clients are let in to has confirmations for all of it by then.
        let untold = rows.iter().map(|row| Untold { row: *row, waited: 0 });
        self.run.unacknowledged = untold.collect();
        self.core.registry.retain_unacknowledged(&mut self.run.unacknowledged);
        self.core.report(Fact::BecamePrimary {
            server: self.core.node,
            epoch: self.run.epoch,
            history: self.dir.history().to_vec(),
            system: self.dir.system,
            rows,
        });
    }

    /// Ends the process: a write to the disk failed.
    pub(super) fn panic(&mut self, by: &'static str) {
        self.run.ending = Some(Ending { clean: false, by });
    }

    fn on_stop_fast(&mut self) {
        match self.run.phase {
            Phase::Stopping { .. } => return,
            Phase::Starting => {
                self.panic("fast stop during recovery");
                return;
            }
            Phase::Up => {}
        }
        self.run.phase = Phase::Stopping { checkpointed: false };
        self.run.promotion = None;
        self.run.timers.cancel(Timer::Promoted);
        self.end_sessions("the database system is shutting down");
        self.drop_receiver();
        if !self.flaws.has(PostgresFlaw::StopHangs) {
            let typical = Duration::from_millis(90);
            let slow_stop = self.flaws.slowness(PostgresFlaw::SlowStop);
            let span = self.core.stream.long_tail(typical, Duration::from_millis(600));
            self.run.timers.add(self.now + span + slow_stop, Timer::Checkpointed);
        }
    }

    fn on_checkpointed(&mut self) {
        if self.run.side == Side::Primary {
            self.dir.append(self.run.epoch, None, 120);
        }
        self.dir.flush_to(self.dir.written());
        self.run.phase = Phase::Stopping { checkpointed: true };
        self.ship();
        self.end_when_shipped();
    }

    /// A shutdown is complete when every attached standby has everything.
    pub(super) fn end_when_shipped(&mut self) {
        if self.run.phase != (Phase::Stopping { checkpointed: true }) {
            return;
        }
        let end = self.dir.flushed();
        if self.run.walsenders.values().all(|walsender| walsender.flushed >= end) {
            self.run.ending = Some(Ending { clean: true, by: "fast stop" });
        }
    }
}

impl Running {
    fn new(generation: u64, side: Side) -> Self {
        Self {
            generation,
            phase: Phase::Starting,
            side,
            epoch: Epoch::default(),
            sync: SyncNames::default(),
            told_sync: None,
            parameters: BTreeMap::default(),
            admits: false,
            lease: None,
            inbox: VecDeque::new(),
            wake: Arc::default(),
            timers: Timers::default(),
            was_clean: true,
            ending: None,
            sessions: BTreeMap::new(),
            commits: VecDeque::new(),
            flushing: None,
            visible: pg_replica::ids::Lsn::default(),
            visible_rows: 0,
            unacknowledged: Vec::new(),
            walsenders: BTreeMap::new(),
            receiver: None,
            line: Vec::new(),
            replay: VecDeque::new(),
            replayed: pg_replica::ids::Lsn::default(),
            own_log_replayed_at: None,
            promotion: None,
            detaching: Vec::new(),
            starting: Vec::new(),
            stop_waiters: Vec::new(),
        }
    }

    /// Puts something before the process.
    pub(super) fn put(&mut self, input: Input) {
        self.inbox.push_back(input);
        self.wake.notify_one();
    }

    /// The operating system closes every connection of a process that ended.
    fn hang_up(self) {
        for input in self.inbox {
            input.bounce();
        }
        for link in self.sessions.values() {
            link.answer(0, Answer::Goodbye("the server ended".to_owned()));
        }
        for walsender in self.walsenders.values() {
            walsender.link.stream(Streamed::Reset);
        }
        if let Some(link) = self.receiver.as_ref().and_then(|receiver| receiver.stream.link()) {
            link.up(Input::ReceiverGone(link.clone()));
        }
    }
}
