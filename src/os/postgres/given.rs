//! The cluster's parameters: kept beside the data directory, and tried before they are believed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use futures_util::future::join_all;

use crate::env::PostgresError;

use super::births::write_whole;
use super::plan::PostgresPlan;
use super::tools::run;

/// What the server was given, and what of it waits for a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) pending: Vec<String>,
}

fn file(plan: &PostgresPlan) -> PathBuf {
    plan.home.join("parameters.json")
}

/// What it was given last; before that, what this machine's configuration begins with.
pub(super) fn kept(plan: &PostgresPlan) -> io::Result<BTreeMap<String, String>> {
    match fs::read(file(plan)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(plan.parameters.clone()),
        Err(error) => Err(error),
    }
}

/// Keeps them, durably.
pub(super) fn keep(plan: &PostgresPlan, parameters: &BTreeMap<String, String>) -> io::Result<()> {
    write_whole(&file(plan), &serde_json::to_vec_pretty(parameters).map_err(io::Error::other)?)
}

/// Whether the server takes them: it is asked what it would make of its configuration, and starts
/// nothing. Whether they fit together, or into the machine, only a start would tell.
pub(super) async fn vet(
    plan: &PostgresPlan,
    parameters: &BTreeMap<String, String>,
) -> Result<(), PostgresError> {
    if parameters.is_empty() || !plan.data.join("PG_VERSION").exists() {
        return Ok(());
    }
    let mut command = plan.command("postgres");
    command.arg("-D").arg(&plan.data).args(["-C", "cluster_name"]);
    for (name, value) in parameters {
        command.args(["-c", &format!("{name}={value}")]);
    }
    match run(command).await {
        Ok(_) => Ok(()),
        Err(why) => Err(PostgresError::Permanent(why.to_string())),
    }
}

/// What a standby may not have less of than the primary had whose log it replays: what the control
/// file calls it, and the parameter.
const NOT_LESS: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

/// The parameters of which a standby is given too little, and what it needs to start: they were
/// lowered, and no primary has been restarted with them since.
pub(super) async fn too_low(plan: &PostgresPlan) -> Result<Vec<(String, u64)>, PostgresError> {
    let mut command = plan.command("pg_controldata");
    command.arg("-D").arg(&plan.data);
    let said = run(command).await?;
    let configured = NOT_LESS.map(|(_, name)| {
        let mut command = plan.command("postgres");
        command.arg("-D").arg(&plan.data).args(["-C", name]);
        run(command)
    });
    let mut low = Vec::new();
    for ((key, name), configured) in NOT_LESS.into_iter().zip(join_all(configured).await) {
        let needed = needed(&said, key);
        let configured: Option<u64> = configured?.trim().parse().ok();
        if let (Some(needed), Some(configured)) = (needed, configured)
            && configured < needed
        {
            low.push((name.to_owned(), needed));
        }
    }
    Ok(low)
}

/// A number that the control file has.
fn needed(said: &str, key: &str) -> Option<u64> {
    let mut lines = said.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.trim() == key)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_standby_needs_is_read_from_the_control_file() {
        let said = "wal_level setting:                    replica\n\
                    max_connections setting:              100\n\
                    max_prepared_xacts setting:           0\n";
        assert_eq!(needed(said, "max_connections setting"), Some(100));
        assert_eq!(needed(said, "max_prepared_xacts setting"), Some(0));
        assert_eq!(needed(said, "max_wal_senders setting"), None);
    }
}
