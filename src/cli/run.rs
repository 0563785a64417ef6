//! `node run`: the node itself, as a service manager starts it.

use clap::Args;

use crate::service;

use super::Failure;
use super::configured::Configured;

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
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|why| Failure::machine(format!("no runtime: {why}")))?;
        let ended = runtime.block_on(service::run(loaded, self.with_parent));
        // What still waits for a disk that hangs is not waited for.
        runtime.shutdown_background();
        ended.map_err(|why| Failure::machine(why.to_string()))
    }
}
