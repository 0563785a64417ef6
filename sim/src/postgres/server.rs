//! A server from outside: how it is made, what can be done to it, and what is seen of it.
//!
//! The faults here are the world's; what a manager may do is in `verbs`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use pg_replica::env::{Process, Side};
use pg_replica::ids::{Epoch, Lsn, NodeId, SystemId, WalPosition};
use pg_replica::sabotage::Sabotage;

use super::durable::{CutPromotion, Directory, SetAside};
use super::state::{Ending, Phase, Running, State};
use super::wire::{Input, Registry};
use crate::clock::true_now;
use crate::host::{Host, ProcessKind};
use crate::place::Place;
use crate::scenario::PostgresFlaw;
use crate::seen::ServerPhase;
use crate::streams::{Stream, lock};
use crate::witness::{Fact, Row, Witness};

/// What a server is made of.
pub struct ServerConfig {
    /// Its machine.
    pub host: Host,
    /// How long things take.
    pub stream: Stream,
    /// Whoever watches.
    pub witness: Arc<dyn Witness>,
    /// The other servers.
    pub registry: Registry,
    /// Whether the commit fence is loaded.
    pub commit_fence: bool,
    /// The rule to break, if any.
    pub sabotage: Sabotage,
}

/// A machine's Postgres. Its clones are the same server.
#[derive(Clone)]
pub struct Server(Arc<Core>);

pub(super) struct Core {
    pub(super) node: NodeId,
    pub(super) host: Host,
    pub(super) stream: Stream,
    pub(super) witness: Arc<dyn Witness>,
    pub(super) registry: Registry,
    pub(super) commit_fence: bool,
    pub(super) sabotage: Sabotage,
    state: Mutex<State>,
}

impl Server {
    /// A server with an empty data directory, known to its registry from now on.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        let node = config.host.node();
        let core = Arc::new(Core {
            node,
            host: config.host,
            stream: config.stream,
            witness: config.witness,
            registry: config.registry,
            commit_fence: config.commit_fence,
            sabotage: config.sabotage,
            state: Mutex::default(),
        });
        core.registry.register(node, &core);
        Self(core)
    }

    pub(super) fn from_core(core: Arc<Core>) -> Self {
        Self(core)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.0
    }

    /// The member that it belongs to.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.node
    }
}

/// The cluster that a foreign directory belongs to.
pub const FOREIGN: SystemId = SystemId(0xF0E);
/// A row that none of our clients wrote.
pub const FOREIGN_ROW: Row = Row { client: u32::MAX, number: 1 };

/// What the world does to a server.
impl Server {
    /// Ends every process of the server at once. Returns whether there was one. Of what was
    /// written and not flushed the operating system keeps a part.
    pub fn kill_process(&self, by: &'static str) -> bool {
        let mut state = self.0.state();
        state.end_tool();
        self.0.end_process(&mut state, Ending { clean: false, by })
    }

    /// The machine loses its power: no process, nothing that was not flushed, and no word to
    /// anybody. It comes back with the next verb.
    pub fn power_loss(&self) {
        let mut state = self.0.state();
        state.end_tool();
        state.dark = true;
        self.0.end_process(&mut state, Ending { clean: false, by: "power loss" });
        if let Some(directory) = &mut state.directory {
            directory.lose_unflushed();
        }
    }

    /// The machine holds a database from before there was a cluster.
    pub fn hold_existing(&self) {
        self.0.state().directory = Some(foreign());
    }

    /// The machine is replaced by an empty one.
    pub fn wipe(&self) {
        self.power_loss();
        let mut state = self.0.state();
        state.directory = None;
        state.aside.clear();
    }

    /// Ends every process of the server in the middle of a promotion, of which so much is left.
    pub fn cut_promotion(&self, epoch: Epoch, left: CutPromotion) {
        self.kill_process("a promotion that was cut short");
        if let Some(directory) = &mut self.0.state().directory {
            let line = directory.history().to_vec();
            self.0.cut_promotion(directory, epoch, &line, left);
        }
    }

    /// The server, which follows nobody, is told of the newest timeline of another one, and has
    /// nothing of it: its stream broke off too early.
    pub fn hear_of(&self, other: &Self) {
        let line = other.0.state().directory.as_ref().map(|other| other.history().to_vec());
        self.0.with_live(&mut self.0.state(), |live| {
            live.dir.know(&line.unwrap_or_default());
            live.go_by_the_newest_line();
        });
    }

    /// Stops the process in its tracks, as SIGSTOP to all of it would. Only a kill gets past it.
    pub fn hang(&self) {
        self.0.host.pause(ProcessKind::Postgres);
    }

    /// Lets a hung process go on.
    pub fn unhang(&self) {
        self.0.host.resume(ProcessKind::Postgres);
    }

    /// Switches a flaw on or off. A recycling of the log is an event: only switching it on counts.
    pub fn set_flaw(&self, flaw: PostgresFlaw, on: bool) {
        let mut state = self.0.state();
        if on {
            state.flaws.0.insert(flaw);
        } else {
            state.flaws.0.remove(&flaw);
        }
        match flaw {
            PostgresFlaw::Hang if on => self.0.host.pause(ProcessKind::Postgres),
            PostgresFlaw::Hang => self.0.host.resume(ProcessKind::Postgres),
            PostgresFlaw::WalsenderStuck => self.0.with_live(&mut state, |live| live.ship()),
            PostgresFlaw::CheckpointerStuck if !on => {
                self.0.with_live(&mut state, |live| live.take_up_sync());
            }
            PostgresFlaw::WalRecycled if on => {
                state.directory.iter_mut().for_each(Directory::recycle)
            }
            PostgresFlaw::ForeignData => self.0.show_foreign_data(&mut state, on),
            PostgresFlaw::WalRecycled
            | PostgresFlaw::SlowStop
            | PostgresFlaw::StopHangs
            | PostgresFlaw::StopFails
            | PostgresFlaw::SlowStart
            | PostgresFlaw::SlowRecovery
            | PostgresFlaw::LookFails
            | PostgresFlaw::CheckpointerStuck
            | PostgresFlaw::InitialiseFails
            | PostgresFlaw::ReplayStuck
            | PostgresFlaw::RewindFails
            | PostgresFlaw::CloneFails
            | PostgresFlaw::DiskFull => {}
        }
    }

    /// Takes every flaw back.
    pub fn heal(&self) {
        let flaws = self.0.state().flaws.clone();
        for flaw in flaws.0 {
            self.set_flaw(flaw, false);
        }
    }
}

/// What is seen of a server from above.
impl Server {
    /// The rows in its history that are on its disk, in order.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let state = self.0.state();
        state.directory.iter().flat_map(|directory| directory.flushed_rows()).collect()
    }

    /// How many rows its history holds. Cheaper than to count them.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.0.state().directory.as_ref().map_or(0, super::durable::Directory::row_count)
    }

    /// The rows in what was set aside on this machine.
    #[must_use]
    pub fn set_aside_rows(&self) -> Vec<Row> {
        self.0.state().aside.iter().flat_map(SetAside::rows).collect()
    }

    /// Whether it takes writes from clients now: up, out of recovery and open. A frozen server is
    /// writable; it only does not answer at the moment.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.0.state().running.as_ref().is_some_and(Running::is_writable)
    }

    /// Whether a commit that began now would be acknowledged if nothing changed.
    #[must_use]
    pub fn could_acknowledge_now(&self) -> bool {
        let (sync, links) = {
            let state = self.0.state();
            let Some(run) = &state.running else { return false };
            if !run.is_writable()
                || self.0.is_frozen()
                || state.flaws.has(PostgresFlaw::DiskFull)
                || !self.0.lease_holds(run)
            {
                return false;
            }
            let stuck = state.flaws.has(PostgresFlaw::WalsenderStuck);
            let links: Vec<_> = run
                .walsenders
                .values()
                .filter(|walsender| !stuck && run.counts(walsender))
                .map(|walsender| (walsender.standby, walsender.link.clone()))
                .collect();
            (run.sync.clone(), links)
        };
        let live = links
            .iter()
            .filter(|(standby, link)| {
                let standby = self.0.registry.server(*standby);
                link.flows() && standby.is_some_and(|standby| standby.receives_on(link.number))
            })
            .count();
        live >= usize::try_from(sync.confirmations).unwrap_or(usize::MAX)
    }

    /// The primacy under which it is out of recovery, while its process lives.
    #[must_use]
    pub fn primary_epoch(&self) -> Option<Epoch> {
        let state = self.0.state();
        let run = state.running.as_ref()?;
        (run.side == Side::Primary && run.phase != Phase::Starting).then_some(run.epoch)
    }

    /// Whether its directory holds a database that can be started without anybody's help: neither
    /// none, nor one that a tool is at work on or has left half rewound, nor one that lacks log of
    /// the rewind's source.
    #[must_use]
    pub fn has_usable_directory(&self) -> bool {
        let state = self.0.state();
        let at_work = state.tool.as_ref().is_some_and(|tool| !tool.is_closed());
        !at_work && state.directory.as_ref().is_some_and(|own| !own.broken && own.is_complete())
    }

    /// Whether these are the cluster's parameters that it was given.
    #[must_use]
    pub fn has_parameters(&self, parameters: &BTreeMap<String, String>) -> bool {
        self.0.state().parameters == *parameters
    }

    /// Where its directory ends; `None` where it is empty.
    #[must_use]
    pub fn position(&self) -> Option<WalPosition> {
        Some(self.0.state().directory.as_ref()?.position())
    }

    /// Whether a commit waits for the disk or for standbys.
    #[must_use]
    pub fn has_waiting_commits(&self) -> bool {
        self.0.state().running.as_ref().is_some_and(|run| !run.commits.is_empty())
    }

    /// How far readers of a standby see; a primary has no more to replay than it has flushed.
    #[must_use]
    pub fn replayed(&self) -> Option<Lsn> {
        let mut state = self.0.state();
        let stuck = state.flaws.has(PostgresFlaw::ReplayStuck);
        let flushed = state.directory.as_ref()?.position().flushed;
        let run = state.running.as_mut().filter(|run| run.side == Side::Standby);
        Some(run.map_or(flushed, |run| run.advance_replay(true_now(), stuck)))
    }

    /// In recovery or not; `None` where the directory is empty.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        let state = self.0.state();
        match (&state.running, &state.directory) {
            (Some(run), _) => Some(run.side),
            (None, Some(directory)) => Some(directory.side()),
            (None, None) => None,
        }
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> Process {
        self.0.process(&self.0.state())
    }

    /// What it does, for whoever knows whether it would acknowledge a commit now.
    #[must_use]
    pub fn phase(&self, is_willing: bool) -> ServerPhase {
        let state = self.0.state();
        let side = state.running.as_ref().map(|run| run.side);
        let is_open = state.running.as_ref().is_some_and(Running::is_writable);
        ServerPhase::of(self.0.process(&state), side, is_open, is_willing)
    }

    /// Whether its receiver is connected and streams from `upstream` now.
    #[must_use]
    pub fn streams_from(&self, upstream: NodeId) -> bool {
        let state = self.0.state();
        let Some(receiver) = state.running.as_ref().and_then(|run| run.receiver.as_ref()) else {
            return false;
        };
        receiver.is_open() && receiver.upstream.node == upstream
    }

    /// Why its upstream refused it last, while it tries to attach.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.0.state().running.as_ref()?.receiver.as_ref()?.refusal.clone()
    }

    fn receives_on(&self, connection: u64) -> bool {
        let state = self.0.state();
        let Some(run) = &state.running else { return false };
        let open = run
            .receiver
            .as_ref()
            .is_some_and(|receiver| receiver.is_open() && receiver.is_on(connection));
        open && !self.0.is_frozen()
            && !matches!(run.phase, Phase::Stopping { .. })
            && !state.flaws.has(PostgresFlaw::DiskFull)
    }
}

/// A database that the cluster did not make, shut down cleanly.
fn foreign() -> Directory {
    let mut foreign = Directory::new(FOREIGN, Epoch::default());
    foreign.append(Epoch::default(), Some(FOREIGN_ROW), 100);
    foreign.flush_to(foreign.written());
    foreign.ever_started = true;
    foreign
}

impl Core {
    /// Fills an empty directory with somebody else's database, or moves that away again.
    fn show_foreign_data(&self, state: &mut State, on: bool) {
        if on && state.directory.is_none() {
            state.directory = Some(foreign());
        }
        if !on && state.directory.as_ref().is_some_and(|directory| directory.system == FOREIGN) {
            state.end_tool();
            self.end_process(state, Ending { clean: false, by: "whoever moved its data away" });
            state.directory = None;
        }
    }

    /// The state. A process that died with its machine, unannounced, is seen to be dead here.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        let dead = state.running.as_ref().is_some_and(|run| {
            !self.host.is_running(ProcessKind::Postgres)
                || self.host.generation(ProcessKind::Postgres) != run.generation
        });
        if dead {
            self.end_process(&mut state, Ending { clean: false, by: "end of its machine" });
        }
        state
    }

    pub(super) fn place(&self) -> Place {
        Place::Host(self.node)
    }

    /// Puts `input` before the process, or gives it back where there is none.
    pub(super) fn enqueue(&self, input: Input) -> Option<Input> {
        let mut state = self.state();
        match &mut state.running {
            Some(run) => {
                run.put(input);
                None
            }
            // A machine without power, or one that stands still, does not even refuse.
            None => (!state.dark && !self.host.is_frozen()).then_some(input),
        }
    }

    /// Whether the process exists and does not move.
    pub(super) fn is_frozen(&self) -> bool {
        self.host.is_paused(ProcessKind::Postgres)
    }

    pub(super) fn process(&self, state: &State) -> Process {
        match &state.running {
            Some(_) if self.is_frozen() => Process::Hung,
            Some(run) => match run.phase {
                Phase::Starting => Process::Starting,
                Phase::Up => Process::Up,
                Phase::Stopping { .. } => Process::Stopping,
            },
            None => Process::Down {
                clean: state
                    .directory
                    .as_ref()
                    .is_none_or(|directory| directory.clean && !directory.broken),
            },
        }
    }

    /// Tells the witness.
    pub(super) fn report(&self, fact: Fact) {
        self.witness.fact(fact);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.0.node)
    }
}
