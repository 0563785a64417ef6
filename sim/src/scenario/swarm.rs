//! Budgets for random runs: which faults, how likely, how many, how long.
//!
//! A swarm's fault takes the parameters of an event. Where an event has one value, a swarm may
//! have a list to choose from, or a range. A drawn event is read by the same reader as a written
//! one, so that the two can never mean different things.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a reader wants one kind of value, and refuses or passes over every other"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use pg_replica::control::Mode;

use crate::invariants::GUARD_WAKES_WITHIN;
use crate::streams::{Concern, Stream, Streams};

use super::guarantee::{may_be_caught, unpromised};
use super::plan::{Bounds, Overlap, Plan, PlanEvent};
use super::read::{bounds, check_size, check_target};
use super::read_event::{Known, mode_named, read_event};
use super::text::{
    BadInput, Fields, Item, Source, Span, Value, parse_duration, split_range, write_duration,
};

/// Budgets for random plans.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Everything that is the same in every run. Has no events.
    pub base: Plan,
    file: String,
    text: String,
    nodes: Vec<u64>,
    witnesses: Vec<u64>,
    modes: Vec<Mode>,
    commit_fence: Vec<bool>,
    max_lag: Vec<u64>,
    start: (Duration, Duration),
    entries: Vec<Entry>,
}

/// One kind of fault and its budget.
#[derive(Clone, Debug)]
struct Entry {
    span: Span,
    probability: f64,
    count: Bounds,
    parameters: BTreeMap<String, (Span, Value)>,
}

impl Profile {
    /// The run that this seed stands for: the same one everywhere and always.
    #[must_use]
    pub fn plan(&self, seed: u64) -> Plan {
        let draw = Streams::new(seed).stream(Concern::Plan);
        let mut plan = self.base.clone();
        plan.seed = seed;
        plan.drawn = true;
        plan.cluster.nodes = *draw.pick(&self.nodes);
        plan.cluster.witnesses = *draw.pick(&self.witnesses);
        plan.cluster.mode = *draw.pick(&self.modes);
        plan.cluster.commit_fence = *draw.pick(&self.commit_fence);
        plan.cluster.max_lag_bytes = *draw.pick(&self.max_lag);
        let mut known = self.known(&plan);
        for entry in &self.entries {
            // Every run draws a subset of the kinds, so that the mixes differ: a fault that is
            // always there hides what happens without it.
            if !draw.chance(entry.probability) {
                continue;
            }
            for _ in 0..number(&draw, entry.count) {
                let event = self
                    .draw(entry, &draw, &mut known)
                    .expect("every alternative was read when the profile was");
                keep_if_promised(&mut plan, event);
            }
        }
        plan.events.sort_by_key(|event| event.at);
        if may_be_caught(&plan) {
            plan.expect.overlap = Overlap::AtMost(GUARD_WAKES_WITHIN);
        }
        plan
    }

    fn known(&self, plan: &Plan) -> Known {
        Known { members: plan.cluster.members().collect(), clients: self.base.workload.clients() }
    }

    fn draw(&self, entry: &Entry, draw: &Stream, known: &mut Known) -> Result<PlanEvent, BadInput> {
        let mut drawn = BTreeMap::new();
        for (key, (span, value)) in &entry.parameters {
            drawn.insert(key.clone(), (span.clone(), draw_value(value, draw)));
        }
        if !drawn.contains_key("at") {
            let at = draw_duration(self.start, draw);
            let value = Value { span: entry.span.clone(), item: Item::Text(write_duration(at)) };
            drawn.insert("at".into(), (entry.span.clone(), value));
        }
        name_members(&mut drawn, draw, known);
        let mut event = self.read(entry, drawn, known)?;
        let left = self.base.duration.saturating_sub(event.at);
        event.lasts = event.lasts.map(|lasts| lasts.min(left));
        Ok(event)
    }

    fn read(
        &self,
        entry: &Entry,
        drawn: BTreeMap<String, (Span, Value)>,
        known: &mut Known,
    ) -> Result<PlanEvent, BadInput> {
        let source = Source { file: &self.file, text: &self.text };
        read_event(Fields::new(&source, "a swarm's fault", entry.span.clone(), drawn), known)
    }

    /// Reads every alternative once, so that a profile is wrong when it is read and not in the
    /// middle of a sweep.
    fn check(&self) -> Result<(), BadInput> {
        for entry in &self.entries {
            let widest = entry.parameters.values().map(|(_, v)| alternatives(v).len()).max();
            for turn in 0..widest.unwrap_or(1) {
                let mut tried = BTreeMap::new();
                for (key, (span, value)) in &entry.parameters {
                    let options = alternatives(value);
                    let option = options[turn % options.len()].clone();
                    tried.insert(key.clone(), (span.clone(), option));
                }
                let at = Value { span: entry.span.clone(), item: Item::Text("1s".into()) };
                tried.entry("at".into()).or_insert((entry.span.clone(), at));
                let mut known = self.known(&self.base);
                add_number(&mut tried, &known);
                let event = self.read(entry, tried, &mut known)?;
                if event.at >= self.base.duration {
                    let source = Source { file: &self.file, text: &self.text };
                    return Err(source.bad(&entry.span, "the fault may begin after the end"));
                }
            }
        }
        Ok(())
    }
}

/// Reads `[swarm]`. `base` is everything else in the file.
pub(super) fn read_swarm(
    mut fields: Fields<'_>,
    mut base: Plan,
    text: &str,
) -> Result<Profile, BadInput> {
    let source = fields.source();
    let nodes = numbers(&mut fields, "nodes")?.unwrap_or(vec![base.cluster.nodes]);
    let witnesses = numbers(&mut fields, "witnesses")?.unwrap_or(vec![base.cluster.witnesses]);
    for (nodes, witnesses) in nodes.iter().flat_map(|n| witnesses.iter().map(move |w| (*n, *w))) {
        check_size(nodes, witnesses).map_err(|why| fields.bad(why))?;
    }
    base.cluster.nodes = nodes.iter().copied().min().unwrap_or(3);
    base.cluster.witnesses = 0;
    let mut modes = Vec::new();
    for value in fields.list("modes")?.unwrap_or_default() {
        let name = value.text(source, "modes")?;
        modes.push(mode_named(&name).map_err(|why| source.bad(&value.span, why))?);
    }
    let mut commit_fence = Vec::new();
    for value in fields.list("commit_fence")?.unwrap_or_default() {
        match value.item {
            Item::Flag(flag) => commit_fence.push(flag),
            _ => return Err(source.bad(&value.span, "`commit_fence` lists true and false")),
        }
    }
    let max_lag = numbers(&mut fields, "max_lag")?.unwrap_or(vec![base.cluster.max_lag_bytes]);
    let whole_run = (Duration::ZERO, base.duration.saturating_sub(Duration::from_millis(100)));
    let start = match fields.take("start") {
        None => whole_run,
        Some(value) => duration_range(&value)
            .filter(|(low, high)| low <= high && *high < base.duration)
            .ok_or_else(|| source.bad(&value.span, "`start` is a range within the run"))?,
    };
    let mut entries = Vec::new();
    for value in fields.list("fault")?.unwrap_or_default() {
        entries.push(read_entry(value.fields(source, "a swarm's fault")?)?);
    }
    fields.finish()?;
    if modes.is_empty() {
        modes.push(base.cluster.mode);
    }
    if commit_fence.is_empty() {
        commit_fence.push(base.cluster.commit_fence);
    }
    let (file, text) = (source.file.to_owned(), text.to_owned());
    let profile = Profile {
        base,
        file,
        text,
        nodes,
        witnesses,
        modes,
        commit_fence,
        max_lag,
        start,
        entries,
    };
    profile.check()?;
    Ok(profile)
}

fn read_entry(mut fields: Fields<'_>) -> Result<Entry, BadInput> {
    let source = fields.source();
    let span = fields.span();
    let probability = match fields.take("probability") {
        None => 1.0,
        Some(value) => match value.item {
            Item::Real(number) if (0.0..=1.0).contains(&number) => number,
            Item::Whole(number @ 0..=1) => number as f64,
            _ => return Err(source.bad(&value.span, "`probability` lies between 0.0 and 1.0")),
        },
    };
    let count = match fields.take("count") {
        None => Bounds { least: 1, most: 1 },
        Some(Value { item: Item::Whole(number @ 1..=50), .. }) => {
            Bounds { least: number.unsigned_abs(), most: number.unsigned_abs() }
        }
        Some(value) => {
            bounds(&value.text(source, "count")?).filter(|bounds| bounds.most <= 50).ok_or_else(
                || source.bad(&value.span, "`count` is a range such as \"1..3\", up to 50"),
            )?
        }
    };
    Ok(Entry { span, probability, count, parameters: fields.rest() })
}

/// Adds the event, unless one writer would not be promised any more: then a violation would mean
/// nothing. A dash of the guarantee is a scenario's business.
pub(super) fn keep_if_promised(plan: &mut Plan, event: PlanEvent) {
    if check_target(&event, plan).is_err() {
        return;
    }
    plan.events.push(event);
    if unpromised(plan).is_some() {
        plan.events.pop();
    }
}

/// Puts numbers in the place of what only a drawn plan can name: `one` becomes a member, so that
/// the written plan says which; a member to add gets the next number.
fn name_members(drawn: &mut BTreeMap<String, (Span, Value)>, draw: &Stream, known: &Known) {
    for (_, value) in drawn.values_mut() {
        if value.item == Item::Text("one".into()) {
            let node = draw.pick(&known.members);
            value.item = Item::Text(format!("node:{}", node.0));
        }
    }
    add_number(drawn, known);
    // A range across zero holds the one rate that is no fault.
    if let Some((_, ppm)) = drawn.get_mut("ppm")
        && ppm.item == Item::Whole(0)
    {
        ppm.item = Item::Whole(1);
    }
}

fn add_number(drawn: &mut BTreeMap<String, (Span, Value)>, known: &Known) {
    let is = |key: &str, text: &str| {
        drawn.get(key).is_some_and(|(_, value)| value.item == Item::Text(text.into()))
    };
    let admits = is("order", "add") || is("fault", "replace-machine");
    if admits && !drawn.contains_key("node") {
        let span = drawn.get("fault").map_or(0..0, |(span, _)| span.clone());
        let item = Item::Whole(i64::try_from(known.next().0).unwrap_or(i64::MAX));
        drawn.insert("node".into(), (span.clone(), Value { span, item }));
    }
}

fn draw_value(value: &Value, draw: &Stream) -> Value {
    let chosen = match &value.item {
        Item::List(options) if !options.is_empty() => draw.pick(options).clone(),
        _ => value.clone(),
    };
    if let Some(range) = duration_range(&chosen) {
        let text = write_duration(draw_duration(range, draw));
        return Value { item: Item::Text(text), ..chosen };
    }
    if let Some((low, high)) = whole_range(&chosen) {
        return Value {
            item: Item::Whole(low.saturating_add_unsigned(draw.below(high.abs_diff(low) + 1))),
            ..chosen
        };
    }
    chosen
}

/// The values that a parameter may take; of a range, its ends.
fn alternatives(value: &Value) -> Vec<Value> {
    let options = match &value.item {
        Item::List(options) if !options.is_empty() => options.clone(),
        _ => vec![value.clone()],
    };
    let ends = |value: Value| -> Vec<Value> {
        let items = if let Some((low, high)) = duration_range(&value) {
            vec![Item::Text(write_duration(low)), Item::Text(write_duration(high))]
        } else if let Some((low, high)) = whole_range(&value) {
            vec![Item::Whole(low), Item::Whole(high)]
        } else {
            return vec![value];
        };
        items.into_iter().map(|item| Value { span: value.span.clone(), item }).collect()
    };
    options.into_iter().flat_map(ends).collect()
}

fn duration_range(value: &Value) -> Option<(Duration, Duration)> {
    let Item::Text(text) = &value.item else { return None };
    let (low, high) = split_range(text)?;
    let range = (parse_duration(low).ok()?, parse_duration(high).ok()?);
    (range.0 <= range.1).then_some(range)
}

fn whole_range(value: &Value) -> Option<(i64, i64)> {
    let Item::Text(text) = &value.item else { return None };
    let (low, high) = split_range(text)?;
    let range = (low.parse().ok()?, high.parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

fn draw_duration((low, high): (Duration, Duration), draw: &Stream) -> Duration {
    let ms = |span: Duration| u64::try_from(span.as_millis()).expect("a day fits");
    Duration::from_millis(number(draw, Bounds { least: ms(low), most: ms(high) }))
}

fn numbers(fields: &mut Fields<'_>, key: &'static str) -> Result<Option<Vec<u64>>, BadInput> {
    let Some(list) = fields.list(key)? else { return Ok(None) };
    let numbers: Result<Vec<u64>, BadInput> =
        list.iter().map(|value| value.whole(fields.source(), key)).collect();
    let numbers = numbers?;
    if numbers.is_empty() {
        return Err(fields.bad(format!("`{key}` lists one number at least")));
    }
    Ok(Some(numbers))
}

fn number(draw: &Stream, bounds: Bounds) -> u64 {
    bounds.least + draw.below(bounds.most - bounds.least + 1)
}
