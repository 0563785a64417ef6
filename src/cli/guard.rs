//! `node guard`: the process that ends Postgres when nobody else does. `os::guard` is what it runs.

use std::path::PathBuf;

use clap::Args;

use crate::os::guard::{GuardPlan, serve};

use super::Failure;

/// The arguments of `node guard`.
#[derive(Args)]
pub(super) struct Guard {
    /// The socket at which its node speaks to it.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The data directory of the Postgres that it ends.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The kernel's watchdog.
    #[arg(long, value_name = "DEVICE")]
    watchdog: Option<PathBuf>,
    /// End Postgres, and itself, when the node is gone.
    #[arg(long)]
    with_manager: bool,
}

impl Guard {
    pub(super) fn run(self) -> Result<(), Failure> {
        let plan = GuardPlan {
            socket: self.socket,
            data: self.data,
            watchdog: self.watchdog,
            with_manager: self.with_manager,
        };
        serve(plan).map_err(|error| Failure::machine(format!("guard: {error}")))
    }
}
