//! The status board: what a node thinks, kept where others may look at any time.
//!
//! It watches the loop and never holds it up: a step costs a few copies under a lock that nobody
//! keeps. It writes the log's line for every transition, counts, and calls out changes of the role.
//! It judges nothing; `health` does, from what hangs here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::control::{Applied, Command, ControlState, OrderOutcome};
use crate::env::Observation;
use crate::ha::{Action, Core, Event, Lease, RaftView, Report, Role, Verb};
use crate::ids::{CommandId, Epoch, Moment, NodeId};
use crate::runtime::Observer;
use crate::sabotage::Sabotage;

use super::counters::Counters;

/// How many changes of the role may wait for a slow listener. A role changes a few times per
/// failover; whoever is further behind than this has missed the oldest ones and is told so.
const ROLE_CHANGES_MAX: usize = 64;

/// What the log says of an entry whose effect came with a snapshot.
pub const BY_SNAPSHOT: &str = "the control state came as a snapshot";

/// A change of the role, as it is called out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// Whose.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: String,
    /// The role before.
    pub from: Role,
    /// The role now.
    pub to: Role,
    /// The epoch in which it changed.
    pub epoch: Epoch,
    /// Why, in one sentence.
    pub reason: String,
}

/// What was known after the last step.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// This member.
    pub node: NodeId,
    /// The cluster that it was configured for.
    pub cluster: String,
    /// When the loop last took a step, or when the board was made.
    pub stepped_at: Moment,
    /// The role.
    pub role: Role,
    /// Since when.
    pub role_since: Moment,
    /// The control state as this member has applied it.
    pub control: Arc<ControlState>,
    /// The lease in force. There is one only once the guard is armed with its end.
    pub lease: Option<Lease>,
    /// The consensus layer.
    pub raft: Arc<RaftView>,
    /// The last look at Postgres, and when it came back.
    pub seen: Option<(Arc<Observation>, Moment)>,
    /// When the leader last answered a heartbeat of this member.
    pub answered_at: Option<Moment>,
    /// What keeps this member from doing what the control state asks of it.
    pub trouble: Option<String>,
    /// What is being done to Postgres, and since when.
    pub under_way: Option<(String, Moment)>,
    /// Whether that is to stop it.
    pub stopping: bool,
    /// This member's newest account of itself.
    pub own: Option<(Arc<Report>, Moment)>,
    /// Where this member leads: what the members last said, and when they said it.
    pub reports: Option<Arc<BTreeMap<NodeId, (Report, Moment)>>>,
    /// Where this member leads: why nobody is elected.
    pub obstacle: Option<String>,
    /// The rule that the pages break, in simulations.
    pub sabotage: Sabotage,
}

#[derive(Debug)]
struct Inner {
    snapshot: Arc<Snapshot>,
    counters: Counters,
}

/// The board. One per node, shared by everybody who wants to know.
#[derive(Debug)]
pub struct StatusBoard {
    inner: Mutex<Inner>,
    changes: broadcast::Sender<RoleChange>,
}

impl StatusBoard {
    /// A board of a node that has not taken a step yet.
    #[must_use]
    pub fn new(node: NodeId, cluster: impl Into<String>, now: Moment) -> Self {
        let snapshot = Snapshot {
            node,
            cluster: cluster.into(),
            stepped_at: now,
            role: Role::Idle,
            role_since: now,
            control: Arc::default(),
            lease: None,
            raft: Arc::default(),
            seen: None,
            answered_at: None,
            trouble: None,
            under_way: None,
            stopping: false,
            own: None,
            reports: None,
            obstacle: None,
            sabotage: Sabotage::NONE,
        };
        let inner = Inner { snapshot: Arc::new(snapshot), counters: Counters::default() };
        Self { inner: Mutex::new(inner), changes: broadcast::channel(ROLE_CHANGES_MAX).0 }
    }

    /// The same board, whose pages break a rule.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn breaking(self, sabotage: Sabotage) -> Self {
        Arc::make_mut(&mut self.lock().snapshot).sabotage = sabotage;
        self
    }

    /// What was known after the last step.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot.clone()
    }

    /// What was counted since the node started.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    /// Changes of the role from now on, in order.
    #[must_use]
    pub fn role_changes(&self) -> broadcast::Receiver<RoleChange> {
        self.changes.subscribe()
    }

    /// How an order ended, as far as this member has applied it.
    #[must_use]
    pub fn outcome_of(&self, id: CommandId) -> Option<OrderOutcome> {
        self.snapshot().control.outcome_of(id).cloned()
    }

    /// Counts how an order ended that was given through this member.
    pub fn count_order(&self, end: &'static str) {
        self.lock().counters.order_ended(end);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log's lines: what the core says, with a change of the role in full.
    fn log(&self, node: NodeId, actions: &[Action], change: Option<&RoleChange>) {
        let bare = change.map(|c| format!("{} -> {} in {}", c.from, c.to, c.epoch));
        for action in actions {
            match action {
                Action::Tell(divergence) => tracing::warn!(%node, "{divergence}"),
                Action::Say(line) if Some(line) != bare.as_ref() => {
                    tracing::info!(%node, "{line}");
                }
                Action::Say(_)
                | Action::Postgres { .. }
                | Action::Observe { .. }
                | Action::ArmGuard { .. }
                | Action::DisarmGuard { .. }
                | Action::SendHeartbeat { .. }
                | Action::ConfirmLeadership { .. }
                | Action::AnswerHeartbeat { .. }
                | Action::AnswerChore { .. }
                | Action::Propose { .. }
                | Action::TransferLeadership { .. }
                | Action::ChangeVoters { .. } => {}
            }
        }
        if let (Some(change), Some(bare)) = (change, bare) {
            let RoleChange { to, epoch, reason, .. } = change;
            tracing::info!(%node, role = %to, %epoch, "{bare}: {reason}");
        }
    }
}

impl Observer for StatusBoard {
    fn stepped(&self, now: Moment, event: &Event, actions: &[Action], core: &Core) {
        let mut inner = self.lock();
        let old = inner.snapshot.clone();
        let next = old.after(now, event, actions, core);
        let change = (next.role != old.role).then(|| RoleChange {
            node: next.node,
            cluster: next.cluster.clone(),
            from: old.role,
            to: next.role,
            epoch: next.control.primacy.epoch,
            reason: reason(old.role, actions, core),
        });
        inner.counters.stepped(now, event, actions);
        if let Some(change) = &change {
            inner.counters.role_changed(change.to);
        }
        inner.snapshot = Arc::new(next);
        drop(inner);
        self.log(core.me(), actions, change.as_ref());
        if let Some(change) = change {
            // Nobody has to listen.
            let _ = self.changes.send(change);
        }
    }

    fn applied(&self, index: u64, command: &Command, applied: &Applied) {
        self.lock().counters.applied(index, command, applied);
        let routine = matches!(
            command,
            Command::NoteProgress { .. } | Command::ProposeSync { .. } | Command::SettleSync { .. }
        );
        if routine || *applied != Applied::Done {
            tracing::debug!(index, "{command}: {applied}");
        } else {
            tracing::info!(index, "{command}");
        }
    }

    fn installed(&self, index: u64) {
        self.lock().counters.installed(index);
        tracing::info!(index, "{BY_SNAPSHOT}");
    }
}

impl Snapshot {
    fn after(&self, now: Moment, event: &Event, actions: &[Action], core: &Core) -> Self {
        let mut next = self.clone();
        next.stepped_at = now;
        if core.role() != self.role {
            next.role = core.role();
            next.role_since = now;
        }
        next.control = core.control().clone();
        next.lease = core.lease();
        if *core.raft() != *self.raft {
            next.raft = Arc::new(core.raft().clone());
        }
        next.trouble = core.explain();
        next.obstacle = core.obstacle();
        next.under_way = core.under_way().map(|(verb, since)| (verb.to_string(), since));
        next.stopping = matches!(core.under_way(), Some((Verb::Stop(_), _)));
        match event {
            Event::Observed { .. } | Event::VerbDone { .. } => {
                next.seen = core.postgres().map(|seen| (Arc::new(seen.clone()), now));
            }
            Event::Heartbeat { .. } | Event::Raft(_) | Event::LeadershipReady { .. } => {
                next.reports = core.reports(now).map(|reports| {
                    let dated = reports.into_iter().map(|(n, (r, age))| (n, (r, now.before(age))));
                    Arc::new(dated.collect())
                });
            }
            Event::HeartbeatAnswered { answer: Some(answer), .. } if answer.heard => {
                next.answered_at = Some(now);
            }
            Event::HeartbeatAnswered { .. }
            | Event::Started { .. }
            | Event::Wake
            | Event::Control(_)
            | Event::GuardArmed { .. }
            | Event::ReadConfirmed { .. }
            | Event::Chore { .. }
            | Event::Proposed { .. } => {}
        }
        for action in actions {
            if let Action::SendHeartbeat { report, .. } = action {
                next.own = Some((Arc::new((**report).clone()), now));
            }
        }
        next
    }
}

/// Why the role changed, from the facts that made it change.
fn reason(from: Role, actions: &[Action], core: &Core) -> String {
    let primacy = &core.control().primacy;
    let epoch = primacy.epoch;
    match core.role() {
        Role::Idle => "there is nothing for it to do".into(),
        Role::Witness => "it votes, and keeps no data".into(),
        Role::Removed => "it is no member any more".into(),
        Role::Standby => match primacy.holder {
            Some(holder) => format!("{holder} holds {epoch}"),
            None => format!("nobody holds {epoch}"),
        },
        Role::Detached => match &primacy.vacated {
            Some(why) => format!("{epoch} has ended: {why}"),
            None => format!("{epoch} has ended"),
        },
        Role::Rejoining => match core.under_way() {
            Some((verb, _)) => verb.to_string(),
            None => "its data are not those of the primary".into(),
        },
        Role::Preparing if from == Role::Primary || from == Role::Fencing => {
            "its Postgres does not run as a primary any more".into()
        }
        Role::Preparing => format!("it was given {epoch}"),
        Role::Primary => format!("its Postgres writes under {epoch}, within its lease"),
        Role::Fencing => {
            let said = actions.iter().find_map(|action| {
                let Action::Say(line) = action else { return None };
                line.strip_prefix("fencing: ")
            });
            said.unwrap_or("its Postgres is ended at once").to_owned()
        }
    }
}
