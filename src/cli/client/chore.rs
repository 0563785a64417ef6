//! `node restart`, `node reload`, `node reinit`: what one member does to its own Postgres.

use clap::Args as ClapArgs;
use serde_json::Map;

use crate::ha::Chore;

use super::remote::{Client, Common, Failure};
use super::terminal::confirm;

/// One member's Postgres.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The member, such as n2.
    pub node: String,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// Asks, and passes it on to the member.
pub(super) async fn run(args: &Args, chore: Chore, client: &Client) -> Result<(), Failure> {
    let node = &args.node;
    let (path, question) = match chore {
        Chore::Restart => (
            "/restart",
            Some(format!("Restart the Postgres of {node}? Its clients are disconnected.")),
        ),
        Chore::Reload => ("/reload", None),
        Chore::Reinitialise => (
            "/reinitialize",
            Some(format!(
                "Copy {node} anew from the primary? Its present data directory is set aside, and \
                 it cannot take over until the copy is whole."
            )),
        ),
    };
    if let Some(question) = question {
        confirm(&question, args.yes)?;
    }
    let mut body = Map::new();
    body.insert("node".into(), node.clone().into());
    let answer = client.chore(path, body).await?;
    client.tell(&answer);
    Ok(())
}
