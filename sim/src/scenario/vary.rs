//! A plan made from one that is known: how a sweep stays near what has shown it something new.
//!
//! Like a drawn plan it follows from its seed, and from the plan that it is made from; it is
//! written out like any other, and stays within the guarantee.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_replica::ids::NodeId;

use crate::invariants::GUARD_WAKES_WITHIN;
use crate::streams::{Concern, Stream, Streams};

use super::fault::{Fault, Order};
use super::guarantee::may_be_caught;
use super::plan::{Overlap, Plan, PlanEvent};
use super::swarm::{Profile, keep_if_promised};
use super::target::Target;

/// How far an event is moved at most, in milliseconds.
const MOVED_MS: u64 = 3_000;

impl Profile {
    /// Another plan for this seed: the cluster of `known`, most of what happens to it, and some of
    /// what the seed's own plan has.
    #[must_use]
    pub fn vary(&self, known: &Plan, seed: u64) -> Plan {
        let draw = Streams::new(seed).stream(Concern::Variation);
        let mut plan = Plan { seed, events: Vec::new(), ..known.clone() };
        plan.expect = self.base.expect.clone();
        let kept = known.events.iter().filter(|_| !draw.chance(0.2));
        let own = self.plan(seed);
        let added = own.events.iter().filter(|_| draw.chance(0.25));
        for event in kept.chain(added) {
            let mut event = event.clone();
            if draw.chance(0.3) {
                event = moved(event, self.base.duration, &draw);
            }
            if names_members_of(&event, &plan) {
                keep_if_promised(&mut plan, event);
            }
        }
        plan.events.sort_by_key(|event| event.at);
        if may_be_caught(&plan) {
            plan.expect.overlap = Overlap::AtMost(GUARD_WAKES_WITHIN);
        }
        if plan.reads_back() { plan } else { own }
    }
}

/// The event a little earlier or later, within the run.
fn moved(event: PlanEvent, duration: Duration, draw: &Stream) -> PlanEvent {
    let by = Duration::from_millis(draw.below(MOVED_MS));
    let at = if draw.chance(0.5) { event.at + by } else { event.at.saturating_sub(by) };
    let at = at.min(duration.saturating_sub(Duration::from_millis(100)));
    PlanEvent { at, lasts: event.lasts.map(|lasts| lasts.min(duration - at)), ..event }
}

/// Whether the members that it names exist in the plan, and the one that it brings does not yet.
fn names_members_of(event: &PlanEvent, plan: &Plan) -> bool {
    let mut known: BTreeSet<NodeId> = plan.cluster.members().collect();
    known.extend(plan.events.iter().filter_map(newcomer));
    let named = event.fault.targets().into_iter().all(|target| match target {
        Target::Node(node) => known.contains(&node),
        Target::Primary
        | Target::Leader
        | Target::Standby
        | Target::Standbys
        | Target::SyncStandby
        | Target::OldPrimary
        | Target::One
        | Target::Minority
        | Target::MajorityWithPrimary
        | Target::Others
        | Target::All => true,
    });
    named && newcomer(event).is_none_or(|node| !known.contains(&node))
}

/// The member that an event brings.
fn newcomer(event: &PlanEvent) -> Option<NodeId> {
    if let Fault::ReplaceMachine { node, .. }
    | Fault::Order { order: Order::Add { node, .. }, .. } = &event.fault
    {
        return Some(*node);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Document, read_file, unpromised};

    #[test]
    fn a_varied_plan_is_a_plan_of_its_own_that_follows_from_both() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../chaos/profiles/everything.toml");
        let Ok(Document::Profile(profile)) = read_file(file) else { panic!("a good profile") };
        let mut different = BTreeSet::new();
        let (mut kept, mut all) = (0, 0);
        for seed in 1..=60 {
            let known = profile.plan(seed + 1_000);
            let plan = profile.vary(&known, seed);
            assert_eq!(plan, profile.vary(&known, seed));
            assert_eq!(unpromised(&plan), None);
            assert!(plan.drawn && plan.seed == seed && plan != profile.plan(seed));
            let is_kept = |event: &&PlanEvent| plan.events.iter().any(|e| e.fault == event.fault);
            kept += known.events.iter().filter(is_kept).count();
            all += known.events.len();
            different.insert(plan.hash());
        }
        assert_eq!(different.len(), 60);
        // Four of five are kept, but for those that would leave the guarantee.
        assert!(kept * 10 >= all * 7 && kept < all, "{kept} of {all}");
    }
}
