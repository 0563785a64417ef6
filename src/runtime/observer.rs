//! Whoever watches a node think: the log, the status page, the simulator's trace.

use std::fmt::Debug;

use crate::control::{Applied, Command};
use crate::ha::{Action, Core, Event};
use crate::ids::Moment;

/// Sees every step of the core and every applied command, after it. Must not block.
pub trait Observer: Debug + Send + Sync + 'static {
    /// One event was processed, and asked for these actions.
    fn stepped(&self, now: Moment, event: &Event, actions: &[Action], core: &Core);

    /// The entry `index` of the consensus log was applied on this member.
    fn applied(&self, index: u64, command: &Command, applied: &Applied);

    /// The control state was replaced by a snapshot that covers the log up to the entry `index`.
    fn installed(&self, index: u64);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn stepped(&self, _now: Moment, _event: &Event, _actions: &[Action], _core: &Core) {}

    fn applied(&self, _index: u64, _command: &Command, _applied: &Applied) {}

    fn installed(&self, _index: u64) {}
}
