//! A file as a plan or a profile, or one sentence that says what is wrong with it and where.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a reader wants one kind of value, and refuses or passes over every other"
)]

use std::collections::BTreeSet;
use std::path::{Component, Path};
use std::str::FromStr;
use std::time::Duration;

use pg_replica::control::{Mode, Settings, Timing};
use pg_replica::ids::NodeId;
use pg_replica::runtime::SNAPSHOT_EVERY;
use pg_replica::sabotage::Saboteur;

use crate::sometimes::Sometimes;

use super::fault::{Fault, Order};
use super::guarantee::unpromised;
use super::plan::{
    Bounds, Cluster, EndPrimary, Expect, FORMAT, Overlap, Plan, PlanEvent, Workload,
};
use super::read_event::{Known, read_event, read_mode};
use super::saboteur_named;
use super::swarm::{Profile, read_swarm};
use super::target::Target;
use super::text::{BadInput, Fields, Item, Source, Value, parse_duration, split_range};
use super::write::timing_fields;

/// What a file holds.
#[derive(Clone, Debug)]
pub enum Document {
    /// Timed events: a scenario, or a plan that was written out.
    Plan(Box<Plan>),
    /// Budgets for random plans.
    Profile(Box<Profile>),
}

impl Document {
    /// The run that this seed stands for.
    #[must_use]
    pub fn plan(&self, seed: u64) -> Plan {
        match self {
            Self::Plan(plan) => Plan { seed, ..(**plan).clone() },
            Self::Profile(profile) => profile.plan(seed),
        }
    }

    /// What is the same in every run.
    #[must_use]
    pub fn base(&self) -> &Plan {
        match self {
            Self::Plan(plan) => plan,
            Self::Profile(profile) => &profile.base,
        }
    }
}

/// Reads a file.
pub fn read_file(path: &str) -> Result<Document, BadInput> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| BadInput::about(path, format!("cannot be read: {error}")))?;
    read(path, &text)
}

/// Reads the text of `file`.
pub fn read(file: &str, text: &str) -> Result<Document, BadInput> {
    let source = Source { file, text };
    let mut fields = source.parse()?;
    check_version(&mut fields)?;
    let head = read_head(&mut fields, file)?;
    let swarm = fields.sub("swarm", "`[swarm]`")?;
    let events = fields.list("event")?.unwrap_or_default();
    if let Some(swarm) = swarm {
        if !events.is_empty() {
            return Err(fields.bad("a file holds events or a swarm, not both"));
        }
        fields.finish()?;
        return read_swarm(swarm, head, text).map(|profile| Document::Profile(Box::new(profile)));
    }
    let mut plan = head;
    let members = plan.cluster.members().collect();
    let mut known = Known { members, clients: plan.workload.clients() };
    known.meet_all(&events);
    let mut spans = Vec::new();
    for value in events {
        let span = value.span.clone();
        let event = read_event(value.fields(&source, "an event")?, &mut known)?;
        check_time(&event, plan.duration).map_err(|why| source.bad(&span, why))?;
        spans.push(span);
        plan.events.push(event);
    }
    for (event, span) in plan.events.iter().zip(spans) {
        check_target(event, &plan).map_err(|why| source.bad(&span, why))?;
    }
    plan.events.sort_by_key(|event| event.at);
    if let Some(why) = unpromised(&plan)
        && plan.expect.overlap == Overlap::None
    {
        return Err(fields.bad(format!(
            "{why}: say `overlap = \"reported\"` in [expect], or how long it may be: \"<=2s\""
        )));
    }
    check_end(&plan, &known).map_err(|why| fields.bad(why))?;
    fields.finish()?;
    Ok(Document::Plan(Box::new(plan)))
}

fn check_version(fields: &mut Fields<'_>) -> Result<(), BadInput> {
    let Some(value) = fields.take("version") else { return Ok(()) };
    let version = value.whole(fields.source(), "version")?;
    if version != FORMAT {
        return Err(fields.source().bad(
            &value.span,
            format!(
                "the file has format {version}, and this program knows format {FORMAT}: run it \
                 with the commit that wrote it, or draw it anew from its profile"
            ),
        ));
    }
    Ok(())
}

/// Everything but the events.
fn read_head(fields: &mut Fields<'_>, file: &str) -> Result<Plan, BadInput> {
    let claim_value = fields.need("claim")?;
    let claim = claim_value.text(fields.source(), "claim")?;
    if claim.trim().is_empty() {
        return Err(fields
            .source()
            .bad(&claim_value.span, "a scenario without a claim proves nothing"));
    }
    let stem = Path::new(file).file_stem().map_or_else(String::new, |s| s.to_string_lossy().into());
    let name = match fields.take("name") {
        Some(value) => read_name(&value, fields.source())?,
        None => stem,
    };
    let seed = read_seed(fields)?;
    let drawn = fields.flag("drawn")?.unwrap_or(false);
    let messages_only = fields.text("messages_only")?;
    let sockets_only = fields.text("sockets_only")?;
    if messages_only.is_some() && sockets_only.is_some() {
        return Err(fields.bad("`messages_only` and `sockets_only` leave no world to run it in"));
    }
    let duration_value = fields.need("duration")?;
    let duration = duration_value.duration(fields.source(), "duration")?;
    if duration < Duration::from_secs(1) {
        return Err(fields.source().bad(&duration_value.span, "a run lasts a second at least"));
    }
    let cluster = read_cluster(fields.sub("cluster", "`[cluster]`")?)?;
    let workload = read_workload(fields.sub("workload", "`[workload]`")?)?;
    let expect = read_expect(fields.sub("expect", "`[expect]`")?, &cluster, duration)?;
    let sabotage = read_sabotage(fields.sub("sabotage", "`[sabotage]`")?)?;
    if expect.violation.is_some() && sabotage.is_none() {
        return Err(
            fields.bad("a violation is expected only where a rule is broken in `[sabotage]`")
        );
    }
    Ok(Plan {
        name,
        claim,
        seed,
        drawn,
        messages_only,
        sockets_only,
        cluster,
        workload,
        events: Vec::new(),
        duration,
        expect,
        sabotage,
    })
}

/// What a run's files and folders are called, and so nothing that leads elsewhere.
fn read_name(value: &Value, source: &Source<'_>) -> Result<String, BadInput> {
    let name = value.text(source, "name")?;
    let mut parts = Path::new(&name).components();
    let is_one = matches!(parts.next(), Some(Component::Normal(part)) if part == name.as_str());
    if !is_one || parts.next().is_some() {
        let why = "`name` is what the run's files are called: one word, and no path";
        return Err(source.bad(&value.span, why));
    }
    Ok(name)
}

/// A number, or the text of one: seeds use all 64 bits and TOML's numbers do not.
fn read_seed(fields: &mut Fields<'_>) -> Result<u64, BadInput> {
    let Some(value) = fields.take("seed") else { return Ok(0) };
    match &value.item {
        Item::Text(text) => {
            text.parse().map_err(|_| fields.source().bad(&value.span, "`seed` is a whole number"))
        }
        _ => value.whole(fields.source(), "seed"),
    }
}

fn read_cluster(fields: Option<Fields<'_>>) -> Result<Cluster, BadInput> {
    let defaults = Settings::default();
    let mut cluster = Cluster {
        nodes: 3,
        witnesses: 0,
        mode: Mode::Async,
        commit_fence: true,
        unborn: false,
        timing: defaults.timing,
        max_lag_bytes: defaults.max_lag_bytes,
        snapshot_every: SNAPSHOT_EVERY,
        priorities: std::collections::BTreeMap::new(),
        no_failover: BTreeSet::new(),
        existing: BTreeSet::new(),
    };
    let Some(mut fields) = fields else { return Ok(cluster) };
    cluster.nodes = fields.whole("nodes")?.unwrap_or(cluster.nodes);
    cluster.witnesses = fields.whole("witnesses")?.unwrap_or(0);
    check_size(cluster.nodes, cluster.witnesses).map_err(|why| fields.bad(why))?;
    if fields.has("mode") {
        cluster.mode = read_mode(&mut fields)?;
    }
    cluster.commit_fence = fields.flag("commit_fence")?.unwrap_or(true);
    cluster.unborn = fields.flag("unborn")?.unwrap_or(false);
    cluster.max_lag_bytes = fields.whole("max_lag")?.unwrap_or(cluster.max_lag_bytes);
    if let Some(value) = fields.take("snapshot_every") {
        cluster.snapshot_every = value.whole(fields.source(), "snapshot_every")?;
        if cluster.snapshot_every < 10 {
            return Err(fields.source().bad(&value.span, "a snapshot follows 10 entries or more"));
        }
    }
    read_timing(&mut fields, &mut cluster.timing)?;
    read_tags(&mut fields, &mut cluster)?;
    fields.finish()?;
    Ok(cluster)
}

/// What is wrong with a cluster of this size, if anything is.
pub(super) fn check_size(nodes: u64, witnesses: u64) -> Result<(), String> {
    let voters = nodes.saturating_add(witnesses);
    if voters.is_multiple_of(2) {
        return Err(format!(
            "{nodes} nodes and {witnesses} witnesses are {voters} voters: an even number tolerates \
             no more failures than one fewer"
        ));
    }
    if nodes < 2 && witnesses > 0 {
        return Err("witnesses are of no use to a single node".into());
    }
    if !(1..=15).contains(&voters) {
        return Err(format!("{voters} voters are more than a run can hold, which is 15"));
    }
    Ok(())
}

fn read_timing(fields: &mut Fields<'_>, timing: &mut Timing) -> Result<(), BadInput> {
    for (key, before) in timing_fields(timing) {
        let Some(span) = fields.duration(key)? else { continue };
        let ms = u64::try_from(span.as_millis()).unwrap_or(before);
        let field = match key {
            "lease" => &mut timing.lease_ms,
            "heartbeat" => &mut timing.heartbeat_ms,
            "suspect" => &mut timing.suspect_ms,
            "fence_margin" => &mut timing.fence_margin_ms,
            "guard_margin" => &mut timing.guard_margin_ms,
            "restart" => &mut timing.restart_ms,
            "promote" => &mut timing.promote_ms,
            _ => &mut timing.stop_ms,
        };
        *field = ms;
    }
    timing.clock_rate_ppm = fields.whole("clock_rate_ppm")?.unwrap_or(timing.clock_rate_ppm);
    timing.check().map_err(|why| fields.bad(why))
}

fn read_tags(fields: &mut Fields<'_>, cluster: &mut Cluster) -> Result<(), BadInput> {
    if let Some(priorities) = fields.sub("priorities", "`priorities`")? {
        let source = fields.source();
        for (key, (span, value)) in priorities.rest() {
            let node = key.parse().map(NodeId).unwrap_or_default();
            if !cluster.keeps_data(node) {
                return Err(source.bad(&span, format!("{key} is no data member of this cluster")));
            }
            let priority = value.whole(source, "priorities")?;
            cluster.priorities.insert(node, u32::try_from(priority).unwrap_or(u32::MAX));
        }
    }
    cluster.no_failover = read_data_members(fields, cluster, "no_failover")?;
    cluster.existing = read_data_members(fields, cluster, "existing")?;
    Ok(())
}

fn read_data_members(
    fields: &mut Fields<'_>,
    cluster: &Cluster,
    key: &'static str,
) -> Result<BTreeSet<NodeId>, BadInput> {
    let listed = fields.list(key)?.unwrap_or_default().into_iter().map(|value| {
        let node = NodeId(value.whole(fields.source(), key)?);
        if !cluster.keeps_data(node) {
            let why = format!("{} is no data member of this cluster", node.0);
            return Err(fields.source().bad(&value.span, why));
        }
        Ok(node)
    });
    listed.collect()
}

fn read_workload(fields: Option<Fields<'_>>) -> Result<Workload, BadInput> {
    let mut workload =
        Workload { writers: 4, readers: 1, stale: 0, think: Duration::from_millis(100) };
    let Some(mut fields) = fields else { return Ok(workload) };
    for key in ["writers", "readers", "stale"] {
        let Some(value) = fields.take(key) else { continue };
        let number = value.whole(fields.source(), key)?;
        if number > 100 {
            return Err(fields
                .source()
                .bad(&value.span, "a run holds up to 100 clients of a kind"));
        }
        let number = u32::try_from(number).expect("at most 100");
        match key {
            "writers" => workload.writers = number,
            "readers" => workload.readers = number,
            _ => workload.stale = number,
        }
    }
    if workload.writers == 0 || workload.stale > workload.writers {
        return Err(fields.bad("there is one writer at least, and no more stale ones than writers"));
    }
    if let Some(think) = fields.duration("think")? {
        if think < Duration::from_millis(1) {
            return Err(fields.bad("`think` is a millisecond at least"));
        }
        workload.think = think;
    }
    fields.finish()?;
    Ok(workload)
}

fn read_sabotage(fields: Option<Fields<'_>>) -> Result<Option<Saboteur>, BadInput> {
    let Some(mut fields) = fields else { return Ok(None) };
    let value = fields.need("name")?;
    let name = value.text(fields.source(), "name")?;
    let saboteur = saboteur_named(&name).map_err(|why| fields.source().bad(&value.span, why))?;
    fields.finish()?;
    Ok(Some(saboteur))
}

fn read_expect(
    fields: Option<Fields<'_>>,
    cluster: &Cluster,
    duration: Duration,
) -> Result<Expect, BadInput> {
    let mut expect = Expect::default();
    let Some(mut fields) = fields else { return Ok(expect) };
    expect.writable_within = fields.duration("writable_within")?;
    expect.writable_after = fields.duration("writable_after")?;
    for value in fields.list("silent")?.unwrap_or_default() {
        expect.silent.push(read_silence(&value, fields.source(), duration)?);
    }
    expect.lost_acknowledged = fields.whole("lost_acknowledged")?;
    if let Some(value) = fields.take("overlap") {
        let text = value.text(fields.source(), "overlap")?;
        expect.overlap = overlap(&text).ok_or_else(|| {
            fields.source().bad(&value.span, "`overlap` is none, reported or a bound: \"<=2s\"")
        })?;
    }
    if let Some(value) = fields.take("primary") {
        let text = value.text(fields.source(), "primary")?;
        expect.primary =
            Some(end_primary(&text, cluster).map_err(|why| fields.source().bad(&value.span, why))?);
    }
    expect.failovers = read_bounds(&mut fields, "failovers")?;
    expect.rewinds = read_bounds(&mut fields, "rewinds")?;
    expect.clones = read_bounds(&mut fields, "clones")?;
    for value in fields.list("sometimes")?.unwrap_or_default() {
        let name = value.text(fields.source(), "sometimes")?;
        let state = Sometimes::from_str(&name)
            .map_err(|error| fields.source().bad(&value.span, error.to_string()))?;
        expect.sometimes.insert(state);
    }
    if let Some(value) = fields.take("violation") {
        let name = value.text(fields.source(), "violation")?;
        let known = (1..=10).any(|number| name == format!("I{number}"));
        if !known && !["expect", "client", "health", "log", "panic"].contains(&name.as_str()) {
            return Err(fields.source().bad(
                &value.span,
                "a violation is one of I1 to I10, or expect, client, health, log or panic",
            ));
        }
        expect.violation = Some(name);
    }
    fields.finish()?;
    Ok(expect)
}

fn overlap(text: &str) -> Option<Overlap> {
    match text {
        "none" => Some(Overlap::None),
        "reported" => Some(Overlap::Reported),
        _ => Some(Overlap::AtMost(parse_duration(text.strip_prefix("<=")?).ok()?)),
    }
}

fn read_silence(
    value: &Value,
    source: &Source<'_>,
    duration: Duration,
) -> Result<(Duration, Duration), BadInput> {
    let text = value.text(source, "silent")?;
    let parsed = split_range(&text)
        .and_then(|(from, to)| Some((parse_duration(from).ok()?, parse_duration(to).ok()?)));
    match parsed {
        Some((from, to)) if from < to && to <= duration => Ok((from, to)),
        Some(_) => Err(source.bad(&value.span, format!("{text:?} is no span within the run"))),
        None => Err(source.bad(&value.span, "a silent span is written \"20s..40s\"")),
    }
}

fn end_primary(text: &str, cluster: &Cluster) -> Result<EndPrimary, String> {
    match text {
        "same" => Ok(EndPrimary::Same),
        "other" => Ok(EndPrimary::Other),
        _ => match Target::from_str(text) {
            Ok(Target::Node(node))
                if node.0 == 0
                    || cluster.witnesses > 0 && {
                        node.0 > cluster.nodes && node.0 <= cluster.nodes + cluster.witnesses
                    } =>
            {
                Err(format!("{} keeps no data", node.0))
            }
            Ok(Target::Node(node)) => Ok(EndPrimary::Node(node)),
            _ => Err("`primary` is same, other or node:N".into()),
        },
    }
}

/// `2`, `"2"` or `"1..3"`.
fn read_bounds(fields: &mut Fields<'_>, key: &'static str) -> Result<Option<Bounds>, BadInput> {
    let Some(value) = fields.take(key) else { return Ok(None) };
    if let Item::Whole(_) = value.item {
        let number = value.whole(fields.source(), key)?;
        return Ok(Some(Bounds { least: number, most: number }));
    }
    let text = value.text(fields.source(), key)?;
    bounds(&text).map(Some).ok_or_else(|| {
        fields.source().bad(&value.span, format!("`{key}` is a number or a range such as \"1..3\""))
    })
}

/// `"2"` or `"1..3"`.
pub(super) fn bounds(text: &str) -> Option<Bounds> {
    let (least, most) = split_range(text).unwrap_or((text, text));
    let bounds = Bounds { least: least.parse().ok()?, most: most.parse().ok()? };
    (bounds.least <= bounds.most).then_some(bounds)
}

fn check_time(event: &PlanEvent, duration: Duration) -> Result<(), String> {
    if event.at >= duration {
        return Err(format!("the event comes at {:?}, and the run ends at {duration:?}", event.at));
    }
    if let Some(lasts) = event.lasts
        && event.at + lasts > duration
    {
        return Err(format!(
            "the event ends at {:?}, and the run at {duration:?}: without `for` it lasts to \
             the end",
            event.at + lasts
        ));
    }
    Ok(())
}

/// A target that can never mean anybody is an error, not a fault that silently does nothing.
pub(super) fn check_target(event: &PlanEvent, plan: &Plan) -> Result<(), String> {
    let cluster = &plan.cluster;
    let orders = |wanted: fn(&Fault) -> bool| plan.events.iter().any(|other| wanted(&other.fault));
    let ever_sync = cluster.mode == Mode::QuorumSync
        || orders(|f| matches!(f, Fault::Order { order: Order::SetMode(Mode::QuorumSync), .. }));
    let grows = orders(|f| {
        matches!(f, Fault::Order { order: Order::Add { .. }, .. } | Fault::ReplaceMachine { .. })
    });
    let single = cluster.nodes == 1 && !grows;
    for target in event.fault.targets() {
        match target {
            Target::SyncStandby if !ever_sync => {
                return Err("there is no sync-standby in async mode".into());
            }
            Target::Standby | Target::Standbys if single => {
                return Err("a single node has no standby".into());
            }
            Target::Minority | Target::Others | Target::OldPrimary if single => {
                return Err(format!("in a cluster of one, {target} is nobody"));
            }
            Target::Node(node) if event.fault.is_about_postgres() && is_witness(node, plan) => {
                return Err(format!("{} is a witness, and has no Postgres", node.0));
            }
            Target::SyncStandby
            | Target::Standby
            | Target::Standbys
            | Target::Minority
            | Target::Others
            | Target::OldPrimary
            | Target::Node(_)
            | Target::Primary
            | Target::Leader
            | Target::One
            | Target::MajorityWithPrimary
            | Target::All => {}
        }
    }
    Ok(())
}

fn is_witness(node: NodeId, plan: &Plan) -> bool {
    let cluster = &plan.cluster;
    let admitted = |event: &PlanEvent| {
        matches!(event.fault,
            Fault::Order { order: Order::Add { node: new, witness: true }, .. } if new == node)
    };
    cluster.members().any(|member| member == node) && !cluster.keeps_data(node)
        || plan.events.iter().any(admitted)
}

/// The expected last primary may be a member that was added during the run.
fn check_end(plan: &Plan, known: &Known) -> Result<(), String> {
    match plan.expect.primary {
        Some(EndPrimary::Same | EndPrimary::Other) if plan.cluster.unborn => {
            Err("an unborn cluster has no primary in the beginning: name a node".into())
        }
        Some(EndPrimary::Node(node)) if !known.members.contains(&node) => {
            Err(format!("`primary` is expected to be member {}, which never exists", node.0))
        }
        Some(EndPrimary::Node(_) | EndPrimary::Same | EndPrimary::Other) | None => Ok(()),
    }
}
