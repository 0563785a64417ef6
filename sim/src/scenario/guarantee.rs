//! The guarantee table, as far as it decides what a run may be judged by.
//!
//! `docs/safety.md` promises one writer under nearly every fault. The few cells that hold a dash
//! are known here: a random run never draws them, and a written one has to say that it knows.

use std::time::Duration;

use pg_replica::control::Mode;

use super::fault::{Fault, Order, Process};
use super::plan::{Plan, PlanEvent};

/// Why one writer is not promised in this run, if it is not.
#[must_use]
pub fn unpromised(plan: &Plan) -> Option<&'static str> {
    let mode_changes = plan.events.iter().any(|event| {
        matches!(&event.fault, Fault::Order { order: Order::SetMode(Mode::Async), .. })
    });
    let fenced = plan.cluster.commit_fence;
    let guards_die = plan.events.iter().any(|event| hits(event, Process::Guard));
    let managers_fail = plan.events.iter().any(|event| hits(event, Process::Manager));
    if guards_die && managers_fail && !fenced {
        // In quorum-sync mode nothing is lost by it and nobody else writes; but nobody ends it.
        return Some(
            "without the commit fence, a guard and a manager that fail together leave nobody to \
             fence",
        );
    }
    if plan.cluster.mode == Mode::QuorumSync && !mode_changes {
        return None;
    }
    if rate_spread(&plan.events) > plan.cluster.timing.clock_rate_ppm {
        return Some(
            "in async mode clocks that differ by more than clock_rate_ppm promise nothing",
        );
    }
    let lease = Duration::from_millis(plan.cluster.timing.lease_ms);
    plan.events.iter().find_map(|event| frozen(event, fenced, lease))
}

/// A host that stands still for longer than its lease.
fn frozen(event: &PlanEvent, fenced: bool, lease: Duration) -> Option<&'static str> {
    let Fault::Pause { process: Process::Host, with_clock, .. } = event.fault else { return None };
    if with_clock {
        return Some("in async mode a host frozen with its clock may overlap for up to one lease");
    }
    // Half a lease leaves room for a renewal that was due just before the freeze.
    let short = event.lasts.is_some_and(|lasts| lasts * 2 <= lease);
    (!fenced && !short).then_some(
        "in async mode without the commit fence a frozen host may overlap until its guard wakes up",
    )
}

/// The greatest difference between two clocks' rates.
fn rate_spread(events: &[PlanEvent]) -> u64 {
    let rates = events.iter().filter_map(|event| match event.fault {
        Fault::ClockRate { ppm, .. } => Some(ppm),
        _ => None,
    });
    let (low, high) =
        rates.fold((0, 0), |(low, high): (i64, i64), ppm| (low.min(ppm), high.max(ppm)));
    high.abs_diff(low)
}

fn hits(event: &PlanEvent, which: Process) -> bool {
    match &event.fault {
        Fault::Crash { process, .. }
        | Fault::CrashLoop { process, .. }
        | Fault::Pause { process, .. } => *process == which,
        // A full or failing disk ends the manager.
        Fault::Disk { .. } => which == Process::Manager,
        _ => false,
    }
}
