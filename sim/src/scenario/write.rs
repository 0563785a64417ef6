//! A plan as a file: the reverse of reading, so that every run can be kept, shrunk and replayed.

use std::time::Duration;

use pg_replica::control::{Mode, Timing};
use toml::{Table, Value};

use super::fault::{Answer, DiskFlaw, Fault, LinkFlaw, Links, Order, Ports, Shape};
use super::plan::{Cluster, EndPrimary, Expect, FORMAT, Overlap, Plan, PlanEvent, Workload};
use super::saboteur_name;
use super::text::write_duration;

/// The whole plan. Without the seed, it is what the plan's hash is taken of.
pub(super) fn plan_table(plan: &Plan, with_seed: bool) -> Table {
    let mut table = Table::new();
    put(&mut table, "version", whole(FORMAT));
    put(&mut table, "name", plan.name.as_str());
    put(&mut table, "claim", plan.claim.as_str());
    if with_seed {
        // A seed above what TOML's integers hold is written as text.
        put(&mut table, "seed", plan.seed.to_string());
    }
    if plan.drawn {
        put(&mut table, "drawn", true);
    }
    if let Some(why) = &plan.messages_only {
        put(&mut table, "messages_only", why.as_str());
    }
    if let Some(why) = &plan.sockets_only {
        put(&mut table, "sockets_only", why.as_str());
    }
    put(&mut table, "duration", span(plan.duration));
    put(&mut table, "cluster", cluster_table(&plan.cluster));
    put(&mut table, "workload", workload_table(&plan.workload));
    let events: Vec<Value> =
        plan.events.iter().map(|event| Value::Table(event_table(event))).collect();
    put(&mut table, "event", events);
    put(&mut table, "expect", expect_table(&plan.expect));
    if let Some(saboteur) = plan.sabotage {
        let mut sabotage = Table::new();
        put(&mut sabotage, "name", saboteur_name(saboteur));
        put(&mut table, "sabotage", sabotage);
    }
    table
}

/// The name of a mode in files.
#[must_use]
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Async => "async",
        Mode::QuorumSync => "quorum-sync",
    }
}

fn cluster_table(cluster: &Cluster) -> Table {
    let mut table = Table::new();
    put(&mut table, "nodes", whole(cluster.nodes));
    put(&mut table, "witnesses", whole(cluster.witnesses));
    put(&mut table, "mode", mode_name(cluster.mode));
    put(&mut table, "commit_fence", cluster.commit_fence);
    put(&mut table, "unborn", cluster.unborn);
    put(&mut table, "max_lag", whole(cluster.max_lag_bytes));
    put(&mut table, "snapshot_every", whole(cluster.snapshot_every));
    for (key, ms) in timing_fields(&cluster.timing) {
        put(&mut table, key, span(Duration::from_millis(ms)));
    }
    put(&mut table, "clock_rate_ppm", whole(cluster.timing.clock_rate_ppm));
    let mut priorities = Table::new();
    for (node, priority) in &cluster.priorities {
        put(&mut priorities, &node.0.to_string(), i64::from(*priority));
    }
    put(&mut table, "priorities", priorities);
    let barred: Vec<Value> = cluster.no_failover.iter().map(|node| whole(node.0)).collect();
    put(&mut table, "no_failover", barred);
    let existing: Vec<Value> = cluster.existing.iter().map(|node| whole(node.0)).collect();
    put(&mut table, "existing", existing);
    table
}

/// The durations of `[cluster]`, by their names in files.
pub(super) fn timing_fields(timing: &Timing) -> [(&'static str, u64); 8] {
    [
        ("lease", timing.lease_ms),
        ("heartbeat", timing.heartbeat_ms),
        ("suspect", timing.suspect_ms),
        ("fence_margin", timing.fence_margin_ms),
        ("guard_margin", timing.guard_margin_ms),
        ("restart", timing.restart_ms),
        ("promote", timing.promote_ms),
        ("stop", timing.stop_ms),
    ]
}

fn workload_table(workload: &Workload) -> Table {
    let mut table = Table::new();
    put(&mut table, "writers", i64::from(workload.writers));
    put(&mut table, "readers", i64::from(workload.readers));
    put(&mut table, "stale", i64::from(workload.stale));
    put(&mut table, "think", span(workload.think));
    table
}

fn event_table(event: &PlanEvent) -> Table {
    let mut table = Table::new();
    put(&mut table, "at", span(event.at));
    if let Some(lasts) = event.lasts {
        put(&mut table, "for", span(lasts));
    }
    match &event.fault {
        Fault::Partition { shape, ports } => {
            put(&mut table, "fault", "partition");
            shape_fields(&mut table, shape);
            if *ports != Ports::All {
                put(&mut table, "ports", ports.name());
            }
        }
        Fault::Link { links, flaw } => link_fields(&mut table, links, flaw),
        Fault::Crash { process, target } => {
            named(&mut table, "crash", target);
            put(&mut table, "process", process.name());
        }
        Fault::CrashLoop { process, target, period } => {
            named(&mut table, "crash-loop", target);
            put(&mut table, "process", process.name());
            put(&mut table, "period", span(*period));
        }
        Fault::Pause { process, target, with_clock } => {
            named(&mut table, "pause", target);
            put(&mut table, "process", process.name());
            put(&mut table, "with_clock", *with_clock);
        }
        Fault::PowerLoss { target } => named(&mut table, "power-loss", target),
        Fault::ReplaceMachine { target, node } => {
            named(&mut table, "replace-machine", target);
            put(&mut table, "node", whole(node.0));
        }
        Fault::ClockRate { target, ppm } => {
            named(&mut table, "clock-rate", target);
            put(&mut table, "ppm", *ppm);
        }
        Fault::ClockJump { target, by_ms } => {
            named(&mut table, "clock-jump", target);
            let sign = if *by_ms < 0 { "-" } else { "" };
            let size = Duration::from_millis(by_ms.unsigned_abs());
            put(&mut table, "by", format!("{sign}{}", write_duration(size)));
        }
        Fault::Disk { target, flaw } => disk_fields(&mut table, &target.to_string(), *flaw),
        Fault::Postgres { target, flaw } => named(&mut table, flaw.name(), target),
        Fault::Sockets { target, flaw } => named(&mut table, flaw.name(), target),
        Fault::Order { order, answer, times, name } => {
            put(&mut table, "fault", "order");
            order_fields(&mut table, order);
            if *answer != Answer::Any {
                put(&mut table, "answer", answer.name());
            }
            if *times != 1 {
                put(&mut table, "times", i64::from(*times));
            }
            if let Some(name) = name {
                put(&mut table, "name", i64::from(*name));
            }
        }
    }
    table
}

fn shape_fields(table: &mut Table, shape: &Shape) {
    match shape {
        Shape::Halves => put(table, "shape", "halves"),
        Shape::Minority => put(table, "shape", "minority"),
        Shape::Isolate { target, clients } => {
            put(table, "shape", "isolate");
            put(table, "target", target.to_string());
            put(table, "clients", i64::from(*clients));
        }
        Shape::MajoritiesRing => put(table, "shape", "majorities-ring"),
        Shape::OneWay { from, to } => {
            put(table, "shape", "one-way");
            put(table, "from", from.to_string());
            put(table, "to", to.to_string());
        }
        Shape::PeersOnly { target } => {
            put(table, "shape", "peers-only");
            put(table, "target", target.to_string());
        }
        Shape::Sides(sides) => {
            let sides: Vec<Value> =
                sides.iter().map(|side| Value::from(side.to_string())).collect();
            put(table, "sides", sides);
        }
    }
}

fn link_fields(table: &mut Table, links: &Links, flaw: &LinkFlaw) {
    match flaw {
        LinkFlaw::Loss { percent } => {
            put(table, "fault", "loss");
            put(table, "percent", i64::from(*percent));
        }
        LinkFlaw::Delay { delay } => {
            put(table, "fault", "delay");
            put(table, "by", span(*delay));
        }
        LinkFlaw::Duplicate { percent } => {
            put(table, "fault", "duplicate");
            put(table, "percent", i64::from(*percent));
        }
        LinkFlaw::Reorder { percent } => {
            put(table, "fault", "reorder");
            put(table, "percent", i64::from(*percent));
        }
    }
    match links {
        Links::All => {}
        Links::Of(target) => put(table, "target", target.to_string()),
        Links::OneWay { from, to } => {
            put(table, "from", from.to_string());
            put(table, "to", to.to_string());
        }
    }
}

fn disk_fields(table: &mut Table, target: &str, flaw: DiskFlaw) {
    put(table, "target", target);
    match flaw {
        DiskFlaw::Slow { latency } => {
            put(table, "fault", "disk-slow");
            put(table, "by", span(latency));
        }
        DiskFlaw::Stall => put(table, "fault", "disk-stall"),
        DiskFlaw::Full => put(table, "fault", "disk-full"),
        DiskFlaw::Errors { writes, syncs } => {
            put(table, "fault", "disk-error");
            put(table, "writes", writes);
            put(table, "syncs", syncs);
        }
    }
}

fn order_fields(table: &mut Table, order: &Order) {
    let name = match order {
        Order::Switchover { to } => {
            if let Some(to) = to {
                put(table, "to", to.to_string());
            }
            "switchover"
        }
        Order::Failover { to, accept_data_loss } => {
            if let Some(to) = to {
                put(table, "to", to.to_string());
            }
            put(table, "accept_data_loss", *accept_data_loss);
            "failover"
        }
        Order::Pause => "pause",
        Order::Resume => "resume",
        Order::Add { node, witness } => {
            put(table, "node", whole(node.0));
            put(table, "witness", *witness);
            "add"
        }
        Order::Remove { target } => {
            put(table, "target", target.to_string());
            "remove"
        }
        Order::SetMode(mode) => {
            put(table, "mode", mode_name(*mode));
            "set-mode"
        }
        Order::SetLease(lease) => {
            put(table, "lease", span(*lease));
            "set-lease"
        }
        Order::SetMaxLag(bytes) => {
            put(table, "max_lag", whole(*bytes));
            "set-max-lag"
        }
        Order::SetParameter(name, value) => {
            put(table, "parameter", name.clone());
            put(table, "value", value.clone());
            "set-parameter"
        }
        Order::Tag { target, priority, no_failover } => {
            put(table, "target", target.to_string());
            put(table, "priority", i64::from(*priority));
            put(table, "no_failover", *no_failover);
            "tag"
        }
    };
    put(table, "order", name);
}

fn expect_table(expect: &Expect) -> Table {
    let mut table = Table::new();
    if let Some(within) = expect.writable_within {
        put(&mut table, "writable_within", span(within));
    }
    if let Some(after) = expect.writable_after {
        put(&mut table, "writable_after", span(after));
    }
    if !expect.silent.is_empty() {
        let spans: Vec<Value> = expect
            .silent
            .iter()
            .map(|(from, to)| {
                Value::from(format!("{}..{}", write_duration(*from), write_duration(*to)))
            })
            .collect();
        put(&mut table, "silent", spans);
    }
    if let Some(lost) = expect.lost_acknowledged {
        put(&mut table, "lost_acknowledged", whole(lost));
    }
    match expect.overlap {
        Overlap::None => {}
        Overlap::AtMost(most) => {
            put(&mut table, "overlap", format!("<={}", write_duration(most)));
        }
        Overlap::Reported => put(&mut table, "overlap", "reported"),
    }
    if let Some(primary) = expect.primary {
        let text = match primary {
            EndPrimary::Same => "same".to_owned(),
            EndPrimary::Other => "other".to_owned(),
            EndPrimary::Node(node) => format!("node:{}", node.0),
        };
        put(&mut table, "primary", text);
    }
    for (key, bounds) in
        [("failovers", expect.failovers), ("rewinds", expect.rewinds), ("clones", expect.clones)]
    {
        if let Some(bounds) = bounds {
            put(&mut table, key, bounds.to_string());
        }
    }
    if !expect.sometimes.is_empty() {
        let names: Vec<Value> =
            expect.sometimes.iter().map(|name| Value::from(name.name())).collect();
        put(&mut table, "sometimes", names);
    }
    if let Some(violation) = &expect.violation {
        put(&mut table, "violation", violation.as_str());
    }
    table
}

fn named(table: &mut Table, fault: &str, target: &super::target::Target) {
    put(table, "fault", fault);
    put(table, "target", target.to_string());
}

fn put(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}

fn span(span: Duration) -> Value {
    Value::from(write_duration(span))
}

fn whole(number: u64) -> Value {
    Value::from(i64::try_from(number).unwrap_or(i64::MAX))
}
