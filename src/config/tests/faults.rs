//! One fault at a time: the sentence names the place and the remedy.

use super::*;

/// A refusal, and the text that was refused.
struct Told {
    said: String,
    text: String,
}

/// What is said of `GOOD` with `old` replaced by `new`.
#[track_caller]
fn fault(old: &str, new: &str) -> Told {
    assert!(GOOD.contains(old), "{old} is not there");
    refusal(&GOOD.replacen(old, new, 1))
}

/// What is said of `GOOD` with more lines at its end.
#[track_caller]
fn addition(lines: &str) -> Told {
    refusal(&format!("{GOOD}\n{lines}\n"))
}

#[track_caller]
fn refusal(text: &str) -> Told {
    let said = read_text(text).expect_err("it was accepted").to_string();
    assert!(!said.contains('\n'), "more than one line: {said}");
    Told { said, text: text.to_owned() }
}

/// Whether the sentence is about the line that begins like this, or about the file as a whole where
/// that is empty, and says all of the parts.
#[track_caller]
fn says(told: &Told, line: &str, parts: &[&str]) {
    let at = told.text.lines().position(|one| !line.is_empty() && one.starts_with(line));
    let place = at.map_or("node.toml: ".into(), |at| format!("node.toml:{}:", at + 1));
    begins(&told.said, &place, parts);
}

/// Whether the sentence begins with this place and says all of the parts.
#[track_caller]
fn begins(said: &str, place: &str, parts: &[&str]) {
    assert!(said.starts_with(place), "not at {place}: {said}");
    for part in parts {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    says(&fault("node = 1", "node = "), "node =", &["this is not TOML"]);
    says(&fault("[postgres]\n", "[postgres\n"), "[postgres", &["this is not TOML"]);
    says(&fault("node = 1", "node = 1\nnode = 2"), "node = 2", &["duplicate key"]);
}

#[test]
fn an_unknown_key_is_told_with_the_one_that_was_meant() {
    let said = fault("data_dir", "datadir");
    says(&said, "datadir", &["`postgres.datadir` means nothing", "`postgres.data_dir`?"]);
    let said = fault("priority", "priorities");
    says(&said, "priorities", &["`members.2.priorities`", "did you mean", "`members.2.prio"]);
    let said = fault("hba =", "pg_hba_file =");
    says(
        &said,
        "pg_hba_file",
        &["known are data_dir, secret_file, listen, bin_dir, user, superuser, hba"],
    );
    says(&fault("[postgres]", "[postgress]"), "[postgress]", &["did you mean `postgres`?"]);
    says(&fault("[postgres]", "[etcd]"), "[etcd]", &["`etcd` means nothing", "cluster"]);
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    let said = fault("data_dir", "state_dir = \"/s\"\ndata_dir");
    says(&said, "state_dir = \"/s\"", &["`state_dir` stands above the first section"]);
    says(&fault("[settings]\n", "[settings]\nhba = []\n"), "hba = []", &["`postgres.hba`?"]);
}

#[test]
fn a_value_of_the_wrong_kind_is_told_what_belongs_there() {
    let said = fault("node = 1", "node = \"one\"");
    says(&said, "node =", &["a whole number from 1", "this is a text", "`node = 1`"]);
    let said = fault("lease_ms = 3000", "lease_ms = 2.5");
    says(&said, "lease_ms", &["2.5 is not a whole number", "`lease_ms = 2000`"]);
    let said = fault("no_failover = true", "no_failover = \"yes\"");
    says(&said, "no_failover", &["`true` or `false`", "this is a text"]);
    let said = fault("hba = [\"host all all 10.0.0.0/8 scram-sha-256\"]", "hba = [1]");
    says(&said, "hba", &["a text", "a whole number"]);
    let said = fault("cluster = \"main\"", "cluster = 2026-01-01");
    says(&said, "cluster", &["this is a date"]);
    says(&fault("max_connections = 200", "max_connections = [1]"), "max_conn", &["a list"]);
}

#[test]
fn a_section_in_place_of_a_key_and_the_reverse_are_told() {
    let said = fault("node = 1\n", "[node]\n");
    says(&said, "[node]", &["`node` is a key and not a section"]);
    let said = fault("state_dir", "log = \"json\"\nstate_dir");
    says(&said, "log", &["`log` is a section; write `[log]`"]);
}

#[test]
fn a_number_out_of_bounds_is_told_the_bounds() {
    says(&fault("node = 1", "node = 0"), "node =", &["0 is not a whole number from 1 to"]);
    let said = fault("lease_ms = 3000", "lease_ms = 99999999999999999999");
    says(&said, "lease_ms", &["a whole number from 1 to 3600000"]);
    says(&fault("priority = 50", "priority = -1"), "priority", &["from 0 to 1000000"]);
}

#[test]
fn a_missing_key_is_told_with_the_line_to_write() {
    let said = fault("cluster = \"main\"\n", "");
    says(&said, "", &["`cluster` is missing", "`cluster = \"main\"`", "first section"]);
    let said = fault("data_dir = \"/var/lib/postgresql/main\"\n", "");
    says(&said, "[postgres]", &["`postgres.data_dir` is missing", "below `[postgres]`"]);
    let said = fault("secret_file = \"/etc/pg_replica/secret\"\n", "");
    says(&said, "[postgres]", &["`postgres.secret_file` is missing", "below `[postgres]`"]);
    let said = fault("peers = \"127.0.0.1:7402\"\n", "");
    says(&said, "[members.2]", &["`members.2.peers` is missing", "below `[members.2]`"]);
    let said = fault("postgres = \"127.0.0.1:5434\"\n", "");
    says(&said, "[members.2]", &["`members.2.postgres` is missing"]);
    says(&refusal(""), "", &["`cluster` is missing"]);
    let said = addition("[tls]\nca = \"/t/ca.crt\"");
    says(&said, "[tls]", &["`tls.cert` is missing", "below `[tls]`"]);
}

#[test]
fn the_name_of_a_cluster_is_plain_and_short() {
    let long = "a".repeat(41);
    for name in ["", "Main", "ma in", "main_1", "-main", "main-", "häuptling", long.as_str()] {
        let said = fault("cluster = \"main\"", &format!("cluster = \"{name}\""));
        says(&said, "cluster", &["no name for a cluster", "a-z, 0-9"]);
    }
}

#[test]
fn a_word_that_is_not_among_the_choices_is_told_the_choices() {
    let said = fault("quorum-sync", "sync");
    says(&said, "mode", &["`sync` is not `\"async\"` or `\"quorum-sync\"`"]);
    says(&fault("witness", "arbiter"), "kind", &["`\"data\"` or `\"witness\"`"]);
}

#[test]
fn a_path_that_depends_on_where_one_stands_is_refused() {
    let said = fault("/var/lib/pg_replica", "state");
    says(&said, "state_dir", &["does not begin at the root", "whole path"]);
    let said = fault("/var/lib/pg_replica", "/var/../x");
    says(&said, "state_dir", &["goes back with `..`"]);
    says(&fault("/var/lib/pg_replica", ""), "state_dir", &["does not begin at the root"]);
}

#[test]
fn what_is_no_address_is_told_why() {
    let said = fault("127.0.0.1:7401", "127.0.0.1");
    says(&said, "peers", &["has no port", "write `host:port`"]);
    let said = fault("127.0.0.1:7401", "0.0.0.0:7401");
    says(&said, "peers", &["none that others can call", "`[peers] listen`"]);
}

#[test]
fn a_member_is_named_by_a_number() {
    for name in ["n1", "0", "01", "-1", "1000000", "99999999999"] {
        let said = fault("[members.2]", &format!("[members.{name}]"));
        says(&said, &format!("[members.{name}]"), &["is no number of a member", "`[members.1]`"]);
    }
    let said = fault("[members.1]", "[[members]]");
    says(&said, "[[members", &["`members` is a section"]);
}

#[test]
fn a_node_that_is_not_on_the_list_is_told_who_is() {
    let said = fault("node = 1", "node = 4");
    says(&said, "node =", &["this is node 4", "are 1, 2, 3", "`join = true`"]);
    let text = "cluster = \"main\"\nnode = 1\nstate_dir = \"/s\"\n";
    says(&refusal(text), "", &["there are no members", "`[members.1]`", "join"]);
}

#[test]
fn a_node_that_joins_lists_itself_and_nobody_else() {
    let said = fault("node = 1", "join = true\nnode = 1");
    says(&said, "[members.2]", &["learns the members from the cluster", "`[members.2]`"]);
    let text = "cluster = \"main\"\nnode = 4\nstate_dir = \"/s\"\njoin = true\n";
    says(&refusal(text), "join", &["where it is reached", "`[members.4]`"]);
}

#[test]
fn an_even_number_of_votes_is_refused_with_advice() {
    let said = fault("[members.3]\nkind = \"witness\"\npeers = \"127.0.0.1:7403\"\n", "");
    says(&said, "[members.1]", &["2 members make an even number", "than 1 would", "witness"]);
}

#[test]
fn a_cluster_without_a_possible_primary_is_refused() {
    let said = fault("postgres = \"127.0.0.1:5433\"\n", "postgres = \"h:1\"\nno_failover = true\n");
    says(&said, "[members.1]", &["no member may become primary"]);
}

#[test]
fn a_witness_with_a_postgres_is_refused() {
    let said = fault("kind = \"witness\"", "kind = \"witness\"\npostgres = \"127.0.0.1:1\"");
    says(&said, "postgres = \"127.0.0.1:1\"", &["a witness keeps no data", "remove this line"]);
}

#[test]
fn two_at_one_address_are_refused_with_the_name_of_the_first() {
    let text = GOOD.replace("127.0.0.1:7401", "LOCALHOST:7401");
    let said = refusal(&text.replace("127.0.0.1:7402", "localhost:7401"));
    says(&said, "peers = \"localhost:7401\"", &["`members.1.peers` already"]);
    says(
        &fault("127.0.0.1:7402", "127.0.0.1:5433"),
        "peers = \"127.0.0.1:5433\"",
        &["`members.1.postgres`"],
    );
    let said = addition("[api]\nlisten = \"127.0.0.1:7401\"");
    says(&said, "listen", &["port 7401 of this machine would be used twice"]);
    let said = fault("127.0.0.1:7401", "127.0.0.1:8008");
    says(&said, "peers", &["port 8008", "`api.listen`"]);
}

#[test]
fn without_certificates_only_loopback_is_listened_at() {
    let said = fault("127.0.0.1:7401", "10.0.0.1:7401");
    says(&said, "peers", &["loopback only", "`node certs`", "`allow_cleartext = true`"]);
    let said = addition("[api]\nlisten = \"0.0.0.0:8008\"");
    says(&said, "listen", &["`api.listen` is `0.0.0.0:8008`"]);
    let said = addition("[peers]\nlisten = \"[::]:7400\"");
    says(&said, "listen", &["`peers.listen` is `[::]:7400`"]);
}

#[test]
fn nothing_that_must_last_lies_in_the_data_directory() {
    let said = fault("/var/lib/pg_replica", "/var/lib/postgresql/main/state");
    says(&said, "state_dir", &["lies in the data directory", "put it elsewhere"]);
    let said = fault("/var/lib/pg_replica", "//var//lib/./postgresql/main/");
    says(&said, "state_dir", &["lies in the data directory"]);
    let said = addition("[api]\ntoken_file = \"/var/lib/postgresql/main/t\"");
    says(&said, "token_file", &["lies in the data directory"]);
    // Beside it, with a name that begins alike, is elsewhere.
    let text = GOOD.replace("/var/lib/pg_replica", "/var/lib/postgresql/main-state");
    assert!(read_text(&text).is_ok());
}

#[test]
fn a_state_directory_that_no_socket_fits_into_is_refused() {
    let said = fault("/var/lib/pg_replica", &format!("/{}", "a".repeat(81)));
    says(&said, "state_dir", &["a path of 108 bytes", "107", "shorter `state_dir`"]);
    let text = GOOD.replace("/var/lib/pg_replica", &format!("/{}", "a".repeat(80)));
    assert!(read_text(&text).is_ok());
}

#[test]
fn timings_that_contradict_each_other_are_refused() {
    let said = fault("lease_ms = 3000", "lease_ms = 500");
    says(&said, "lease_ms", &["at least three heartbeats", "change one of the two"]);
    let said = fault("lease_ms = 3000", "guard_margin_ms = 300");
    says(&said, "guard_margin", &["the manager must act before the guard"]);
    let raft = |line: &str| addition(&format!("[raft]\n{line}"));
    says(&raft("heartbeat_ms = 200"), "[raft]", &["depose a leader"]);
    says(&raft("election_max_ms = 400"), "election_max", &["at the same moment"]);
    says(&raft("election_max_ms = 1600"), "election_max", &["two rounds", "lease 3000 ms"]);
}

#[test]
fn a_line_for_the_host_based_access_begins_as_one() {
    let said = fault("host all all 10.0.0.0/8 scram-sha-256", "hots all all all trust");
    says(&said, "hba", &["`hots` begins no line of pg_hba.conf", "hostssl"]);
    let said = fault("\"host all all 10.0.0.0/8 scram-sha-256\"", "\"host a\\nhost b\"");
    says(&said, "hba", &["more than one plain line"]);
}

#[test]
fn a_superuser_that_postgres_would_refuse_is_refused() {
    let said = fault("hba =", "superuser = \"pg_admin\"\nhba =");
    says(&said, "superuser", &["names in `pg_` to itself"]);
}

#[test]
fn a_parameter_that_the_node_sets_itself_is_refused() {
    let said = fault("shared_buffers = \"256MB\"", "port = 5432");
    says(&said, "port =", &["the node sets `port` itself", "`postgres` address"]);
    let said = fault("shared_buffers = \"256MB\"", "Synchronous_Standby_Names = \"*\"");
    says(&said, "Synch", &["`synchronous_standby_names` itself", "remove the line"]);
    let said = fault("shared_buffers = \"256MB\"", "listen_addresses = \"*\"");
    says(&said, "listen_addresses", &["it is `listen` in `[postgres]`"]);
    let said = fault("shared_buffers = \"256MB\"", "wal_level = \"minimal\"");
    says(&said, "wal_level", &["nothing can be copied", "`replica` or `logical`"]);
    let said = fault("shared_buffers = \"256MB\"", "\"a b\" = 1");
    says(&said, "\"a b\"", &["cannot be the name of a Postgres parameter"]);
    let said = fault("shared_buffers = \"256MB\"", "timezone = \"UTC\"");
    says(&said, "TimeZone", &["`postgres.parameters.timezone` is given twice"]);
    let said = fault("\"256MB\"", "\"256MB\\nport = 1\"");
    says(&said, "shared_b", &["more than one plain line"]);
}

#[test]
fn a_wrong_variable_is_named() {
    let wrong = |name: &str, value: &str| read_with(&[(name, value)], &[]).unwrap_err().to_string();
    let said = wrong("PG_REPLICA_NODE", "one");
    begins(&said, "the variable PG_REPLICA_NODE: ", &["`one` is not a whole number", "`node`"]);
    let said = wrong("PG_REPLICA_POSTGRES_DATADIR", "/d");
    begins(&said, "the variable PG_REPLICA_POSTGRES_DATADIR: ", &["PG_REPLICA_POSTGRES_DATA_DIR?"]);
    begins(
        &wrong("PG_REPLICA_ETCD_HOSTS", ""),
        "the variable PG_REPLICA_ETCD_HOSTS: ",
        &["unset it"],
    );
    begins(
        &wrong("PG_REPLICA_JOIN", "yes"),
        "the variable PG_REPLICA_JOIN: ",
        &["`true` or `false`"],
    );
    begins(&wrong("PG_REPLICA_TLS_CA", ""), "the variable PG_REPLICA_TLS_CA: ", &["at the root"]);
    begins(
        &wrong("PG_REPLICA_POSTGRES_USER", " "),
        "the variable PG_REPLICA_POSTGRES_USER",
        &["empty"],
    );
    begins(
        &wrong("PG_REPLICA_POSTGRES_HBA", "local all all peer"),
        "the variable PG_REPLICA_POSTGRES_HBA: ",
        &["is not a list of texts"],
    );
    // Also where the fault shows only in the company of other values.
    begins(&wrong("PG_REPLICA_NODE", "7"), "the variable PG_REPLICA_NODE: ", &["this is node 7"]);
    begins(&wrong("PG_REPLICA_Node", "1"), "the variable PG_REPLICA_Node: ", &["overrides no key"]);
}

#[test]
fn a_wrong_flag_is_named() {
    let wrong = |flag: &str| read_with(&[], &[flag]).unwrap_err().to_string();
    begins(&wrong("node=0"), "--set node: ", &["0 is not a whole number from 1"]);
    begins(&wrong("postgres.datadir=/d"), "--set postgres.datadir: ", &["`postgres.data_dir`?"]);
    begins(&wrong("postgres=/d"), "--set postgres: ", &["`postgres` is a section"]);
    begins(&wrong("node"), "the command line: ", &["`node` has no value", "--set key=value"]);
    begins(&wrong("members.2.peers=127.0.0.1:7401"), "--set members.2.peers: ", &["is taken"]);
    begins(&wrong("=1"), "--set : ", &["means nothing"]);
}

#[test]
fn a_long_or_multiline_text_of_the_users_stays_within_the_sentence() {
    let told = fault("cluster = \"main\"", &format!("cluster = \"{}\"", "x\\n".repeat(500)));
    says(&told, "cluster", &["…"]);
    assert!(told.said.len() < 400, "{}", told.said);
    let told = refusal(&format!("\"{}\" = 1", "k\\n".repeat(5_000)));
    assert!(told.said.len() < 400, "{}", told.said);
}
