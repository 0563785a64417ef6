//! Whoever watches a node think: the log, the status page, the simulator's trace.

use crate::ha::{Action, Core, Event};
use crate::ids::Moment;

/// Sees every step of the core, after it.
pub trait Observer: Send + Sync + 'static {
    /// One event was processed, and asked for these actions.
    fn stepped(&self, now: Moment, event: &Event, actions: &[Action], core: &Core);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn stepped(&self, _now: Moment, _event: &Event, _actions: &[Action], _core: &Core) {}
}
