//! What this world cannot do, and why: a scenario that needs any of it is left out by name.

use sim::scenario::{DiskFlaw, Fault, Order, Plan, PostgresFlaw, unpromised};

use crate::subject::Watched;

/// The first reason why this plan cannot be run here, in one sentence.
#[must_use]
pub fn impossible(plan: &Plan) -> Option<&'static str> {
    if plan.messages_only.is_some() {
        return Some("it says that it proves nothing over TCP");
    }
    if plan.sabotage.is_some() {
        return Some("the rules of a real node cannot be broken on purpose");
    }
    if plan.cluster.unborn {
        return Some("clients need a table before anything happens");
    }
    if !plan.cluster.existing.is_empty() {
        return Some("a database from before is prepared by hand");
    }
    let newcomers = plan.newcomers().map(|(node, _)| node);
    if plan.cluster.members().chain(newcomers).any(|node| u8::try_from(node.0).is_err()) {
        return Some("a member's number is the last part of its address, and at most 255");
    }
    if let Some(why) = plan.events.iter().find_map(|event| in_fault(&event.fault)) {
        return Some(why);
    }
    // A real server has no commit fence yet: what rests on it is not promised here.
    let mut without = plan.clone();
    without.cluster.commit_fence = false;
    if plan.cluster.commit_fence && unpromised(plan).is_none() && unpromised(&without).is_some() {
        return Some("real servers have no commit fence yet");
    }
    None
}

fn in_fault(fault: &Fault) -> Option<&'static str> {
    match fault {
        Fault::PowerLoss { .. } => Some("one kernel keeps what it has not yet synced"),
        Fault::ClockRate { .. } | Fault::ClockJump { .. } => Some("one kernel has one clock"),
        Fault::Pause { with_clock: true, .. } => Some("one kernel has one clock"),
        Fault::Sockets { .. } => {
            Some("connections are the kernel's own, and nobody meddles with them")
        }
        Fault::Disk { flaw: DiskFlaw::Slow { .. } | DiskFlaw::Errors { .. }, .. } => {
            Some("no disk can be told to be slow, or to fail")
        }
        Fault::Postgres { flaw, .. } => means_of(*flaw).err(),
        Fault::Order { order: Order::Failover { to: None, .. }, .. } => {
            Some("over HTTP a failover names its candidate")
        }
        Fault::Partition { .. }
        | Fault::Crash { .. }
        | Fault::CrashLoop { .. }
        | Fault::Pause { with_clock: false, .. }
        | Fault::ReplaceMachine { .. }
        | Fault::Link { .. }
        | Fault::Disk { flaw: DiskFlaw::Full | DiskFlaw::Stall, .. }
        | Fault::Order { .. } => None,
    }
}

/// How a real server is made to have a flaw.
pub(crate) enum Means {
    /// Its processes are stopped.
    Hang,
    /// This program fails on its machine.
    Fail(Watched),
    /// Nothing more fits onto the disk with its data.
    Fill,
}

/// How a real server is made to have this flaw; or why none can have it.
pub(crate) fn means_of(flaw: PostgresFlaw) -> Result<Means, &'static str> {
    match flaw {
        PostgresFlaw::Hang => Ok(Means::Hang),
        PostgresFlaw::RewindFails => Ok(Means::Fail(Watched::Rewind)),
        PostgresFlaw::CloneFails => Ok(Means::Fail(Watched::Clone)),
        PostgresFlaw::InitialiseFails => Ok(Means::Fail(Watched::Founding)),
        PostgresFlaw::DiskFull => Ok(Means::Fill),
        PostgresFlaw::SlowStart
        | PostgresFlaw::SlowStop
        | PostgresFlaw::StopHangs
        | PostgresFlaw::StopFails
        | PostgresFlaw::SlowRecovery
        | PostgresFlaw::LookFails
        | PostgresFlaw::WalsenderStuck
        | PostgresFlaw::CheckpointerStuck
        | PostgresFlaw::ReplayStuck
        | PostgresFlaw::WalRecycled
        | PostgresFlaw::ForeignData => Err("no real server can be told to fail in this way"),
    }
}
