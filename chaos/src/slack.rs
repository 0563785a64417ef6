//! How much later things may be on a real machine than a scenario says, all in one place.
//!
//! A scenario's times were measured in a world where computing takes no time. Here three servers,
//! three nodes and all clients share two cores with whatever else runs: a client that is due may
//! have to wait for a core, and so may an election. What is promised without a clock (one writer,
//! nothing lost) gets no slack.

use std::time::Duration;

use sim::scenario::{Fault, LinkFlaw, Plan, PlanEvent};
use sim::workload::ClientPlan;

use crate::lab::Cables;

/// Added to `writable_within` and `writable_after`: what an election, a promotion and a client's
/// next round may wait for a core, at worst seen with two clusters at a time; it holds with the
/// four of the gate, too.
pub const WRITABLE: Duration = Duration::from_millis(1_500);

/// How late a guard may be after a thaw. Its processes are woken one after the other, and each then
/// waits for a core.
pub const GUARD_WAKES: Duration = Duration::from_millis(200);

/// How late an answer may be heard: whoever waits for it waits for a core, and where packets are
/// lost or late, for as long as the most patient client does.
#[must_use]
pub fn answers(plan: &Plan) -> Duration {
    let patient = ClientPlan::patient_writer(0, Duration::ZERO).timeout;
    let is_lossy =
        |event: &PlanEvent| matches!(&event.fault, Fault::Link { flaw: LinkFlaw::Loss { .. }, .. });
    match Cables::of(plan) {
        Cables::Carried => patient * WAITS,
        Cables::Plain if plan.events.iter().any(is_lossy) => patient,
        Cables::Plain => Duration::from_millis(500),
    }
}

/// Added to how long an overlap may last, where a scenario bounds it.
pub const OVERLAP: Duration = Duration::from_millis(200);

/// How many times as long a client waits where packets are delayed: a connection takes seven round
/// trips here, and one in the model.
pub const WAITS: u32 = 7;
