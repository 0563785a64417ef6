//! `node explain`: why is a member not promotable, and what does it wait for?

use clap::Args as ClapArgs;
use serde_json::json;

use crate::api::{MemberStatus, Status};

use super::remote::{Client, Common, Failure};
use super::terminal::{say, say_json};

/// Explain a member.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Its name, such as n2.
    pub node: String,
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// Explains it.
pub(super) async fn run(args: &Args, client: &Client) -> Result<(), Failure> {
    let status: Status = client.get("/status").await?;
    let named = |member: &&MemberStatus| {
        member.node == args.node || member.node.strip_prefix('n') == Some(&args.node)
    };
    let Some(member) = status.members.iter().find(named) else {
        let names: Vec<&str> = status.members.iter().map(|m| m.node.as_str()).collect();
        return Err(Failure::Usage(format!(
            "{} is no member of {}; there are {}",
            args.node,
            status.cluster,
            names.join(", ")
        )));
    };
    if client.json() {
        say_json(&json!({ "member": member, "obstacle": status.obstacle, "blind": status.blind }));
    } else {
        say(&text(&status, member));
    }
    Ok(())
}

/// The explanation in sentences.
pub(super) fn text(status: &Status, member: &MemberStatus) -> String {
    let name = &member.node;
    let mut lines = vec![format!("{name}: {}, its Postgres is {}.", member.role, member.state)];
    if let (Some(timeline), Some(epoch), Some(lsn)) = (member.timeline, member.epoch, &member.lsn) {
        lines.push(format!("Its log ends at {lsn} on timeline {timeline}, born in e{epoch}."));
    }
    if let Some(age) = member.heard_ms {
        lines.push(format!("It was last heard {age} ms ago."));
    }
    if member.primary {
        lines.push(format!("It is the primary of e{}.", status.epoch));
    } else if member.obstacles.is_empty() {
        lines.push("Should the primary fail now, it could be chosen.".into());
    } else {
        lines.push("Should the primary fail now, it could not be chosen:".into());
    }
    lines.extend(member.obstacles.iter().map(|obstacle| format!("  - {obstacle}")));
    if !member.waits_for.is_empty() {
        lines.push("It waits for:".into());
        lines.extend(member.waits_for.iter().map(|what| format!("  - {what}")));
    }
    if let Some(doing) = status.doing.as_ref().filter(|_| *name == status.node) {
        lines.push(format!("It is at: {doing}."));
    }
    if let Some(why) = &status.blind {
        lines.push(format!("{} cannot ask the leader, so this may be old: {why}.", status.node));
    }
    lines.join("\n")
}
