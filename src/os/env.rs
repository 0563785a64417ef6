//! The parts of a real machine, put together.

use openraft_rt_tokio::TokioRuntime;

use crate::env::Env;

use super::guard::OsGuard;
use super::net::OsNetwork;
use super::postgres::OsPostgres;
use super::{IfAny, OsClock, OsDisk, OsEntropy};

/// A real machine.
#[derive(Clone, Debug)]
pub struct OsEnv {
    clock: OsClock,
    entropy: OsEntropy,
    network: OsNetwork,
    disk: OsDisk,
    postgres: IfAny<OsPostgres>,
    guard: IfAny<OsGuard>,
}

impl OsEnv {
    /// This machine, with these parts. A witness has neither a server nor a guard.
    #[must_use]
    pub fn new(
        network: OsNetwork,
        disk: OsDisk,
        postgres: Option<OsPostgres>,
        guard: Option<OsGuard>,
    ) -> Self {
        let (postgres, guard) = (IfAny(postgres), IfAny(guard));
        Self { clock: OsClock, entropy: OsEntropy, network, disk, postgres, guard }
    }
}

impl Env for OsEnv {
    type Rt = TokioRuntime;
    type Clock = OsClock;
    type Network = OsNetwork;
    type Disk = OsDisk;
    type Postgres = IfAny<OsPostgres>;
    type Guard = IfAny<OsGuard>;
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

    fn postgres(&self) -> &IfAny<OsPostgres> {
        &self.postgres
    }

    fn guard(&self) -> &IfAny<OsGuard> {
        &self.guard
    }

    fn entropy(&self) -> &OsEntropy {
        &self.entropy
    }
}
