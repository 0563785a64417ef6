//! `node check`: whether the configuration is in order, and what it means.

use std::fmt::Write;

use clap::Args;

use crate::config::{Config, Loaded};
use crate::control::{MemberKind, Mode};

use super::configured::Configured;
use super::{Failure, say};

/// The arguments of `node check`.
#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    configured: Configured,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let loaded = self.configured.load()?;
        say(&understood(&loaded));
        Ok(())
    }
}

/// What was understood, for a person who compares it with what was meant.
fn understood(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut text = format!("{} is in order.\n", loaded.file.display());
    let mut line = |what: &str, says: String| {
        let _ = writeln!(text, "  {what:<14} {says}");
    };
    line("cluster", cluster(config));
    line("this member", format!("n{}, {}", config.node.0, kind(config.me().kind)));
    line("state", config.state_dir.display().to_string());
    line("peers", format!("called at {}, listening at {}", config.me().peers, config.peers_listen));
    line("HTTP", api(config));
    line("certificates", config.tls.as_ref().map_or("none".into(), ToString::to_string));
    if let Some(postgres) = &config.postgres {
        line("Postgres", format!("{} at {}", postgres.data_dir.display(), postgres.address));
        line("", programs(loaded));
        for (name, value) in &postgres.parameters {
            line("", format!("{name} = {value}"));
        }
    }
    line("settings", settings(config));
    if let Some(device) = &config.watchdog {
        line("watchdog", device.display().to_string());
    }
    for command in &config.hooks.on_role_change {
        line("on role change", command.clone());
    }
    for (key, place) in config.overridden() {
        line("overridden", format!("{key}, by {place}"));
    }
    for warning in config.warnings() {
        let _ = writeln!(text, "note: {warning}");
    }
    text
}

fn cluster(config: &Config) -> String {
    if config.join {
        return format!("{}, which this node joins", config.cluster);
    }
    let members = config.members.iter().map(|(node, member)| match member.kind {
        MemberKind::Data => format!("n{} at {}", node.0, member.peers),
        MemberKind::Witness => format!("n{} at {} (witness)", node.0, member.peers),
    });
    let members: Vec<String> = members.collect();
    let on = config.adopt.map(|system| format!(" on the database {}", system.0));
    format!("{}, founded by {}{}", config.cluster, members.join(", "), on.unwrap_or_default())
}

fn kind(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Data => "which keeps data",
        MemberKind::Witness => "a witness, which keeps none",
    }
}

fn api(config: &Config) -> String {
    let changes = match (&config.tls, &config.api.token_file) {
        (None, None) => "changes from this machine only",
        (None, Some(_)) => "changes with the token",
        (Some(_), None) => "changes with a certificate of the cluster",
        (Some(_), Some(_)) => "changes with a certificate of the cluster or the token",
    };
    format!("listening at {}, {changes}", config.api.listen)
}

/// The configuration may be meant for another machine than the one on which it is checked.
fn programs(loaded: &Loaded) -> String {
    match loaded.postgres_plan() {
        Ok(Some(plan)) => {
            let postgres = plan.installation.program("postgres");
            format!("PostgreSQL {}, {}", plan.installation.major(), postgres.display())
        }
        Ok(None) => "not needed".into(),
        Err(bad) => format!("not to be run on this machine: {}", bad.what),
    }
}

fn settings(config: &Config) -> String {
    let mode = match config.settings.mode {
        Mode::Async => format!("async, losing at most {} bytes", config.settings.max_lag_bytes),
        Mode::QuorumSync => "quorum-sync".into(),
    };
    format!("{mode}; a lease of {} ms", config.settings.timing.lease_ms)
}
