//! A promotion that was asked for and cannot be taken back.
//!
//! A server that is told to become primary first replays all that it has, and until then looks like
//! any standby. Whoever told it may be gone by then, so it is written down with the server that was
//! told, before it is told. A server that is started later has forgotten it.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::env::{Observation, PostgresError};
use crate::ids::Epoch;

use super::births::write_whole;
use super::plan::PostgresPlan;
use super::server::{Postmaster, postmaster};

fn file(plan: &PostgresPlan) -> PathBuf {
    plan.home.join("promised")
}

/// The server that runs now is about to be told, for this epoch.
pub(super) fn note(plan: &PostgresPlan, epoch: Epoch) -> io::Result<()> {
    let server = postmaster(&plan.data).ok_or_else(|| io::Error::other("no server runs"))?;
    write_whole(&file(plan), format!("{}\n{}\n", server.mark, epoch.0).as_bytes())
}

/// For which epoch this server was told, if it was.
pub(super) fn to(plan: &PostgresPlan, server: &Postmaster) -> io::Result<Option<Epoch>> {
    let text = match fs::read_to_string(file(plan)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = text.lines();
    if lines.next() != Some(server.mark.as_str()) {
        return Ok(None);
    }
    let epoch = lines.next().and_then(|epoch| epoch.parse().ok()).map(Epoch);
    epoch.map(Some).ok_or_else(|| io::Error::other("the file `promised` is damaged"))
}

/// Refuses what a server cannot do that was told to become primary, but for being told again.
pub(super) fn refuse(seen: &Observation, again: Option<Epoch>) -> Result<(), PostgresError> {
    let told = seen.promoting.filter(|told| Some(*told) != again);
    let Some(epoch) = told else { return Ok(()) };
    Err(PostgresError::Transient(format!("it was told to become primary of {epoch}")))
}
