//! The three nodes: their folder, their configurations, their processes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use axum::http::Method;
use tokio::time::{Instant, sleep};

use crate::api::Status;
use crate::control::Mode;
use crate::env::Entropy;
use crate::os::OsEntropy;
use crate::os::http::HttpRequest;
use crate::os::ports;
use crate::os::postgres::Installation;

const MEMBERS: usize = 3;
/// What every folder of a demonstration is called, with the number of its process behind it.
const NAME: &str = "pg_replica-demo-";
/// How long a node that died stays dead, as if somebody had to notice first.
const DEAD_FOR: Duration = Duration::from_secs(5);
/// How long the nodes may take to end when they are asked to.
const END_WITHIN: Duration = Duration::from_secs(8);
/// How long a page may take.
const PAGE_WITHIN: Duration = Duration::from_millis(900);

/// Whoever looks around.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) role: String,
    pub(super) password: String,
}

/// The cluster.
pub(super) struct Nodes {
    folder: PathBuf,
    installation: Installation,
    mode: Mode,
    nodes: Vec<Node>,
    secret: String,
    guest: Guest,
}

struct Node {
    number: usize,
    api: u16,
    postgres: u16,
    folder: PathBuf,
    process: Process,
}

enum Process {
    /// It ends when its standard input does, whatever becomes of this process.
    Runs(Child, Option<ChildStdin>),
    DiedAt(Instant),
}

impl Nodes {
    /// Makes a folder and starts the nodes in it.
    pub(super) fn start(mode: Mode) -> Result<Self, String> {
        let installation = Installation::find(None, None).map_err(|_| no_postgres())?;
        remove_those_of_the_dead();
        let folder = std::env::temp_dir().join(format!("{NAME}{}", std::process::id()));
        let told = |error: io::Error| format!("{}: {error}", folder.display());
        // The server runs under an account of its own and has to get through.
        DirBuilder::new().mode(0o711).create(&folder).map_err(told)?;
        let ports = ports::free(MEMBERS * 3).map_err(told)?;
        let secret = password();
        let guest = Guest { role: "demo".into(), password: password() };
        let mut cluster = Self { folder, installation, mode, nodes: Vec::new(), secret, guest };
        let told = |error: io::Error| format!("the nodes cannot be started: {error}");
        cluster.lay_out(&ports).map_err(told)?;
        Ok(cluster)
    }

    fn lay_out(&mut self, ports: &[u16]) -> io::Result<()> {
        write_secret(&self.folder.join("secret"), &self.secret)?;
        for number in 1..=MEMBERS {
            let folder = self.folder.join(format!("n{number}"));
            DirBuilder::new().mode(0o711).create(&folder)?;
            fs::write(folder.join("pg_replica.toml"), self.configuration(number, ports))?;
            let [api, postgres] = [ports[MEMBERS + number - 1], ports[2 * MEMBERS + number - 1]];
            let process = spawn(&folder)?;
            self.nodes.push(Node { number, api, postgres, folder, process });
        }
        Ok(())
    }

    fn configuration(&self, number: usize, ports: &[u16]) -> String {
        let folder = self.folder.display();
        let mode = match self.mode {
            Mode::Async => "async",
            Mode::QuorumSync => "quorum-sync",
        };
        let mut text = format!(
            "cluster = \"demo\"\nnode = {number}\nstate_dir = \"{folder}/n{number}/state\"\n"
        );
        for member in 1..=MEMBERS {
            let (peers, postgres) = (ports[member - 1], ports[2 * MEMBERS + member - 1]);
            text += &format!(
                "\n[members.{member}]\npeers = \"127.0.0.1:{peers}\"\n\
                 postgres = \"127.0.0.1:{postgres}\"\n"
            );
        }
        let (api, role) = (ports[MEMBERS + number - 1], &self.guest.role);
        text += &format!(
            "\n[api]\nlisten = \"127.0.0.1:{api}\"\n\n[postgres]\n\
             data_dir = \"{folder}/n{number}/state/data\"\nsecret_file = \"{folder}/secret\"\n\
             hba = [\"host {role} {role} 127.0.0.1/32 scram-sha-256\"]\n\n\
             [postgres.parameters]\nshared_buffers = \"32MB\"\n\
             dynamic_shared_memory_type = \"mmap\"\n\n\
             [settings]\nmode = \"{mode}\"\n"
        );
        text
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn installation(&self) -> &Installation {
        &self.installation
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    pub(super) fn guest(&self) -> &Guest {
        &self.guest
    }

    /// The ports of the servers.
    pub(super) fn hosts(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.postgres).collect()
    }

    /// Where the commands of `node` find the cluster.
    pub(super) fn apis(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.api)).collect()
    }

    /// The private socket of a member's server.
    pub(super) fn socket_of(&self, name: &str) -> Option<(PathBuf, u16)> {
        let node = self.nodes.iter().find(|node| format!("n{}", node.number) == name)?;
        Some((node.folder.join("state/home/socket"), node.postgres))
    }

    /// The cluster as one of its nodes sees it.
    pub(super) async fn status(&self) -> Option<Status> {
        let mut best: Option<Status> = None;
        for address in self.apis() {
            let request =
                HttpRequest { method: Method::GET, path: "/status", token: None, body: Vec::new() };
            let Ok(answer) = request.send(&address, None, PAGE_WITHIN).await else { continue };
            let Ok(status) = serde_json::from_slice::<Status>(&answer.body) else { continue };
            // The one that knows the newest epoch, and among those one that sees the leader.
            let rank = |status: &Status| (status.epoch, status.blind.is_none());
            if best.as_ref().is_none_or(|known| rank(&status) > rank(known)) {
                best = Some(status);
            }
        }
        best
    }

    /// A service manager would start a node again; here this does, after a while.
    pub(super) fn restart_the_dead(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            match &mut node.process {
                Process::Runs(child, _) => {
                    if let Ok(Some(_)) = child.try_wait() {
                        node.process = Process::DiedAt(Instant::now());
                    }
                }
                Process::DiedAt(at) if at.elapsed() > DEAD_FOR => {
                    let told = |error| format!("n{} cannot be started: {error}", node.number);
                    node.process = spawn(&node.folder).map_err(told)?;
                }
                Process::DiedAt(_) => {}
            }
        }
        Ok(())
    }

    /// The ends of the nodes' logs.
    pub(super) fn last_words(&self) -> String {
        let last = |node: &Node| {
            let log = fs::read_to_string(node.folder.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(4)..].join("\n  ");
            format!("n{}:\n  {end}", node.number)
        };
        self.nodes.iter().map(last).collect::<Vec<_>>().join("\n")
    }

    /// Ends the nodes and removes their folder.
    pub(super) async fn end(mut self) {
        for node in &mut self.nodes {
            if let Process::Runs(_, open) = &mut node.process {
                drop(open.take());
            }
        }
        let limit = Instant::now() + END_WITHIN;
        while Instant::now() < limit && self.nodes.iter_mut().any(Node::runs) {
            sleep(Duration::from_millis(50)).await;
        }
        self.give_up();
    }

    /// Whatever still runs is killed; the guards end the servers of the dead.
    fn give_up(&mut self) {
        for node in &mut self.nodes {
            if let Process::Runs(child, _) = &mut node.process {
                let _ = child.kill();
                let _ = child.wait();
            }
            crate::os::guard::end_postgres(&node.folder.join("state/data"));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Node {
    fn runs(&mut self) -> bool {
        match &mut self.process {
            Process::Runs(child, _) => matches!(child.try_wait(), Ok(None)),
            Process::DiedAt(_) => false,
        }
    }
}

fn spawn(folder: &Path) -> io::Result<Process> {
    let log = OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["run", "--with-parent", "--config"])
        .arg(folder.join("pg_replica.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C at the terminal is for this process alone.
        .process_group(0)
        .spawn()?;
    let open = child.stdin.take();
    Ok(Process::Runs(child, open))
}

fn password() -> String {
    format!("{:016x}{:016x}", OsEntropy.next_u64(), OsEntropy.next_u64())
}

fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{secret}")
}

/// A demonstration that was killed together with everything around it leaves its folder.
fn remove_those_of_the_dead() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix(NAME)) else { continue };
        let alive = Path::new("/proc").join(number).exists();
        if number.parse::<u32>().is_ok() && !alive {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn no_postgres() -> String {
    "No PostgreSQL is installed here. On Debian and its kin: apt-get install postgresql\n\
     (ci/demo installs what is missing and starts this again.)\n\
     The same in simulation, without it:\n    \
     cargo run -p sim -- run scenarios/quorum-partitioned-primary.toml --trace"
        .into()
}
