//! The effect of each command. Deterministic: same state, same command, same result, everywhere.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::env::{SyncNames, TimelineBirth};
use crate::ids::{Epoch, NodeId, SystemId, WalPosition};
use crate::sabotage::{Sabotage, Saboteur};

use super::command::{Clearance, Command, VacateReason};
use super::evidence::missing_evidence;
use super::members::check_founding;
use super::settings::Settings;
use super::state::{
    ControlState, HISTORY_MAX, HandoverKind, HistoryEntry, Member, OrderOutcome, Primacy,
    TIMELINES_MAX, TimelineRecord,
};

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// The state changed.
    Done,
    /// It did not: the command expected something else. The sentence says what.
    Refused(String),
    /// An order that was applied before; this is how it ended then.
    Repeated(OrderOutcome),
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Repeated(outcome) => write!(f, "seen before: {outcome:?}"),
        }
    }
}

pub(super) type Verdict = Result<(), String>;

/// Whom an election chooses, and what it rests on.
struct Choice<'a> {
    holder: NodeId,
    sync: &'a SyncNames,
    reports: &'a BTreeMap<NodeId, Option<WalPosition>>,
    clearance: &'a Clearance,
}

impl ControlState {
    /// Applies one command. The state changes wholly or not at all.
    pub fn apply(&mut self, command: &Command, sabotage: Sabotage) -> Applied {
        let verdict = match command {
            Command::Found { cluster, members, settings, adopts } => {
                let mut settings = settings.clone();
                settings.longest_lease_ms = settings.longest_lease_ms.max(settings.timing.lease_ms);
                self.found(cluster, members, settings, *adopts)
            }
            Command::Vacate { epoch, why } | Command::Release { epoch, why } => {
                self.vacate(*epoch, why)
            }
            Command::Elect { after, holder, sync, sync_version, reports, clearance } => {
                let choice = Choice { holder: *holder, sync, reports, clearance };
                self.elect(*after, *sync_version, &choice, sabotage)
            }
            Command::Born { epoch, system, history } => self.born(*epoch, *system, history),
            Command::ProposeSync { epoch, version, target } => {
                self.propose_sync(*epoch, *version, target, sabotage)
            }
            Command::SettleSync { epoch, version } => self.settle_sync(*epoch, *version),
            Command::Join { epoch, node } => self.join(*epoch, *node),
            Command::NoteProgress { epoch, position } => {
                if *epoch != self.primacy.epoch || self.progress >= Some(*position) {
                    return Applied::Refused("older than what is noted".into());
                }
                self.progress = Some(*position);
                Ok(())
            }
            Command::Operate { id, order } => return self.operate(*id, order, sabotage),
            Command::EndHandover { id, outcome } => self.end_handover(*id, outcome),
        };
        match verdict {
            Ok(()) => {
                self.version += 1;
                Applied::Done
            }
            Err(why) => Applied::Refused(why),
        }
    }

    fn found(
        &mut self,
        cluster: &str,
        members: &BTreeMap<NodeId, Member>,
        settings: Settings,
        adopts: Option<SystemId>,
    ) -> Verdict {
        if !self.cluster.is_empty() {
            return Err(format!("cluster {} was founded already", self.cluster));
        }
        check_founding(members, &settings)?;
        self.cluster = cluster.to_owned();
        self.take_founders(members);
        self.settings = settings;
        self.system = adopts;
        self.note(format!("cluster {cluster} founded with {} members", members.len()));
        Ok(())
    }

    fn vacate(&mut self, epoch: Epoch, why: &VacateReason) -> Verdict {
        self.expect_held(epoch)?;
        let holder = self.primacy.holder.take();
        self.primacy.vacated = Some(why.clone());
        self.handover_meets_vacancy(epoch, why);
        if let Some(holder) = holder {
            self.note(format!("{holder} no longer holds primacy: {why}"));
        }
        Ok(())
    }

    /// I2: the one place where an epoch is given. It grows by one, and only out of a vacancy.
    fn elect(
        &mut self,
        after: Epoch,
        sync_version: u64,
        choice: &Choice<'_>,
        sabotage: Sabotage,
    ) -> Verdict {
        let &Choice { holder, sync, reports, clearance } = choice;
        if after != self.primacy.epoch {
            return Err(format!("the present epoch is {}, not {after}", self.primacy.epoch));
        }
        if let Some(present) = self.primacy.holder {
            return Err(format!("{present} holds primacy"));
        }
        if sync_version != self.sync.version {
            return Err("the synchronous configurations have changed since".into());
        }
        if !self.keeps_data(holder) {
            return Err(format!("{holder} is no data member"));
        }
        let shared = sabotage.is(Saboteur::ShareEpoch) && self.is_born();
        let epoch = if shared { after } else { after.next() };
        self.check_sync_names(sync, holder, epoch)?;
        let forced = self.accepts_data_loss(after);
        if !forced {
            self.check_evidence(choice, sabotage)?;
        } else if *clearance == Clearance::Quorum {
            return Err("a forced failover waits for the lease".into());
        }
        if forced {
            // The loss that was accepted is this election's. What its holder has is promised still,
            // and binds the next one until others have it too.
            self.progress = None;
        }
        // It may die before it is born: what it had was seen, and counts for the next election.
        self.progress = self.progress.max(reports.get(&holder).copied().flatten());
        self.keep_what_binds(sync);
        self.push_sync(sync.clone());
        self.handover_meets_election(after);
        self.primacy =
            Primacy { epoch, holder: Some(holder), last_holder: Some(holder), vacated: None };
        self.note(format!("{holder} was elected ({} reports, {clearance:?})", reports.len()));
        Ok(())
    }

    /// L5, and of I4 that the most advanced is chosen, once more at the moment that counts. The
    /// lease (L4) and the lag are measured with a clock and with reports of the past: only the
    /// leader that proposes can judge them.
    fn check_evidence(&self, choice: &Choice<'_>, sabotage: Sabotage) -> Verdict {
        let &Choice { holder, reports, clearance, .. } = choice;
        if !self.is_born() {
            // Nothing can have been acknowledged before the first birth is recorded.
            return Ok(());
        }
        let Some(Some(position)) = reports.get(&holder) else {
            return Err(format!("{holder} has not reported where its log ends"));
        };
        let careless =
            sabotage.is(Saboteur::PickAnyStandby) || sabotage.is(Saboteur::RankByReplayed);
        if let Some(missing) = missing_evidence(self, holder, reports, clearance, sabotage) {
            return Err(missing.to_string());
        }
        let better = reports
            .iter()
            .filter(|(node, _)| self.is_candidate(**node))
            .find(|(_, other)| other.is_some_and(|other| other > *position));
        match better.filter(|_| !careless) {
            Some((node, _)) => Err(format!("{node} is more advanced than {holder}")),
            None => Ok(()),
        }
    }

    fn check_sync_names(&self, sync: &SyncNames, holder: NodeId, epoch: Epoch) -> Verdict {
        if sync.epoch != epoch {
            return Err(format!("the synchronous names are of {}, not {epoch}", sync.epoch));
        }
        if sync.confirmations != self.confirmations() {
            return Err(format!(
                "{} confirmations are required, not {}",
                self.confirmations(),
                sync.confirmations
            ));
        }
        if sync.standbys.contains(&holder) {
            return Err(format!("{holder} cannot confirm its own commits"));
        }
        if let Some(stranger) = sync.standbys.iter().find(|node| !self.is_candidate(**node)) {
            return Err(format!("{stranger} cannot confirm commits: it may never be primary"));
        }
        if sync.standbys.len() < sync.confirmations as usize {
            return Err("fewer standbys than confirmations".into());
        }
        Ok(())
    }

    fn born(&mut self, epoch: Epoch, system: SystemId, history: &[TimelineBirth]) -> Verdict {
        self.expect_held(epoch)?;
        let Some(&birth) = history.last() else { return Err("a birth without history".into()) };
        if self.system.is_some_and(|known| known != system) {
            return Err("that Postgres belongs to another cluster".into());
        }
        if birth.born != epoch {
            return Err(format!("{} was born in {}, not {epoch}", birth.timeline, birth.born));
        }
        if let Some(later) = history.iter().find(|earlier| earlier.born > epoch) {
            return Err(format!("{} was born in {}, after {epoch}", later.timeline, later.born));
        }
        if self.timelines.contains_key(&epoch) {
            return Err(format!("the birth of {epoch} is recorded already"));
        }
        let Some(holder) = self.primacy.holder else { return Err("nobody holds primacy".into()) };
        self.system = Some(system);
        let old = history.len().saturating_sub(TIMELINES_MAX);
        self.lineage = history[old..].to_vec();
        self.timelines.insert(epoch, TimelineRecord { holder, birth });
        while self.timelines.len() > TIMELINES_MAX {
            self.timelines.pop_first();
        }
        self.note(format!("{holder} is primary on {} from {}", birth.timeline, birth.begins));
        self.newcomers.remove(&holder);
        self.handover_meets_birth(epoch, holder);
        Ok(())
    }

    fn propose_sync(
        &mut self,
        epoch: Epoch,
        version: u64,
        target: &SyncNames,
        sabotage: Sabotage,
    ) -> Verdict {
        self.expect_held(epoch)?;
        if version != self.sync.version {
            return Err("the synchronous configurations have changed since".into());
        }
        let Some(holder) = self.primacy.holder else { return Err("nobody holds primacy".into()) };
        self.check_sync_names(target, holder, epoch).or_else(|why| {
            let careless = sabotage.is(Saboteur::DegradeWhenStandbysMissing);
            if careless { Ok(()) } else { Err(why) }
        })?;
        if self.sync.target() == Some(target) {
            return Err("that is the target already".into());
        }
        if sabotage.is(Saboteur::SyncWithoutJointStep) {
            self.sync.configs.clear();
        }
        self.push_sync(target.clone());
        Ok(())
    }

    fn settle_sync(&mut self, epoch: Epoch, version: u64) -> Verdict {
        self.expect_held(epoch)?;
        if version != self.sync.version || !self.sync.is_joint() {
            return Err("there is nothing to settle, or something newer".into());
        }
        let target = self.sync.configs.pop();
        self.sync.configs = target.into_iter().collect();
        self.sync.version += 1;
        Ok(())
    }

    /// What the ended epochs leave behind for the next election: the configurations under which a
    /// commit may have been acknowledged that no later one is known to cover. Nobody confirmed
    /// anything in an epoch that was never born, because standbys attach to a primary only once its
    /// birth is on record. An asynchronous one promised nothing, and needs nobody to acknowledge;
    /// where the next one waits for standbys, it tells that they need not have everything until
    /// that one is settled.
    fn keep_what_binds(&mut self, next: &SyncNames) {
        let born = &self.timelines;
        self.sync.configs.retain(|old| {
            let waits = old.confirmations > 0;
            if waits { born.contains_key(&old.epoch) } else { next.confirmations > 0 }
        });
    }

    /// Adds a target.
    fn push_sync(&mut self, target: SyncNames) {
        self.sync.configs.retain(|old| *old != target);
        self.sync.configs.push(target);
        self.sync.version += 1;
        self.sync.since = self.version + 1; // The version that this very command leads to.
    }

    pub(super) fn expect_held(&self, epoch: Epoch) -> Verdict {
        if epoch != self.primacy.epoch {
            return Err(format!("the present epoch is {}, not {epoch}", self.primacy.epoch));
        }
        if self.primacy.holder.is_none() {
            return Err(format!("{epoch} has ended"));
        }
        Ok(())
    }

    pub(super) fn note(&mut self, what: String) {
        self.history.push_back(HistoryEntry { epoch: self.primacy.epoch, what });
        while self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
    }

    /// Whether an operator accepted the loss of what the successor of `epoch` lacks.
    #[must_use]
    pub fn accepts_data_loss(&self, epoch: Epoch) -> bool {
        self.handover.as_ref().is_some_and(|handover| {
            handover.from == epoch
                && handover.kind == HandoverKind::Failover { accept_data_loss: true }
        })
    }
}
