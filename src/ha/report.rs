//! What a member tells the coordinator about itself, several times a second.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::Timing;
use crate::env::{Process, Side, StreamState, SyncNames, TimelineBirth};
use crate::ids::{Epoch, NodeId, SystemId, WalPosition};

/// How many heartbeats in a row may be lost before a member counts as gone.
const HEARTBEATS_LOST_MAX: u32 = 4;
/// However short the heartbeats are: a pause of this length is no death.
const REPORT_LIMIT_MIN: Duration = Duration::from_secs(1);

/// How long a report speaks for a member.
pub(super) fn report_limit(timing: &Timing) -> Duration {
    let heartbeat = Duration::from_millis(timing.heartbeat_ms);
    (heartbeat * (HEARTBEATS_LOST_MAX + 1)).max(REPORT_LIMIT_MIN)
}

/// A standby's receiver, in a form that can be sent: ages, not instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverReport {
    /// Whom it streams from.
    pub upstream: NodeId,
    /// Under which epoch's name.
    pub epoch: Epoch,
    /// How long ago it heard from there, in milliseconds.
    pub silent_ms: u64,
}

/// A member's account of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whose.
    pub node: NodeId,
    /// How far it has applied the control state (its version). It never goes back, so it tells
    /// which of two reports is the older one.
    pub version: u64,
    /// The database cluster that its directory holds; `None` where it is empty.
    pub system: Option<SystemId>,
    /// The process.
    pub process: Process,
    /// Primary or standby.
    pub side: Side,
    /// The newest line of its history.
    pub birth: Option<TimelineBirth>,
    /// Where its log ends, where that is known.
    pub position: Option<WalPosition>,
    /// What it has replayed, as a position on the same timeline.
    pub replayed: Option<WalPosition>,
    /// Its receiver.
    pub receiver: Option<ReceiverReport>,
    /// The promise: this epoch was seen to have ended, no receiver is attached, no primary runs
    /// here, and neither will happen again under this epoch or an earlier one.
    pub detached: Option<Epoch>,
    /// A primary's standbys.
    pub streams: Vec<StreamState>,
    /// A primary's synchronous configuration, where it is certain that it is in force and that no
    /// other is about to be; else an empty one.
    pub sync: SyncNames,
    /// Whether clients are let in.
    pub admits: bool,
    /// Whether it holds a lease of the present epoch now.
    pub leased: bool,
    /// Why it cannot do what the control state asks of it, if it cannot.
    pub trouble: Option<String>,
    /// The parameters of its Postgres that wait for a restart.
    #[serde(default)]
    pub pending_restart: Vec<String>,
}

impl Report {
    /// Whether its directory holds a database at all.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.system.is_some()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.node, self.side, self.process)?;
        if let Some(position) = self.position {
            write!(f, " {position}")?;
        }
        if let Some(receiver) = self.receiver {
            write!(f, " <-{}({})", receiver.upstream, receiver.epoch)?;
        }
        if let Some(epoch) = self.detached {
            write!(f, " detached {epoch}")?;
        }
        Ok(())
    }
}
