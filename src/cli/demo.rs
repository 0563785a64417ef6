//! `node demo`, which is also what `node` alone does.

use std::time::Duration;

use clap::Args;

use crate::demo;

use super::Failure;

/// The arguments of `node demo`.
#[derive(Args, Default)]
pub(super) struct Demo {
    /// End after so many seconds of writing, count the rows, and fail where one is lost.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|why| Failure::machine(format!("no runtime: {why}")))?;
        let ended = runtime.block_on(demo::run(self.seconds.map(Duration::from_secs)));
        ended.map_err(Failure::machine)
    }
}
