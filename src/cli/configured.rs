//! The arguments of every verb that needs the node's configuration.

use std::path::PathBuf;

use clap::Args;

use crate::config::{BadConfig, Loaded, Overrides, load};

/// The variable that names the file.
const FILE_VARIABLE: &str = "PG_REPLICA_CONFIG";

/// Where the configuration is, and what stands above it.
#[derive(Args, Clone, Debug)]
pub(super) struct Configured {
    /// The configuration [default: ./pg_replica.toml, then /etc/pg_replica/pg_replica.toml].
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Overrides a key, as in `--set postgres.data_dir=/elsewhere`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
}

impl Configured {
    /// Reads and checks the configuration with everything that stands above it.
    pub(super) fn load(&self) -> Result<Loaded, BadConfig> {
        let overrides = Overrides::new(std::env::vars_os(), &self.set)?;
        let variable = || std::env::var_os(FILE_VARIABLE).map(PathBuf::from);
        let file = self.config.clone().or_else(variable);
        load(file.as_deref(), &overrides)
    }
}
