//! `node run`: the node itself, as a service manager starts it.

use clap::Args;
use tokio::runtime::Builder;

use crate::service;

use super::configured::Configured;
use super::{Failure, runtime};

/// The arguments of `node run`.
#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    configured: Configured,
    /// End with whoever started it, as soon as the standard input does.
    #[arg(long, hide = true)]
    with_parent: bool,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let loaded = self.configured.load()?;
        service::install_log(loaded.config.log);
        let mut kind = Builder::new_multi_thread();
        kind.worker_threads(2);
        let runtime = runtime(kind)?;
        let ended = runtime.block_on(service::run(loaded, self.with_parent));
        // What still waits for a disk that hangs is not waited for.
        runtime.shutdown_background();
        ended.map_err(|why| Failure::machine(why.to_string()))
    }
}
