//! `node version`: which one this is, and what it can talk to.

use clap::Args;

use crate::control::FORMAT;
use crate::os::net::PROTOCOL;

use super::{Failure, say};

/// `node version` takes no arguments.
#[derive(Args)]
pub(super) struct Version {}

impl Version {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self {} = self;
        let version = env!("CARGO_PKG_VERSION");
        say(&format!(
            "pg_replica {version}\ncontrol state format {FORMAT}\npeer protocol {PROTOCOL}\n"
        ));
        Ok(())
    }
}
