//! The verbs of the manager: `env::Postgres` over the model.
//!
//! A verb that works on a stopped server's directory runs in its caller's task: killing the
//! manager kills the tool. A verb for a running server sends a command to its process, which
//! carries it out whether or not the manager lives to hear of it.
//!
//! What a server is told is written down first, next to the manager's own store: a disk that stalls
//! holds up the verb, and a stop that is to cut it short as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::env::{
    OBSERVE_WITHIN, Observation, Postgres, PostgresError, Process, ReceiverState, RewindReport,
    Side, StartAs, StopHow, StreamState, SyncNames, TimelineBirth, Upstream,
};
use pg_replica::ids::{Epoch, Lsn, Moment, NodeId, SystemId};
use pg_replica::sabotage::Saboteur;
use tokio::sync::oneshot;

use super::control::{Control, Reply};
use super::durable::Directory;
use super::introduction::Introductions;
use super::server::Server;
use super::state::{Phase, Receiver, State, Walsender};
use super::tools;
use super::wire::Input;
use crate::clock::{sleep, true_now};
use crate::scenario::PostgresFlaw;

/// How long the manager waits for a command.
const COMMAND_WITHIN: Duration = Duration::from_secs(5);

/// How long the manager waits for a start, a recovery included.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How soon a look at a server that hangs notices that it hangs no more.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long it takes to see that no process of the server exists.
const LOOK_FOR_PROCESSES: Duration = Duration::from_millis(1);

/// The server of a machine as its manager sees it.
#[derive(Clone)]
pub struct SimPostgres {
    server: Server,
    introductions: Introductions,
    /// The last stall of the disk in which a verb wrote something down. It waits in the kernel
    /// until that stall is over: nothing cuts it short, and no stop gets past it.
    held_up_in: Arc<AtomicU64>,
}

impl SimPostgres {
    /// The verbs of `server`.
    #[must_use]
    pub fn new(server: Server) -> Self {
        let held_up_in = Arc::new(AtomicU64::new(0));
        Self { server, introductions: Introductions::default(), held_up_in }
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Writes down what the server is to be.
    async fn note_wish(&self) -> Result<(), PostgresError> {
        let disk = self.server.core().host.disk();
        if let Some(stall) = disk.stall() {
            self.held_up_in.store(stall, Ordering::Relaxed);
        }
        disk.scribble().await.map_err(|error| PostgresError::Transient(error.to_string()))
    }

    /// Ends the server and starts it without what it was only told of, and does not know any more.
    async fn forget_hearsay(&self) -> Result<(), PostgresError> {
        self.server.kill_process("a start without what it was told");
        if let Some(directory) = &mut self.server.core().state().directory {
            directory.forget_hearsay();
        }
        self.start(&StartAs::Standby { upstream: None }).await
    }

    /// Whether the server was told of a line that `is_wrong`, and the rule stands that forgets it.
    fn was_misled(
        &self,
        rule: Saboteur,
        is_wrong: impl FnOnce(&Directory, &[TimelineBirth]) -> bool,
    ) -> bool {
        let core = self.server.core();
        let misled = core.state().hearsay().is_some_and(|(own, told)| is_wrong(own, told));
        misled && !core.sabotage.is(rule)
    }

    fn was_told(&self, rule: Saboteur) -> bool {
        self.was_misled(rule, |_, _| true)
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(Reply<T>) -> Control + Send,
    ) -> Result<T, PostgresError> {
        let core = self.server.core();
        let typical = Duration::from_millis(2);
        sleep(core.stream.long_tail(typical, Duration::from_millis(40))).await;
        let answer = {
            let mut state = core.state();
            let Some(run) = &mut state.running else {
                return Err(PostgresError::Transient("the server is not running".to_owned()));
            };
            let (reply, answer) = oneshot::channel();
            run.put(Input::Control(make(reply)));
            answer
        };
        match within(COMMAND_WITHIN, answer).await {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(PostgresError::Unknown("the connection broke".to_owned())),
            None => Err(PostgresError::Unknown("the server did not answer in time".to_owned())),
        }
    }
}

impl Postgres for SimPostgres {
    async fn observe(&self) -> Result<Observation, PostgresError> {
        let core = self.server.core();
        let span = core.stream.between(Duration::from_millis(1), Duration::from_millis(3));
        sleep(span).await;
        // Its connections break as soon as it ends.
        let mut patience = OBSERVE_WITHIN;
        while self.server.process() == Process::Hung && !patience.is_zero() {
            let step = patience.min(LOOK_AGAIN);
            sleep(step).await;
            patience -= step;
        }
        let mut state = core.state();
        state.dark = false;
        if state.flaws.has(PostgresFlaw::LookFails) {
            return Err(PostgresError::Transient("too many clients already".to_owned()));
        }
        let process = core.process(&state);
        Ok(look(&mut state, process))
    }

    async fn initialise(&self, epoch: Epoch) -> Result<SystemId, PostgresError> {
        tools::initialise(&self.server, epoch).await
    }

    async fn clone_from(&self, source: &Upstream) -> Result<(), PostgresError> {
        tools::clone_from(&self.server, source).await
    }

    async fn rewind(&self, source: &Upstream) -> Result<RewindReport, PostgresError> {
        tools::rewind(&self.server, source).await
    }

    async fn start(&self, how: &StartAs) -> Result<(), PostgresError> {
        self.note_wish().await?;
        match how {
            StartAs::Standby { upstream: Some(upstream) } => {
                self.introductions.make(self.server.core(), upstream).await?;
            }
            StartAs::Standby { upstream: None } | StartAs::Primary { .. } => {
                self.introductions.end();
            }
        }
        let started = self.server.launch(how)?;
        match within(START_WITHIN, started).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => {
                Err(PostgresError::Transient("the server ended during its start".to_owned()))
            }
            None => Err(PostgresError::Unknown("the start takes too long".to_owned())),
        }
    }

    async fn promote(&self, epoch: Epoch) -> Result<TimelineBirth, PostgresError> {
        let is_no_parent = |own: &Directory, told: &[TimelineBirth]| {
            let newest = own.birth().timeline;
            told.iter().any(|birth| birth.timeline > newest && birth.begins != own.written())
        };
        if self.was_misled(Saboteur::DescendFromHearsay, is_no_parent) {
            if self.observe().await?.flushed.is_none() {
                let why = "it does not know yet whether it has come to what it was told of";
                return Err(PostgresError::Transient(why.to_owned()));
            }
            self.forget_hearsay().await?;
            let why = "it was started anew to forget what it was only told of";
            return Err(PostgresError::Transient(why.to_owned()));
        }
        self.command(|reply| Control::Promote(epoch, reply)).await
    }

    async fn follow(&self, upstream: &Upstream) -> Result<(), PostgresError> {
        self.note_wish().await?;
        let core = self.server.core();
        self.introductions.make(core, upstream).await?;
        let rule = Saboteur::AwaitALostLine;
        if self.was_told(rule) {
            let asked = core.registry.copy(core.place(), upstream.node, false);
            let answer = within(OBSERVE_WITHIN, asked).await.and_then(Result::ok);
            let silent = || Err(format!("{} does not answer", upstream.node));
            let source = answer.unwrap_or_else(silent).map_err(PostgresError::Transient)?;
            if self.was_misled(rule, |_, told| !source.history().starts_with(told)) {
                self.forget_hearsay().await?;
            }
        }
        let upstream = upstream.clone();
        self.command(|reply| Control::Follow(upstream, reply)).await
    }

    async fn detach(&self) -> Result<(), PostgresError> {
        self.note_wish().await?;
        self.introductions.end();
        self.command(Control::Detach).await
    }

    async fn set_sync(&self, sync: &SyncNames) -> Result<(), PostgresError> {
        self.note_wish().await?;
        let sync = sync.clone();
        self.command(|reply| Control::SetSync(sync, reply)).await
    }

    async fn configure(&self, parameters: &BTreeMap<String, String>) -> Result<(), PostgresError> {
        let core = self.server.core();
        let typical = Duration::from_millis(5);
        sleep(core.stream.long_tail(typical, Duration::from_millis(80))).await;
        let state = &mut *core.state();
        if let Some((name, value)) = parameters.iter().find(|(name, value)| !takes(name, value)) {
            return Err(PostgresError::Permanent(format!("invalid value for {name}: {value}")));
        }
        state.parameters.clone_from(parameters);
        state.pending.clear();
        if let Some(run) = &state.running {
            let waits = |name: &&str| run.parameters.get(*name) != parameters.get(*name);
            let names = FIXED_AT_START.into_iter().filter(waits);
            state.pending = names.map(str::to_owned).collect();
        }
        Ok(())
    }

    async fn keep_log_for(&self, _members: &BTreeSet<NodeId>) -> Result<(), PostgresError> {
        // The model keeps its whole log for everybody, until a flaw takes it away from all of them:
        // then more was to be kept than there is room for.
        Ok(())
    }

    async fn admit(&self) -> Result<(), PostgresError> {
        self.note_wish().await?;
        self.command(Control::Admit).await
    }

    async fn extend_lease(&self, epoch: Epoch, until: Moment) -> Result<bool, PostgresError> {
        if !self.server.core().commit_fence {
            return Ok(false);
        }
        self.command(|reply| Control::ExtendLease(epoch, until, reply)).await
    }

    async fn stop(&self, how: StopHow) -> Result<(), PostgresError> {
        let core = self.server.core();
        let disk = core.host.disk();
        if disk.stall() == Some(self.held_up_in.load(Ordering::Relaxed)) {
            // How it ends for the verb that waits is nothing to this one.
            let _ = disk.scribble().await;
        }
        let (gone_send, gone) = oneshot::channel();
        let runs = {
            let mut state = core.state();
            state.dark = false;
            if state.flaws.has(PostgresFlaw::StopFails) {
                return Err(PostgresError::Transient("the stop could not be begun".to_owned()));
            }
            state.end_tool();
            if let Some(run) = &mut state.running {
                run.stop_waiters.push(gone_send);
                if how == StopHow::Fast {
                    run.put(Input::Control(Control::StopFast));
                }
            }
            state.running.is_some()
        };
        if !runs {
            sleep(LOOK_FOR_PROCESSES).await;
            return Ok(());
        }
        match how {
            StopHow::Immediate => {
                let typical = Duration::from_millis(50);
                sleep(core.stream.long_tail(typical, Duration::from_millis(400))).await;
                self.server.kill_process("immediate stop");
            }
            // The process never sends anything; it drops its end when it dies.
            StopHow::Fast => drop(gone.await),
        }
        Ok(())
    }
}

impl fmt::Debug for SimPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimPostgres({})", self.server.node())
    }
}

/// Parameters that a server reads when it starts and never again.
const FIXED_AT_START: [&str; 2] = ["max_connections", "shared_buffers"];

/// Whether a server starts with this: of the parameters that the model knows, all are amounts.
fn takes(name: &str, value: &str) -> bool {
    let amount = FIXED_AT_START.contains(&name) || name == "work_mem";
    !amount || value.starts_with(|first: char| first.is_ascii_digit())
}

/// Waits for `future`, at most for `span`.
pub(super) async fn within<T>(span: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(std::pin::pin!(future), sleep(span)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), _)) => None,
    }
}

/// What a look at the server shows, where its process is in the state `process`.
fn look(state: &mut State, process: Process) -> Observation {
    let mut seen = Observation {
        process,
        parameters: state.parameters.clone(),
        pending_restart: state.pending.clone(),
        ..Observation::of_nothing()
    };
    let Some(directory) = &state.directory else {
        seen.side = Side::Primary;
        return seen;
    };
    seen.system = Some(directory.system);
    seen.ever_started = directory.ever_started;
    seen.side = directory.side();
    seen.history = directory.history().to_vec();
    seen.complete = directory.is_complete();
    if matches!(process, Process::Down { clean: true }) && seen.side == Side::Primary {
        seen.flushed = Some(directory.flushed());
        seen.replayed = seen.flushed;
    }
    let promotion = state.running.as_ref().and_then(|run| run.promotion.as_ref());
    seen.promoting = promotion.map(|promotion| promotion.epoch);
    // What an upstream said is in the log of a server that does not answer yet, too.
    let receiver = state.running.as_ref().and_then(|run| run.receiver.as_ref());
    seen.starved = receiver.and_then(Receiver::starved);
    let answers = matches!(process, Process::Up | Process::Stopping);
    let Some(run) = state.running.as_mut().filter(|run| answers && run.phase != Phase::Starting)
    else {
        return seen;
    };
    seen.side = run.side;
    // A standby has no receive position after a restart, and its replay position lags behind.
    seen.flushed = run.own_log_replayed_at.is_none().then(|| directory.flushed());
    seen.replayed = match run.side {
        Side::Primary => seen.flushed,
        Side::Standby => {
            Some(run.advance_replay(true_now(), state.flaws.has(PostgresFlaw::ReplayStuck)))
        }
    };
    seen.receiver =
        run.receiver.as_ref().filter(|receiver| receiver.is_open()).map(|receiver| ReceiverState {
            upstream: receiver.upstream.node,
            epoch: receiver.upstream.epoch,
            silent_for: true_now().saturating_sub(receiver.last_heard),
        });
    seen.streams = run.walsenders.values().filter(has_replied).map(stream_state).collect();
    seen.streams.sort_by_key(|stream| stream.node);
    // A setting that was answered for and is not obeyed is what the broken rule shows.
    let believed = run.told_sync.as_ref().filter(|(_, reply)| reply.is_none());
    seen.sync = believed.map_or(&run.sync, |(told, _)| told).clone();
    seen.admits = run.admits;
    seen
}

fn has_replied(walsender: &&Walsender) -> bool {
    walsender.flushed > Lsn::default()
}

fn stream_state(walsender: &Walsender) -> StreamState {
    StreamState { node: walsender.standby, epoch: walsender.epoch, flushed: walsender.flushed }
}
