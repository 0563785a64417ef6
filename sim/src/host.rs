//! A machine: a manager, a Postgres, a guard and a disk.
//!
//! Each process is a node of the engine, so that it can die or stop by itself; the machine can do
//! both to all of them at once. It does not know what runs in the processes: whoever starts one
//! spawns its tasks.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};

use madsim::runtime::Handle;
use madsim::task::{JoinHandle, NodeId as EngineNode};
use pg_replica::env::{Env, Network, Postgres};
use pg_replica::ids::NodeId;

use crate::clock::HostClock;
use crate::disk::SimDisk;
use crate::guard::SimGuard;
use crate::rt::{self, SimRt};
use crate::streams::{Concern, Stream, Streams, lock};
use crate::transport::{Exchange, SimNetwork};

/// A process of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProcessKind {
    /// The node itself.
    Manager,
    /// The database server.
    Postgres,
    /// The guard.
    Guard,
}

/// A machine. Its clones are the same machine.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

/// The environment of a manager on a simulated machine.
#[derive(Clone, Debug)]
pub struct SimEnv<P, N = SimNetwork> {
    /// Time.
    pub clock: HostClock,
    /// Messages.
    pub network: N,
    /// Files.
    pub disk: SimDisk,
    /// The database server.
    pub postgres: P,
    /// The guard.
    pub guard: SimGuard,
    /// Randomness.
    pub entropy: Stream,
}

struct Inner {
    node: NodeId,
    clock: HostClock,
    disk: SimDisk,
    streams: Streams,
    state: Mutex<State>,
}

struct State {
    manager: Process,
    postgres: Process,
    guard: Process,
    /// The freezes of the whole machine that were not thawed, each with whether the clocks stopped
    /// with it.
    freezes: Vec<bool>,
    exchange: Option<Exchange>,
}

struct Process {
    engine: EngineNode,
    running: bool,
    generation: u64,
    pauses: u32,
}

impl ProcessKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Manager, Self::Postgres, Self::Guard];
}

impl Host {
    /// A machine on which no process runs yet.
    #[must_use]
    pub fn new(node: NodeId, streams: &Streams) -> Self {
        let own = streams.stream(Concern::Node(node));
        let clock = HostClock::new(&own);
        let process = |name: &str| {
            let engine = Handle::current();
            let created = engine.create_node().name(format!("{node}-{name}")).build().id();
            rt::bind(created, clock.clone(), own.clone());
            engine.kill(created);
            Process { engine: created, running: false, generation: 0, pauses: 0 }
        };
        let state = State {
            manager: process("manager"),
            postgres: process("postgres"),
            guard: process("guard"),
            freezes: Vec::new(),
            exchange: None,
        };
        Self(Arc::new(Inner {
            node,
            clock,
            disk: SimDisk::new(streams.stream(Concern::Disk(node))),
            streams: streams.clone(),
            state: Mutex::new(state),
        }))
    }

    /// The member that lives here.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// Its clocks.
    #[must_use]
    pub fn clock(&self) -> &HostClock {
        &self.0.clock
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.0.disk
    }

    /// The run's random streams.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// The environment for a manager that starts now; its network listens until the manager dies.
    #[must_use]
    pub fn env<P: Postgres>(&self, exchange: &Exchange, postgres: P, guard: SimGuard) -> SimEnv<P> {
        lock(&self.0.state).exchange = Some(exchange.clone());
        self.env_over(exchange.open(self.0.node, self.0.clock.clone()), postgres, guard)
    }

    /// The same over any network.
    #[must_use]
    pub fn env_over<P, N>(&self, network: N, postgres: P, guard: SimGuard) -> SimEnv<P, N>
    where
        P: Postgres,
        N: Network,
    {
        SimEnv {
            clock: self.0.clock.clone(),
            network,
            disk: self.0.disk.clone(),
            postgres,
            guard,
            entropy: self.0.streams.stream(Concern::Node(self.0.node)),
        }
    }

    /// Spawns a task in a process. In one that does not run, the task is dropped unpolled.
    pub fn spawn_on<F>(&self, kind: ProcessKind, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let engine = self.look(kind, |process| process.engine);
        let node = Handle::current().get_node(engine).expect("the engine forgets no node");
        node.spawn(future)
    }

    /// Brings a process to life, empty, and returns its generation. One that runs is left alone.
    pub fn start(&self, kind: ProcessKind) -> u64 {
        let mut state = lock(&self.0.state);
        let frozen = !state.freezes.is_empty();
        let process = state.process(kind);
        if !process.running {
            process.running = true;
            process.generation += 1;
            Handle::current().restart(process.engine);
            if frozen {
                Handle::current().pause(process.engine);
            }
        }
        process.generation
    }

    /// Ends a process and drops its tasks. Harmless on one that does not run.
    pub fn kill(&self, kind: ProcessKind) {
        let mut state = lock(&self.0.state);
        let exchange = state.exchange.clone();
        let process = state.process(kind);
        if !process.running {
            return;
        }
        process.running = false;
        process.pauses = 0;
        let engine = process.engine;
        drop(state);
        if kind == ProcessKind::Manager {
            // Before its tasks are dropped: a destructor must not write, for a crash would not.
            self.0.disk.process_crash();
            if let Some(exchange) = exchange {
                exchange.shut(self.0.node);
            }
        }
        // Paused tasks go back to the queue and are dropped there, not under the engine's lock.
        Handle::current().resume(engine);
        Handle::current().kill(engine);
    }

    /// Stops a process as SIGSTOP does. Counted; forgotten when it dies.
    pub fn pause(&self, kind: ProcessKind) {
        let mut state = lock(&self.0.state);
        let process = state.process(kind);
        if process.running {
            process.pauses += 1;
            Handle::current().pause(process.engine);
        }
    }

    /// Ends one pause; harmless where there is none.
    pub fn resume(&self, kind: ProcessKind) {
        let mut state = lock(&self.0.state);
        let process = state.process(kind);
        process.pauses = process.pauses.saturating_sub(1);
        state.let_run(kind);
    }

    /// Whether a process exists, paused or not.
    #[must_use]
    pub fn is_running(&self, kind: ProcessKind) -> bool {
        self.look(kind, |process| process.running)
    }

    /// Whether a process exists and stands still, by itself or with the machine.
    #[must_use]
    pub fn is_paused(&self, kind: ProcessKind) -> bool {
        let mut state = lock(&self.0.state);
        let frozen = !state.freezes.is_empty();
        let process = state.process(kind);
        process.running && (frozen || process.pauses > 0)
    }

    /// How often a process was started.
    #[must_use]
    pub fn generation(&self, kind: ProcessKind) -> u64 {
        self.look(kind, |process| process.generation)
    }

    /// Stops the whole machine, and its clocks too where `with_clock` says so. Counted.
    pub fn freeze(&self, with_clock: bool) {
        let mut state = lock(&self.0.state);
        state.freezes.push(with_clock);
        for kind in ProcessKind::ALL {
            let process = state.process(kind);
            if process.running {
                Handle::current().pause(process.engine);
            }
        }
        drop(state);
        if with_clock {
            self.0.clock.freeze();
        }
    }

    /// Ends the last freeze, clocks included where they had stopped; harmless where there is none.
    pub fn thaw(&self) {
        let mut state = lock(&self.0.state);
        if state.freezes.pop() == Some(true) {
            self.0.clock.thaw();
        }
        for kind in ProcessKind::ALL {
            state.let_run(kind);
        }
    }

    /// Whether the whole machine stands still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        !lock(&self.0.state).freezes.is_empty()
    }

    /// Every process dies at once.
    pub fn crash(&self) {
        for kind in ProcessKind::ALL {
            self.kill(kind);
        }
    }

    /// Every process dies, and the disk loses what was not synced.
    pub fn power_loss(&self) {
        self.crash();
        self.0.disk.power_loss();
    }

    fn look<T>(&self, kind: ProcessKind, look: impl FnOnce(&Process) -> T) -> T {
        look(lock(&self.0.state).process(kind))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.0.node)
    }
}

impl State {
    fn process(&mut self, kind: ProcessKind) -> &mut Process {
        match kind {
            ProcessKind::Manager => &mut self.manager,
            ProcessKind::Postgres => &mut self.postgres,
            ProcessKind::Guard => &mut self.guard,
        }
    }

    /// Lets a process go on where nothing holds it any more.
    fn let_run(&mut self, kind: ProcessKind) {
        let frozen = !self.freezes.is_empty();
        let process = self.process(kind);
        if process.running && !frozen && process.pauses == 0 {
            Handle::current().resume(process.engine);
        }
    }
}

impl<P: Postgres, N: Network> Env for SimEnv<P, N> {
    type Rt = SimRt;
    type Clock = HostClock;
    type Network = N;
    type Disk = SimDisk;
    type Postgres = P;
    type Guard = SimGuard;
    type Entropy = Stream;

    fn clock(&self) -> &HostClock {
        &self.clock
    }

    fn network(&self) -> &N {
        &self.network
    }

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn postgres(&self) -> &P {
        &self.postgres
    }

    fn guard(&self) -> &SimGuard {
        &self.guard
    }

    fn entropy(&self) -> &Stream {
        &self.entropy
    }
}
