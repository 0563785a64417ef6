//! A database that was there before the cluster: prepared in place, served by a node, and refused
//! where it could not be served safely.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use pg_replica::os::guard::end_postgres;
use pg_replica::os::postgres::{Account, Installation};

use super::folder::Folder;
use super::machine::{account, free_ports, installation};
use super::{said, within};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server as an operator had it before: a directory, started by hand.
struct Before {
    folder: Folder,
    installation: Installation,
    account: Option<Account>,
    port: u16,
    node: Option<Child>,
}

impl Drop for Before {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            let _ = node.kill();
            let _ = node.wait();
        }
        end_postgres(&self.data());
    }
}

impl Before {
    fn new(name: &str) -> Option<Self> {
        let installation = installation()?;
        let folder = Folder::for_everybody(&format!("adopt-{name}"));
        folder.secret();
        let [port] = free_ports();
        let before = Self { folder, installation, account: account(), port, node: None };
        let data = before.data().display().to_string();
        before.tool("initdb", &["-D", &data, "-U", "postgres", "--auth", "trust", "-N"]);
        Some(before)
    }

    fn data(&self) -> PathBuf {
        self.folder.all().join("data")
    }

    #[track_caller]
    fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(self.installation.program(program));
        command.args(arguments).current_dir("/").stdin(Stdio::null());
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        let output = command.output().expect("the package has it");
        assert!(output.status.success(), "{program}: {}", said(&output));
        said(&output).trim().to_owned()
    }

    fn start(&self) {
        let data = self.data().display().to_string();
        let log = self.folder.path("log");
        let options = format!("-p {} -k {}", self.port, self.folder.all().display());
        self.tool("pg_ctl", &["-D", &data, "-l", &log, "-o", &options, "-w", "start"]);
    }

    fn stop(&self, how: &str) {
        self.tool("pg_ctl", &["-D", &self.data().display().to_string(), "-m", how, "-w", "stop"]);
    }

    fn try_psql(&self, statement: &str) -> Output {
        let mut command = Command::new(self.installation.program("psql"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        command.args(["-Atc", statement]).output().expect("the package has it")
    }

    #[track_caller]
    fn psql(&self, statement: &str) -> String {
        let output = self.try_psql(statement);
        assert!(output.status.success(), "{statement}: {}", said(&output));
        said(&output).trim().to_owned()
    }

    fn node(&self, verb: &str) -> Command {
        let mut command = super::node([verb, "--config", "/dev/null"]);
        let at = |name: &str| self.folder.path(name);
        let [peers, api] = free_ports();
        for setting in [
            "cluster=old".to_owned(),
            "node=1".to_owned(),
            format!("state_dir={}", at("state")),
            format!("members.1.peers=127.0.0.1:{peers}"),
            format!("members.1.postgres=127.0.0.1:{}", self.port),
            format!("postgres.data_dir={}", at("data")),
            format!("postgres.secret_file={}", at("secret")),
            format!("api.listen=127.0.0.1:{api}"),
        ] {
            command.args(["--set", &setting]);
        }
        command.stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn refused(&self, word: &str) {
        let output = self.node("adopt").arg("--yes").output().expect("it runs");
        assert!(!output.status.success() && said(&output).contains(word), "{}", said(&output));
    }
}

fn log_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

#[test]
fn a_database_is_taken_over_with_everything_in_it() {
    let Some(mut before) = Before::new("whole") else { return };
    // It was recovered to a point in time once, and its users are in a hurry.
    let file = before.data().join("postgresql.conf");
    let own = fs::read_to_string(&file).expect("it was made");
    let more = "recovery_target_time = '2001-01-01 00:00:00+00'\nstatement_timeout = '1s'\n\
                restore_command = 'cp /archive/%f %p'\n";
    fs::write(&file, own + more).expect("it can be written");
    before.start();
    before.psql("create table kept as select generate_series(1, 1000) as number");
    before.refused("a server runs on");
    before.stop("immediate");
    before.refused("not shut down cleanly");
    before.start();
    before.stop("fast");

    let unasked = before.node("adopt").output().expect("it runs");
    assert!(!unasked.status.success(), "nobody agreed: {}", said(&unasked));
    let output = before.node("adopt").arg("--yes").output().expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    let line = said(&output)
        .lines()
        .find_map(|line| Some(line.strip_prefix("adopt = \"")?.strip_suffix('"')?.to_owned()));
    let system = line.unwrap_or_else(|| panic!("{}", said(&output)));
    let again = before.node("adopt").arg("--yes").output().expect("it runs");
    assert!(again.status.success() && said(&again).contains(&system), "{}", said(&again));

    let log = before.folder.all().join("node.log");
    let to = fs::File::create(&log).expect("it can be written");
    let run = before.node("run").args(["--set", &format!("adopt={system}")]).stderr(to).spawn();
    before.node = Some(run.expect("it runs"));
    within(PATIENCE, "it serves", || {
        before.try_psql("insert into kept values (1001)").status.success()
    });
    assert_eq!(before.psql("select count(*) from kept"), "1001", "{}", log_of(&log));
    assert_eq!(before.psql("show restore_command"), "");
    let node = before.node.take().expect("it was started");
    let id = rustix::process::Pid::from_child(&node);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
    before.node = Some(node);
    let ended = before.node.as_mut().expect("it was started").wait().expect("it ends");
    assert!(ended.success(), "{}", log_of(&log));
    before.refused("in the care of a cluster already");
}

#[test]
fn a_standby_is_not_taken_over() {
    let Some(before) = Before::new("standby") else { return };
    let signal = before.data().join("standby.signal");
    fs::write(&signal, "").expect("it can be written");
    before.refused("is a standby's");
    assert!(!before.data().join("pg_replica.conf").exists(), "nothing was begun");
}
