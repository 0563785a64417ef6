//! The core: the agent's memory, the coordinator's while this member leads, and what both share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::control::ControlState;
use crate::ids::{ActionId, Moment, NodeId};
use crate::sabotage::Sabotage;

use super::action::Verb;
use super::agent::Agent;
use super::coordinator::Coordinator;
use super::event::RaftView;
use super::lease::Lease;
use super::report::Report;
use super::role::Role;
use super::timers::Timers;

/// How long a member may be out of touch before it says so: longer than an election.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// One member's decisions. Fed with events, it asks for actions; it never waits and never fails.
#[derive(Debug)]
pub struct Core {
    pub(super) me: NodeId,
    pub(super) sabotage: Sabotage,
    pub(super) now: Moment,
    pub(super) control: Arc<ControlState>,
    pub(super) raft: RaftView,
    pub(super) agent: Agent,
    pub(super) coordinator: Option<Coordinator>,
    /// Since when this member leads, by the term.
    pub(super) leads_since: Option<(crate::ids::Term, Moment)>,
    pub(super) timers: Timers,
    pub(super) next_id: u64,
    /// The coordinator's proposal under way.
    pub(super) proposal: Option<(ActionId, Moment)>,
    /// Before this instant it proposes nothing: the last one came to nothing.
    pub(super) propose_after: Moment,
}

impl Core {
    /// A core that has seen nothing yet.
    #[must_use]
    pub fn new(me: NodeId, sabotage: Sabotage) -> Self {
        Self {
            me,
            sabotage,
            now: Moment::default(),
            control: Arc::new(ControlState::default()),
            raft: RaftView::default(),
            agent: Agent::new(),
            coordinator: None,
            leads_since: None,
            timers: Timers::default(),
            next_id: 0,
            proposal: None,
            propose_after: Moment::default(),
        }
    }

    /// When `Event::Wake` is due.
    #[must_use]
    pub fn next_wake(&self) -> Option<Moment> {
        self.timers.next()
    }

    /// The role, for people and for the load balancer.
    #[must_use]
    pub fn role(&self) -> Role {
        self.agent.role
    }

    /// The lease in force.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        self.agent.lease
    }

    /// The control state as this member has applied it.
    #[must_use]
    pub fn control(&self) -> &Arc<ControlState> {
        &self.control
    }

    /// Raft as this member sees it.
    #[must_use]
    pub fn raft(&self) -> &RaftView {
        &self.raft
    }

    /// The last look at Postgres.
    #[must_use]
    pub fn postgres(&self) -> Option<&crate::env::Observation> {
        self.agent.seen()
    }

    /// Why things are not as they should be, if somebody has to know.
    #[must_use]
    pub fn explain(&self) -> Option<String> {
        let obstacle = self.coordinator.as_ref().and_then(|c| c.obstacle.as_ref());
        let obstacle = || obstacle.map(ToString::to_string);
        self.agent.trouble().or_else(obstacle).or_else(|| self.out_of_touch())
    }

    /// What a member says that is cut off, or that is left without a majority.
    fn out_of_touch(&self) -> Option<String> {
        if self.control.cluster.is_empty() {
            return None;
        }
        let Some(coordinator) = &self.coordinator else {
            let silence = self.now.since(self.agent.unheard_since?);
            return (silence >= SILENCE_LIMIT).then(|| {
                let seconds = silence.as_secs();
                format!(
                    "no leader has heard it for {seconds} s: it is cut off, or too few voters run"
                )
            });
        };
        let voters = &self.raft.voters;
        let hears = |node| node == self.me || coordinator.hears(node, self.now, &self.control);
        let heard = voters.iter().filter(|node| hears(**node)).count();
        (heard * 2 <= voters.len() && self.led_for() >= SILENCE_LIMIT).then(|| {
            format!(
                "it hears {heard} of {} voters, itself included: nothing is decided without a \
                 majority",
                voters.len()
            )
        })
    }

    fn led_for(&self) -> Duration {
        self.leads_since.map_or(Duration::ZERO, |(_, since)| self.now.since(since))
    }

    /// This member.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// What is being done to Postgres, if anything, and since when.
    #[must_use]
    pub fn under_way(&self) -> Option<(&Verb, Moment)> {
        self.agent.busy.as_ref().map(|busy| (&busy.verb, busy.since))
    }

    /// What the members last said, and how long ago, where this member decides for the cluster.
    #[must_use]
    pub fn reports(&self, now: Moment) -> Option<BTreeMap<NodeId, (Report, Duration)>> {
        let seen = &self.coordinator.as_ref()?.seen;
        Some(seen.iter().map(|(n, s)| (*n, (s.report.clone(), now.since(s.at)))).collect())
    }

    /// Why nobody is elected, where this member decides for the cluster and somebody should be.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        self.coordinator.as_ref()?.obstacle.as_ref().map(ToString::to_string)
    }

    pub(super) fn next_action_id(&mut self) -> ActionId {
        ActionId::following(&mut self.next_id)
    }
}
