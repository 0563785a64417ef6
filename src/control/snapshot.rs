//! The control state as bytes, with a format number in front.

use serde::{Deserialize, Serialize};

use super::state::ControlState;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Why bytes are no snapshot of ours.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A later version wrote it.
    #[error(
        "the control state has format {found} and this version reads up to {FORMAT}; \
         start the version that wrote it, or a later one"
    )]
    Newer {
        /// The number in front.
        found: u32,
    },
    /// It does not parse.
    #[error("the control state is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Envelope {
    format: u32,
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    state: &'a ControlState,
}

#[derive(Deserialize)]
struct Read {
    state: ControlState,
}

/// Writes.
pub fn encode(state: &ControlState) -> Result<Vec<u8>, SnapshotError> {
    Ok(serde_json::to_vec(&Written { format: FORMAT, state })?)
}

/// Reads, and refuses what a later version wrote before looking at the rest of it.
pub fn decode(bytes: &[u8]) -> Result<ControlState, SnapshotError> {
    let envelope: Envelope = serde_json::from_slice(bytes)?;
    if envelope.format > FORMAT {
        return Err(SnapshotError::Newer { found: envelope.format });
    }
    let read: Read = serde_json::from_slice(bytes)?;
    Ok(read.state)
}
