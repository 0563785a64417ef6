//! One event of a file: its fault, its parameters, and nothing else.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a reader wants one kind of value, and refuses or passes over every other"
)]

use std::str::FromStr;
use std::time::Duration;

use pg_replica::control::Mode;
use pg_replica::ids::NodeId;

use super::fault::{
    Answer, DiskFlaw, Fault, LinkFlaw, Links, Order, Ports, PostgresFlaw, Process, Shape,
    SocketFlaw,
};
use super::plan::PlanEvent;
use super::target::{Side, Target};
use super::text::{BadInput, Fields, Item, Span, Value, parse_duration};

/// Every fault's name in files.
pub(super) const FAULTS: [&str; 38] = [
    "partition",
    "loss",
    "delay",
    "duplicate",
    "reorder",
    "crash",
    "crash-loop",
    "pause",
    "power-loss",
    "replace-machine",
    "clock-rate",
    "clock-jump",
    "disk-slow",
    "disk-stall",
    "disk-full",
    "disk-error",
    "postgres-hang",
    "postgres-slow-stop",
    "postgres-stop-hangs",
    "postgres-stop-fails",
    "postgres-slow-start",
    "postgres-slow-recovery",
    "postgres-look-fails",
    "initialise-fails",
    "walsender-stuck",
    "checkpointer-stuck",
    "replay-stuck",
    "rewind-fails",
    "clone-fails",
    "wal-recycled",
    "postgres-disk-full",
    "foreign-data",
    "half-open",
    "cut-frames",
    "slow-readers",
    "connection-flood",
    "garbage",
    "order",
];

/// What an event may name: the members that exist by then, and how many clients there are.
pub(super) struct Known {
    pub(super) members: Vec<NodeId>,
    pub(super) clients: u32,
}

impl Known {
    /// The number that the next new member gets.
    pub(super) fn next(&self) -> NodeId {
        NodeId(self.members.iter().max().map_or(1, |node| node.0 + 1))
    }

    /// Events before this one in the file may name a member that a later one admits: the times
    /// say who exists when, not the order of the lines.
    pub(super) fn meet(&mut self, node: NodeId) {
        if !self.members.contains(&node) {
            self.members.push(node);
        }
    }

    /// Meets every member that the list of events admits by its number.
    pub(super) fn meet_all(&mut self, events: &[Value]) {
        for event in events {
            let Item::Table(fields) = &event.item else { continue };
            if let Some((_, Value { item: Item::Whole(number), .. })) = fields.get("node") {
                self.meet(NodeId(number.unsigned_abs()));
            }
        }
    }
}

/// Reads the event's parameters; `at` and `for` were not taken yet.
pub(super) fn read_event(mut fields: Fields<'_>, known: &mut Known) -> Result<PlanEvent, BadInput> {
    let kind_value = fields.need("fault")?;
    let kind = kind_value.text(fields.source(), "fault")?;
    fields.rename(&format!("the fault `{kind}`"));
    let at_value = fields.need("at")?;
    let at = at_value.duration(fields.source(), "at")?;
    let lasts = read_lasts(&mut fields, &kind)?;
    let Some(fault) = read_fault(&kind, &mut fields, known)? else {
        return Err(fields.source().bad(
            &kind_value.span,
            format!("{kind:?} is no fault; there are {}", FAULTS.join(", ")),
        ));
    };
    if matches!(fault, Fault::CrashLoop { .. }) && lasts.is_none() {
        return Err(fields.bad("a crash loop needs `for`"));
    }
    fields.finish()?;
    Ok(PlanEvent { at, fault, lasts })
}

/// `for`, where the fault is one that lasts.
fn read_lasts(fields: &mut Fields<'_>, kind: &str) -> Result<Option<Duration>, BadInput> {
    if matches!(kind, "clock-jump" | "half-open" | "order" | "wal-recycled") {
        return Ok(None);
    }
    let Some(value) = fields.take("for") else { return Ok(None) };
    let lasts = value.duration(fields.source(), "for")?;
    if lasts.is_zero() {
        return Err(fields.source().bad(&value.span, "a fault that lasts no time is none"));
    }
    Ok(Some(lasts))
}

fn read_fault(
    kind: &str,
    fields: &mut Fields<'_>,
    known: &mut Known,
) -> Result<Option<Fault>, BadInput> {
    let fault = match kind {
        "partition" => {
            let shape = read_shape(fields, known)?;
            let ports = parsed(fields, "ports")?.unwrap_or(Ports::All);
            Fault::Partition { shape, ports }
        }
        "loss" | "delay" | "duplicate" | "reorder" => read_link(kind, fields, known)?,
        "crash" => {
            Fault::Crash { process: process(fields)?, target: target(fields, "target", known)? }
        }
        "crash-loop" => {
            let period = fields.need("period")?;
            let every = period.duration(fields.source(), "period")?;
            if every < Duration::from_millis(100) {
                return Err(fields.source().bad(&period.span, "a period is at least 100ms"));
            }
            let process = process(fields)?;
            Fault::CrashLoop { process, target: target(fields, "target", known)?, period: every }
        }
        "pause" => Fault::Pause {
            process: process(fields)?,
            target: target(fields, "target", known)?,
            with_clock: fields.flag("with_clock")?.unwrap_or(false),
        },
        "power-loss" => Fault::PowerLoss { target: target(fields, "target", known)? },
        "replace-machine" => {
            let target = target(fields, "target", known)?;
            let node = fields.whole("node")?.map_or_else(|| known.next(), NodeId);
            known.meet(node);
            Fault::ReplaceMachine { target, node }
        }
        "clock-rate" => {
            Fault::ClockRate { ppm: rate(fields)?, target: target(fields, "target", known)? }
        }
        "clock-jump" => {
            Fault::ClockJump { by_ms: jump(fields)?, target: target(fields, "target", known)? }
        }
        "disk-slow" | "disk-stall" | "disk-full" | "disk-error" => {
            Fault::Disk { flaw: disk_flaw(kind, fields)?, target: target(fields, "target", known)? }
        }
        "order" => read_order(fields, known)?,
        other => {
            if let Ok(flaw) = SocketFlaw::from_str(other) {
                return Ok(Some(Fault::Sockets { flaw, target: target(fields, "target", known)? }));
            }
            let Ok(flaw) = PostgresFlaw::from_str(other) else { return Ok(None) };
            Fault::Postgres { flaw, target: target(fields, "target", known)? }
        }
    };
    Ok(Some(fault))
}

fn read_shape(fields: &mut Fields<'_>, known: &Known) -> Result<Shape, BadInput> {
    if let Some(list) = fields.list("sides")? {
        return read_sides(fields, &list, known);
    }
    let value = fields.need("shape")?;
    let name = value.text(fields.source(), "shape")?;
    Ok(match name.as_str() {
        "halves" => Shape::Halves,
        "minority" => Shape::Minority,
        "isolate" => Shape::Isolate {
            target: target(fields, "target", known)?,
            clients: read_clients(fields, known)?,
        },
        "majorities-ring" => Shape::MajoritiesRing,
        "one-way" => {
            Shape::OneWay { from: target(fields, "from", known)?, to: target(fields, "to", known)? }
        }
        "peers-only" => Shape::PeersOnly { target: target(fields, "target", known)? },
        _ => {
            return Err(fields.source().bad(
                &value.span,
                format!(
                    "{name:?} is no shape; there are halves, minority, isolate, majorities-ring, \
                     one-way and peers-only, or `sides`"
                ),
            ));
        }
    })
}

fn read_clients(fields: &mut Fields<'_>, known: &Known) -> Result<u32, BadInput> {
    let Some(value) = fields.take("clients") else { return Ok(0) };
    let number = value.whole(fields.source(), "clients")?;
    if number > u64::from(known.clients) {
        return Err(fields
            .source()
            .bad(&value.span, format!("there are {} clients, not {number}", known.clients)));
    }
    Ok(u32::try_from(number).expect("no more than there are clients"))
}

fn read_sides(fields: &Fields<'_>, list: &[Value], known: &Known) -> Result<Shape, BadInput> {
    let mut sides = Vec::new();
    let mut clients = 0;
    for value in list {
        let text = value.text(fields.source(), "sides")?;
        let side: Side =
            text.parse().map_err(|why: String| fields.source().bad(&value.span, why))?;
        for member in &side.members {
            exists(fields, *member, &value.span, known)?;
        }
        clients += side.clients;
        if clients > known.clients {
            return Err(fields.source().bad(
                &value.span,
                format!("the sides take {clients} clients, and there are {}", known.clients),
            ));
        }
        sides.push(side);
    }
    let rests = sides.iter().filter(|side| side.rest).count();
    if sides.len() < 2 || rests > 1 {
        return Err(
            fields.bad("a partition has two sides or more, and \"others\" is one of them at most")
        );
    }
    Ok(Shape::Sides(sides))
}

fn read_link(kind: &str, fields: &mut Fields<'_>, known: &Known) -> Result<Fault, BadInput> {
    let flaw = if kind == "delay" {
        let value = fields.need("by")?;
        LinkFlaw::Delay { delay: value.duration(fields.source(), "by")? }
    } else {
        let Some(percent) = fields.percent("percent")? else {
            return Err(fields.bad(format!("the fault `{kind}` needs `percent`")));
        };
        match kind {
            "loss" => LinkFlaw::Loss { percent },
            "duplicate" => LinkFlaw::Duplicate { percent },
            _ => LinkFlaw::Reorder { percent },
        }
    };
    let from = parsed_target(fields, "from", known)?;
    let to = parsed_target(fields, "to", known)?;
    let of = parsed_target(fields, "target", known)?;
    let links = match (from, to, of) {
        (None, None, None) => Links::All,
        (None, None, Some(target)) => Links::Of(target),
        (Some(from), Some(to), None) => Links::OneWay { from, to },
        _ => return Err(fields.bad("links are named by `target`, or by `from` and `to`")),
    };
    Ok(Fault::Link { links, flaw })
}

fn disk_flaw(kind: &str, fields: &mut Fields<'_>) -> Result<DiskFlaw, BadInput> {
    Ok(match kind {
        "disk-slow" => {
            let value = fields.need("by")?;
            DiskFlaw::Slow { latency: value.duration(fields.source(), "by")? }
        }
        "disk-stall" => DiskFlaw::Stall,
        "disk-full" => DiskFlaw::Full,
        _ => {
            let writes = fields.flag("writes")?.unwrap_or(false);
            let syncs = fields.flag("syncs")?.unwrap_or(false);
            if !writes && !syncs {
                return Err(fields.bad("errors on `writes`, on `syncs` or on both?"));
            }
            DiskFlaw::Errors { writes, syncs }
        }
    })
}

fn rate(fields: &mut Fields<'_>) -> Result<i64, BadInput> {
    let value = fields.need("ppm")?;
    let ppm = value.signed(fields.source(), "ppm")?;
    if ppm == 0 || ppm.abs() > 900_000 {
        return Err(fields.source().bad(&value.span, format!("a clock is not off by {ppm} ppm")));
    }
    Ok(ppm)
}

fn jump(fields: &mut Fields<'_>) -> Result<i64, BadInput> {
    let value = fields.need("by")?;
    let text = value.text(fields.source(), "by")?;
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.as_str()),
    };
    let span = parse_duration(rest).map_err(|why| fields.source().bad(&value.span, why))?;
    Ok(sign * i64::try_from(span.as_millis()).expect("a duration is at most a day"))
}

fn read_order(fields: &mut Fields<'_>, known: &mut Known) -> Result<Fault, BadInput> {
    let value = fields.need("order")?;
    let name = fields.whole("name")?.map(|name| u32::try_from(name).unwrap_or(u32::MAX));
    let answer = parsed(fields, "answer")?.unwrap_or(Answer::Any);
    let times = u32::try_from(fields.whole("times")?.unwrap_or(1)).unwrap_or(0);
    if !(1..=10).contains(&times) {
        return Err(fields.bad("an order is sent once to ten times"));
    }
    let kind = value.text(fields.source(), "order")?;
    let order = match kind.as_str() {
        "switchover" => Order::Switchover { to: parsed_target(fields, "to", known)? },
        "failover" => Order::Failover {
            to: parsed_target(fields, "to", known)?,
            accept_data_loss: fields.flag("accept_data_loss")?.unwrap_or(false),
        },
        "pause" => Order::Pause,
        "resume" => Order::Resume,
        "add" => {
            let value = fields.need("node")?;
            let node = NodeId(value.whole(fields.source(), "node")?);
            known.meet(node);
            Order::Add { node, witness: fields.flag("witness")?.unwrap_or(false) }
        }
        "remove" => Order::Remove { target: target(fields, "target", known)? },
        "set-mode" => Order::SetMode(read_mode(fields)?),
        "set-lease" => {
            let value = fields.need("lease")?;
            Order::SetLease(value.duration(fields.source(), "lease")?)
        }
        "set-max-lag" => {
            let value = fields.need("max_lag")?;
            Order::SetMaxLag(value.whole(fields.source(), "max_lag")?)
        }
        "set-parameter" => {
            let (name, value) = (fields.need("parameter")?, fields.need("value")?);
            let name = name.text(fields.source(), "parameter")?.to_owned();
            Order::SetParameter(name, value.text(fields.source(), "value")?.to_owned())
        }
        "tag" => Order::Tag {
            target: target(fields, "target", known)?,
            priority: u32::try_from(fields.whole("priority")?.unwrap_or(100)).unwrap_or(u32::MAX),
            no_failover: fields.flag("no_failover")?.unwrap_or(false),
        },
        _ => {
            return Err(fields.source().bad(
                &value.span,
                format!(
                    "{kind:?} is no order; there are switchover, failover, pause, resume, add, \
                     remove, set-mode, set-lease, set-max-lag, set-parameter and tag"
                ),
            ));
        }
    };
    Ok(Fault::Order { order, answer, times, name })
}

/// `mode`, which is needed.
pub(super) fn read_mode(fields: &mut Fields<'_>) -> Result<Mode, BadInput> {
    let value = fields.need("mode")?;
    let text = value.text(fields.source(), "mode")?;
    mode_named(&text).map_err(|why| fields.source().bad(&value.span, why))
}

/// A mode by its name.
pub(super) fn mode_named(name: &str) -> Result<Mode, String> {
    match name {
        "async" => Ok(Mode::Async),
        "quorum-sync" => Ok(Mode::QuorumSync),
        _ => Err(format!("{name:?} is no mode; there are async and quorum-sync")),
    }
}

fn process(fields: &mut Fields<'_>) -> Result<Process, BadInput> {
    match parsed(fields, "process")? {
        Some(process) => Ok(process),
        None => Err(fields.bad("`process` is one of manager, postgres, guard and host")),
    }
}

fn target(fields: &mut Fields<'_>, key: &'static str, known: &Known) -> Result<Target, BadInput> {
    match parsed_target(fields, key, known)? {
        Some(target) => Ok(target),
        None => fields.need(key).map(|_| Target::All),
    }
}

fn parsed_target(
    fields: &mut Fields<'_>,
    key: &'static str,
    known: &Known,
) -> Result<Option<Target>, BadInput> {
    let Some(value) = fields.take(key) else { return Ok(None) };
    let text = value.text(fields.source(), key)?;
    let target: Target =
        text.parse().map_err(|why: String| fields.source().bad(&value.span, why))?;
    exists(fields, target, &value.span, known)?;
    Ok(Some(target))
}

fn exists(fields: &Fields<'_>, target: Target, at: &Span, known: &Known) -> Result<(), BadInput> {
    match target {
        Target::Node(node) if !known.members.contains(&node) => {
            let members: Vec<String> = known.members.iter().map(|n| n.0.to_string()).collect();
            Err(fields.source().bad(
                at,
                format!("there is no member {}; there are {}", node.0, members.join(", ")),
            ))
        }
        _ => Ok(()),
    }
}

fn parsed<T: FromStr<Err = String>>(
    fields: &mut Fields<'_>,
    key: &'static str,
) -> Result<Option<T>, BadInput> {
    let Some(value) = fields.take(key) else { return Ok(None) };
    let text = value.text(fields.source(), key)?;
    text.parse().map(Some).map_err(|why: String| fields.source().bad(&value.span, why))
}
