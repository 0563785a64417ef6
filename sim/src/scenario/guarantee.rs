//! The guarantee table, as far as it decides what a run may be judged by.
//!
//! `docs/safety.md` promises one writer under nearly every fault. The few cells that hold a dash
//! are known here: a random run never draws them, and a written one has to say that it knows.

use std::time::Duration;

use pg_replica::control::Mode;

use crate::invariants::Excuse;

use super::fault::{Fault, Order, Process};
use super::plan::{Cluster, Plan, PlanEvent};

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
        return Some(why(Excuse::ClockBeyondRate));
    }
    let excuses = plan.events.iter().filter_map(|event| freeze_excuse(event, &plan.cluster));
    excuses.map(why).next()
}

/// Whether a short freeze of a whole host may meet the end of its lease after all, because other
/// faults have kept renewals away: then the guard wakes up a moment too late.
pub(super) fn may_be_caught(plan: &Plan) -> bool {
    let freezes =
        |event: &PlanEvent| matches!(event.fault, Fault::Pause { process: Process::Host, .. });
    !plan.cluster.commit_fence && plan.events.len() > 1 && plan.events.iter().any(freezes)
}

/// What a freeze of a whole host takes out of the promise by itself, if anything.
fn freeze_excuse(event: &PlanEvent, cluster: &Cluster) -> Option<Excuse> {
    let Fault::Pause { process: Process::Host, with_clock, .. } = event.fault else { return None };
    if with_clock {
        return Some(Excuse::HostFrozenWithClock);
    }
    // Half a lease leaves room for a renewal that was due just before the freeze; the run is judged
    // by whether the lease really ended meanwhile.
    let lease = Duration::from_millis(cluster.timing.lease_ms);
    let short = event.lasts.is_some_and(|lasts| lasts * 2 <= lease);
    (!cluster.commit_fence && !short).then_some(Excuse::HostFrozen)
}

fn why(excuse: Excuse) -> &'static str {
    match excuse {
        Excuse::HostFrozen => {
            "in async mode without the commit fence a frozen host may overlap until its guard \
             wakes up"
        }
        Excuse::HostFrozenWithClock => {
            "in async mode a host frozen with its clock may overlap for up to one lease"
        }
        Excuse::ClockBeyondRate => {
            "in async mode clocks that differ by more than clock_rate_ppm promise nothing"
        }
    }
}

/// The greatest difference between two clocks' rates.
fn rate_spread(events: &[PlanEvent]) -> u64 {
    let rates = events.iter().filter_map(|event| {
        if let Fault::ClockRate { ppm, .. } = event.fault { Some(ppm) } else { None }
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
        Fault::Partition { .. }
        | Fault::Link { .. }
        | Fault::PowerLoss { .. }
        | Fault::ReplaceMachine { .. }
        | Fault::ClockRate { .. }
        | Fault::ClockJump { .. }
        | Fault::Postgres { .. }
        | Fault::Sockets { .. }
        | Fault::Order { .. } => false,
    }
}
