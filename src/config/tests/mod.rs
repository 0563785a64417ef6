//! Configurations that are in order, one fault at a time, the documents, and thousands of damaged
//! files.

mod documents;
mod faults;
mod fuzz;

use std::ffi::OsString;

use crate::control::{Member, MemberKind, Mode, Settings};
use crate::ids::NodeId;

use super::*;

/// Three members on one machine, the third one a witness.
const GOOD: &str = r#"
cluster = "main"
node = 1
state_dir = "/var/lib/pg_replica"

[members.1]
peers = "127.0.0.1:7401"
postgres = "127.0.0.1:5433"
[members.2]
peers = "127.0.0.1:7402"
postgres = "127.0.0.1:5434"
priority = 50
no_failover = true
[members.3]
kind = "witness"
peers = "127.0.0.1:7403"

[postgres]
data_dir = "/var/lib/postgresql/main"
secret_file = "/etc/pg_replica/secret"
hba = ["host all all 10.0.0.0/8 scram-sha-256"]

[postgres.parameters]
shared_buffers = "256MB"
max_connections = 200
random_page_cost = 1.1
log_checkpoints = false
TimeZone = "UTC"
pg_stat_statements.max = 5000

[settings]
mode = "quorum-sync"
lease_ms = 3000
"#;

fn good() -> Config {
    read_text(GOOD).unwrap()
}

fn read_text(text: &str) -> Result<Config, BadConfig> {
    read("node.toml", text, &Overrides::default())
}

fn overrides(variables: &[(&str, &str)], flags: &[&str]) -> Result<Overrides, BadConfig> {
    let variables = variables.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Overrides::new(variables, &flags)
}

fn read_with(variables: &[(&str, &str)], flags: &[&str]) -> Result<Config, BadConfig> {
    read("node.toml", GOOD, &overrides(variables, flags)?)
}

#[test]
fn every_value_of_a_file_arrives() {
    let config = good();
    assert_eq!((config.cluster.as_str(), config.node), ("main", NodeId(1)));
    let [one, two, three] = [1, 2, 3].map(|number| &config.members[&NodeId(number)]);
    assert_eq!((one.kind, one.priority, one.no_failover), (MemberKind::Data, 100, false));
    assert_eq!((two.priority, two.no_failover), (50, true));
    assert_eq!((three.kind, three.postgres.clone()), (MemberKind::Witness, None));
    let postgres = config.postgres.unwrap();
    assert_eq!(postgres.address.to_string(), "127.0.0.1:5433");
    assert_eq!((postgres.user.as_str(), postgres.superuser.as_str()), ("postgres", "postgres"));
    assert_eq!(postgres.hba.len(), 1);
    let parameters: Vec<(&str, &str)> =
        postgres.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        parameters,
        [
            ("log_checkpoints", "off"),
            ("max_connections", "200"),
            ("pg_stat_statements.max", "5000"),
            ("random_page_cost", "1.1"),
            ("shared_buffers", "256MB"),
            ("timezone", "UTC"),
        ]
    );
    assert_eq!(config.settings.mode, Mode::QuorumSync);
    assert_eq!((config.settings.timing.lease_ms, config.settings.longest_lease_ms), (3000, 3000));
}

#[test]
fn what_is_not_given_has_the_defaults_of_the_product() {
    let text = GOOD.split("[settings]").next().unwrap();
    assert_eq!(read_text(text).unwrap().settings, Settings::default());
    let config = good();
    assert_eq!(config.peers_listen.to_string(), "127.0.0.1:7401");
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:8008");
    assert_eq!((config.raft.heartbeat_ms, config.raft.election_max_ms), (150, 500));
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, LogLevel::Info));
    assert_eq!((config.hooks.time_limit_ms, config.watchdog.clone()), (10_000, None));
    assert!(config.warnings().is_empty() && config.overridden().is_empty());
}

#[test]
fn the_runtime_the_network_and_the_guard_are_told_what_they_need() {
    let config = good();
    let node = config.node_config();
    assert_eq!((node.node, node.cluster.as_str()), (NodeId(1), "main"));
    assert_eq!(node.founding[&NodeId(2)].address, "127.0.0.1:7402");
    assert_eq!(node.founding[&NodeId(2)].postgres, "127.0.0.1:5434");
    assert_eq!(node.founding[&NodeId(3)].postgres, "");
    assert_eq!((node.raft_heartbeat_ms, node.raft_election_ms), (150, (350, 500)));
    assert_eq!((config.identity().node, config.identity().cluster.as_str()), (NodeId(1), "main"));
    let plan = config.guard_plan().unwrap();
    assert_eq!(plan.socket.to_str(), Some("/var/lib/pg_replica/guard.sock"));
    assert_eq!(plan.data.to_str(), Some("/var/lib/postgresql/main"));
    assert!(!plan.with_manager);
}

#[test]
fn a_witness_needs_no_postgres_and_guards_nothing() {
    let text = GOOD.replace("node = 1", "node = 3");
    let config = read_text(&text).unwrap();
    assert_eq!((config.postgres.clone(), config.guard_plan()), (None, None));
    assert!(config.warnings()[0].contains("is a witness"));
    let bare = text.split("[postgres]").next().unwrap();
    assert!(read_text(bare).unwrap().warnings().is_empty());
}

#[test]
fn a_node_that_joins_says_where_it_is_and_founds_nothing() {
    let text = r#"
        cluster = "main"
        node = 4
        state_dir = "/s"
        join = true
        members.4 = { peers = "127.0.0.1:7404", postgres = "127.0.0.1:5436" }
        postgres = { data_dir = "/d", secret_file = "/p" }
    "#;
    let config = read_text(text).unwrap();
    assert!(config.node_config().founding.is_empty());
    assert_eq!(config.peers_listen.to_string(), "127.0.0.1:7404");
}

#[test]
fn a_variable_stands_above_the_file_and_a_flag_above_the_variable() {
    let config = read_with(&[("PG_REPLICA_POSTGRES_DATA_DIR", "/by/variable")], &[]).unwrap();
    assert_eq!(config.postgres.unwrap().data_dir.to_str(), Some("/by/variable"));
    let config = read_with(
        &[("PG_REPLICA_POSTGRES_DATA_DIR", "/by/variable"), ("HOME", "/root")],
        &["postgres.data_dir=/first", "postgres.data_dir=/by/flag"],
    )
    .unwrap();
    assert_eq!(config.postgres.as_ref().unwrap().data_dir.to_str(), Some("/by/flag"));
    let overridden = config.overridden();
    assert_eq!(overridden.len(), 1);
    assert_eq!(overridden[0].1.to_string(), "--set postgres.data_dir");
}

#[test]
fn every_kind_of_key_can_be_overridden() {
    let config = read_with(
        &[
            ("PG_REPLICA_NODE", "2"),
            ("PG_REPLICA_MEMBERS_2_NO_FAILOVER", "false"),
            ("PG_REPLICA_MEMBERS_2_PEERS", "127.0.0.1:9000"),
            ("PG_REPLICA_POSTGRES_HBA", r#"["local all all peer", "host all all all md5"]"#),
            ("PG_REPLICA_POSTGRES_PARAMETERS_WORK_MEM", "8MB"),
            ("PG_REPLICA_POSTGRES_PARAMETERS_PG_STAT_STATEMENTS__MAX", "7"),
            ("PG_REPLICA_SETTINGS_MODE", "async"),
            ("PG_REPLICA_LOG_LEVEL", "debug"),
        ],
        &["postgres.parameters.auto_explain.log_timing=off", "settings.lease_ms=4000"],
    )
    .unwrap();
    assert_eq!(config.node, NodeId(2));
    assert_eq!(config.me().peers.to_string(), "127.0.0.1:9000");
    assert!(!config.me().no_failover);
    let postgres = config.postgres.unwrap();
    assert_eq!(postgres.hba.len(), 2);
    assert_eq!(postgres.parameters["work_mem"], "8MB");
    assert_eq!(postgres.parameters["pg_stat_statements.max"], "7");
    assert_eq!(postgres.parameters["auto_explain.log_timing"], "off");
    assert_eq!((config.settings.mode, config.settings.timing.lease_ms), (Mode::Async, 4000));
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn a_configuration_may_consist_of_variables_alone() {
    let variables = [
        ("PG_REPLICA_CLUSTER", "main"),
        ("PG_REPLICA_NODE", "1"),
        ("PG_REPLICA_STATE_DIR", "/s"),
        ("PG_REPLICA_MEMBERS_1_PEERS", "127.0.0.1:7401"),
        ("PG_REPLICA_MEMBERS_1_POSTGRES", "127.0.0.1:5433"),
        ("PG_REPLICA_POSTGRES_DATA_DIR", "/d"),
        ("PG_REPLICA_POSTGRES_SECRET_FILE", "/p"),
    ];
    let config = read("/dev/null", "", &overrides(&variables, &[]).unwrap()).unwrap();
    assert!(config.warnings()[0].contains("survives no failure"));
}

#[test]
fn what_others_put_into_the_environment_is_left_alone() {
    let foreign = [
        ("PG_REPLICA_CONFIG", "/etc/x.toml"),
        ("PG_REPLICA_PORT", "tcp://10.0.0.1:5432"),
        ("PG_REPLICA_PORT_5432_TCP_ADDR", "10.0.0.1"),
        ("PG_REPLICA_SERVICE_HOST", "10.0.0.1"),
    ];
    assert!(read_with(&foreign, &[]).unwrap().overridden().is_empty());
}

#[test]
fn going_without_certificates_beyond_loopback_is_said_aloud() {
    let text = GOOD.replace("127.0.0.1:7401", "10.0.0.1:7401");
    let text = format!("{text}\n[tls]\nallow_cleartext = true\n");
    let warnings = read_text(&text).unwrap().warnings();
    assert!(warnings[0].contains("10.0.0.1:7401 is open to the network"), "{warnings:?}");
    let config = format!("{text}[peers]\nlisten = \"127.0.0.1:7401\"\n");
    let warnings = read_text(&config).unwrap().warnings();
    assert!(warnings.iter().any(|said| said.contains("listens at 127.0.0.1:7401 only")));
}

#[test]
fn with_certificates_a_node_listens_where_the_others_call_it() {
    let tls = "\n[tls]\nca = \"/t/ca.crt\"\ncert = \"/t/n1.crt\"\nkey = \"/t/n1.key\"\n";
    let text = GOOD.replace("127.0.0.1:7401", "db1:7401") + tls;
    let config = read_text(&text).unwrap();
    assert_eq!(config.api.listen.to_string(), "db1:8008");
    assert_eq!(config.tls.as_ref().unwrap().key.to_str(), Some("/t/n1.key"));
    assert!(config.warnings().is_empty());
}

#[test]
fn a_later_finding_names_the_line_of_its_key() {
    let config = good();
    let place = |key: &str| config.wrong(key, "no").to_string();
    let line = |start: &str| GOOD.lines().position(|line| line.starts_with(start)).unwrap() + 1;
    assert_eq!(place("postgres.data_dir"), format!("node.toml:{}:1: no", line("data_dir")));
    assert_eq!(place("postgres.bin_dir"), format!("node.toml:{}:2: no", line("[postgres]")));
    assert_eq!(place("tls.ca"), "node.toml: no");
}
