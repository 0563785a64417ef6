//! `node adopt`: a database that exists already, made ready for a cluster to be founded on it.

use std::path::PathBuf;

use clap::Args;
use tokio::runtime::Builder;

use crate::os::postgres::adopt;

use super::configured::Configured;
use super::{Failure, client, runtime, say};

/// The arguments of `node adopt`.
#[derive(Args)]
#[command(after_help = ADVICE)]
pub(super) struct Adopt {
    #[command(flatten)]
    configured: Configured,
    /// Where `postgresql.conf` and `pg_hba.conf` are, where they are neither in the data directory
    /// nor in /etc/postgresql.
    #[arg(long, value_name = "FOLDER")]
    config_dir: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

const ADVICE: &str = "\
On the machine of the primary, with postgres.data_dir naming its data directory, and its server shut
down. The members that are to copy it start with empty data directories, or later, by
`node members add`. A guide: docs/getting-started.md";

impl Adopt {
    pub(super) fn run(self) -> Result<(), Failure> {
        let loaded = self.configured.load()?;
        let Some(plan) = loaded.postgres_plan()? else {
            return Err(Failure::input(
                "this member is a witness: it has no database to take over",
            ));
        };
        let data = plan.data.display().to_string();
        let question = format!(
            "Prepare {data} for cluster {}? It gets two roles and a line in its postgresql.conf, \
             and is started by the node from then on.",
            plan.cluster
        );
        client::confirm(&question, self.yes).map_err(|refusal| Failure {
            code: refusal.exit_code(),
            sentence: refusal.to_string(),
        })?;
        let adopted = runtime(Builder::new_current_thread())?
            .block_on(adopt(&plan, self.config_dir.as_deref()))
            .map_err(Failure::machine)?;
        let system = adopted.system.0;
        say(&format!(
            "{data} is ready: {}, system identifier {system}, timeline {}.\n",
            plan.installation, adopted.timeline.0
        ));
        let next = if loaded.config.adopt == Some(adopted.system) {
            "The configuration says so already: start the node with `node run`.\n".to_owned()
        } else {
            format!(
                "Say so in the configuration of every founding member, above the first section:\n\n\
                 adopt = \"{system}\"\n\nThen start the nodes with `node run`.\n"
            )
        };
        say(&next);
        Ok(())
    }
}
