//! Clusters, observations and reports to decide from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::control::{
    Applied, Clearance, Command, ControlState, Member, MemberKind, Mode, Settings, VacateReason,
};
use crate::env::{Observation, Outcome, Process, ReceiverState, Side, SyncNames, TimelineBirth};
use crate::ha::{Action, Core, Event, HeartbeatAnswer, Report, Verb};
use crate::ids::{
    ActionId, Epoch, Incarnation, Lsn, Moment, NodeId, SystemId, Timeline, WalPosition,
};
use crate::sabotage::Sabotage;

pub(super) const SYSTEM: SystemId = SystemId(77);

pub(super) fn at(ms: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(ms))
}

pub(super) fn birth(timeline: u32, born: u64, begins: u64) -> TimelineBirth {
    TimelineBirth { timeline: Timeline(timeline), born: Epoch(born), begins: Lsn(begins) }
}

pub(super) fn position(born: u64, flushed: u64) -> WalPosition {
    WalPosition {
        born: Epoch(born),
        timeline: Timeline(u32::try_from(born).expect("small")),
        flushed: Lsn(flushed),
    }
}

pub(super) fn do_it(control: &mut ControlState, command: &Command) {
    assert_eq!(control.apply(command, Sabotage::NONE), Applied::Done, "{command}");
}

/// Data members 1 to `nodes`, nobody elected.
pub(super) fn founded(nodes: u64, mode: Mode) -> ControlState {
    let members = (1..=nodes).map(|n| {
        let member = Member {
            kind: MemberKind::Data,
            address: format!("n{n}"),
            postgres: format!("pg{n}"),
            incarnation: Incarnation(n),
            priority: 1,
            no_failover: false,
        };
        (NodeId(n), member)
    });
    let settings = Settings { mode, ..Settings::default() };
    let mut control = ControlState::default();
    let found = Command::Found {
        cluster: "test".into(),
        members: members.collect(),
        settings,
        adopts: None,
    };
    do_it(&mut control, &found);
    control
}

pub(super) fn sync_names(control: &ControlState, epoch: u64, standbys: &[u64]) -> SyncNames {
    let confirmations = control.confirmations();
    let standbys: BTreeSet<NodeId> = if confirmations == 0 {
        BTreeSet::new()
    } else {
        standbys.iter().map(|n| NodeId(*n)).collect()
    };
    SyncNames { epoch: Epoch(epoch), confirmations, standbys }
}

/// Node 1 is primary of epoch 1; the others are its standbys.
pub(super) fn with_primary(nodes: u64, mode: Mode) -> ControlState {
    let mut control = founded(nodes, mode);
    let standbys: Vec<u64> = (2..=nodes).collect();
    let elect = Command::Elect {
        after: Epoch(0),
        holder: NodeId(1),
        sync: sync_names(&control, 1, &standbys),
        sync_version: 0,
        reports: BTreeMap::new(),
        clearance: Clearance::LeaseOver,
    };
    do_it(&mut control, &elect);
    let born = Command::Born { epoch: Epoch(1), system: SYSTEM, history: vec![birth(1, 1, 0)] };
    do_it(&mut control, &born);
    control
}

/// The same, after the primacy has ended.
pub(super) fn vacated(nodes: u64, mode: Mode) -> ControlState {
    let mut control = with_primary(nodes, mode);
    do_it(&mut control, &Command::Vacate { epoch: Epoch(1), why: VacateReason::Silent });
    control
}

pub(super) fn standby(flushed: u64) -> Observation {
    Observation {
        system: Some(SYSTEM),
        ever_started: true,
        process: Process::Up,
        side: Side::Standby,
        promoting: None,
        history: vec![birth(1, 1, 0)],
        complete: true,
        parameters: BTreeMap::new(),
        pending_restart: Vec::new(),
        flushed: Some(Lsn(flushed)),
        replayed: Some(Lsn(flushed)),
        receiver: None,
        starved: None,
        streams: Vec::new(),
        sync: SyncNames::default(),
        admits: true,
    }
}

pub(super) fn streaming_from(upstream: u64, epoch: u64, flushed: u64) -> Observation {
    let receiver = ReceiverState {
        upstream: NodeId(upstream),
        epoch: Epoch(epoch),
        silent_for: Duration::ZERO,
    };
    Observation { receiver: Some(receiver), ..standby(flushed) }
}

pub(super) fn primary(control: &ControlState, flushed: u64) -> Observation {
    Observation {
        side: Side::Primary,
        sync: control.sync.target().cloned().expect("a target"),
        ..standby(flushed)
    }
}

/// A member's detached report after epoch 1.
pub(super) fn detached(node: u64, flushed: u64) -> Report {
    Report {
        node: NodeId(node),
        version: 0,
        system: Some(SYSTEM),
        process: Process::Up,
        side: Side::Standby,
        birth: Some(birth(1, 1, 0)),
        position: Some(position(1, flushed)),
        replayed: Some(position(1, flushed)),
        receiver: None,
        detached: Some(Epoch(1)),
        streams: Vec::new(),
        sync: SyncNames::default(),
        admits: true,
        leased: false,
        trouble: None,
        pending_restart: Vec::new(),
    }
}

/// A core and everything it has asked for.
pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) actions: Vec<Action>,
}

impl Bench {
    pub(super) fn new(me: u64, control: ControlState) -> Self {
        let mut bench = Self { core: Core::new(NodeId(me), Sabotage::NONE), actions: Vec::new() };
        bench.step(0, Event::Control(Arc::new(control)));
        bench.step(0, Event::Started { armed: None });
        bench
    }

    pub(super) fn step(&mut self, ms: u64, event: Event) -> &mut Self {
        self.core.step(at(ms), event, &mut self.actions);
        self
    }

    /// Answers the look that is under way, and wakes the core for another if none is.
    pub(super) fn sees(&mut self, ms: u64, observation: Observation) -> &mut Self {
        self.step(ms, Event::Wake);
        self.answer_look(ms, observation.clone());
        // A look that was asked for before the last change does not count: answer the next, too.
        self.answer_look(ms, observation)
    }

    /// Answers the look that is under way, if one is.
    pub(super) fn answer_look(&mut self, ms: u64, observation: Observation) -> &mut Self {
        if let Some((id, _)) = self.core.agent.looking {
            self.step(ms, Event::Observed { id, outcome: Outcome::Done(observation) });
        }
        self
    }

    /// A confirmed leader says that what this member knows is in force.
    pub(super) fn confirmed(&mut self, ms: u64) -> &mut Self {
        self.in_force(ms, self.core.control().version)
    }

    /// A confirmed leader says which control state is in force.
    pub(super) fn in_force(&mut self, ms: u64, version: u64) -> &mut Self {
        let nothing = HeartbeatAnswer::nothing(Some(NodeId(2)));
        let answer = Some(HeartbeatAnswer { in_force: Some(version), ..nothing });
        self.step(ms, Event::HeartbeatAnswered { to: NodeId(2), sent: at(ms), answer })
    }

    /// The verb under way.
    pub(super) fn verb_id(&self) -> ActionId {
        self.core.agent.busy.as_ref().expect("a verb is under way").id
    }

    pub(super) fn verbs(&mut self) -> Vec<Verb> {
        let verbs = self.actions.iter().filter_map(|action| match action {
            Action::Postgres { verb, .. } => Some(verb.clone()),
            _ => None,
        });
        let verbs = verbs.collect();
        self.actions.clear();
        verbs
    }

    pub(super) fn commands(&mut self) -> Vec<Command> {
        let commands = self.actions.iter().filter_map(|action| match action {
            Action::Propose { command, .. } => Some((**command).clone()),
            _ => None,
        });
        let commands = commands.collect();
        self.actions.clear();
        commands
    }

    pub(super) fn reports(&self) -> Vec<Report> {
        let reports = self.actions.iter().filter_map(|action| match action {
            Action::SendHeartbeat { report, .. } => Some((**report).clone()),
            _ => None,
        });
        reports.collect()
    }
}
