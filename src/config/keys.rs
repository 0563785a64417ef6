//! Every key that a configuration may hold: its name, what it takes, and what it is for.
//!
//! This one table is read by four: the reader (what is known, and of which kind), the overrides
//! (which variable names which key), `node init` (the commented file) and the tests (the table in
//! `docs/configuration.md`).

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The name of a cluster: it becomes part of file names and of certificates.
    ClusterName,
    /// A text of one line.
    Text,
    /// A path that begins at the root.
    Path,
    /// `host:port`.
    Address,
    /// A whole number within these bounds.
    Number(i64, i64),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts of one line.
    Lines,
    /// What a Postgres parameter may be: a text, a number, `true` or `false`.
    Parameter,
}

/// What holds where a key is not given. The text is TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It has to be given, like this for example.
    Wrong(&'static str),
    /// Something that depends on other keys, or nothing; given, it may look like this.
    Open(&'static str),
    /// This value.
    Value(&'static str),
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Its section and its name. `N` stands for a member's number, `NAME` for any name.
    pub(crate) path: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// What holds without it.
    pub(crate) absent: Absent,
    /// What it is for, as a sentence.
    pub(crate) about: &'static str,
}

impl Key {
    /// A value in TOML, to show how the key is written.
    pub(crate) fn shown(&self) -> &'static str {
        match self.absent {
            Absent::Wrong(text) | Absent::Open(text) | Absent::Value(text) => text,
        }
    }
}

const fn key(path: &'static str, kind: Kind, absent: Absent, about: &'static str) -> Key {
    Key { path, kind, absent, about }
}

/// The longest duration that a key takes: an hour.
const MS_MAX: i64 = 3_600_000;
const MS: Kind = Kind::Number(1, MS_MAX);

use Absent::{Open, Value, Wrong};
use Kind::{Address, Choice, ClusterName, Flag, Lines, Number, Parameter, Path, Text};

/// The sections in the order of a file, with what each is for.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("", "Which cluster this is, and which of its members."),
    (
        "members.N",
        "The members that found the cluster, the same list on every one of them: an odd number, \
         so that a majority exists. It is read until the cluster is founded; after that the \
         cluster itself knows its members.",
    ),
    ("peers", "Where this node listens to the other members."),
    ("api", "The HTTP interface: checks of load balancers, metrics, and the commands of `node`."),
    (
        "tls",
        "Certificates, for the members and their servers among each other and for the HTTP \
         interface; `node certs` makes them. Without them a node listens on loopback only.",
    ),
    ("postgres", "The server of this machine."),
    (
        "postgres.parameters",
        "Postgres parameters that the cluster begins with; later they are changed at run time.",
    ),
    (
        "settings",
        "What the cluster is founded with. It is read once, by the members that found it, and \
         changed at run time afterwards.",
    ),
    ("raft", "The pace of the consensus among the members; the same on all of them."),
    ("hooks", "Commands of your own."),
    ("guard", "The process that ends Postgres when the node cannot."),
    ("log", "What the node writes to its standard error."),
];

/// The keys in the order of a file.
pub(crate) const KEYS: &[Key] = &[
    key(
        "cluster",
        ClusterName,
        Wrong("\"main\""),
        "The cluster's name: up to 40 of a-z, 0-9 and hyphens between them.",
    ),
    key("node", Number(1, 999_999), Wrong("1"), "This member's number, never used twice."),
    key(
        "state_dir",
        Path,
        Wrong("\"/var/lib/pg_replica\""),
        "The node's own directory: its vote, its log, the server's sockets, what was set aside.",
    ),
    key(
        "join",
        Flag,
        Value("false"),
        "Whether this node joins a cluster that exists; `[members]` then holds this node alone.",
    ),
    key(
        "adopt",
        Text,
        Open("\"7412345678901234567\""),
        "The system identifier of an existing database that the cluster is founded on: `node \
         adopt` prepares it and prints this line. The same on every founding member.",
    ),
    key(
        "members.N.kind",
        Choice(&["data", "witness"]),
        Value("\"data\""),
        "`data` votes and keeps the data; `witness` only votes.",
    ),
    key(
        "members.N.peers",
        Address,
        Wrong("\"10.0.0.1:7400\""),
        "Where the member's node is reached.",
    ),
    key(
        "members.N.postgres",
        Address,
        Open("\"10.0.0.1:5432\""),
        "Where its Postgres is reached; needed unless it is a witness.",
    ),
    key(
        "members.N.priority",
        Number(0, 1_000_000),
        Value("100"),
        "Of equally advanced members the one with the highest becomes primary.",
    ),
    key(
        "members.N.no_failover",
        Flag,
        Value("false"),
        "Whether the member is never chosen by an automatic failover.",
    ),
    key(
        "peers.listen",
        Address,
        Open("\"0.0.0.0:7400\""),
        "Where to listen, if not at this member's own address in the list.",
    ),
    key(
        "api.listen",
        Address,
        Open("\"0.0.0.0:8008\""),
        "Where to listen, if not at port 8008 of the host under which the members reach this one.",
    ),
    key(
        "api.token_file",
        Path,
        Open("\"/etc/pg_replica/token\""),
        "A file with the token that commands which change something may show instead of a \
         certificate.",
    ),
    key(
        "tls.ca",
        Path,
        Open("\"/etc/pg_replica/tls/ca.crt\""),
        "The cluster's own authority; it is the only one that is believed.",
    ),
    key("tls.cert", Path, Open("\"/etc/pg_replica/tls/n1.crt\""), "This member's certificate."),
    key("tls.key", Path, Open("\"/etc/pg_replica/tls/n1.key\""), "The key that belongs to it."),
    key(
        "tls.allow_cleartext",
        Flag,
        Value("false"),
        "Whether to listen beyond loopback without certificates: for networks of your own only.",
    ),
    key(
        "postgres.data_dir",
        Path,
        Open("\"/var/lib/postgresql/main\""),
        "The data directory; needed unless this member is a witness. No mount point: a copy takes \
         its place.",
    ),
    key(
        "postgres.secret_file",
        Path,
        Open("\"/etc/pg_replica/tls/secret\""),
        "A file with the password that the members' servers know each other by, the same on all \
         of them; needed unless this member is a witness.",
    ),
    key(
        "postgres.listen",
        Text,
        Open("\"10.0.0.1, 127.0.0.1\""),
        "The addresses at which the server listens, if not at the host of its address in the list \
         alone.",
    ),
    key(
        "postgres.bin_dir",
        Path,
        Open("\"/usr/lib/postgresql/15/bin\""),
        "Where the server's programs are, if they are not to be looked for.",
    ),
    key(
        "postgres.user",
        Text,
        Value("\"postgres\""),
        "The user of the operating system that runs the server when the node runs as root.",
    ),
    key(
        "postgres.superuser",
        Text,
        Value("\"postgres\""),
        "The database role that owns a new cluster.",
    ),
    key(
        "postgres.hba",
        Lines,
        Value("[]"),
        "Lines for pg_hba.conf, before those that the data directory has: which clients may \
         come, from where, and how they prove it.",
    ),
    key(
        "postgres.parameters.NAME",
        Parameter,
        Open("\"256MB\""),
        "A parameter by its own name, for example `shared_buffers`.",
    ),
    key(
        "settings.mode",
        Choice(&["async", "quorum-sync"]),
        Value("\"async\""),
        "When a commit is acknowledged: once the primary has it, or once no failover can lose it.",
    ),
    key(
        "settings.max_lag_bytes",
        Number(0, i64::MAX),
        Value("1048576"),
        "The most that an automatic failover may lose in `async` mode.",
    ),
    key(
        "settings.lease_ms",
        MS,
        Value("2000"),
        "How long a primary may write without hearing from a majority. In `async` a failover waits \
         for the longest that it ever was, also after it is lowered again.",
    ),
    key(
        "settings.heartbeat_ms",
        MS,
        Value("200"),
        "How often the primary renews its lease and every member reports.",
    ),
    key(
        "settings.suspect_ms",
        MS,
        Value("600"),
        "How long the primary may be silent before a second sign of its end is looked for.",
    ),
    key(
        "settings.clock_rate_ppm",
        Number(0, 200_000),
        Value("10000"),
        "By how much two machines' clocks may differ in speed, in millionths.",
    ),
    key(
        "settings.fence_margin_ms",
        MS,
        Value("200"),
        "How long before the end of its lease the node stops a primary.",
    ),
    key(
        "settings.guard_margin_ms",
        MS,
        Value("50"),
        "How long before the end of its lease the guard ends a primary.",
    ),
    key(
        "settings.restart_ms",
        MS,
        Value("5000"),
        "How long a Postgres that crashed may take to come back before another is chosen; in \
         `quorum-sync`, where a failover loses nothing, 1.5 s at most.",
    ),
    key(
        "settings.promote_ms",
        MS,
        Value("5000"),
        "How long a chosen standby may take to become primary before another is chosen.",
    ),
    key(
        "settings.stop_ms",
        MS,
        Value("2000"),
        "How long a planned stop may take before it is cut short.",
    ),
    key("raft.heartbeat_ms", MS, Value("150"), "How often the leader of the consensus is heard."),
    key(
        "raft.election_min_ms",
        MS,
        Value("350"),
        "The shortest silence after which a member stands for leader.",
    ),
    key(
        "raft.election_max_ms",
        MS,
        Value("500"),
        "The longest; each member draws its own between the two.",
    ),
    key(
        "hooks.on_role_change",
        Lines,
        Value("[]"),
        "Commands for /bin/sh, run one after another when this member's role changes.",
    ),
    key(
        "hooks.time_limit_ms",
        MS,
        Value("10000"),
        "How long a command may take before it is ended; nothing waits for it.",
    ),
    key(
        "guard.watchdog",
        Path,
        Open("\"/dev/watchdog\""),
        "The kernel's watchdog, which resets the machine when even the guard stands still.",
    ),
    key("log.format", Choice(&["text", "json"]), Value("\"text\""), "For people, or for programs."),
    key(
        "log.level",
        Choice(&["error", "warn", "info", "debug", "trace"]),
        Value("\"info\""),
        "The least important line that is written.",
    ),
];

/// The key that a path of names leads to, and how it is called then.
pub(crate) fn find(path: &[String]) -> Option<(&'static Key, String)> {
    let key = KEYS.iter().find(|key| leads_to(path, key))?;
    let mut name = path.join(".");
    if key.kind == Kind::Parameter {
        // Postgres takes its parameters in any case, and calls them in lower case itself.
        name.make_ascii_lowercase();
    }
    Some((key, name))
}

/// The key with this name.
pub(crate) fn named(name: &str) -> Option<&'static Key> {
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    find(&path).map(|(key, _)| key)
}

fn leads_to(path: &[String], key: &Key) -> bool {
    let wanted: Vec<&str> = key.path.split('.').collect();
    let open_end = wanted.last() == Some(&"NAME");
    let length = if open_end { path.len() >= wanted.len() } else { path.len() == wanted.len() };
    length
        && wanted.iter().zip(path).all(|(wanted, given)| matches(wanted, given))
        && (!open_end || is_parameter(&path[wanted.len() - 1..].join(".")))
}

fn matches(wanted: &str, given: &str) -> bool {
    match wanted {
        "N" => is_number(given),
        "NAME" => true,
        wanted => wanted == given,
    }
}

/// Whether keys can stand below this path.
pub(crate) fn is_section(path: &[String]) -> bool {
    KEYS.iter().any(|key| {
        let wanted: Vec<&str> = key.path.split('.').collect();
        let open_end = wanted.last() == Some(&"NAME");
        (path.len() < wanted.len() || open_end)
            && wanted.iter().zip(path).all(|(wanted, given)| matches(wanted, given))
    })
}

/// Whether this is a member's number as it is written, without zeros in front.
fn is_number(text: &str) -> bool {
    text.parse::<u32>()
        .is_ok_and(|number| (1..=999_999).contains(&number) && number.to_string() == text)
}

fn is_parameter(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.len() <= 128
        && name.bytes().all(plain)
        && !name.contains("..")
        && !name.ends_with('.')
}

/// The variable that overrides a key.
pub(crate) fn variable(name: &str) -> String {
    let (section, parameter) = match name.strip_prefix("postgres.parameters.") {
        Some(parameter) => ("postgres.parameters.", parameter.replace('.', "__")),
        None => (name, String::new()),
    };
    format!("{PREFIX}{}{parameter}", section.replace('.', "_")).to_ascii_uppercase()
}

/// What every variable begins with.
pub(crate) const PREFIX: &str = "PG_REPLICA_";

/// The key that a variable overrides, given what follows the prefix.
pub(crate) fn overridden_by(rest: &str) -> Option<(&'static Key, String)> {
    if rest.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    if let Some(parameter) = rest.strip_prefix("POSTGRES_PARAMETERS_") {
        let name = parameter.to_ascii_lowercase().replace("__", ".");
        return find(&["postgres".into(), "parameters".into(), name]);
    }
    if let Some((number, name)) = rest.strip_prefix("MEMBERS_").and_then(|m| m.split_once('_')) {
        return find(&["members".into(), number.into(), name.to_ascii_lowercase()]);
    }
    let same = |key: &&Key| !key.path.contains('N') && variable(key.path)[PREFIX.len()..] == *rest;
    let key = KEYS.iter().find(same)?;
    Some((key, key.path.to_owned()))
}
