//! The verbs that talk to a running cluster, through the API of any node.
//!
//! A verb reads, asks where it has to, and prints: tables for people, JSON for programs. It knows
//! nothing of how a decision is reached; what it shows was explained by the node.

mod chore;
mod config;
mod explain;
mod failover;
mod history;
mod members;
mod pause;
mod remote;
mod status;
mod switchover;
mod terminal;
#[cfg(test)]
mod tests;

use clap::Subcommand;

use crate::ha::Chore;

pub use remote::{Client, Common, Failure};
pub use status::text as status_table;
pub(super) use terminal::confirm;

/// The verbs. Each holds its own arguments, and the ones that all share.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show the members: role, state, timeline, position, lag, epoch, lease.
    Status(status::Args),
    /// Show what happened to the cluster, oldest first.
    History(history::Args),
    /// Hand primacy over to a standby, losing nothing.
    Switchover(switchover::Args),
    /// Take primacy away from a primary that does not cooperate, and give it to another member.
    Failover(failover::Args),
    /// Switch automatic failover off. Leases are enforced as ever.
    Pause(pause::Args),
    /// Switch automatic failover on again.
    Resume(pause::Args),
    /// Restart the Postgres of a member, so that parameters take effect that wait for it.
    Restart(chore::Args),
    /// Have the Postgres of a member read its files again.
    Reload(chore::Args),
    /// Copy a standby anew from the primary.
    Reinit(chore::Args),
    /// Show or change the settings of the whole cluster.
    Config(config::Args),
    /// Show, admit or remove members.
    Members(members::Args),
    /// Say why a member is not promotable, and what it waits for.
    Explain(explain::Args),
}

/// Carries a verb out.
pub async fn run(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Status(args) => status::run(&args, &Client::new(&args.common)).await,
        Verb::History(args) => history::run(&args, &Client::new(&args.common)).await,
        Verb::Switchover(args) => switchover::run(&args, &Client::new(&args.common)).await,
        Verb::Failover(args) => failover::run(&args, &Client::new(&args.common)).await,
        Verb::Pause(args) => pause::run(&args, true, &Client::new(&args.common)).await,
        Verb::Resume(args) => pause::run(&args, false, &Client::new(&args.common)).await,
        Verb::Restart(args) => chore::run(&args, Chore::Restart, &Client::new(&args.common)).await,
        Verb::Reload(args) => chore::run(&args, Chore::Reload, &Client::new(&args.common)).await,
        Verb::Reinit(args) => {
            chore::run(&args, Chore::Reinitialise, &Client::new(&args.common)).await
        }
        Verb::Config(args) => config::run(&args, &Client::new(&args.common)).await,
        Verb::Members(args) => members::run(&args, &Client::new(&args.common)).await,
        Verb::Explain(args) => explain::run(&args, &Client::new(&args.common)).await,
    }
}
