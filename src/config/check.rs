//! What the values mean together, and what of it cannot be meant.
//!
//! Every refusal names the key whose line is to be changed. Nothing here looks at the machine.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::control::{MemberKind, is_own_parameter};
use crate::ids::NodeId;

use super::address::Address;
use super::entries::Entries;
use super::place::BadConfig;
use super::{Config, MemberConfig, RaftPace};

/// How a line of `pg_hba.conf` begins.
const HBA_STARTS: &[&str] =
    &["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc", "#"];

/// The longest path of a socket that the system takes.
const SOCKET_PATH_MAX: usize = 107;

type Checked = Result<(), BadConfig>;

/// Whether this node is where the list says.
pub(super) fn own_place(
    entries: &Entries,
    node: NodeId,
    join: bool,
    members: &BTreeMap<NodeId, MemberConfig>,
) -> Checked {
    let names: Vec<String> = members.keys().map(|node| node.0.to_string()).collect();
    let names = names.join(", ");
    let number = node.0;
    if join {
        if let Some(other) = members.keys().find(|member| **member != node) {
            return Err(entries.wrong(
                &format!("members.{}", other.0),
                format!(
                    "a node with `join = true` learns the members from the cluster; remove \
                     `[members.{}]` and keep `[members.{number}]`, or remove `join`",
                    other.0
                ),
            ));
        }
        if members.is_empty() {
            return Err(entries.wrong(
                "join",
                format!(
                    "a node that joins still has to say where it is reached; add \
                     `[members.{number}]` with `peers` and `postgres`"
                ),
            ));
        }
        return Ok(());
    }
    if members.is_empty() {
        return Err(entries.wrong(
            "members",
            "there are no members; list those that found the cluster, as in `[members.1]` with \
             `peers` and `postgres`, or say `join = true` to join one that exists",
        ));
    }
    if !members.contains_key(&node) {
        return Err(entries.wrong(
            "node",
            format!(
                "this is node {number}, and the members that found the cluster are {names}; \
                 correct the number, or say `join = true` to join a cluster that exists"
            ),
        ));
    }
    Ok(())
}

fn adoption(config: &Config) -> Checked {
    if config.adopt.is_some() && config.join {
        return Err(config.entries.wrong(
            "adopt",
            "a node with `join = true` founds nothing, so it takes no database over; remove this \
             line",
        ));
    }
    Ok(())
}

/// Everything that needs more than one value.
pub(super) fn together(config: &Config) -> Checked {
    voters(config)?;
    adoption(config)?;
    addresses(config)?;
    cleartext(config)?;
    directories(config, &|path: &Path| path.to_owned())?;
    socket(config)?;
    timings(config)?;
    hba(config)?;
    superuser(config)?;
    parameters(config)
}

fn voters(config: &Config) -> Checked {
    if config.join {
        return Ok(());
    }
    let count = config.members.len();
    if count.is_multiple_of(2) {
        return Err(config.wrong(
            "members",
            format!(
                "{count} members make an even number of votes, which survives no more failures \
                 than {} would; add one (`kind = \"witness\"` needs no disk to speak of), or leave \
                 one out",
                count - 1
            ),
        ));
    }
    let may_lead = |member: &MemberConfig| member.kind == MemberKind::Data && !member.no_failover;
    if !config.members.values().any(may_lead) {
        return Err(config.wrong(
            "members",
            "no member may become primary; let at least one be `kind = \"data\"` without \
             `no_failover`",
        ));
    }
    Ok(())
}

fn addresses(config: &Config) -> Checked {
    let mut taken: BTreeMap<&Address, String> = BTreeMap::new();
    for (node, member) in &config.members {
        let peers = Some(("peers", &member.peers));
        let postgres = member.postgres.as_ref().map(|address| ("postgres", address));
        for (key, address) in peers.into_iter().chain(postgres) {
            let name = format!("members.{}.{key}", node.0);
            if address.is_unspecified() {
                return Err(config.wrong(
                    &name,
                    format!(
                        "`{address}` is every address of a machine and none that others can call; \
                         write the one that they use, and put this one into `[peers] listen`"
                    ),
                ));
            }
            if let Some(first) = taken.insert(address, name.clone()) {
                return Err(config.wrong(
                    &name,
                    format!("`{address}` is taken by `{first}` already; give each its own port"),
                ));
            }
        }
    }
    let own = |key: &str| format!("members.{}.{key}", config.node.0);
    let own_postgres = config.me().postgres.as_ref();
    let clashes = [
        (Some(&config.peers_listen), "api.listen", config.api.listen.clone()),
        (own_postgres, "api.listen", config.api.listen.clone()),
        (own_postgres, "peers.listen", config.peers_listen.clone()),
    ];
    for (other, key, listen) in clashes {
        let Some(other) = other else { continue };
        let same_host = other.host() == listen.host() || listen.is_unspecified();
        if same_host && other.port() == listen.port() {
            let name = if config.entries.has(key) { key.to_owned() } else { own("peers") };
            return Err(config.wrong(
                &name,
                format!(
                    "port {} of this machine would be used twice, by `{key}` ({listen}) and at \
                     {other}; write another `{key}`",
                    listen.port()
                ),
            ));
        }
    }
    Ok(())
}

/// Without certificates whoever reaches the port can speak for a member.
fn cleartext(config: &Config) -> Checked {
    if config.tls.is_some() || config.allow_cleartext {
        return Ok(());
    }
    for (key, listen) in
        [("peers.listen", &config.peers_listen), ("api.listen", &config.api.listen)]
    {
        if listen.is_loopback() {
            continue;
        }
        let own = format!("members.{}.peers", config.node.0);
        let name = if config.entries.has(key) { key } else { &own };
        return Err(config.wrong(
            name,
            format!(
                "without certificates a node listens on loopback only, and `{key}` is `{listen}`; \
                 make certificates with `node certs` and name them in `[tls]`, or say \
                 `allow_cleartext = true` there if nobody else is on this network"
            ),
        ));
    }
    Ok(())
}

/// What must not lie in the data directory, because that one is replaced as a whole when a member
/// is copied anew. `real` says where a path leads.
pub(super) fn directories(config: &Config, real: &dyn Fn(&Path) -> PathBuf) -> Checked {
    let Some(postgres) = &config.postgres else { return Ok(()) };
    let data = plain(&real(&postgres.data_dir));
    let tls = config.tls.as_ref();
    let named = [
        ("state_dir", Some(&config.state_dir)),
        ("tls.ca", tls.map(|tls| &tls.ca)),
        ("tls.cert", tls.map(|tls| &tls.cert)),
        ("tls.key", tls.map(|tls| &tls.key)),
        ("api.token_file", config.api.token_file.as_ref()),
        ("postgres.secret_file", Some(&postgres.secret_file)),
    ];
    for (key, path) in named {
        let Some(path) = path.filter(|path| plain(&real(path)).starts_with(&data)) else {
            continue;
        };
        return Err(config.wrong(
            key,
            format!(
                "`{}` lies in the data directory `{}`, which is replaced as a whole when this \
                 member is copied anew; put it elsewhere",
                path.display(),
                postgres.data_dir.display()
            ),
        ));
    }
    Ok(())
}

/// The path without doubled slashes and dots.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

fn socket(config: &Config) -> Checked {
    let guards = config.guard_socket();
    let server = config.postgres.as_ref().map(|postgres| {
        config.home_dir().join(format!("socket/.s.PGSQL.{}", postgres.address.port()))
    });
    let socket = server.into_iter().chain([guards]).max_by_key(|socket| socket.as_os_str().len());
    let length = socket.map_or(0, |socket| socket.as_os_str().len());
    if length <= SOCKET_PATH_MAX {
        return Ok(());
    }
    Err(config.wrong(
        "state_dir",
        format!(
            "a socket in it would have a path of {length} bytes, and {SOCKET_PATH_MAX} is the most \
             that the system takes; choose a shorter `state_dir`"
        ),
    ))
}

fn timings(config: &Config) -> Checked {
    let timing = &config.settings.timing;
    timing.check().map_err(|why| {
        let named = why.split(' ').map(|word| format!("settings.{word}"));
        let given = named.into_iter().find(|name| config.entries.has(name));
        let key = given.unwrap_or_else(|| "settings".to_owned());
        config.wrong(&key, format!("{why}; change one of the two"))
    })?;
    let pace = &config.raft;
    if pace.election_min_ms < pace.heartbeat_ms * 2 {
        return Err(config.wrong(
            "raft.election_min_ms",
            format!(
                "election_min_ms is {} and heartbeat_ms is {}: one lost message would depose a \
                 leader; allow for at least two heartbeats",
                pace.election_min_ms, pace.heartbeat_ms
            ),
        ));
    }
    if pace.election_max_ms < pace.election_min_ms + pace.heartbeat_ms {
        return Err(config.wrong(
            "raft.election_max_ms",
            format!(
                "election_max_ms is {} and election_min_ms is {}: members would stand at the same \
                 moment; put at least one heartbeat ({} ms) between the two",
                pace.election_max_ms, pace.election_min_ms, pace.heartbeat_ms
            ),
        ));
    }
    let fits = pace.check_lease(timing.lease_ms);
    fits.map_err(|why| config.wrong("raft.election_max_ms", why))
}

impl RaftPace {
    /// Whether the elections leave a holder its lease, or in a sentence why they do not.
    pub fn check_lease(&self, lease_ms: u64) -> Result<(), String> {
        if self.election_max_ms * 2 <= lease_ms {
            return Ok(());
        }
        Err(format!(
            "election_max_ms is {} and the lease {lease_ms} ms: two rounds have to fit into a \
             lease, or the loss of a leader costs the primary its writes; make the lease longer or \
             the elections shorter",
            self.election_max_ms
        ))
    }
}

fn hba(config: &Config) -> Checked {
    for line in config.postgres.iter().flat_map(|postgres| &postgres.hba) {
        let start = line.split_whitespace().next().unwrap_or_default();
        if !HBA_STARTS.contains(&start) && !start.starts_with('#') {
            return Err(config.wrong(
                "postgres.hba",
                format!(
                    "`{start}` begins no line of pg_hba.conf; write for example \
                     `hostssl all all 10.0.0.0/8 scram-sha-256`"
                ),
            ));
        }
    }
    Ok(())
}

fn superuser(config: &Config) -> Checked {
    let name = config.postgres.as_ref().map_or("", |postgres| &postgres.superuser);
    if !name.starts_with("pg_") {
        return Ok(());
    }
    Err(config.wrong(
        "postgres.superuser",
        format!("PostgreSQL keeps names in `pg_` to itself; choose another one than `{name}`"),
    ))
}

fn parameters(config: &Config) -> Checked {
    let postgres = config.postgres.as_ref();
    if postgres.and_then(|p| p.parameters.get("wal_level")).is_some_and(|w| w == "minimal") {
        return Err(config.wrong(
            "postgres.parameters.wal_level",
            "with `minimal` nothing can be copied to a standby; write `replica` or `logical`",
        ));
    }
    let mut names = config.postgres.iter().flat_map(|postgres| postgres.parameters.keys());
    let Some(name) = names.find(|name| is_own_parameter(name)) else {
        return Ok(());
    };
    let remedy = match name.as_str() {
        "listen_addresses" => "it is `listen` in `[postgres]`",
        "port" => "it is taken from this member's `postgres` address",
        "data_directory" => "it is `data_dir` in `[postgres]`",
        "synchronous_standby_names" => "it follows `mode` in `[settings]`",
        "synchronous_commit" => "`mode` in `[settings]` rests on it; a role may have its own",
        "hba_file" => "its lines go into `hba` in `[postgres]`",
        _ => "replication rests on it",
    };
    Err(config.wrong(
        &format!("postgres.parameters.{name}"),
        format!("the node sets `{name}` itself, because {remedy}; remove the line"),
    ))
}

impl Config {
    /// What is in order and still worth saying aloud, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let listens = [&self.peers_listen, &self.api.listen];
        if let Some(open) = listens.into_iter().find(|listen| !listen.is_loopback())
            && self.tls.is_none()
        {
            warnings.push(format!(
                "allow_cleartext: {open} is open to the network without certificates; whoever \
                 reaches it can read everything and speak for a member"
            ));
        }
        if self.peers_listen.is_loopback() && !self.me().peers.is_loopback() {
            warnings.push(format!(
                "the other members call {}, and this node listens at {} only",
                self.me().peers,
                self.peers_listen
            ));
        }
        if self.me().kind == MemberKind::Witness && !self.entries.below("postgres").is_empty() {
            warnings.push("this member is a witness; what stands in [postgres] is not used".into());
        }
        if self.members.len() == 1 && !self.join {
            warnings.push("a cluster of one member survives no failure; three survive one".into());
        }
        warnings
    }
}
