//! `node demo`, which is also what `node` alone does.

use std::time::Duration;

use clap::Args;
use tokio::runtime::Builder;

use crate::control::Mode;
use crate::demo;

use super::{Failure, runtime};

/// Enough to see an outage, and few enough to read the screen meanwhile.
const WRITERS: u32 = 4;

/// The arguments of `node demo`.
#[derive(Args)]
pub(super) struct Demo {
    /// End after so many seconds of writing, count the rows, and fail where one is lost.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// When a commit is acknowledged: `quorum-sync` once no failover can lose it, `async` at once.
    #[arg(long, value_name = "MODE", default_value = "quorum-sync", value_parser = mode)]
    mode: Mode,
    /// How many clients write all the time.
    #[arg(long, value_name = "N", default_value_t = WRITERS)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=64))]
    writers: u32,
    /// End with one JSON object: what was acknowledged, what is lost, how long each outage was.
    #[arg(long, requires = "seconds")]
    json: bool,
}

impl Default for Demo {
    fn default() -> Self {
        Self { seconds: None, mode: Mode::QuorumSync, writers: WRITERS, json: false }
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
        let Self { mode, writers, json, seconds } = self;
        let lasts = seconds.map(Duration::from_secs);
        let ended = runtime.block_on(demo::run(demo::Show { mode, writers, lasts, json }));
        ended.map_err(Failure::machine)
    }
}
