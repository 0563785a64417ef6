//! The files that tell the server how to be: its parameters and who is let in.
//!
//! The user's files stay as they are, but for one line at the end of `postgresql.conf` that
//! includes ours. What `ALTER SYSTEM` wrote is read after that by the server, so the few parameters
//! that safety rests on are taken out of its file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::env::Upstream;

use super::births::write_whole;
use super::given;
use super::plan::{KEEPER, PostgresPlan, STREAMER, slot_of};
use super::waits::Waits;

/// Our file, in the data directory.
pub(super) const FILE: &str = "pg_replica.conf";

/// Parameters that nobody but the node sets.
const OWNED: [&str; 18] = [
    "data_sync_retry",
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "lc_messages",
    "listen_addresses",
    "log_destination",
    "logging_collector",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "restart_after_crash",
    "restore_command",
    "synchronous_commit",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_log_hints",
];

/// The same, where the servers speak TLS with each other: the switch, and where the authority, the
/// certificate and its key are.
const TLS: [&str; 4] = ["ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file"];

/// What an earlier recovery was told. A directory that was once recovered to a point in time still
/// says where to end, and its server would never become primary; and a detached standby gets
/// nothing, from an archive either, where logs of lost lines lie beside the others.
const ABSENT: [&str; 6] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "restore_command",
];

/// What the node asks of the server where nobody asks for something else.
const USUAL: [(&str, &str); 11] = [
    ("recovery_init_sync_method", "syncfs"),
    ("wal_level", "replica"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("wal_keep_size", "1GB"),
    ("max_slot_wal_keep_size", "16GB"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_receiver_timeout", "1s"),
    ("wal_sender_timeout", "2500ms"),
    ("wal_retrieve_retry_interval", "200ms"),
    ("password_encryption", "scram-sha-256"),
];

/// What says how this server stands to the others.
const RELATIONS: [&str; 4] =
    ["primary_conninfo", "primary_slot_name", "synchronous_standby_names", SYNC_EPOCH];

/// A parameter of our own: the epoch of the synchronous configuration.
pub(super) const SYNC_EPOCH: &str = "pg_replica.sync_epoch";

/// A parameter of our own that changes with every writing: a session that knows the new value began
/// after the server had read the file.
pub(super) const MARK: &str = "pg_replica.mark";

/// What the server is to be, in the words of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// How it reaches whom it streams from; empty where that is nobody.
    conninfo: String,
    /// Whom its commits wait for.
    pub(super) waits: Waits,
    /// Whether clients are let in.
    pub(super) admits: bool,
}

impl Wanted {
    /// What the files say that were written last.
    pub(super) fn read(plan: &PostgresPlan) -> Self {
        let text = fs::read_to_string(plan.data.join(FILE)).unwrap_or_default();
        let [conninfo, _, names, epoch] = RELATIONS.map(|name| value_in(&text, name));
        Self { conninfo, waits: Waits { names, epoch }, admits: admits(plan) }
    }

    /// It streams from there, or from nobody.
    pub(super) fn follow(&mut self, plan: &PostgresPlan, upstream: Option<&Upstream>) {
        self.conninfo = upstream.map_or(String::new(), |upstream| conninfo(plan, upstream));
    }

    /// Where the server is that it streams from: its host and its port.
    pub(super) fn upstream(&self) -> Option<(&str, u16)> {
        address_in(&self.conninfo)
    }

    fn relations(&self, plan: &PostgresPlan) -> [(&'static str, String); 4] {
        let slot = if self.conninfo.is_empty() { String::new() } else { slot_of(plan.node) };
        let values =
            [self.conninfo.clone(), slot, self.waits.names.clone(), self.waits.epoch.clone()];
        let mut values = values.into_iter();
        RELATIONS.map(|name| (name, values.next().unwrap_or_default()))
    }
}

/// Writes all of it. The server takes it up when it starts, or when it is told to look.
pub(super) fn write(plan: &PostgresPlan, wanted: &Wanted, mark: u64) -> io::Result<()> {
    include_ours(&plan.data)?;
    drop_owned(&plan.data.join("postgresql.auto.conf"), plan.tls.is_some())?;
    // The configured lines come first: of several that fit, the server obeys the first.
    let mut own: String = plan.access.iter().map(|line| format!("{line}\n")).collect();
    own += &fs::read_to_string(plan.data.join("pg_hba.conf"))?;
    let access = access(&own, wanted.admits, plan.tls.is_some());
    write_whole(&plan.access_file(), access.as_bytes())?;
    let text = parameters(plan, wanted.relations(plan), mark)?;
    write_whole(&plan.data.join(FILE), text.as_bytes())
}

/// What a file of ours says of a parameter.
fn value_in(text: &str, name: &str) -> String {
    let quoted = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = '"));
    let value = quoted.and_then(|rest| rest.strip_suffix('\'')).unwrap_or_default();
    value.replace("''", "'")
}

/// Whether the file that says who is let in lets clients in.
pub(super) fn admits(plan: &PostgresPlan) -> bool {
    fs::read_to_string(plan.access_file()).is_ok_and(|text| !text.contains(SHUT))
}

fn parameters(
    plan: &PostgresPlan,
    relations: [(&'static str, String); 4],
    mark: u64,
) -> io::Result<String> {
    let given = given::kept(plan)?;
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in USUAL {
        all.insert(name, value.to_owned());
    }
    for (name, value) in &given {
        all.insert(name, value.clone());
    }
    let sockets = plan.socket_folder().display().to_string();
    let owned = [
        // What is acknowledged is on the disk, and a rewind finds every page that was changed.
        ("fsync", "on".into()),
        ("full_page_writes", "on".into()),
        ("data_sync_retry", "off".into()),
        ("wal_log_hints", "on".into()),
        ("hba_file", plan.access_file().display().to_string()),
        ("hot_standby", "on".into()),
        // Why a standby is refused is read from its log.
        ("lc_messages", "C".into()),
        ("listen_addresses", plan.listen.clone()),
        // A standby that is refused says so in its log alone.
        ("log_destination", "stderr".into()),
        ("logging_collector", "off".into()),
        ("port", plan.port.to_string()),
        ("recovery_target_timeline", "latest".into()),
        // It would let clients in before standbys have what it recovered.
        ("restart_after_crash", "off".into()),
        // A role or a session may choose otherwise for itself.
        ("synchronous_commit", "on".into()),
        ("unix_socket_directories", sockets),
        (MARK, mark.to_string()),
        ("cluster_name", format!("{} {}", plan.cluster, plan.node)),
    ];
    all.extend(owned);
    all.extend(ABSENT.map(|name| (name, String::new())));
    if plan.tls.is_some() {
        let files = plan.tls_files().map(|file| file.display().to_string());
        all.extend(TLS.into_iter().zip(["on".to_owned()].into_iter().chain(files)));
    }
    all.extend(relations);
    let mut text = String::from("# Written by pg_replica. What is changed here is lost.\n");
    for (name, value) in all {
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
    }
    Ok(text)
}

/// How this member's server reaches another one.
fn conninfo(plan: &PostgresPlan, upstream: &Upstream) -> String {
    let base = reach(plan, &upstream.address);
    format!("{base} application_name={}", plan.name_in(upstream.epoch))
}

/// A connection to the server at `address`, `host:port`, as a member.
pub(super) fn reach(plan: &PostgresPlan, address: &str) -> String {
    let (host, port) = host_and_port(address).unwrap_or((address, 5432));
    let passwords = plan.passwords();
    format!(
        "host={host} port={port} user={STREAMER} passfile={} connect_timeout=3 keepalives_idle=2 \
         keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000{}",
        passwords.display(),
        encryption(plan)
    )
}

/// Whoever is of the cluster's authority is believed, whatever its host is called.
fn encryption(plan: &PostgresPlan) -> String {
    if plan.tls.is_none() {
        return String::new();
    }
    let [authority, certificate, key] = plan.tls_files().map(|file| file.display().to_string());
    format!(
        " sslmode=verify-ca sslrootcert={authority} sslcert={certificate} sslkey={key} \
         gssencmode=disable"
    )
}

/// What a connection string says of this.
pub(super) fn word_in<'a>(conninfo: &'a str, key: &str) -> Option<&'a str> {
    conninfo.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The host and the port that a connection string leads to.
pub(super) fn address_in(conninfo: &str) -> Option<(&str, u16)> {
    Some((word_in(conninfo, "host")?, word_in(conninfo, "port")?.parse().ok()?))
}

/// The parts of `host:port`, where an address of IPv6 stands in brackets.
pub(super) fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// The mark of a file that keeps clients out.
const SHUT: &str = "# Clients are not let in yet.";

/// `pg_hba.conf`: what the node needs, then the doors of the clients.
///
/// With certificates a member needs one, and the password besides.
fn access(own: &str, admits: bool, tls: bool) -> String {
    let (host, proof) = if tls {
        ("hostssl", "scram-sha-256 clientcert=verify-ca")
    } else {
        ("host", "scram-sha-256")
    };
    let mut text = format!(
        "# Written by pg_replica. What is changed here is lost; change postgres.hba in the node's\n\
         # file, or pg_hba.conf in the data directory, and then let the node reload.\n\
         local all {KEEPER} scram-sha-256\n\
         {host} replication {STREAMER} all {proof}\n\
         {host} postgres {STREAMER} all {proof}\n\
         host all {STREAMER} all reject\n\
         host replication {STREAMER} all reject\n\
         host all {KEEPER} all reject\n"
    );
    if admits {
        text.push_str(own);
    } else {
        text.push_str(SHUT);
        text.push_str("\nlocal all all reject\nhost all all all reject\n");
    }
    text
}

fn include_ours(data: &Path) -> io::Result<()> {
    let file = data.join("postgresql.conf");
    let line = format!("include_if_exists = '{FILE}'");
    let text = fs::read_to_string(&file)?;
    if text.lines().rev().find(|line| !line.trim().is_empty()).is_some_and(|last| last == line) {
        return Ok(());
    }
    // It has to be the last one: of two settings the server takes the later.
    let kept: Vec<&str> = text.lines().filter(|other| other.trim() != line).collect();
    write_whole(&file, format!("{}\n\n{line}\n", kept.join("\n").trim_end()).as_bytes())
}

fn drop_owned(file: &Path, tls: bool) -> io::Result<()> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let is_owned = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default().trim();
        OWNED.contains(&name) || (tls && TLS.contains(&name)) || name.starts_with("recovery_target")
    };
    if !text.lines().any(|line| is_owned(&line)) {
        return Ok(());
    }
    let kept: Vec<&str> = text.lines().filter(|line| !is_owned(line)).collect();
    write_whole(file, format!("{}\n", kept.join("\n")).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_sets_is_refused_as_a_parameter_of_the_cluster() {
        for name in OWNED {
            assert!(crate::control::is_own_parameter(name), "{name}");
        }
    }

    #[test]
    fn what_safety_rests_on_is_taken_out_of_other_hands() {
        let folder = std::env::temp_dir().join(format!("pg-settings-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let auto = folder.join("postgresql.auto.conf");
        fs::write(&auto, "# x\nwork_mem = '8MB'\nprimary_conninfo = 'host=old'\nfsync = 'off'\n")
            .unwrap();
        drop_owned(&auto, false).unwrap();
        assert_eq!(fs::read_to_string(&auto).unwrap(), "# x\nwork_mem = '8MB'\n");
        let main = folder.join("postgresql.conf");
        fs::write(&main, "include_if_exists = 'pg_replica.conf'\nport = 1\n").unwrap();
        include_ours(&folder).unwrap();
        include_ours(&folder).unwrap();
        let expected = "port = 1\n\ninclude_if_exists = 'pg_replica.conf'\n";
        assert_eq!(fs::read_to_string(&main).unwrap(), expected);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_shut_door_lets_the_members_in_and_nobody_else() {
        let shut = access("host all all all trust\n", false, false);
        assert!(shut.contains(SHUT) && !shut.contains("trust"));
        let open = access("host all all all trust\n", true, true);
        assert!(!open.contains(SHUT) && open.ends_with("host all all all trust\n"));
        let of_members = |line: &&str| line.contains(STREAMER) && !line.ends_with("reject");
        assert!(open.lines().filter(of_members).all(|line| line.starts_with("hostssl ")));
    }
}
