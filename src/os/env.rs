//! The parts of a real machine, put together.

use openraft_rt_tokio::TokioRuntime;

use crate::env::Env;

use super::guard::OsGuard;
use super::net::OsNetwork;
use super::postgres::OsPostgres;
use super::{OsClock, OsDisk, OsEntropy};

/// A real machine.
#[derive(Clone, Debug)]
pub struct OsEnv {
    clock: OsClock,
    entropy: OsEntropy,
    network: OsNetwork,
    disk: OsDisk,
    postgres: OsPostgres,
    guard: OsGuard,
}

impl OsEnv {
    /// This machine, with these parts.
    #[must_use]
    pub fn new(network: OsNetwork, disk: OsDisk, postgres: OsPostgres, guard: OsGuard) -> Self {
        Self { clock: OsClock, entropy: OsEntropy, network, disk, postgres, guard }
    }
}

impl Env for OsEnv {
    type Rt = TokioRuntime;
    type Clock = OsClock;
    type Network = OsNetwork;
    type Disk = OsDisk;
    type Postgres = OsPostgres;
    type Guard = OsGuard;
    type Entropy = OsEntropy;

    fn clock(&self) -> &OsClock {
        &self.clock
    }

    fn network(&self) -> &OsNetwork {
        &self.network
    }

    fn disk(&self) -> &OsDisk {
        &self.disk
    }

    fn postgres(&self) -> &OsPostgres {
        &self.postgres
    }

    fn guard(&self) -> &OsGuard {
        &self.guard
    }

    fn entropy(&self) -> &OsEntropy {
        &self.entropy
    }
}
