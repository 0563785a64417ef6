//! This project's own cluster: `node run` on every machine.

mod record;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pg_replica::control::{Mode, OrderOutcome};
use pg_replica::env::Entropy;
use pg_replica::ids::{CommandId, NodeId};
use pg_replica::os::OsEntropy;
use pg_replica::os::postgres::KEEPER;
use sim::place::Place;
use sim::scenario::{Order, Plan, Process};

use super::{Ground, Later, Log, Person, Programs, Record, Subject, View};
use crate::lab::address;

/// Where nodes listen to each other.
const PEERS: u16 = 7400;
/// Where they listen to operators.
const API: u16 = 8008;
/// Where servers listen.
const POSTGRES: u16 = 5432;

/// The cluster of a plan.
#[derive(Debug)]
pub(super) struct NodeCluster {
    program: PathBuf,
    log: Log,
    ground: Ground,
    /// What operators show.
    token: String,
}

impl NodeCluster {
    /// The cluster of `plan`, in `folder`.
    pub(super) fn new(program: &Path, log: Log, folder: &Path, plan: &Plan) -> Self {
        let drawn = || format!("{:016x}{:016x}", OsEntropy.next_u64(), OsEntropy.next_u64());
        let ground = Ground {
            plan: plan.clone(),
            folder: folder.to_owned(),
            writer: Person { role: "chaos".into(), password: drawn() },
            keeper: Person { role: KEEPER.into(), password: drawn() },
        };
        Self { program: program.to_owned(), log, ground, token: drawn() }
    }

    /// Where the API of a member listens.
    fn api(node: NodeId) -> String {
        format!("{}:{API}", address(Place::Host(node)))
    }

    /// Where a member's node and its server listen.
    fn listens(node: NodeId) -> (String, String) {
        let host = address(Place::Host(node));
        (format!("{host}:{PEERS}"), format!("{host}:{POSTGRES}"))
    }

    /// Where everything of a server is that is its own.
    fn server(&self, node: NodeId) -> PathBuf {
        self.folder(node).join("server")
    }

    fn configuration(&self, node: NodeId, newcomer: bool) -> String {
        let (folder, cluster) = (self.folder(node), &self.ground.plan.cluster);
        let (folder, own) = (folder.display(), address(Place::Host(node)));
        let root = self.ground.folder.display();
        let witness = |member: NodeId| {
            if newcomer {
                let mut known = self.ground.plan.newcomers();
                known.any(|(new, witness)| new == member && witness)
            } else {
                !cluster.keeps_data(member)
            }
        };
        let mut text = format!(
            "cluster = \"chaos\"\nnode = {}\nstate_dir = \"{folder}/state\"\njoin = {newcomer}\n",
            node.0
        );
        let members: Vec<NodeId> = if newcomer { vec![node] } else { cluster.members().collect() };
        for member in members {
            let (peers, postgres) = Self::listens(member);
            let _ = write!(text, "\n[members.{}]\npeers = \"{peers}\"\n", member.0);
            if witness(member) {
                text += "kind = \"witness\"\n";
                continue;
            }
            let _ = writeln!(text, "postgres = \"{postgres}\"");
            let priority = cluster.priorities.get(&member).copied().unwrap_or(1);
            let no_failover = cluster.no_failover.contains(&member);
            let _ = writeln!(text, "priority = {priority}\nno_failover = {no_failover}");
        }
        let _ = write!(
            text,
            "\n[api]\nlisten = \"{own}:{API}\"\ntoken_file = \"{root}/token\"\n\
             \n[tls]\nallow_cleartext = true\n"
        );
        if !witness(node) {
            let (role, bin) = (&self.ground.writer.role, Programs::of(&self.folder(node)));
            let _ = write!(
                text,
                "\n[postgres]\ndata_dir = \"{data}\"\n\
                 secret_file = \"{root}/secret\"\nbin_dir = \"{}\"\n\
                 hba = [\"host {role} {role} 10.77.0.0/16 trust\", \"local {role} {role} trust\"]\n\
                 \n[postgres.parameters]\nshared_buffers = \"32MB\"\n\
                 dynamic_shared_memory_type = \"mmap\"\n",
                bin.folder().display(),
                data = self.data(node).display(),
            );
        }
        if !newcomer {
            text += &self.settings();
        }
        match self.log {
            Log::Everything => text + "\n[log]\nformat = \"json\"\nlevel = \"debug\"\n",
            Log::AsUsual => text,
        }
    }

    fn settings(&self) -> String {
        let cluster = &self.ground.plan.cluster;
        let mode = match cluster.mode {
            Mode::Async => "async",
            Mode::QuorumSync => "quorum-sync",
        };
        let timing = &cluster.timing;
        let mut text =
            format!("\n[settings]\nmode = \"{mode}\"\nmax_lag_bytes = {}\n", cluster.max_lag_bytes);
        for (key, value) in [
            ("lease_ms", timing.lease_ms),
            ("heartbeat_ms", timing.heartbeat_ms),
            ("suspect_ms", timing.suspect_ms),
            ("clock_rate_ppm", timing.clock_rate_ppm),
            ("fence_margin_ms", timing.fence_margin_ms),
            ("guard_margin_ms", timing.guard_margin_ms),
            ("restart_ms", timing.restart_ms),
            ("promote_ms", timing.promote_ms),
            ("stop_ms", timing.stop_ms),
        ] {
            let _ = writeln!(text, "{key} = {value}");
        }
        text
    }
}

impl Subject for NodeCluster {
    fn lay_out(&self, node: NodeId, newcomer: bool) -> io::Result<()> {
        write_private(&self.ground.folder.join("secret"), &self.ground.keeper.password)?;
        write_private(&self.ground.folder.join("token"), &self.token)?;
        let folder = self.folder(node);
        DirBuilder::new().recursive(true).mode(0o711).create(&folder)?;
        Programs::of(&folder).lay_out()?;
        fs::write(folder.join("pg_replica.toml"), self.configuration(node, newcomer))
    }

    fn wipe(&self, node: NodeId) -> io::Result<()> {
        empty(&self.store(node))?;
        empty(&self.server(node))
    }

    fn services(&self, node: NodeId) -> io::Result<Vec<Command>> {
        let log = OpenOptions::new().create(true).append(true).open(self.log(node))?;
        let mut command = Command::new(&self.program);
        command
            .args(["run", "--config"])
            .arg(self.folder(node).join("pg_replica.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        Ok(vec![command])
    }

    fn kind(&self, command_line: &[String]) -> Option<Process> {
        let program = command_line.first().is_some_and(|path| Path::new(path) == self.program);
        Some(match command_line.get(1).map(String::as_str) {
            Some("run") if program => Process::Manager,
            Some("guard") => Process::Guard,
            Some(_) | None => Process::Postgres,
        })
    }

    fn socket(&self, node: NodeId) -> (PathBuf, u16) {
        (self.store(node).join("home/socket"), POSTGRES)
    }

    fn data(&self, node: NodeId) -> PathBuf {
        self.server(node).join("data")
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }

    fn view(&self, node: NodeId) -> Later<'_, Option<View>> {
        Box::pin(words::view(node))
    }

    fn parameters(&self, node: NodeId) -> Later<'_, Option<BTreeMap<String, String>>> {
        Box::pin(words::parameters(node))
    }

    fn give<'a>(
        &'a self,
        to: NodeId,
        id: CommandId,
        order: &'a Order,
    ) -> Later<'a, Option<OrderOutcome>> {
        Box::pin(words::give(to, id, order, &self.token))
    }

    fn record(
        &self,
        members: Vec<NodeId>,
        lost: BTreeSet<NodeId>,
        began: Duration,
    ) -> Later<'_, Result<Record, String>> {
        Box::pin(record::read(self, members, lost, began))
    }
}

/// Removes everything in a folder, where there is one.
fn empty(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")
}
