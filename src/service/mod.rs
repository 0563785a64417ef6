//! A node put together: what the configuration says, on this machine, until somebody ends it.
//!
//! Nothing is decided here. The parts come from `os`, the loop from `runtime`, what people see from
//! `api`; `log` writes what the status board calls out, and `ending` is what a signal begins.
#![allow(clippy::disallowed_methods, reason = "it runs on the machine's own time and tasks")]

mod ending;
mod log;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, lookup_host};

use crate::api::{self, Access, Operator, StatusBoard, Vet};
use crate::config::{Address, BadConfig, Config, Loaded, RaftPace};
use crate::env::Clock;
use crate::os::guard::OsGuard;
use crate::os::hooks::{self, Hook};
use crate::os::net::{Certificates, OsNetwork};
use crate::os::postgres::OsPostgres;
use crate::os::sockets::Tcp;
use crate::os::{OsClock, OsDisk, OsEntropy, OsEnv, http};
use crate::runtime::{self, RunError};

pub use log::install as install_log;

use ending::{Signals, end_server, hand_over};

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The configuration asks for what this machine has not.
    #[error("{0}")]
    Config(#[from] BadConfig),
    /// A port cannot be had.
    #[error("cannot listen at {at} {whom}: {cause}")]
    Listen {
        /// Where.
        at: Address,
        /// To whom.
        whom: &'static str,
        /// Why not.
        cause: io::Error,
    },
    /// A folder cannot be had.
    #[error("cannot use {}: {cause}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The node could not go on.
    #[error("{0}")]
    Node(#[from] RunError),
    /// The server could not be ended.
    #[error("{0}")]
    Server(String),
}

/// Runs the node until a signal ends it, and its server with it.
///
/// With `with_parent` it lives no longer than its standard input is open, nor does its guard.
pub async fn run(loaded: Loaded, with_parent: bool) -> Result<(), ServiceError> {
    let mut signals =
        Signals::listen(with_parent).map_err(|cause| ServiceError::Server(cause.to_string()))?;
    let config = &loaded.config;
    let postgres = match loaded.postgres_plan()? {
        Some(plan) => Some(OsPostgres::new(plan).map_err(folder(config.home_dir()))?),
        None => None,
    };
    let disk = OsDisk::new(&config.store_dir()).map_err(folder(config.store_dir()))?;
    let guard = match config.guard_plan() {
        Some(mut plan) => {
            plan.with_manager = with_parent;
            let program =
                std::env::current_exe().map_err(folder(PathBuf::from("/proc/self/exe")))?;
            Some(OsGuard::new(&program, plan))
        }
        None => None,
    };
    let peers = resolve(&config.peers_listen, "to the other members").await?;
    let network = OsNetwork::bind(config.identity(), peers, loaded.certificates.clone())
        .await
        .map_err(deaf(&config.peers_listen, "to the other members"))?;
    let pages = resolve(&config.api.listen, "for the HTTP interface").await?;
    let pages = TcpListener::bind(pages)
        .await
        .map_err(deaf(&config.api.listen, "for the HTTP interface"))?;

    let board = Arc::new(StatusBoard::new(config.node, &*config.cluster, OsClock.now()));
    let desk = Operator::new(board.clone(), network.clone(), OsClock, OsEntropy);
    let desk = Arc::new(desk.trying(vet(postgres.clone(), config.raft)));
    let router = api::router(board.clone(), desk.clone(), access(&loaded));
    let tls = loaded.certificates.as_ref().map(Certificates::for_anybody);
    let serving = tokio::spawn(http::serve::<Tcp>(pages, router, tls));
    let calling = tokio::spawn(hooks::run(board.role_changes(), hooks(config)));

    announce(config);
    let env = OsEnv::new(network, disk, postgres.clone(), guard.clone());
    let node = runtime::run(env, config.node_config(), board.clone());
    until_asked(node, &mut signals, hand_over(&board, &*desk)).await?;
    serving.abort();
    calling.abort();
    if let Some(postgres) = postgres {
        postgres.retire();
        let limit = Duration::from_millis(board.snapshot().control.settings.timing.stop_ms);
        end_server(&postgres, limit).await.map_err(ServiceError::Server)?;
    }
    if let Some(guard) = guard {
        guard.retire().await;
    }
    tracing::info!(node = %config.node, "ended");
    Ok(())
}

/// The node's life. It goes on while it hands over; another signal means that there is no time
/// for that.
async fn until_asked(
    node: impl Future<Output = Result<(), RunError>>,
    signals: &mut Signals,
    handing_over: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let mut node = std::pin::pin!(node);
    tokio::select! {
        ended = &mut node => return ended,
        () = signals.next() => {}
    }
    tokio::select! {
        _ = &mut node => {}
        () = handing_over => {}
        () = signals.next() => {}
    }
    Ok(())
}

fn announce(config: &Config) {
    let me = config.me();
    match &me.postgres {
        Some(postgres) => tracing::info!(
            node = %config.node,
            "member of {}: peers at {}, HTTP at {}, Postgres at {postgres}",
            config.cluster, config.peers_listen, config.api.listen
        ),
        None => tracing::info!(
            node = %config.node,
            "witness of {}: peers at {}, HTTP at {}",
            config.cluster, config.peers_listen, config.api.listen
        ),
    }
    if config.tls.is_none() {
        let where_to = if config.allow_cleartext { "everywhere" } else { "on loopback only" };
        tracing::warn!(
            node = %config.node,
            "no certificates are configured: members speak in clear, {where_to}"
        );
    }
}

/// A witness has no server to try parameters on.
fn vet(postgres: Option<OsPostgres>, pace: RaftPace) -> Vet {
    Arc::new(move |change| {
        let postgres = postgres.clone();
        Box::pin(async move {
            if let Some(timing) = &change.timing {
                pace.check_lease(timing.lease_ms)?;
            }
            let given = change.parameters.into_iter();
            let given = given.filter_map(|(name, value)| Some((name, value?))).collect();
            match postgres {
                Some(postgres) => postgres.vet(&given).await,
                None => Ok(()),
            }
        })
    })
}

fn access(loaded: &Loaded) -> Access {
    let token = loaded.token.clone();
    let token = token.map(|token| Arc::new(move |shown: &str| token.is(shown)) as _);
    Access { token, certificates: loaded.certificates.is_some() }
}

fn hooks(config: &Config) -> Vec<Hook> {
    let limit = Duration::from_millis(config.hooks.time_limit_ms);
    config.hooks.on_role_change.iter().map(|line| Hook::shell(line, limit)).collect()
}

fn folder(folder: PathBuf) -> impl FnOnce(io::Error) -> ServiceError {
    move |cause| ServiceError::Folder { folder, cause }
}

fn deaf(at: &Address, whom: &'static str) -> impl FnOnce(io::Error) -> ServiceError {
    let at = at.clone();
    move |cause| ServiceError::Listen { at, whom, cause }
}

async fn resolve(address: &Address, whom: &'static str) -> Result<SocketAddr, ServiceError> {
    let mut found =
        lookup_host((address.host(), address.port())).await.map_err(deaf(address, whom))?;
    let none = || deaf(address, whom)(io::Error::other("the name has no address"));
    found.next().ok_or_else(none)
}
