//! Why is a member not primary, could it become one now, and what does it wait for? In sentences.
//!
//! These are explanations, never decisions: an election measures for itself.

use crate::control::{ControlState, MemberKind, Mode};
use crate::env::{Process, Side};
use crate::ha::Report;
use crate::ids::{Moment, NodeId};

use super::picture::Picture;
use super::status::{Standing, primary_standing};

/// What is to be said of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Explanation {
    /// What keeps it from being chosen, should the primary fail now. Empty: nothing.
    pub(super) obstacles: Vec<String>,
    /// What it waits for, or does.
    pub(super) waits_for: Vec<String>,
}

/// What is known of one member.
pub(super) struct Subject<'a> {
    pub(super) node: NodeId,
    pub(super) control: &'a ControlState,
    pub(super) picture: &'a Picture,
    pub(super) heard: Option<&'a (Report, Moment)>,
    pub(super) now: Moment,
}

/// A report that is older than this is history: the member sends several a second.
pub(super) const SILENT_MS: u128 = 1_500;

impl Subject<'_> {
    pub(super) fn explain(&self) -> Explanation {
        let mut said = Explanation::default();
        let Some(member) = self.control.members.get(&self.node) else {
            said.obstacles.push(self.no_member());
            return said;
        };
        if member.kind == MemberKind::Witness {
            said.obstacles.push("it is a witness: it votes and keeps no data".into());
            return said;
        }
        if member.no_failover {
            said.obstacles.push("it is tagged no_failover: nobody fails over to it".into());
        }
        match self.heard {
            None => said.obstacles.push("nothing was heard of it yet".into()),
            Some((report, at)) => {
                let age = self.now.since(*at).as_millis();
                if age > SILENT_MS {
                    said.obstacles.push(format!("nothing was heard of it for {age} ms"));
                }
                if self.control.primacy.holder == Some(self.node) {
                    self.explain_holder(report, &mut said);
                } else {
                    self.explain_standby(report, &mut said);
                }
                said.waits_for.extend(report.trouble.clone());
                if !report.pending_restart.is_empty() {
                    let names = report.pending_restart.join(", ");
                    said.waits_for.push(format!("a restart of its Postgres, for {names}"));
                }
            }
        }
        self.explain_cluster(&mut said);
        said
    }

    fn no_member(&self) -> String {
        if self.control.retired.contains(&self.node) {
            "it was removed from the cluster, and its number never comes back".into()
        } else {
            "it is no member of the cluster".into()
        }
    }

    fn explain_holder(&self, report: &Report, said: &mut Explanation) {
        let epoch = self.control.primacy.epoch;
        if let Standing::Primary = primary_standing(self.control, self.node, Some(report)) {
            if !report.admits {
                said.waits_for.push(
                    "enough standbys to confirm what its promotion or recovery left behind, before \
                     clients are let in"
                        .into(),
                );
            }
            return;
        }
        said.obstacles.push(format!("it holds {epoch} and is not primary yet"));
        if !report.leased {
            said.waits_for
                .push("a lease: a quorum has to confirm it, and the guard be armed".into());
        }
        if let Some(process) = not_up(report.process) {
            said.waits_for.push(process.into());
        }
    }

    fn explain_standby(&self, report: &Report, said: &mut Explanation) {
        if !report.has_data() {
            said.obstacles.push("its data directory is empty: it has to be copied first".into());
            return;
        }
        if let Some(process) = not_up(report.process) {
            said.obstacles.push(process.into());
        }
        let born = self.control.last_timeline().map(|record| record.birth);
        if let (Some(newest), Some(own)) = (born, report.birth)
            && own != newest
        {
            said.obstacles.push(format!(
                "its data are on {}({}), and those of the primary on {}({}): it has to follow, \
                 rewind or be copied first",
                own.timeline, own.born, newest.timeline, newest.born
            ));
        }
        self.explain_stream(report, said);
        self.explain_distance(report, said);
    }

    fn explain_stream(&self, report: &Report, said: &mut Explanation) {
        let Some(holder) = self.control.primacy.holder else { return };
        match report.receiver {
            Some(receiver) if receiver.upstream == holder => {}
            Some(receiver) => {
                said.waits_for
                    .push(format!("to leave {} and stream from {holder}", receiver.upstream));
            }
            None => said.waits_for.push(format!("its stream from {holder} to begin")),
        }
    }

    fn explain_distance(&self, report: &Report, said: &mut Explanation) {
        let settings = &self.control.settings;
        match settings.mode {
            Mode::Async => {
                let lag = self.picture.lag(report.position.map(|p| p.flushed));
                if let Some(lag) = lag.filter(|lag| *lag > settings.max_lag_bytes) {
                    said.obstacles.push(format!(
                        "it is {lag} bytes behind, and max_lag_bytes is {}",
                        settings.max_lag_bytes
                    ));
                }
            }
            Mode::QuorumSync => {
                let counts =
                    self.control.sync.target().is_some_and(|s| s.standbys.contains(&self.node));
                if !counts {
                    said.waits_for.push(
                        "the synchronous configuration to count it: it has to catch up first"
                            .into(),
                    );
                }
            }
        }
    }

    fn explain_cluster(&self, said: &mut Explanation) {
        if self.control.is_vacant()
            && let Some(obstacle) = &self.picture.obstacle
        {
            said.waits_for.push(format!("an election: {obstacle}"));
        }
        if let Some(handover) = &self.control.handover
            && handover.to.is_none_or(|to| to == self.node)
            && self.control.primacy.holder != Some(self.node)
        {
            said.waits_for.push(format!("order {}, a handover that is under way", handover.id.0));
        }
    }
}

fn not_up(process: Process) -> Option<&'static str> {
    match process {
        Process::Up => None,
        Process::Down { .. } => Some("its Postgres is down"),
        Process::Starting => Some("its Postgres is starting or recovering"),
        Process::Stopping => Some("its Postgres is shutting down"),
        Process::Hung => Some("its Postgres does not answer"),
    }
}

/// Whether a report speaks of a primary's side.
pub(super) fn is_primary_side(report: &Report) -> bool {
    report.side == Side::Primary && report.process == Process::Up
}
