//! `node pause` and `node resume`: automatic failover off and on.

use axum::http::Method;
use clap::Args as ClapArgs;
use serde_json::Map;

use super::remote::{Client, Common, Failure};
use super::terminal::{say, say_json};

/// Switch automatic failover off or on.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// Orders it.
pub(super) async fn run(_args: &Args, pause: bool, client: &Client) -> Result<(), Failure> {
    let mut body = Map::new();
    body.insert("pause".into(), pause.into());
    let answer = client.order(Method::PATCH, "/config", body).await?;
    if client.json() {
        say_json(&answer);
    } else if pause {
        say("paused: there is no automatic failover until `node resume`");
    } else {
        say("resumed: failover is automatic again");
    }
    Ok(())
}
