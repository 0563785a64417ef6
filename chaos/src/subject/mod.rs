//! The cluster under test, as far as whoever starts, breaks and asks it has to know it.
//!
//! Everything that differs between one kind of cluster and another is behind [`Subject`]; what a
//! run does to it, and how it is judged, is not.

mod node;
mod patroni;
mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pg_replica::control::{self, Applied, ControlState, OrderOutcome};
use pg_replica::ids::{CommandId, NodeId};
use sim::scenario::{Order, Plan, Process};

pub use patroni::Pace;
pub use programs::{Done, Programs, Watched};

/// A word that comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A role, and how it proves itself where it has to.
#[derive(Clone, Debug)]
pub struct Person {
    /// Its name.
    pub role: String,
    /// Its password.
    pub password: String,
}

/// What a member says of its cluster.
#[derive(Clone, Debug)]
pub struct View {
    /// Of two views the one with the greater number is of the later primacy.
    pub epoch: u64,
    /// Whether the member is out of touch with those that decide.
    pub blind: bool,
    /// Who is primary.
    pub primary: Option<NodeId>,
    /// Who leads those that decide, and since which of their elections.
    pub leader: Option<(u64, NodeId)>,
    /// The members, and whether each keeps data.
    pub members: BTreeMap<NodeId, bool>,
    /// Whether nothing is decided until somebody says so.
    pub paused: bool,
    /// Whether everybody who is to count for commits does, as far as the manager has it on record.
    pub in_step: bool,
}

/// What the members agreed on.
#[derive(Debug, Default)]
pub struct Record {
    /// In the order of time.
    pub entries: Vec<Entry>,
    /// What is wrong with it in itself: the invariant, and why.
    pub wrongs: Vec<(&'static str, String)>,
}

/// An entry of what the members agreed on, as one of them applied it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When, since the run began.
    pub at: Duration,
    /// By whom.
    pub node: NodeId,
    /// Its place.
    pub index: u64,
    /// What it says.
    pub command: control::Command,
    /// What became of it.
    pub applied: Applied,
    /// What the member says instead that became of it.
    pub otherwise: Option<String>,
    /// What all of it came to then.
    pub state: Arc<ControlState>,
}

/// What every kind of cluster begins with.
#[derive(Debug)]
pub struct Ground {
    /// What is laid out.
    pub plan: Plan,
    /// The folder of the laboratory.
    pub folder: PathBuf,
    /// Who may write rows: the role and the database have one name.
    pub writer: Person,
    /// Who may see and do everything, through a private socket.
    pub keeper: Person,
}

/// A kind of cluster, laid out in the folder of a laboratory.
pub trait Subject: Send + Sync {
    /// Writes what a machine needs before anything of it can start. A newcomer joins a cluster that
    /// exists.
    fn lay_out(&self, node: NodeId, newcomer: bool) -> io::Result<()>;
    /// Forgets everything that a machine has kept.
    fn wipe(&self, node: NodeId) -> io::Result<()>;
    /// What a machine starts by itself when it boots: the manager, and then what it needs.
    fn services(&self, node: NodeId) -> io::Result<Vec<Command>>;
    /// What a process on a machine is, by its command line. One that the manager needs, and that no
    /// fault but the host's concerns, is nothing.
    fn kind(&self, command_line: &[String]) -> Option<Process>;
    /// The folder and the port of a server's private socket.
    fn socket(&self, node: NodeId) -> (PathBuf, u16);
    /// The data directory of a machine's server. Its parent is the server's as well.
    fn data(&self, node: NodeId) -> PathBuf;
    /// What it began with.
    fn ground(&self) -> &Ground;
    /// Everything of a machine.
    fn folder(&self, node: NodeId) -> PathBuf {
        self.ground().folder.join(node.to_string())
    }
    /// Where a machine's manager keeps what it knows.
    fn store(&self, node: NodeId) -> PathBuf {
        self.folder(node).join("state")
    }
    /// What its service wrote to its standard error.
    fn log(&self, node: NodeId) -> PathBuf {
        self.folder(node).join("log")
    }
    /// The panics of these members' services, which are violations by themselves.
    fn panics(&self, members: &[NodeId]) -> Vec<String> {
        let mut said = BTreeSet::new();
        for node in members {
            let log = fs::read_to_string(self.log(*node)).unwrap_or_default();
            let lines = log.lines().filter(|line| line.contains("panicked at"));
            said.extend(lines.map(|line| format!("{node}: {line}")));
        }
        said.into_iter().collect()
    }
    /// What a member says of its cluster, where it says anything.
    fn view(&self, node: NodeId) -> Later<'_, Option<View>>;
    /// The parameters that the members agreed on for every server, as this one says.
    fn parameters(&self, node: NodeId) -> Later<'_, Option<BTreeMap<String, String>>>;
    /// Gives a member an order under this name. `Pending`, or nothing, is to be asked again.
    fn give<'a>(
        &'a self,
        to: NodeId,
        id: CommandId,
        order: &'a Order,
    ) -> Later<'a, Option<OrderOutcome>>;
    /// What these members agreed on, in the order of time, once all of them have ended; the wall
    /// clock showed `began` when the run did. Only those of whom a fault took the disk may lack
    /// evidence.
    fn record(
        &self,
        _members: Vec<NodeId>,
        _lost: BTreeSet<NodeId>,
        _began: Duration,
    ) -> Later<'_, Result<Record, String>> {
        Box::pin(async { Err("this kind of cluster keeps no record of what it agreed on".into()) })
    }
}

/// What a manager writes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Every entry that it applies, with its time.
    Everything,
    /// What it does by itself.
    AsUsual,
}

/// A kind of cluster, and where its manager's program is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// This project's own; it writes down everything where a judgement rests on it.
    Ours(PathBuf, Log),
    /// Patroni, over etcd.
    Patroni(PathBuf, Pace),
}

/// The cluster of this kind that a plan asks for.
#[must_use]
pub fn laid_out_in(folder: &Path, kind: &Kind, plan: &Plan) -> Arc<dyn Subject> {
    match kind {
        Kind::Ours(program, log) => Arc::new(node::NodeCluster::new(program, *log, folder, plan)),
        Kind::Patroni(program, pace) => {
            Arc::new(patroni::PatroniCluster::new(program, *pace, folder, plan))
        }
    }
}
