//! Speaking to the server: one connection over its private socket, and a deadline on every word.

use std::fs;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};

use crate::env::{OBSERVE_WITHIN, PostgresError};

use super::plan::{KEEPER, PostgresPlan, STREAMER};
use super::settings::host_and_port;

/// A server that does not answer a question of the node within this time hangs.
pub(super) const ANSWER_DEADLINE: Duration = OBSERVE_WITHIN;

/// The same for another member's server. Long enough for a first packet that is lost twice: TCP
/// sends it again after one second, and after two more.
pub(super) const REMOTE_DEADLINE: Duration = Duration::from_secs(4);

/// How long the kernel waits for the other side to take what was sent.
const TCP_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Nobody listens.
    NoServer,
    /// It says that it is starting up, or in recovery and not yet consistent.
    Starting,
    /// It says that it is shutting down.
    Stopping,
    /// It did not answer in time.
    Silent,
    /// It answered with an error.
    Refused(String),
}

impl NoAnswer {
    fn of(error: &tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            return Self::Refused(error.to_string());
        };
        if *refusal.code() != SqlState::CANNOT_CONNECT_NOW
            && *refusal.code() != SqlState::ADMIN_SHUTDOWN
        {
            return Self::Refused(refusal.message().to_owned());
        }
        let stops = refusal.message().contains("shut");
        if stops { Self::Stopping } else { Self::Starting }
    }
}

impl From<NoAnswer> for PostgresError {
    fn from(why: NoAnswer) -> Self {
        match why {
            NoAnswer::NoServer => Self::Transient("no server listens".into()),
            NoAnswer::Starting => Self::Transient("the server is starting up".into()),
            NoAnswer::Stopping => Self::Transient("the server is shutting down".into()),
            NoAnswer::Silent => Self::Unknown("the server does not answer".into()),
            NoAnswer::Refused(why) => Self::Transient(why),
        }
    }
}

/// Asks with a deadline.
pub(super) async fn ask<T>(
    question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    deadline: Duration,
) -> Result<T, NoAnswer> {
    match timeout(deadline, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(NoAnswer::of(&error)),
        Err(_) => Err(NoAnswer::Silent),
    }
}

/// The node has limits of its own. Those that somebody set for everybody would break off what it
/// has begun, a promotion among others.
const UNHURRIED: &str =
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0";

/// Connects to this machine's server, as the node.
pub(super) async fn connect(plan: &PostgresPlan) -> Result<Client, NoAnswer> {
    let socket = plan.socket_folder().join(format!(".s.PGSQL.{}", plan.port));
    if !socket.exists() {
        return Err(NoAnswer::NoServer);
    }
    let mut config = Config::new();
    config
        .host_path(plan.socket_folder())
        .port(plan.port)
        .user(KEEPER)
        .password(&plan.secret)
        .dbname("postgres")
        .options(UNHURRIED)
        .application_name("pg_replica node");
    open(&config, NoTls, ANSWER_DEADLINE).await
}

/// Connects to another member's server, as a member.
pub(super) async fn connect_to(plan: &PostgresPlan, address: &str) -> Result<Client, NoAnswer> {
    let at = host_and_port(address)
        .ok_or_else(|| NoAnswer::Refused(format!("`{address}` is no host:port")))?;
    connect_at(plan, at).await
}

/// The same, by host and port.
pub(super) async fn connect_at(
    plan: &PostgresPlan,
    (host, port): (&str, u16),
) -> Result<Client, NoAnswer> {
    let mut config = Config::new();
    config.host(host).port(port).tcp_user_timeout(TCP_PATIENCE);
    config.user(STREAMER).password(&plan.secret).dbname("postgres").options(UNHURRIED);
    config.application_name(format!("pg_replica {}", plan.node));
    match &plan.tls {
        None => open(&config, NoTls, REMOTE_DEADLINE).await,
        Some(tls) => {
            config.ssl_mode(SslMode::Require);
            open(&config, tls.way(), REMOTE_DEADLINE).await
        }
    }
}

async fn open<T>(config: &Config, tls: T, deadline: Duration) -> Result<Client, NoAnswer>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let connecting = config.connect(tls);
    let (client, connection) = match timeout(deadline, connecting).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            let refused = std::error::Error::source(&error)
                .and_then(|cause| cause.downcast_ref::<io::Error>())
                .is_some_and(|cause| {
                    matches!(
                        cause.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                    )
                });
            return Err(if refused { NoAnswer::NoServer } else { NoAnswer::of(&error) });
        }
        Err(_) => return Err(NoAnswer::Silent),
    };
    drop(tokio::spawn(async move {
        // Its end shows in the next question.
        let _ = connection.await;
    }));
    Ok(client)
}

/// The password of the members, from the file that holds it.
pub fn read_secret(file: &std::path::Path) -> io::Result<String> {
    let text = fs::read_to_string(file)?;
    let secret = text.trim();
    let fits = (16..=128).contains(&secret.len())
        && secret.chars().all(|letter| letter.is_ascii_alphanumeric());
    if !fits {
        return Err(io::Error::other(
            "it holds no secret: 16 to 128 letters and digits in one line are one",
        ));
    }
    Ok(secret.to_owned())
}
