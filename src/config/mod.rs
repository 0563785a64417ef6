//! What an operator writes down about a node: one TOML file, with variables and flags above it.
//!
//! Reading goes in three steps, and each of them ends in one sentence that names the place, the
//! fault and the remedy. `entries` holds what was given against the table in `keys`: is the key
//! known, is the value of its kind? `read` makes a [`Config`] out of it. `check` looks at what the
//! values mean together: an even number of voters, two members at one address, a state directory
//! inside the data directory. [`load`] does the same for a file on the disk, and looks at the files
//! that it names as well.
//!
//! It knows nothing of the command line, starts nothing and connects to nobody.

mod address;
mod check;
mod convert;
mod entries;
mod files;
mod keys;
mod place;
mod read;
mod template;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::control::{MemberKind, Settings};
use crate::ids::{NodeId, SystemId};

pub use address::Address;
pub use entries::Overrides;
pub use files::{FILES, Loaded, Secret, load};
pub use place::{BadConfig, Place};
pub use read::read;
pub use template::{Outline, template};
pub use value::check_cluster_name;

/// The port of the HTTP interface where none is configured.
pub const API_PORT: u16 = 8_008;
/// The port of the other members where `node init` proposes one.
pub const PEERS_PORT: u16 = 7_400;
/// The port of Postgres where `node init` proposes one.
pub const POSTGRES_PORT: u16 = 5_432;

/// A node's configuration, read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name.
    pub cluster: String,
    /// This member.
    pub node: NodeId,
    /// The node's own directory.
    pub state_dir: PathBuf,
    /// Whether it joins a cluster that exists. `members` then holds this member alone.
    pub join: bool,
    /// The founding list.
    pub members: BTreeMap<NodeId, MemberConfig>,
    /// Where to listen to other members.
    pub peers_listen: Address,
    /// The HTTP interface.
    pub api: ApiConfig,
    /// The certificates' files; `None` where everything goes in clear.
    pub tls: Option<TlsFiles>,
    /// Listen beyond loopback also without certificates.
    pub allow_cleartext: bool,
    /// The Postgres cluster that the cluster is founded on, if it is not to make a new one.
    pub adopt: Option<SystemId>,
    /// The server of this machine; `None` on a witness.
    pub postgres: Option<PostgresConfig>,
    /// The settings that the cluster is founded with.
    pub settings: Settings,
    /// The pace of the consensus.
    pub raft: RaftPace,
    /// The operator's own commands.
    pub hooks: HooksConfig,
    /// The kernel's watchdog device.
    pub watchdog: Option<PathBuf>,
    /// What is written to the standard error.
    pub log: LogConfig,
    entries: entries::Entries,
}

/// A line of the founding list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// What it contributes.
    pub kind: MemberKind,
    /// Where its node is reached.
    pub peers: Address,
    /// Where its Postgres is reached; a witness has none.
    pub postgres: Option<Address>,
    /// Among equally advanced candidates the highest priority wins.
    pub priority: u32,
    /// Never chosen by an automatic failover.
    pub no_failover: bool,
}

/// The HTTP interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Where to listen.
    pub listen: Address,
    /// Where the token stands that may be shown instead of a certificate.
    pub token_file: Option<PathBuf>,
}

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The cluster's authority.
    pub ca: PathBuf,
    /// This member's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The server of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresConfig {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where its programs are, if they are not to be looked for.
    pub bin_dir: Option<PathBuf>,
    /// The user that runs it where the node is root.
    pub user: String,
    /// The role that owns a new cluster.
    pub superuser: String,
    /// Where the password stands that the members' servers know each other by.
    pub secret_file: PathBuf,
    /// The addresses to listen at, as PostgreSQL writes them.
    pub listen: String,
    /// Where other members and clients reach it; its port is the one to listen at.
    pub address: Address,
    /// Lines for `pg_hba.conf`.
    pub hba: Vec<String>,
    /// The parameters that a new cluster begins with, by their names in lower case.
    pub parameters: BTreeMap<String, String>,
}

/// The pace of the consensus, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftPace {
    /// How often its leader is heard.
    pub heartbeat_ms: u64,
    /// The shortest silence after which a voter stands for election.
    pub election_min_ms: u64,
    /// The longest.
    pub election_max_ms: u64,
}

/// The operator's own commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HooksConfig {
    /// Run by `/bin/sh -c`, one after another, when this member's role changes.
    pub on_role_change: Vec<String>,
    /// How long each may take.
    pub time_limit_ms: u64,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The least important line that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Something changed.
    Info,
    /// What a developer asks for.
    Debug,
    /// Everything.
    Trace,
}

/// What is written to the standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// How much.
    pub level: LogLevel,
}

impl Config {
    /// This member's own line of the list.
    #[must_use]
    pub fn me(&self) -> &MemberConfig {
        self.members.get(&self.node).expect("a configuration without its own member is refused")
    }

    /// An error about the value of `key`, at the place where it was given: for whoever finds out
    /// later than here that a value does not fit the machine.
    #[must_use]
    pub fn wrong(&self, key: &str, what: impl Into<String>) -> BadConfig {
        self.entries.wrong(key, what)
    }

    /// The keys that a variable or a flag sets, and which one.
    #[must_use]
    pub fn overridden(&self) -> Vec<(String, Place)> {
        self.entries.overridden()
    }
}

impl fmt::Display for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, believing {}", self.cert.display(), self.ca.display())
    }
}
