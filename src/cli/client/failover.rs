//! `node failover`: take primacy away from a primary that does not cooperate.

use axum::http::Method;
use clap::Args as ClapArgs;
use serde_json::Map;

use crate::api::Status;

use super::remote::{Client, Common, Failure};
use super::status::bytes;
use super::terminal::confirm;

/// Take primacy away.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Who is to be primary.
    #[arg(long, value_name = "NODE")]
    pub to: String,
    /// Accept that what only the former primary has is lost to the cluster. It is set aside.
    #[arg(long)]
    pub accept_data_loss: bool,
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
    confirm(&question(args, &status), args.yes)?;
    let mut body = Map::new();
    body.insert("candidate".into(), args.to.clone().into());
    body.insert("accept_data_loss".into(), args.accept_data_loss.into());
    let answer = client.order(Method::POST, "/failover", body).await?;
    client.tell(&answer);
    Ok(())
}

fn question(args: &Args, status: &Status) -> String {
    let from = match &status.holder {
        Some(holder) => format!("Take primacy of {} away from {holder}", status.cluster),
        None => format!("Nobody holds primacy of {}. Give it away", status.cluster),
    };
    let loss = if args.accept_data_loss {
        let target = status.members.iter().find(|member| member.node == args.to);
        let behind = target.and_then(|member| member.lag_bytes);
        let behind = behind.map_or_else(|| "by an unknown amount".into(), bytes);
        format!(
            " and ACCEPT THE LOSS of every commit that {} does not have? It is behind: {behind}.",
            args.to
        )
    } else {
        "? It is refused where an automatic failover would be, because too much would be lost."
            .into()
    };
    format!("{from} in favour of {}{loss}", args.to)
}
