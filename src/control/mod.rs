//! What the members agree on: the control state, and the commands that change it.
//!
//! The consensus log carries [`Command`]s; every member applies the same ones in the same order to
//! the same [`ControlState`]. Applying is deterministic: it reads no clock, no random number and
//! nothing of the machine it runs on. Every command names the epoch or the version that it expects,
//! so that one which was delayed, repeated or proposed by a leader that no longer leads is refused
//! instead of doing harm.
//!
//! What is *not* here: how a decision is reached (that is `ha`) and how the log is kept
//! (`runtime::raft`).

mod apply;
mod command;
mod evidence;
mod members;
mod orders;
mod settings;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use apply::Applied;
pub use command::{Clearance, Command, Order, VacateReason};
pub use evidence::{Missing, missing_evidence};
pub use orders::{NOBODY_TO_LEAD, TOO_FEW_FOR_QUORUM};
pub use settings::{Mode, Settings, SettingsChange, Timing, is_own_parameter};
pub use snapshot::{FORMAT, SnapshotError, decode, encode};
pub use state::{
    ControlState, Handover, HandoverKind, HistoryEntry, Member, MemberKind, OrderOutcome,
    OrderRecord, Primacy, SyncRecord, TimelineRecord,
};
