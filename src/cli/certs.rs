//! `node certs`: a private authority for a cluster, what it gives its members, and the password
//! that their servers know each other by.

use std::path::PathBuf;

use clap::Args;

use crate::ids::NodeId;
use crate::os::authority::{AuthorityError, Wanted, provide};

use super::{Failure, say};

/// Under these names everybody calls the node of the machine that they sit at.
const OWN_MACHINE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The arguments of `node certs`.
#[derive(Args)]
pub(super) struct Certs {
    /// The cluster's name.
    #[arg(long)]
    cluster: String,
    /// The members that need a certificate; those that have one keep it.
    #[arg(long, value_delimiter = ',', required = true, value_name = "N,N,...",
          value_parser = clap::value_parser!(u64).range(1..=999_999))]
    nodes: Vec<u64>,
    /// Where the files are, or are to be.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Names or addresses under which the HTTP interface is called: `2=db2.example.org` for one
    /// member, `db.example.org` for all.
    #[arg(long, value_delimiter = ',', value_name = "[N=]HOST,...")]
    hosts: Vec<String>,
}

impl Certs {
    pub(super) fn run(self) -> Result<(), Failure> {
        crate::config::check_cluster_name(&self.cluster).map_err(Failure::input)?;
        let mut hosts: Vec<_> = OWN_MACHINE.iter().map(|host| (None, (*host).to_owned())).collect();
        for host in &self.hosts {
            hosts.push(self.whose(host)?);
        }
        let wanted = Wanted {
            cluster: self.cluster,
            nodes: self.nodes.into_iter().map(NodeId).collect(),
            hosts,
            folder: self.out,
        };
        let provided = provide(&wanted).map_err(|error| match &error {
            AuthorityError::File { .. } | AuthorityError::Making(_) => {
                Failure::machine(error.to_string())
            }
            AuthorityError::Half { .. }
            | AuthorityError::Foreign(_)
            | AuthorityError::ForeignAuthority { .. }
            | AuthorityError::Host(_) => Failure::input(error.to_string()),
        })?;
        for one in provided {
            let how = if one.kept { "kept" } else { "made" };
            say(&format!("{how}  {}\n", one.file.display()));
        }
        say("Each key lies beside its certificate. A member needs ca.crt, its own pair, and \
             secret; operator.*\nis for whoever gives orders. ca.key belongs in a safe place, and \
             on no member.\n");
        Ok(())
    }

    /// A host, and the member that it belongs to where one is named.
    fn whose(&self, host: &str) -> Result<(Option<NodeId>, String), Failure> {
        let Some((number, host)) = host.split_once('=') else {
            return Ok((None, host.to_owned()));
        };
        let number = number.parse().ok().filter(|number| self.nodes.contains(number));
        let number = number.ok_or_else(|| {
            Failure::input(format!(
                "--hosts names {host} for a member that is not in --nodes; correct its number"
            ))
        })?;
        Ok((Some(NodeId(number)), host.to_owned()))
    }
}
