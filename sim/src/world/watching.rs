//! Eyes and ears: what members do reaches the trace and the oracle from here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pg_replica::control::{Applied, Command};
use pg_replica::env::{Outcome, Process};
use pg_replica::ha::{Action, Ask, Core, Event, Finished, Verb};
use pg_replica::ids::{ActionId, Moment, NodeId};
use pg_replica::runtime::Observer;

use tokio::sync::Notify;

use crate::clock::{HostClock, true_now};
use crate::invariants::Oracle;
use crate::postgres::Server;
use crate::sometimes::Sometimes;
use crate::streams::lock;
use crate::trace::{Kind, Trace};
use crate::witness::{Fact, Witness};

use super::sight::Sight;

/// What is counted for a plan's expectations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// The clients have begun: what came before belongs to the founding.
    pub(super) counting: bool,
    pub(super) rewinds: u64,
    pub(super) clones: u64,
}

/// One life of one member's node, watched.
pub(super) struct MemberObserver {
    node: NodeId,
    clock: HostClock,
    oracle: Arc<Oracle>,
    trace: Arc<Mutex<Trace>>,
    counters: Arc<Mutex<Counters>>,
    server: Server,
    sight: Arc<Mutex<Sight>>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// When the server was last seen to have a log that ends somewhere.
    looked: Option<Duration>,
    version: Option<u64>,
    clones: BTreeMap<ActionId, ()>,
    /// The renewals that were asked for and not answered, by addressee and by what the product
    /// calls the time of sending.
    asked: BTreeMap<(NodeId, Moment), Asked>,
    relayed: bool,
    standing: String,
}

/// A request for renewal, as the world saw it go.
#[derive(Clone, Copy)]
struct Asked {
    /// By the machine's own clock, read by the world.
    at: Moment,
    /// The lease by the newest settings.
    lease: Duration,
    /// The true time at which the position was seen that the report tells.
    located: Option<Duration>,
    /// The true time of a report that tells none.
    lost_sight: Option<Duration>,
}

impl std::fmt::Debug for MemberObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemberObserver({})", self.node)
    }
}

impl MemberObserver {
    pub(super) fn new(
        node: NodeId,
        clock: HostClock,
        oracle: Arc<Oracle>,
        trace: Arc<Mutex<Trace>>,
        counters: Arc<Mutex<Counters>>,
        server: Server,
        sight: Arc<Mutex<Sight>>,
    ) -> Self {
        let memory = Mutex::default();
        Self { node, clock, oracle, trace, counters, server, sight, memory }
    }

    fn note_event(&self, event: &Event, core: &Core) {
        let mut memory = lock(&self.memory);
        match event {
            Event::Control(control) => {
                if memory.version != Some(control.version) {
                    memory.version = Some(control.version);
                    self.oracle.control(self.node, control);
                }
            }
            Event::Raft(view) => self.oracle.raft(self.node, view),
            Event::Observed { outcome: Outcome::Done(seen), .. } => {
                if seen.position().is_some() {
                    memory.looked = Some(true_now());
                }
            }
            Event::Started { armed: Some(_) } if self.server.process() == Process::Up => {
                self.oracle.mark(Sometimes::ManagerRestartedUnderLivePostgres);
            }
            Event::HeartbeatAnswered { to, sent, answer: Some(answer) } => {
                let asked = memory.asked.remove(&(*to, *sent));
                if let Some(epoch) = answer.renewed {
                    if let Some(asked) = asked {
                        // The leader has applied every setting that was on record by then.
                        let lease = asked.lease.max(self.settled_lease());
                        let until = self.clock.true_instant_of(asked.at + lease);
                        self.oracle.lease(self.node, epoch, until);
                        if let Some(left) = asked.located {
                            self.oracle.located(left, self.node, epoch);
                        }
                        if let Some(left) = asked.lost_sight {
                            self.oracle.told_of_nothing(left, self.node, epoch);
                        }
                    }
                    if core.raft().leader != Some(*to) && !memory.relayed {
                        memory.relayed = true;
                        self.oracle.mark(Sometimes::RenewalRelayed);
                    }
                }
            }
            Event::VerbDone { id, outcome: Outcome::Done(finished) } => {
                let mut counters = lock(&self.counters);
                if memory.clones.remove(id).is_some() && counters.counting {
                    counters.clones += 1;
                    self.oracle.mark(Sometimes::CloneNeeded);
                }
                if matches!(finished, Finished::Rewound(_)) && counters.counting {
                    counters.rewinds += 1;
                    self.oracle.mark(Sometimes::RewindNeeded);
                }
            }
            Event::Started { .. }
            | Event::Wake
            | Event::LeadershipReady { .. }
            | Event::Observed { .. }
            | Event::VerbDone { .. }
            | Event::GuardArmed { .. }
            | Event::Heartbeat { .. }
            | Event::HeartbeatAnswered { .. }
            | Event::ReadConfirmed { .. }
            | Event::Chore { .. }
            | Event::Proposed { .. } => {}
        }
    }

    fn note_refusal(&self, why: &str) {
        if why.contains("max_lag is") {
            self.oracle.mark(Sometimes::ElectionRefusedForLag);
        } else if why.contains("reports that") {
            self.oracle.mark(Sometimes::ElectionRefusedForEvidence);
        }
    }

    /// The lease that the newest settings give.
    fn settled_lease(&self) -> Duration {
        self.oracle.newest().settings.timing.lease()
    }

    fn note_action(&self, action: &Action) {
        match action {
            // I5: the world's own clock reading at the instant at which the request is on its way.
            Action::SendHeartbeat { to, sent, ask: Ask::Renewal(_), report } => {
                let asked = Asked {
                    at: self.clock.now(),
                    lease: self.settled_lease(),
                    located: report.position.and(lock(&self.memory).looked),
                    lost_sight: report.position.is_none().then(true_now),
                };
                lock(&self.memory).asked.insert((*to, *sent), asked);
            }
            Action::Postgres { id, verb, .. } => {
                self.oracle.verb(self.node);
                if matches!(verb, Verb::Clone(_)) {
                    lock(&self.memory).clones.insert(*id, ());
                }
            }
            Action::Tell(divergence) => self.oracle.told(self.node, *divergence),
            Action::TransferLeadership { .. } => {
                self.oracle.mark(Sometimes::LeaderMovedOffPrimary);
            }
            Action::Observe { .. }
            | Action::ArmGuard { .. }
            | Action::DisarmGuard { .. }
            | Action::SendHeartbeat { .. }
            | Action::ConfirmLeadership { .. }
            | Action::AnswerHeartbeat { .. }
            | Action::AnswerChore { .. }
            | Action::Propose { .. }
            | Action::ChangeVoters { .. }
            | Action::Say(_) => {}
        }
    }
}

/// Whether a line of the trace is worth a reader's time. The rest is many times as much and says
/// only that all is well; its effects show.
fn tells(event: &Event) -> bool {
    match event {
        Event::Started { .. }
        | Event::Control(_)
        | Event::Raft(_)
        | Event::LeadershipReady { .. }
        | Event::VerbDone { .. }
        | Event::GuardArmed { ok: false, .. }
        | Event::Chore { .. }
        | Event::Proposed { .. } => true,
        Event::Wake
        | Event::Observed { .. }
        | Event::GuardArmed { ok: true, .. }
        | Event::Heartbeat { .. }
        | Event::HeartbeatAnswered { .. }
        | Event::ReadConfirmed { .. } => false,
    }
}

fn shows(action: &Action) -> bool {
    match action {
        Action::Postgres { .. }
        | Action::DisarmGuard { .. }
        | Action::Propose { .. }
        | Action::TransferLeadership { .. }
        | Action::ChangeVoters { .. }
        | Action::AnswerChore { .. }
        | Action::Say(_)
        | Action::Tell(_) => true,
        Action::Observe { .. }
        | Action::ArmGuard { .. }
        | Action::SendHeartbeat { .. }
        | Action::ConfirmLeadership { .. }
        | Action::AnswerHeartbeat { .. } => false,
    }
}

impl Observer for MemberObserver {
    fn stepped(&self, now: Moment, event: &Event, actions: &[Action], core: &Core) {
        let at = true_now();
        // The same state arrives by several ways.
        let fresh = if let Event::Control(control) = event {
            lock(&self.memory).version != Some(control.version)
        } else {
            true
        };
        self.note_event(event, core);
        let mut trace = lock(&self.trace);
        if tells(event) && fresh {
            trace.push(at, Some(self.node), Kind::Event, format_args!("{event}"));
        }
        // What is not worth a line still counts for the hash: how many actions, at what local time.
        trace.mix(at, self.node, now.since_origin(), actions.len());
        for action in actions.iter().filter(|action| shows(action)) {
            trace.push(at, Some(self.node), Kind::Event, format_args!("{action}"));
        }
        if core.control().is_vacant()
            && let Some(why) = core.explain()
        {
            self.note_refusal(&why);
        }
        let standing = format!("{} {}", core.role(), core.control().primacy.epoch);
        let mut memory = lock(&self.memory);
        if memory.standing != standing {
            trace.push(at, Some(self.node), Kind::Standing, format_args!("{standing}"));
            memory.standing = standing;
        }
        drop(memory);
        drop(trace);
        for action in actions {
            self.note_action(action);
        }
        lock(&self.sight).stepped(core, now, &self.oracle);
    }

    fn applied(&self, index: u64, command: &Command, applied: &Applied) {
        self.oracle.committed(self.node, index, command, applied);
    }

    fn installed(&self, index: u64) {
        self.oracle.mark(Sometimes::SnapshotInstalled);
        let text = format_args!("a snapshot up to entry {index} was installed");
        lock(&self.trace).push(true_now(), Some(self.node), Kind::Event, text);
    }
}

/// Facts about servers, on their way to the oracle.
pub(super) struct WorldWitness {
    pub(super) oracle: Arc<Oracle>,
    pub(super) trace: Arc<Mutex<Trace>>,
    /// Told when all servers have to be looked at.
    pub(super) look: Arc<Notify>,
}

impl Witness for WorldWitness {
    fn fact(&self, fact: Fact) {
        self.trace_fact(&fact);
        let matters = matches!(fact, Fact::BecamePrimary { .. } | Fact::ProcessEnded { .. });
        self.oracle.fact(fact);
        if matters {
            self.look.notify_one();
        }
    }
}

impl WorldWitness {
    fn trace_fact(&self, fact: &Fact) {
        let at = true_now();
        let mut trace = lock(&self.trace);
        let mut line = |node: NodeId, text: std::fmt::Arguments<'_>| {
            trace.push(at, Some(node), Kind::Event, text);
        };
        match fact {
            Fact::Acknowledged(commit) => trace.mix(
                at,
                commit.server,
                Duration::from_nanos(commit.row.number),
                commit.row.client as usize,
            ),
            Fact::Read { server, upto, .. } => {
                trace.mix(at, *server, Duration::from_nanos(upto.0), 0);
            }
            Fact::BecamePrimary { server, epoch, history, rows, .. } => line(
                *server,
                format_args!(
                    "IS PRIMARY of {epoch} on {} with {} rows",
                    history.last().expect("it has a timeline").timeline,
                    rows.len()
                ),
            ),
            Fact::ProcessEnded { server, side, by } => {
                line(*server, format_args!("postgres ({side:?}) ended by {by}"));
            }
            Fact::DirectoryReplaced { server, lost, kept_aside, .. } => line(
                *server,
                format_args!(
                    "directory replaced, {} rows only there, aside: {kept_aside}",
                    lost.len()
                ),
            ),
            Fact::CommitRefused { server, epoch } => {
                trace.mix(at, *server, Duration::from_nanos(epoch.0), 1);
            }
            Fact::TimelineCreated { server, birth, parent } => line(
                *server,
                format_args!(
                    "{} born in {} from {parent} at {}",
                    birth.timeline, birth.born, birth.begins
                ),
            ),
            Fact::Attached { standby, primary, epoch } => {
                line(*standby, format_args!("streams from {primary} in {epoch}"));
            }
        }
    }
}

/// Errors that somebody logs who has to: where it comes from and what it says. A disk that breaks
/// ends the consensus of its node, and the library says so; whoever was asking it is told.
const EXPECTED_ERRORS: &[(&str, &str)] = &[
    ("openraft", "Input/output error"),
    ("openraft", "No space left on device"),
    ("openraft", "failed to receive from RaftCore: None"),
    ("openraft", " to RaftCore"),
    ("openraft", "Previous I/O error occurred"),
    ("openraft", "channel closed"),
];

/// When each was logged, and what it says.
type Lines = Arc<Mutex<Vec<(Option<Duration>, String)>>>;

/// Lines that anybody logged as errors, the libraries included. A run in which there is one is not
/// clean, but for those that are expected.
pub(super) struct ErrorLog {
    lines: Lines,
    _scope: tracing::subscriber::DefaultGuard,
}

impl ErrorLog {
    /// Listens on this thread.
    pub(super) fn install() -> Self {
        let lines = Lines::default();
        let listener = Listener { lines: lines.clone() };
        Self { lines, _scope: tracing::subscriber::set_default(listener) }
    }

    /// What was logged until now, with the time of the world, where whoever did it was in one.
    pub(super) fn take(&self) -> Vec<(Option<Duration>, String)> {
        std::mem::take(&mut lock(&self.lines))
    }
}

struct Listener {
    lines: Lines,
}

struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == tracing::Level::ERROR
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }

    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let target = event.metadata().target();
        let expected =
            |(from, says): &&(&str, &str)| target.starts_with(from) && text.0.contains(says);
        if !EXPECTED_ERRORS.iter().any(|known| expected(&known)) {
            // Whoever logs while a run is torn down does so outside of its time.
            let now = madsim::time::TimeHandle::try_current().map(|time| time.elapsed());
            lock(&self.lines).push((now, format!("{target}: {}", text.0)));
        }
    }

    fn enter(&self, _span: &tracing::span::Id) {}

    fn exit(&self, _span: &tracing::span::Id) {}
}
