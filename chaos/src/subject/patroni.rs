//! A cluster of Patroni's: `patroni` and a member of etcd on every machine.
//!
//! Postgres gets what the other kind of cluster gives it, as far as it is not the manager's own
//! business; the etcd of three members has the defaults of its later versions.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::http::Method;
use pg_replica::control::{Mode, OrderOutcome};
use pg_replica::ids::{CommandId, NodeId};
use pg_replica::os::http::HttpRequest;
use pg_replica::os::postgres::Account;
use serde_json::{Value, json};
use sim::place::Place;
use sim::scenario::{Order, Plan, Process, Target};

use super::{Ground, Later, Person, Programs, Subject, View};
use crate::lab::address;

/// Where Patroni listens to operators.
const API: u16 = 8008;
/// Where servers listen.
const POSTGRES: u16 = 5432;
/// Where etcd listens to clients, and to its other members.
const ETCD: (u16, u16) = (2379, 2380);
/// How long a page may take.
const PAGE_WITHIN: Duration = Duration::from_millis(500);
/// How long a switchover may.
const ORDER_WITHIN: Duration = Duration::from_secs(30);

/// What decides how fast it is, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long the leader's key lives without being renewed.
    pub ttl: u32,
    /// How often everybody looks.
    pub loop_wait: u32,
    /// How long questions to etcd and to Postgres are repeated.
    pub retry_timeout: u32,
}

impl Pace {
    /// What it has where nobody says anything.
    pub const DEFAULT: Self = Self { ttl: 30, loop_wait: 10, retry_timeout: 10 };
    /// The least that its own check of a configuration lets pass.
    pub const FASTEST: Self = Self { ttl: 20, loop_wait: 1, retry_timeout: 3 };
}

/// The cluster of a plan.
#[derive(Debug)]
pub(super) struct PatroniCluster {
    program: PathBuf,
    pace: Pace,
    ground: Ground,
    account: Account,
}

impl PatroniCluster {
    /// The cluster of `plan`, in `folder`.
    pub(super) fn new(program: &Path, pace: Pace, folder: &Path, plan: &Plan) -> Self {
        let person = |role: &str| Person { role: role.into(), password: format!("the{role}s") };
        let ground = Ground {
            plan: plan.clone(),
            folder: folder.to_owned(),
            writer: person("chaos"),
            keeper: person("postgres"),
        };
        let account = Account::named("postgres").unwrap_or(Account { user: 0, group: 0 });
        Self { program: program.to_owned(), pace, ground, account }
    }

    fn configuration(&self, node: NodeId) -> Value {
        let (state, keeper) = (self.store(node), &self.ground.keeper);
        let own = address(Place::Host(node));
        let members: Vec<NodeId> = self.ground.plan.cluster.members().collect();
        let api = format!("{own}:{API}");
        let etcd = |member: &NodeId| format!("{}:{}", address(Place::Host(*member)), ETCD.0);
        let Pace { ttl, loop_wait, retry_timeout } = self.pace;
        let synchronous = match self.ground.plan.cluster.mode {
            Mode::Async => json!("off"),
            Mode::QuorumSync => json!("quorum"),
        };
        let access = ["local all all trust", "host all all 10.77.0.0/16 trust"];
        let streaming = "host replication all 10.77.0.0/16 trust";
        let access: Vec<&str> = access.into_iter().chain([streaming]).collect();
        json!({
            "scope": "race",
            "name": node.to_string(),
            "restapi": { "listen": api, "connect_address": api },
            "etcd3": { "hosts": members.iter().map(etcd).collect::<Vec<_>>() },
            "log": { "level": "INFO" },
            "bootstrap": {
                "dcs": {
                    "ttl": ttl,
                    "loop_wait": loop_wait,
                    "retry_timeout": retry_timeout,
                    "maximum_lag_on_failover": self.ground.plan.cluster.max_lag_bytes,
                    "synchronous_mode": synchronous,
                    "postgresql": { "use_pg_rewind": true, "use_slots": true },
                },
                "initdb": [{ "encoding": "UTF8" }, "data-checksums"],
            },
            "postgresql": {
                "listen": format!("{own}:{POSTGRES}"),
                "connect_address": format!("{own}:{POSTGRES}"),
                "data_dir": state.join("data"),
                "bin_dir": Programs::of(&self.folder(node)).folder(),
                "pgpass": state.join("pgpass"),
                "pg_hba": access,
                // As the other kind of cluster copies; it concerns no failover.
                "basebackup": { "checkpoint": "fast" },
                "authentication": {
                    "superuser": { "username": keeper.role, "password": keeper.password },
                    "replication": { "username": "streamer", "password": "the-streamers" },
                    "rewind": { "username": "rewinder", "password": "the-rewinders" },
                },
                "parameters": {
                    "unix_socket_directories": state.join("socket"),
                    "shared_buffers": "32MB",
                    "dynamic_shared_memory_type": "mmap",
                    // How fast servers notice each other, as the other kind of cluster has it.
                    "wal_receiver_status_interval": "1s",
                    "wal_receiver_timeout": "1s",
                    "wal_sender_timeout": "2500ms",
                    "wal_retrieve_retry_interval": "200ms",
                },
            },
        })
    }

    /// A member of etcd, with what it has by itself for three machines of one network; and asked
    /// as later versions are by themselves: a member that comes back ends nobody's term by that.
    fn etcd(&self, node: NodeId) -> Command {
        let at =
            |member: NodeId, port: u16| format!("http://{}:{port}", address(Place::Host(member)));
        let (clients, peers) = (at(node, ETCD.0), at(node, ETCD.1));
        let members = self.ground.plan.cluster.members();
        let all: Vec<String> = members.map(|one| format!("{one}={}", at(one, ETCD.1))).collect();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &node.to_string(), "--log-level", "warn", "--pre-vote"])
            .arg("--data-dir")
            .arg(self.store(node).join("etcd"))
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
        command
    }

    /// As a service of a machine is started.
    fn prepared(&self, mut command: Command, log: &Path) -> io::Result<Command> {
        let log = OpenOptions::new().create(true).append(true).mode(0o644).open(log)?;
        command
            .current_dir("/")
            .env("HOME", "/")
            .uid(self.account.user)
            .gid(self.account.group)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        Ok(command)
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.account.user), Some(self.account.group))
    }
}

impl Subject for PatroniCluster {
    fn lay_out(&self, node: NodeId, _newcomer: bool) -> io::Result<()> {
        let (folder, state) = (self.folder(node), self.store(node));
        DirBuilder::new().recursive(true).mode(0o711).create(&folder)?;
        Programs::of(&folder).lay_out()?;
        for part in [state.clone(), state.join("socket"), state.join("etcd")] {
            DirBuilder::new().recursive(true).mode(0o700).create(&part)?;
            self.own(&part)?;
        }
        let file = folder.join("patroni.yml");
        // What is JSON is YAML as well.
        let text = serde_json::to_string_pretty(&self.configuration(node))?;
        fs::write(&file, text)?;
        self.own(&file)
    }

    fn wipe(&self, node: NodeId) -> io::Result<()> {
        fs::remove_dir_all(self.store(node))?;
        self.lay_out(node, true)
    }

    fn services(&self, node: NodeId) -> io::Result<Vec<Command>> {
        let mut patroni = Command::new(&self.program);
        patroni.arg(self.folder(node).join("patroni.yml"));
        let beside = self.folder(node).join("etcd.log");
        Ok(vec![self.prepared(patroni, &self.log(node))?, self.prepared(self.etcd(node), &beside)?])
    }

    fn kind(&self, command_line: &[String]) -> Option<Process> {
        let is = |word: &String| word.ends_with("/patroni");
        match command_line.first().map(String::as_str) {
            Some("etcd") => None,
            _ if command_line.iter().take(2).any(is) => Some(Process::Manager),
            Some(_) | None => Some(Process::Postgres),
        }
    }

    fn socket(&self, node: NodeId) -> (PathBuf, u16) {
        (self.store(node).join("socket"), POSTGRES)
    }

    fn data(&self, node: NodeId) -> PathBuf {
        self.store(node).join("data")
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }

    fn view(&self, node: NodeId) -> Later<'_, Option<View>> {
        let synchronous = self.ground.plan.cluster.mode == Mode::QuorumSync;
        Box::pin(async move {
            let page = ask(node, Method::GET, "/cluster", json!(null)).await?.1;
            view_in(&page, synchronous)
        })
    }

    fn parameters(&self, _node: NodeId) -> Later<'_, Option<BTreeMap<String, String>>> {
        // Nobody orders any here.
        Box::pin(async { Some(BTreeMap::new()) })
    }

    fn give<'a>(
        &'a self,
        to: NodeId,
        _id: CommandId,
        order: &'a Order,
    ) -> Later<'a, Option<OrderOutcome>> {
        Box::pin(async move {
            let Order::Switchover { to: wanted } = order else {
                return Some(OrderOutcome::Refused("only switchovers are asked for here".into()));
            };
            let leader = self.view(to).await?.primary?.to_string();
            let mut body = json!({ "leader": leader });
            if let Some(Target::Node(wanted)) = wanted {
                body["candidate"] = wanted.to_string().into();
            }
            let (status, said) = ask(to, Method::POST, "/switchover", body).await?;
            let said = said.as_str().unwrap_or_default().to_owned();
            Some(if status == 200 { OrderOutcome::Done(said) } else { OrderOutcome::Refused(said) })
        })
    }
}

/// A question to a member's interface: the status of its answer, and the answer; its words, where
/// it is no JSON.
async fn ask(node: NodeId, method: Method, path: &str, body: Value) -> Option<(u16, Value)> {
    let within = if method == Method::GET { PAGE_WITHIN } else { ORDER_WITHIN };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = HttpRequest { method, path, token: None, body };
    let address = format!("{}:{API}", address(Place::Host(node)));
    let answer = request.send(&address, None, within).await.ok()?;
    let words = || String::from_utf8_lossy(&answer.body).into_owned().into();
    Some((answer.status, serde_json::from_slice(&answer.body).unwrap_or_else(|_| words())))
}

/// What a member's page says of the cluster.
fn view_in(page: &Value, synchronous: bool) -> Option<View> {
    let members = page["members"].as_array()?;
    let named =
        |member: &Value| member["name"].as_str()?.strip_prefix('n')?.parse().ok().map(NodeId);
    let counts = |member: &Value| {
        let role = member["role"].as_str().unwrap_or_default();
        ["leader", "quorum_standby", "sync_standby"].contains(&role)
    };
    let leader = members.iter().find(|member| member["role"] == "leader");
    Some(View {
        epoch: leader.and_then(|one| one["timeline"].as_u64()).unwrap_or_default(),
        blind: false,
        primary: leader.and_then(named),
        leader: None,
        members: members.iter().filter_map(|one| Some((named(one)?, true))).collect(),
        paused: page["pause"].as_bool().unwrap_or_default(),
        in_step: !synchronous || members.iter().all(counts),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_the_cluster_is_understood() {
        let page = json!({ "scope": "race", "members": [
            { "name": "n1", "role": "replica", "state": "streaming", "timeline": 3, "lag": 0 },
            { "name": "n2", "role": "leader", "state": "running", "timeline": 3 },
        ]});
        let view = view_in(&page, false).unwrap();
        assert_eq!((view.primary, view.epoch), (Some(NodeId(2)), 3));
        assert_eq!(view.members, [(NodeId(1), true), (NodeId(2), true)].into());
        assert!(!view.paused && view_in(&json!("no such page"), true).is_none());
        // A standby that commits do not wait for yet is one that nobody may fail over to.
        assert!(view.in_step && !view_in(&page, true).unwrap().in_step);
    }
}
