//! `node demo`, which is also what `node` alone does.

use std::time::Duration;

use clap::Args;
use tokio::runtime::Builder;

use crate::control::Mode;
use crate::demo;

use super::{Failure, runtime};

/// The arguments of `node demo`.
#[derive(Args)]
pub(super) struct Demo {
    /// End after so many seconds of writing, count the rows, and fail where one is lost.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// When a commit is acknowledged: `quorum-sync` once no failover can lose it, `async` at once.
    #[arg(long, value_name = "MODE", default_value = "quorum-sync", value_parser = mode)]
    mode: Mode,
    /// End with one JSON object: what was acknowledged, what is lost, how long each outage was.
    #[arg(long, requires = "seconds")]
    json: bool,
}

impl Default for Demo {
    fn default() -> Self {
        Self { seconds: None, mode: Mode::QuorumSync, json: false }
    }
}

fn mode(word: &str) -> Result<Mode, String> {
    match word {
        "async" => Ok(Mode::Async),
        "quorum-sync" => Ok(Mode::QuorumSync),
        _ => Err("there are `quorum-sync` and `async`".into()),
    }
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = runtime(Builder::new_current_thread())?;
        let lasts = self.seconds.map(Duration::from_secs);
        let ended = runtime.block_on(demo::run(self.mode, lasts, self.json));
        ended.map_err(Failure::machine)
    }
}
