//! `node members`: who belongs to the cluster.

use axum::http::Method;
use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Map, Value};

use crate::api::Status;

use super::remote::{Client, Common, Failure};
use super::terminal::{confirm, say, say_json, table};

/// Show, admit, tag or remove members.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// What to do with the members.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Show them with their addresses and tags.
    List,
    /// Admit a machine whose node runs already, under a number that was never used.
    Add {
        /// Its name, such as n4.
        node: String,
        /// Where its node listens.
        #[arg(long, value_name = "HOST:PORT")]
        address: String,
        /// Where its Postgres listens. Not needed for a witness.
        #[arg(long, value_name = "HOST:PORT", required_unless_present = "witness")]
        postgres: Option<String>,
        /// It votes and keeps no data.
        #[arg(long)]
        witness: bool,
        /// Among equally advanced candidates the highest wins.
        #[arg(long)]
        priority: Option<u32>,
        /// Never fail over to it.
        #[arg(long)]
        no_failover: bool,
    },
    /// Change a member's tags.
    Tag {
        /// Its name.
        node: String,
        /// Among equally advanced candidates the highest wins.
        #[arg(long)]
        priority: Option<u32>,
        /// Whether failover passes it over.
        #[arg(long)]
        no_failover: Option<bool>,
    },
    /// Remove a member for ever: its number never comes back. The primary has to hand over first,
    /// and while nobody is primary nobody that holds data can go.
    Remove {
        /// Its name.
        node: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// Does it.
pub(super) async fn run(args: &Args, client: &Client) -> Result<(), Failure> {
    let answer = match &args.what {
        What::List => return list(client).await,
        What::Add { node, address, postgres, witness, priority, no_failover } => {
            let mut body = Map::new();
            body.insert("node".into(), node.clone().into());
            body.insert("address".into(), address.clone().into());
            body.insert("witness".into(), (*witness).into());
            body.insert("no_failover".into(), (*no_failover).into());
            insert(&mut body, "postgres", postgres.clone());
            insert(&mut body, "priority", *priority);
            client.order(Method::POST, "/members", body).await?
        }
        What::Tag { node, priority, no_failover } => {
            let mut body = Map::new();
            insert(&mut body, "priority", *priority);
            insert(&mut body, "no_failover", *no_failover);
            if body.is_empty() {
                return Err(Failure::Usage("name a tag: --priority or --no-failover".into()));
            }
            client.order(Method::PATCH, &path_of(node)?, body).await?
        }
        What::Remove { node, yes } => {
            let path = path_of(node)?;
            let question = format!(
                "Remove {node} from the cluster for ever? Its data stay where they are, and its \
                 number never comes back."
            );
            confirm(&question, *yes)?;
            client.order(Method::DELETE, &path, Map::new()).await?
        }
    };
    client.tell(&answer);
    Ok(())
}

fn insert(body: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(key.to_owned(), value.into());
    }
}

fn path_of(node: &str) -> Result<String, Failure> {
    if node.is_empty() || !node.chars().all(|letter| letter.is_ascii_alphanumeric()) {
        return Err(Failure::Usage(format!("{node:?} is no member's name, such as n2")));
    }
    Ok(format!("/members/{node}"))
}

async fn list(client: &Client) -> Result<(), Failure> {
    if client.json() {
        let mut status = client.page("/status").await?;
        say_json(&status["members"].take());
    } else {
        say(&text(&client.get("/status").await?));
    }
    Ok(())
}

pub(super) fn text(status: &Status) -> String {
    let heading = ["NODE", "ROLE", "ADDRESS", "POSTGRES", "PRIORITY", "FAILOVER", "VOTES"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for member in &status.members {
        let votes = status.voters.contains(&member.node);
        rows.push(vec![
            member.node.clone(),
            member.role.clone(),
            member.address.clone(),
            if member.postgres.is_empty() { "-".into() } else { member.postgres.clone() },
            member.priority.to_string(),
            if member.no_failover { "never".into() } else { "yes".into() },
            if votes { "yes".into() } else { "no".into() },
        ]);
    }
    table(&rows)
}
