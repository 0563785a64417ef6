//! What a node is told of the server that it keeps.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustls::ClientConfig;
use tokio::process::Command;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::ids::{Epoch, NodeId};
use crate::os::net::{TlsError, believing_any_member};

use super::births::write_whole;
use super::install::Installation;

/// The role that the node itself uses, on this machine only. (Names in `pg_` are the server's own.)
pub const KEEPER: &str = "replica_keeper";
/// The role that members stream, copy and rewind with.
pub(super) const STREAMER: &str = "replica_streamer";
/// The longest path of a socket that the kernel takes.
const SOCKET_PATH_MAX: usize = 107;

/// The account that the server runs under, where the node runs as root: PostgreSQL refuses root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub user: u32,
    /// Its group.
    pub group: u32,
}

impl Account {
    /// The account of this name, from the system's list.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let list = fs::read_to_string("/etc/passwd").ok()?;
        list.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields[..] {
                [found, _, user, group, ..] if found == name => {
                    Some(Self { user: user.parse().ok()?, group: group.parse().ok()? })
                }
                _ => None,
            }
        })
    }
}

/// What a server shows to the other members' servers, and whom it believes.
#[derive(Clone, Debug)]
pub struct ServerTls {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    way: ClientConfig,
}

impl ServerTls {
    /// The member's own certificate: its server and its node are one to the others.
    pub fn new(authority: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            authority: authority.to_owned(),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            way: believing_any_member(authority, Some((certificate, key)))?,
        })
    }

    /// How the node itself reaches another member's server.
    pub(super) fn way(&self) -> MakeRustlsConnect {
        MakeRustlsConnect::new(self.way.clone())
    }
}

/// One server and where it lives.
#[derive(Clone, Debug)]
pub struct PostgresPlan {
    /// This member.
    pub node: NodeId,
    /// The cluster's name, which the server shows in its process list.
    pub cluster: String,
    /// The programs.
    pub installation: Installation,
    /// The data directory. Its parent belongs to the node too: copies are made beside it.
    pub data: PathBuf,
    /// What the server needs besides: sockets, passwords, its log, and what was set aside.
    pub home: PathBuf,
    /// The addresses that the server listens at, as PostgreSQL writes them.
    pub listen: String,
    /// The port.
    pub port: u16,
    /// The account to drop to; `None` where the node is not root.
    pub account: Option<Account>,
    /// What the members' servers know each other by. The same on all of them.
    pub secret: String,
    /// What the members' servers speak TLS with; `None` where they speak in clear.
    pub tls: Option<ServerTls>,
    /// The role that owns a new cluster.
    pub superuser: String,
    /// What is let in, besides what the node needs: lines before those of `pg_hba.conf`.
    pub access: Vec<String>,
    /// Parameters of the server, where the cluster has not set others.
    pub parameters: BTreeMap<String, String>,
}

impl PostgresPlan {
    /// Makes the folders and files that have to be there before the server is.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let socket = self.socket_folder().join(format!(".s.PGSQL.{}", self.port));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(io::Error::other(format!(
                "{} is longer than the {SOCKET_PATH_MAX} bytes of a socket's path: choose a \
                 shorter state_dir",
                socket.display()
            )));
        }
        for folder in [self.home.clone(), self.socket_folder(), self.aside()] {
            self.make_folder(&folder)?;
        }
        if let Some(parent) = self.data.parent().filter(|parent| !parent.exists()) {
            self.make_folder(parent)?;
        }
        write_whole(&self.passwords(), format!("*:*:*:*:{}\n", self.secret).as_bytes())?;
        let Some(tls) = &self.tls else { return Ok(()) };
        // Copies, because the server's account may not read what belongs to the node.
        self.make_folder(&self.tls_folder())?;
        let sources = [&tls.authority, &tls.certificate, &tls.key];
        for (source, copy) in sources.into_iter().zip(self.tls_files()) {
            write_whole(&copy, &fs::read(source)?)?;
        }
        Ok(())
    }

    fn tls_folder(&self) -> PathBuf {
        self.home.join("tls")
    }

    /// The authority, the certificate and its key, where the server finds them.
    pub(super) fn tls_files(&self) -> [PathBuf; 3] {
        ["ca.crt", "server.crt", "server.key"].map(|name| self.tls_folder().join(name))
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if !folder.exists() {
            // The server's account has to get through every folder that is made on the way.
            if let Some(parent) = folder.parent().filter(|parent| !parent.exists()) {
                self.make_folder(parent)?;
            }
            DirBuilder::new().mode(0o700).create(folder)?;
        }
        self.give(folder)
    }

    /// Lets the server's account have a file that the node made.
    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        match self.account {
            Some(account) => chown(path, Some(account.user), Some(account.group)),
            None => Ok(()),
        }
    }

    /// Where the server's socket is.
    #[must_use]
    pub fn socket_folder(&self) -> PathBuf {
        self.home.join("socket")
    }

    /// Who is let in: written by the node, from the directory's own file and what it needs itself.
    pub(super) fn access_file(&self) -> PathBuf {
        self.home.join("hba.conf")
    }

    /// Passwords are in this file and nowhere else: neither in arguments nor in logs.
    pub(super) fn passwords(&self) -> PathBuf {
        self.home.join("pgpass")
    }

    /// What the server says.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.join("postgres.log")
    }

    /// Where things go that are not destroyed.
    #[must_use]
    pub fn aside(&self) -> PathBuf {
        self.home.join("aside")
    }

    /// A program of the server's, as the account that it runs under, in a language that is known.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.installation.program(program));
        command
            .current_dir("/")
            .env("LC_ALL", "C")
            .env("PGPASSFILE", self.passwords())
            .env_remove("PGDATA")
            .env_remove("PGHOST")
            .env_remove("PGPORT")
            .env_remove("PGUSER")
            .env_remove("PGPASSWORD")
            .stdin(Stdio::null());
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        command
    }

    /// The name under which this member's server attaches to a primary.
    pub(super) fn name_in(&self, epoch: Epoch) -> String {
        name_in(self.node, epoch)
    }
}

/// The name of a member's server in an epoch. A confirmation under another epoch's name counts for
/// nothing.
pub(super) fn name_in(node: NodeId, epoch: Epoch) -> String {
    format!("pg_replica_{node}_{epoch}")
}

/// Who attached under a name, and for which epoch.
pub(super) fn named(name: &str) -> Option<(NodeId, Epoch)> {
    let (node, epoch) = name.strip_prefix("pg_replica_n")?.split_once("_e")?;
    Some((NodeId(node.parse().ok()?), Epoch(epoch.parse().ok()?)))
}

/// The slot that keeps the log for a member.
pub(super) fn slot_of(node: NodeId) -> String {
    format!("pg_replica_{node}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_who_and_when_and_other_names_tell_nothing() {
        assert_eq!(named(&name_in(NodeId(12), Epoch(345))), Some((NodeId(12), Epoch(345))));
        for name in ["walreceiver", "pg_replica_n1", "pg_replica_n1_e", "pg_replica_nx_e1", ""] {
            assert_eq!(named(name), None, "{name}");
        }
    }
}
