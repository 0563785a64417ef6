//! Nodes as processes, with real Postgres: that they come up, give way, and go without a trace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::folder::Folder;
use super::machine::{free_ports, installation};
use super::within;

fn demo(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = super::node(["demo"]);
    command.args(arguments).env("TMPDIR", folder.all());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Every process whose command line names something below `folder`.
fn processes(folder: &Path) -> Vec<String> {
    let wanted = folder.display().to_string();
    let entries = fs::read_dir("/proc").expect("a system with processes").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&wanted)).collect()
}

/// Waits until the cluster of a demonstration has a primary, and returns its folder.
fn await_a_primary(folder: &Folder) -> PathBuf {
    let mut found = None;
    within(Duration::from_secs(60), "a primary", || {
        let demo = fs::read_dir(folder.all()).expect("it is there").flatten().next();
        let Some(demo) = demo.map(|entry| entry.path()) else { return false };
        let is_primary = |log: &Path| {
            fs::read_to_string(log).is_ok_and(|text| text.contains("preparing -> primary"))
        };
        let up = (1..=3).any(|number| is_primary(&demo.join(format!("n{number}/log"))));
        found = Some(demo);
        up
    });
    found.expect("it was found")
}

#[test]
fn the_demonstration_serves_loses_nothing_and_leaves_nothing_behind() {
    let Some(_) = installation() else { return };
    for mode in ["quorum-sync", "async"] {
        demonstrates(mode);
    }
}

#[track_caller]
fn demonstrates(mode: &str) {
    let folder = Folder::new(mode);
    let output = demo(&folder, &["--seconds", "3", "--mode", mode]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    assert!(said.contains(" acknowledged, 0 lost; outages: none"), "{said}");
    assert!(said.contains("psql 'postgresql://demo:"), "{said}");
    // One that is told the same again and again all the time serves next to nobody.
    let acknowledged = said.lines().find_map(|line| {
        line.split_once(" acknowledged, 0 lost")?
            .0
            .split_whitespace()
            .next_back()?
            .parse::<u64>()
            .ok()
    });
    assert!(acknowledged.is_some_and(|rows| rows > 200), "{said}");
    assert!(folder.is_empty(), "its folder is left");
    assert_eq!(processes(folder.all()), Vec::<String>::new());
}

#[test]
fn a_demonstration_that_is_killed_takes_its_nodes_guards_and_servers_with_it() {
    let Some(_) = installation() else { return };
    let folder = Folder::new("killed");
    let mut demo: Child = demo(&folder, &[]).spawn().expect("it runs");
    await_a_primary(&folder);
    demo.kill().expect("it runs still");
    demo.wait().expect("it was started here");
    within(Duration::from_secs(20), "every process is gone", || processes(folder.all()).is_empty());
}

#[test]
fn a_node_that_cannot_run_says_why_in_one_sentence() {
    let Some(_) = installation() else { return };
    let folder = Folder::new("cannot");
    let secret = folder.secret();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("it has one").to_string();
    let run = |settings: &[String]| {
        let mut command = super::node(["run", "--config", "/dev/null"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let output = command.output().expect("it was built with this test");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        (output.status.code(), said)
    };
    let member = |peers: &str| {
        vec![
            "cluster=c".to_owned(),
            "node=1".to_owned(),
            format!("state_dir={}", folder.path("state")),
            format!("members.1.peers={peers}"),
            "members.1.postgres=127.0.0.1:5499".to_owned(),
            format!("postgres.data_dir={}", folder.path("state/data")),
            format!("postgres.secret_file={secret}"),
        ]
    };
    let (code, said) = run(&member(&taken));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen at {taken} to the other members")), "{said}");
    let mut no_server = member("127.0.0.1:7498");
    no_server.push("postgres.bin_dir=/nowhere".to_owned());
    let (code, said) = run(&no_server);
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("/nowhere"), "{said}");
    let (code, said) = run(&["cluster=c".to_owned()]);
    assert_eq!(code, Some(2), "{said}");
}

/// All three at once: whoever is handed primacy is about to end itself.
#[test]
fn nodes_that_are_asked_to_end_leave_no_server_and_no_guard() {
    let Some(_) = installation() else { return };
    let folder = Folder::new("end");
    let secret = folder.secret();
    let ports = free_ports::<9>().map(|port| format!("127.0.0.1:{port}"));
    let mut nodes: Vec<Child> = (1..=3)
        .map(|number: usize| {
            let state = folder.all().join(format!("n{number}"));
            let log = fs::File::create(folder.all().join(format!("log{number}"))).expect("a log");
            let mut command = super::node(["run", "--config", "/dev/null", "--set", "cluster=c"]);
            let mut set = |setting: String| {
                command.args(["--set", &setting]);
            };
            set(format!("node={number}"));
            set(format!("state_dir={}", state.display()));
            set(format!("api.listen={}", ports[5 + number]));
            set(format!("postgres.data_dir={}", state.join("data").display()));
            set(format!("postgres.secret_file={secret}"));
            for member in 1..=3 {
                set(format!("members.{member}.peers={}", ports[member - 1]));
                set(format!("members.{member}.postgres={}", ports[member + 2]));
            }
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            command.spawn().expect("it runs")
        })
        .collect();
    within(Duration::from_secs(60), "two standbys", || {
        let born = |number: usize| {
            let log = fs::read_to_string(folder.all().join(format!("log{number}")));
            log.is_ok_and(|text| text.contains("born tl1"))
        };
        let copied = (1..=3)
            .filter(|number| folder.all().join(format!("n{number}/data/PG_VERSION")).exists());
        (1..=3).all(born) && copied.count() == 3
    });
    for node in &nodes {
        let pid = node.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("there is a kill");
    }
    within(Duration::from_secs(40), "every node has ended", || {
        nodes.iter_mut().all(|node| matches!(node.try_wait(), Ok(Some(_))))
    });
    within(Duration::from_secs(5), "nothing is left", || processes(folder.all()).is_empty());
}
