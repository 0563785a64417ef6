//! `node switchover`: hand primacy over, losing nothing.

use axum::http::Method;
use clap::Args as ClapArgs;
use serde_json::Map;

use crate::api::Status;

use super::remote::{Client, Common, Failure};
use super::terminal::confirm;

/// Hand primacy over.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// To whom; left out, the most advanced standby.
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// Asks, orders and says how it ended.
pub(super) async fn run(args: &Args, client: &Client) -> Result<(), Failure> {
    let status: Status = client.get("/status").await?;
    let Some(holder) = &status.holder else {
        return Err(Failure::Refused(
            "nobody holds primacy, so there is nothing to hand over; see `node status`".into(),
        ));
    };
    let to = args.to.as_deref().unwrap_or("the most advanced standby");
    let question = format!(
        "Hand primacy of {} over from {holder} to {to}? Clients are disconnected for a moment.",
        status.cluster
    );
    confirm(&question, args.yes)?;
    let mut body = Map::new();
    // Only from the one who was shown: whoever took over in between is left alone.
    body.insert("leader".into(), holder.clone().into());
    if let Some(to) = &args.to {
        body.insert("candidate".into(), to.clone().into());
    }
    let answer = client.order(Method::POST, "/switchover", body).await?;
    client.tell(&answer);
    Ok(())
}
