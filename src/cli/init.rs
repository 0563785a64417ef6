//! `node init`: a commented configuration to begin with.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{Outline, Overrides, read, template};

use super::{Failure, say};

/// The arguments of `node init`.
#[derive(Args)]
pub(super) struct Init {
    /// The cluster's name.
    #[arg(long, default_value = "main")]
    cluster: String,
    /// This member's number.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=999_999))]
    node: u64,
    /// The machines of the founding members, in the order of their numbers, or that of a member
    /// that joins later; without them, three members on this machine.
    #[arg(long, value_delimiter = ',', value_name = "HOST,HOST,HOST")]
    hosts: Vec<String>,
    /// The file to write. One that exists is never overwritten.
    #[arg(long, value_name = "FILE", default_value = "pg_replica.toml")]
    output: PathBuf,
}

impl Init {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.check_hosts()?;
        let outline = Outline { cluster: self.cluster, node: self.node, hosts: self.hosts };
        let text = template(&outline);
        let output = self.output.display().to_string();
        // What was asked for may make no sense, and then nothing is written.
        let config = read(&output, &text, &Overrides::default())
            .map_err(|bad| Failure::input(format!("{output} is not written: {}", bad.what)))?;
        write_new(&self.output, &text).map_err(|error| {
            if error.kind() == ErrorKind::AlreadyExists {
                return Failure::input(format!(
                    "{output} exists and is left as it is; name another file with `--output`"
                ));
            }
            Failure::machine(format!("{output} cannot be written: {error}"))
        })?;
        let nodes: Vec<String> = config.members.keys().map(|node| node.0.to_string()).collect();
        say(&format!(
            "{output} is written.\n\
             The certificates and the password that it names: \
             node certs --cluster {} --nodes {} --out DIR\n\
             Whether it is in order: node check --config {output}\n",
            config.cluster,
            nodes.join(",")
        ));
        Ok(())
    }

    /// The others find a member at the address that its own file names.
    fn check_hosts(&self) -> Result<(), Failure> {
        let Self { node, hosts, .. } = self;
        let named = hosts.len() as u64;
        if named <= 1 || *node <= named {
            return Ok(());
        }
        Err(Failure::input(format!(
            "--hosts names {named} machines, and member {node} is on none of them; for a member \
             that joins later name its own machine alone, as in `--node {node} --hosts 10.0.0.9`"
        )))
    }
}

/// Writes a file that was not there, as a whole or not at all.
fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut new = OpenOptions::new().write(true).create_new(true).open(file)?;
    let written = new.write_all(text.as_bytes()).and_then(|()| new.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(file);
    }
    written
}
