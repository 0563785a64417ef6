//! `node status`: the members at a glance.

use std::time::Duration;

use clap::Args as ClapArgs;

use crate::api::{MemberStatus, Status};
use crate::control::Mode;
use crate::env::Clock;
use crate::os::OsClock;

use super::remote::{Client, Common, Failure};
use super::terminal::{clear, complain, say, say_json, table};

/// Show the members.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Show it again and again, every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    pub watch: Option<u64>,
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// Shows the members, once or until it is ended.
pub(super) async fn run(args: &Args, client: &Client) -> Result<(), Failure> {
    let Some(seconds) = args.watch else { return show(client).await };
    loop {
        clear();
        // A node that is down for a moment is what one watches for.
        if let Err(failure) = show(client).await {
            complain(&failure.to_string());
        }
        let span = Duration::from_secs(seconds.max(1));
        OsClock.sleep_until(OsClock.now() + span).await;
    }
}

async fn show(client: &Client) -> Result<(), Failure> {
    if client.json() {
        say_json(&client.page("/status").await?);
    } else {
        say(&text(&client.get("/status").await?));
    }
    Ok(())
}

/// The page for people, as a table.
#[must_use]
pub fn text(status: &Status) -> String {
    let heading =
        ["", "NODE", "ROLE", "STATE", "TL", "LSN", "LAG", "EPOCH", "LEASE", "WHY NOT PRIMARY"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(status.members.iter().map(row));
    let mut lines = vec![head(status), table(&rows)];
    lines.extend(remarks(status));
    lines.join("\n")
}

fn head(status: &Status) -> String {
    let holder = match (&status.holder, status.epoch) {
        (Some(holder), epoch) => format!("{holder} holds e{epoch}"),
        (None, 0) => "no primacy was given yet".into(),
        (None, epoch) => format!("nobody holds primacy, e{epoch} has ended"),
    };
    let mode = match status.mode {
        Mode::Async => "async".to_owned(),
        Mode::QuorumSync => format!("quorum-sync, {}", status.synchronous),
    };
    let leader = match &status.leader {
        Some(leader) => format!("{leader} leads t{}", status.term),
        None => "no consensus leader is known".into(),
    };
    format!("cluster {}: {holder}; {mode}; {leader}; seen from {}", status.cluster, status.node)
}

fn row(member: &MemberStatus) -> Vec<String> {
    let dash = || "-".to_owned();
    let lag = member.lag_bytes.map_or_else(dash, bytes);
    let lease = match (member.lease_left_ms, member.leased) {
        (Some(left), _) => format!("{}.{} s", left / 1_000, left % 1_000 / 100),
        (None, true) => "held".into(),
        (None, false) => dash(),
    };
    vec![
        if member.primary { "*".into() } else { String::new() },
        member.node.clone(),
        member.role.clone(),
        member.state.clone(),
        member.timeline.map_or_else(dash, |timeline| timeline.to_string()),
        member.lsn.clone().unwrap_or_else(dash),
        lag,
        member.epoch.map_or_else(dash, |epoch| format!("e{epoch}")),
        lease,
        why_not(member),
    ]
}

/// The first reason; `explain` tells them all.
fn why_not(member: &MemberStatus) -> String {
    let first = member.obstacles.first().cloned();
    let waits = member.waits_for.first().map(|what| format!("waits for {what}"));
    let more = (member.obstacles.len() + member.waits_for.len()).saturating_sub(1);
    let suffix = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    match first.or(waits) {
        Some(reason) => format!("{reason}{suffix}"),
        None if member.primary => String::new(),
        None => "ready to take over".into(),
    }
}

/// What a table has no column for.
fn remarks(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if let (None, Some(why)) = (&status.holder, &status.vacated) {
        lines.push(format!("the last primacy ended: {why}"));
    }
    if let Some(obstacle) = &status.obstacle {
        lines.push(format!("nobody is elected: {obstacle}"));
    }
    if let Some(handover) = &status.handover {
        lines.push(format!("under way: {handover}"));
    }
    if status.paused {
        lines.push("paused: there is no automatic failover".into());
    }
    if let Some(trouble) = &status.trouble {
        lines.push(format!("{}: {trouble}", status.node));
    }
    if let Some(doing) = &status.doing {
        lines.push(format!("{} is at: {doing}", status.node));
    }
    if let Some(why) = &status.blind {
        lines.push(format!("the leader cannot be asked, so news of others may be old: {why}"));
    }
    lines
}

/// Bytes, in a unit that a person reads.
pub(super) fn bytes(bytes: u64) -> String {
    for (unit, size) in [("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)] {
        if bytes >= size {
            return format!("{}.{} {unit}", bytes / size, bytes % size * 10 / size);
        }
    }
    format!("{bytes} B")
}
