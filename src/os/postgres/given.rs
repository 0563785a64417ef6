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

/// Of what a standby needs `at_least` to start, the parameters of which it is given less: they were
/// lowered, and no primary has been restarted with them since.
pub(super) async fn too_low(
    plan: &PostgresPlan,
    at_least: Vec<(&'static str, u64)>,
) -> Result<Vec<(&'static str, u64)>, PostgresError> {
    let mut low = at_least;
    let configured = join_all(low.iter().map(|(name, _)| {
        let mut command = plan.command("postgres");
        command.arg("-D").arg(&plan.data).args(["-C", name]);
        run(command)
    }));
    let configured: Result<Vec<String>, PostgresError> = configured.await.into_iter().collect();
    let mut configured = configured?.into_iter().map(|said| said.trim().parse::<u64>().ok());
    low.retain(|(_, needed)| configured.next().flatten().is_some_and(|given| given < *needed));
    Ok(low)
}
