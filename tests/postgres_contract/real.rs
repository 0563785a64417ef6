//! Real servers as ground: each in a directory of its own, on this machine.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pg_replica::env::{Postgres, Side, StartAs, StopHow, SyncNames};
use pg_replica::ids::{Epoch, NodeId, Timeline};
use pg_replica::os::authority::{Wanted, provide};
use pg_replica::os::guard::{command_line, end_postgres, server_processes};
use pg_replica::os::postgres::{OsPostgres, PostgresPlan, ServerTls};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sim::postgres::CutPromotion;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

use super::ground::{
    Ground, PATIENCE, Wrote, follow, found, join, promote, start_behind, until_rows, upstream,
};
use super::machine::{account, free_ports, installation};

/// Small, and with nothing outside of the directory that a killed server would leave behind.
const PARAMETERS: [(&str, &str); 3] =
    [("fsync", "on"), ("shared_buffers", "16MB"), ("dynamic_shared_memory_type", "mmap")];

/// How large a file of the log is.
const SEGMENT: u64 = 16 << 20;

/// Machines on this one.
pub(crate) struct Real {
    folder: PathBuf,
    servers: Vec<(PostgresPlan, OsPostgres)>,
    /// The ports at which servers are reached from far away.
    relays: BTreeMap<u64, u16>,
}

impl Drop for Real {
    fn drop(&mut self) {
        for (plan, _) in &self.servers {
            quit(&plan.data);
            end_postgres(&plan.data);
        }
        if std::thread::panicking() {
            for (plan, _) in &self.servers {
                let log = fs::read_to_string(plan.log()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(25)..];
                eprintln!("the log of {}:\n{}", plan.node, tail.join("\n"));
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Lets a server that still obeys take its shared memory along: nobody starts one here again, which
/// would otherwise do it.
fn quit(data: &Path) {
    let file = data.join("postmaster.pid");
    let said = fs::read_to_string(&file).unwrap_or_default();
    let number = said.lines().next().and_then(|line| line.parse().ok());
    let Some(server) = number.and_then(Pid::from_raw) else { return };
    for signal in [Signal::CONT, Signal::QUIT] {
        // One that is gone already can take nothing along.
        let _ = kill_process(server, signal);
    }
    for _ in 0..20 {
        if !file.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn history_file(plan: &PostgresPlan, timeline: Timeline) -> PathBuf {
    plan.data.join("pg_wal").join(format!("{:08X}.history", timeline.0))
}

/// The servers speak TLS with each other here; those of the demonstration do not.
fn certificates(folder: &Path, node: u64) -> ServerTls {
    let file = |name: String| folder.join("tls").join(name);
    let (own, key) = (file(format!("n{node}.crt")), file(format!("n{node}.key")));
    ServerTls::new(&file("ca.crt".into()), &own, &key).expect("they were made")
}

/// Runs a case on some of them.
pub(crate) fn run<F>(machines: u64, case: impl FnOnce(Real) -> F)
where
    F: Future<Output = ()>,
{
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let Some(installation) = installation() else { return };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = PathBuf::from(format!("/tmp/pg-contract-{}-{number}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let account = account();
    let wanted = Wanted {
        cluster: "contract".into(),
        nodes: (1..=machines).map(NodeId).collect(),
        hosts: Vec::new(),
        folder: folder.join("tls"),
    };
    provide(&wanted).expect("certificates can be made");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let servers = (1..=machines).map(|node| {
            let [port] = free_ports();
            let plan = PostgresPlan {
                node: NodeId(node),
                cluster: "contract".into(),
                installation: installation.clone(),
                data: folder.join(format!("n{node}/data")),
                home: folder.join(format!("n{node}/home")),
                listen: "127.0.0.1".into(),
                port,
                account,
                secret: "notasecretbutlongenough".into(),
                tls: Some(certificates(&folder, node)),
                superuser: "postgres".into(),
                access: vec!["local all postgres trust".into()],
                parameters: PARAMETERS.map(|(name, value)| (name.into(), value.into())).into(),
            };
            (plan.clone(), OsPostgres::new(plan).unwrap())
        });
        let (servers, relays) = (servers.collect(), BTreeMap::new());
        let real = Real { folder: folder.clone(), servers, relays };
        case(real).await;
    });
}

impl Real {
    fn plan(&self, node: u64) -> &PostgresPlan {
        &self.servers[usize::try_from(node - 1).unwrap()].0
    }

    /// Puts a file into the data directory, as the server's own.
    fn give(&self, node: u64, path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).unwrap();
        let owner = fs::metadata(&self.plan(node).data).unwrap();
        chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    async fn client(&self, node: u64) -> Option<Client> {
        let plan = self.plan(node);
        let mut config = tokio_postgres::Config::new();
        config.host_path(plan.socket_folder()).port(plan.port).user("postgres");
        let (client, connection) = config.dbname("postgres").connect(NoTls).await.ok()?;
        drop(tokio::spawn(connection));
        Some(client)
    }
}

impl Ground for Real {
    type Server = OsPostgres;

    fn server(&self, node: u64) -> OsPostgres {
        self.servers[usize::try_from(node - 1).unwrap()].1.clone()
    }

    fn address(&self, node: u64) -> String {
        let port = self.relays.get(&node).copied().unwrap_or(self.plan(node).port);
        format!("127.0.0.1:{port}")
    }

    async fn write(&self, node: u64, row: u64, patience: Duration) -> Wrote {
        let writing = async {
            let client = self.client(node).await?;
            // The table is not a row: it must not wait for anybody. Sent as one message, the three
            // would be one transaction, which waits as the last of them says. Another writer may
            // make the table at the same moment: whether there is one, the insert tells.
            client.batch_execute("set synchronous_commit = local").await.ok()?;
            let table = "create table if not exists rows (number bigint primary key)";
            drop(client.batch_execute(table).await);
            client.batch_execute("set synchronous_commit = on").await.ok()?;
            let insert = format!("insert into rows values ({row})");
            client.batch_execute(&insert).await.ok()
        };
        match timeout(patience, writing).await {
            Ok(Some(())) => Wrote::Acknowledged,
            Ok(None) => Wrote::Refused,
            Err(_) => Wrote::Silent,
        }
    }

    async fn rows(&self, node: u64) -> Vec<u64> {
        let Some(client) = self.client(node).await else { return Vec::new() };
        let rows = client.query("select number from rows order by number", &[]).await;
        rows.unwrap_or_default()
            .iter()
            .map(|row| u64::try_from(row.get::<_, i64>(0)).unwrap())
            .collect()
    }

    async fn stop_replay(&self, node: u64) {
        let client = self.client(node).await.unwrap();
        client.batch_execute("select pg_wal_replay_pause()").await.unwrap();
    }

    async fn hold_back_promotion(&self, node: u64, held: bool) {
        let signal = if held { Signal::STOP } else { Signal::CONT };
        for process in server_processes(&self.plan(node).data).unwrap() {
            if String::from_utf8_lossy(&command_line(process)).contains("startup") {
                kill_process(process, signal).unwrap();
            }
        }
    }

    async fn cut_promotion(&self, node: u64, epoch: Epoch, left: CutPromotion) {
        let (plan, server) = (self.plan(node), self.server(node));
        let seen = server.observe().await.unwrap();
        let (end, last) = (seen.flushed.unwrap(), seen.history.last().unwrap().timeline);
        let control = plan.data.join("global/pg_control");
        let before = fs::read(&control).unwrap();
        if left == CutPromotion::Record {
            // What the server writes last, the control file, it has not written.
            server.promote(epoch).await.unwrap();
        }
        server.stop(StopHow::Immediate).await.unwrap();
        let births = plan.data.join("pg_replica.births");
        let mut intended: Value = serde_json::from_slice(&fs::read(&births).unwrap()).unwrap();
        intended["intended"] = json!([epoch, last]);
        let next = Timeline(last.0 + 1);
        intended["born"].as_object_mut().unwrap().remove(&next.0.to_string());
        let give = |path: &Path, bytes: &[u8]| self.give(node, path, bytes);
        give(&births, intended.to_string().as_bytes());
        if left == CutPromotion::Record {
            return give(&control, &before);
        }
        let log = plan.data.join("pg_wal");
        let (file, used) = (end.0 / SEGMENT, usize::try_from(end.0 % SEGMENT).unwrap());
        let segment = |timeline: Timeline| {
            let name = format!("{:08X}{:08X}{:08X}", timeline.0, file / 256, file % 256);
            log.join(name)
        };
        // Where the log ends with a file there is nothing to copy.
        let mut copy = fs::read(segment(last)).unwrap_or_default();
        copy.truncate(used);
        copy.resize(usize::try_from(SEGMENT).unwrap(), 0);
        give(&segment(next), &copy);
        if left != CutPromotion::Segment {
            fs::remove_file(plan.data.join("standby.signal")).unwrap();
        }
        if left == CutPromotion::History {
            let line = format!("{}\t{end}\tno recovery target specified\n", last.0);
            let older = fs::read_to_string(history_file(plan, last));
            let text = older.unwrap_or_default() + &line;
            give(&history_file(plan, next), text.as_bytes());
        }
    }

    async fn tell_of(&self, node: u64, other: u64) {
        let newest = self.server(other).observe().await.unwrap().history.last().unwrap().timeline;
        let history = |node: u64| history_file(self.plan(node), newest);
        self.give(node, &history(node), &fs::read(history(other)).unwrap());
        // It looks for more log, and for histories with it, every 200 ms.
        sleep(Duration::from_secs(1)).await;
    }

    async fn hold_back_settings(&self, node: u64, held: bool) {
        const CHECKPOINTER: &str =
            "select pid from pg_stat_activity where backend_type = 'checkpointer'";
        let client = self.client(node).await.unwrap();
        let number = client.query_one(CHECKPOINTER, &[]).await.unwrap().get(0);
        let signal = if held { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_raw(number).unwrap(), signal).unwrap();
    }

    async fn meddle(&self, node: u64) {
        let client = self.client(node).await.unwrap();
        client.batch_execute("alter system set synchronous_standby_names = ''").await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
    }

    async fn kill_a_session(&self, node: u64) {
        let client = self.client(node).await.unwrap();
        let row = client.query_one("select pg_backend_pid()", &[]).await.unwrap();
        kill_process(Pid::from_raw(row.get(0)).unwrap(), Signal::KILL).unwrap();
    }

    async fn hang(&self, node: u64) {
        let lock = fs::read_to_string(self.plan(node).data.join("postmaster.pid")).unwrap();
        let server = lock.lines().next().unwrap();
        let children = format!("/proc/{server}/task/{server}/children");
        let stop = |number: &str| {
            // A session may be gone by now.
            let _ = kill_process(Pid::from_raw(number.parse().unwrap()).unwrap(), Signal::STOP);
        };
        stop(server);
        fs::read_to_string(children).unwrap().split_whitespace().for_each(stop);
    }

    async fn move_away(&mut self, node: u64) {
        const FAR: Duration = Duration::from_millis(1_200);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.relays.insert(node, listener.local_addr().unwrap().port());
        let server = self.plan(node).port;
        drop(tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                drop(tokio::spawn(async move {
                    sleep(FAR).await;
                    let mut far = TcpStream::connect(("127.0.0.1", server)).await?;
                    copy_bidirectional(&mut near, &mut far).await
                }));
            }
        }));
    }

    fn start_manager_anew(&mut self, node: u64) {
        let (plan, server) = &mut self.servers[usize::try_from(node - 1).unwrap()];
        *server = OsPostgres::new(plan.clone()).unwrap();
    }

    async fn turn_log_over(&self, node: u64) {
        let client = self.client(node).await.unwrap();
        if self.server(node).observe().await.unwrap().side == Side::Primary {
            client.batch_execute("select pg_switch_wal()").await.unwrap();
        }
        client.batch_execute("checkpoint").await.unwrap();
    }

    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

/// No copy mends it: a start that failed for good would copy the database again and again.
#[test]
fn what_another_version_made_is_not_started_and_not_given_up() {
    run(2, async |ground| {
        found(&ground, 1, SyncNames::default()).await;
        join(&ground, 2, 1, 1).await;
        let server = ground.server(2);
        server.stop(StopHow::Fast).await.unwrap();
        let version = ground.plan(2).data.join("PG_VERSION");
        let made_by = fs::read_to_string(&version).unwrap();
        fs::write(&version, "9\n").unwrap();
        let source = upstream(&ground, 1, 1);
        let behind = StartAs::Standby { upstream: Some(source.clone()) };
        for failed in [server.start(&behind).await, server.rewind(&source).await.map(|_| ())] {
            let why = failed.unwrap_err();
            assert!(why.is_transient(), "{why}");
            assert!(why.to_string().contains("was made by PostgreSQL 9"), "{why}");
        }
        fs::write(&version, made_by).unwrap();
        start_behind(&ground, 2, &source).await;
    });
}

/// The lines of the node's file are obeyed as they are now, and not as they were at the founding.
#[test]
fn who_may_come_is_what_the_file_says_at_the_next_start() {
    run(1, async |mut ground| {
        found(&ground, 1, SyncNames::default()).await;
        assert!(ground.client(1).await.is_some());
        ground.server(1).stop(StopHow::Fast).await.unwrap();
        ground.servers[0].0.access = vec!["local all postgres reject".into()];
        ground.start_manager_anew(1);
        let how = StartAs::Primary { epoch: Epoch(1), sync: SyncNames::default() };
        ground.server(1).start(&how).await.unwrap();
        ground.server(1).admit().await.unwrap();
        assert!(ground.client(1).await.is_none());
        ground.servers[0].0.access = vec!["local all postgres believe".into()];
        ground.start_manager_anew(1);
        let why = ground.server(1).admit().await.unwrap_err();
        assert!(why.to_string().contains("believe") && why.is_transient(), "{why}");
    });
}

/// What a standby was told of is forgotten by a start, and only where it is in the way.
#[test]
fn who_was_told_of_the_line_that_won_goes_on_as_it_is() {
    run(3, async |ground| {
        found(&ground, 1, SyncNames::default()).await;
        join(&ground, 2, 1, 1).await;
        join(&ground, 3, 1, 1).await;
        ground.server(3).detach().await.unwrap();
        assert_eq!(ground.write(1, 1, PATIENCE).await, Wrote::Acknowledged);
        until_rows(&ground, 2, &[1]).await;
        promote(&ground, 2, 2).await;
        ground.tell_of(3, 2).await;
        let process = || fs::read_to_string(ground.plan(3).data.join("postmaster.pid")).unwrap();
        let before = process();
        follow(&ground, 3, 2, 2).await;
        until_rows(&ground, 3, &[1]).await;
        assert_eq!(process(), before);
    });
}

/// What a manager began that was killed goes on by itself, in the folder of the next attempt.
#[test]
fn what_another_manager_began_is_ended_before_a_database_is_made() {
    run(1, async |ground| {
        let home = ground.plan(1).home.clone();
        let tool = home.join("initdb");
        fs::copy("/bin/sleep", &tool).unwrap();
        let mut left_behind =
            std::process::Command::new(&tool).arg("60").current_dir(&home).spawn().unwrap();
        found(&ground, 1, SyncNames::default()).await;
        assert!(left_behind.try_wait().unwrap().is_some(), "it goes on");
    });
}
