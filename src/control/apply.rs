//! The effect of each command. Deterministic: same state, same command, same result, everywhere.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::env::{SyncNames, TimelineBirth};
use crate::ids::{CommandId, Epoch, NodeId, SystemId};
use crate::sabotage::{Sabotage, Saboteur};

use super::command::{Clearance, Command, Order, VacateReason};
use super::evidence::missing_evidence;
use super::settings::{Mode, SettingsChange};
use super::state::{
    ControlState, HISTORY_MAX, Handover, HandoverKind, HistoryEntry, Member, MemberKind,
    OUTCOMES_MAX, OrderOutcome, Primacy, TIMELINES_MAX, TimelineRecord,
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

type Verdict = Result<(), String>;

impl ControlState {
    /// Applies one command. The state changes wholly or not at all.
    pub fn apply(&mut self, command: &Command, sabotage: Sabotage) -> Applied {
        let verdict = match command {
            Command::Found { cluster, members, settings } => {
                let mut settings = settings.clone();
                settings.longest_lease_ms = settings.longest_lease_ms.max(settings.timing.lease_ms);
                self.found(cluster, members, settings)
            }
            Command::Vacate { epoch, why } | Command::Release { epoch, why } => {
                self.vacate(*epoch, why)
            }
            Command::Elect { .. } => self.elect(command, sabotage),
            Command::Born { epoch, system, history } => self.born(*epoch, *system, history),
            Command::ProposeSync { epoch, version, target } => {
                self.propose_sync(*epoch, *version, target, sabotage)
            }
            Command::SettleSync { epoch, version } => self.settle_sync(*epoch, *version),
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
        members: &std::collections::BTreeMap<NodeId, Member>,
        settings: super::settings::Settings,
    ) -> Verdict {
        if !self.cluster.is_empty() {
            return Err(format!("cluster {} was founded already", self.cluster));
        }
        check_founding(members)?;
        settings.check()?;
        self.cluster = cluster.to_owned();
        self.members = members.clone();
        self.settings = settings;
        self.note(format!("cluster {cluster} founded with {} members", members.len()));
        Ok(())
    }

    fn vacate(&mut self, epoch: Epoch, why: &VacateReason) -> Verdict {
        self.expect_held(epoch)?;
        let holder = self.primacy.holder.take();
        self.primacy.vacated = Some(why.clone());
        if let Some(holder) = holder {
            self.note(format!("{holder} no longer holds primacy: {why}"));
        }
        Ok(())
    }

    /// I2: the one place where an epoch is given. It grows by one, and only out of a vacancy.
    fn elect(&mut self, command: &Command, sabotage: Sabotage) -> Verdict {
        let Command::Elect { after, holder, sync, sync_version, reports, clearance } = command
        else {
            return Err("not an election".into());
        };
        if *after != self.primacy.epoch {
            return Err(format!("the present epoch is {}, not {after}", self.primacy.epoch));
        }
        if let Some(present) = self.primacy.holder {
            return Err(format!("{present} holds primacy"));
        }
        if *sync_version != self.sync.version {
            return Err("the synchronous configurations have changed since".into());
        }
        if !self.keeps_data(*holder) {
            return Err(format!("{holder} is no data member"));
        }
        let shared = sabotage.is(Saboteur::ShareEpoch) && self.is_born();
        let epoch = if shared { *after } else { after.next() };
        self.check_sync_names(sync, *holder, epoch)?;
        let forced = self.accepts_data_loss(*after);
        if !forced {
            self.check_evidence(*holder, reports, clearance, sabotage)?;
        } else if *clearance == Clearance::Quorum {
            return Err("a forced failover waits for the lease".into());
        }
        if forced {
            self.sync.configs.clear();
            self.progress = None;
        }
        self.keep_what_binds();
        self.push_sync(sync.clone());
        self.primacy =
            Primacy { epoch, holder: Some(*holder), last_holder: Some(*holder), vacated: None };
        self.note(format!("{holder} was elected ({} reports, {clearance:?})", reports.len()));
        Ok(())
    }

    /// L4, L5 and I4, once more at the moment that counts.
    fn check_evidence(
        &self,
        holder: NodeId,
        reports: &std::collections::BTreeMap<NodeId, Option<crate::ids::WalPosition>>,
        clearance: &Clearance,
        sabotage: Sabotage,
    ) -> Verdict {
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
        match better {
            Some((node, _)) if !careless => Err(format!("{node} is more advanced than {holder}")),
            _ => Ok(()),
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
        if let Some(handover) = self.handover.take() {
            let asked = handover.to;
            let text = match asked {
                Some(asked) if asked != holder => {
                    format!("{holder} is primary of {epoch}: {asked} was behind it")
                }
                _ => format!("{holder} is primary of {epoch}"),
            };
            self.settle_order(handover.id, OrderOutcome::Done(text));
        }
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
    /// commit may have been acknowledged that no later one is known to cover. Nothing was promised
    /// under an asynchronous one, and nothing acknowledged in an epoch that was never born, because
    /// standbys attach to a primary only once its birth is on record.
    fn keep_what_binds(&mut self) {
        let born = &self.timelines;
        self.sync.configs.retain(|old| old.confirmations > 0 && born.contains_key(&old.epoch));
    }

    /// Adds a target.
    fn push_sync(&mut self, target: SyncNames) {
        self.sync.configs.retain(|old| *old != target);
        self.sync.configs.push(target);
        self.sync.version += 1;
        self.sync.since = self.version + 1; // The version that this very command leads to.
    }

    fn end_handover(&mut self, id: CommandId, outcome: &OrderOutcome) -> Verdict {
        match &self.handover {
            Some(handover) if handover.id == id => {
                self.handover = None;
                self.settle_order(id, outcome.clone());
                Ok(())
            }
            _ => Err(format!("no handover {id} is under way")),
        }
    }

    /// I10: an order is carried out once, however often it arrives.
    fn operate(&mut self, id: CommandId, order: &Order, sabotage: Sabotage) -> Applied {
        if let Some(outcome) = self.outcome_of(id)
            && !sabotage.is(Saboteur::RepeatOrders)
        {
            return Applied::Repeated(outcome.clone());
        }
        let verdict = match order {
            Order::Switchover { to } => self.begin_handover(id, HandoverKind::Switchover, *to),
            Order::Failover { to, accept_data_loss } => self.begin_handover(
                id,
                HandoverKind::Failover { accept_data_loss: *accept_data_loss },
                *to,
            ),
            Order::Pause => self.set_paused(true),
            Order::Resume => self.set_paused(false),
            Order::Configure(change) => self.configure(change),
            Order::AddMember { node, member } => self.add_member(*node, member),
            Order::RemoveMember { node } => self.remove_member(*node, sabotage),
            Order::TagMember { node, priority, no_failover } => {
                self.tag_member(*node, *priority, *no_failover)
            }
        };
        let outcome = match &verdict {
            Ok(outcome) => outcome.clone(),
            Err(why) => OrderOutcome::Refused(why.clone()),
        };
        self.version += 1;
        self.settle_order(id, outcome);
        match verdict {
            Ok(_) => Applied::Done,
            Err(why) => Applied::Refused(why),
        }
    }

    fn begin_handover(
        &mut self,
        id: CommandId,
        kind: HandoverKind,
        to: Option<NodeId>,
    ) -> Result<OrderOutcome, String> {
        if !self.is_born() {
            return Err("the cluster has no data yet".into());
        }
        if let Some(other) = &self.handover {
            return Err(format!("handover {} is under way", other.id));
        }
        if kind == HandoverKind::Switchover && self.is_vacant() {
            return Err("there is no primary to hand over from; use failover".into());
        }
        if let Some(to) = to {
            if self.primacy.holder == Some(to) {
                return Err(format!("{to} is primary already"));
            }
            if !self.is_candidate(to) {
                return Err(format!("{to} may never be primary: no data member, or tagged"));
            }
        }
        self.handover = Some(Handover { id, kind, from: self.primacy.epoch, to });
        Ok(OrderOutcome::Pending)
    }

    fn set_paused(&mut self, paused: bool) -> Result<OrderOutcome, String> {
        if self.settings.paused == paused {
            return Err(if paused { "paused already" } else { "not paused" }.into());
        }
        self.settings.paused = paused;
        self.settings.version += 1;
        self.note(if paused { "paused".into() } else { "resumed".into() });
        Ok(OrderOutcome::Done(String::new()))
    }

    fn configure(&mut self, change: &SettingsChange) -> Result<OrderOutcome, String> {
        if change.expected_version.is_some_and(|v| v != self.settings.version) {
            return Err(format!(
                "the settings are at version {} now; read them again",
                self.settings.version
            ));
        }
        let mut next = self.settings.clone();
        if let Some(timing) = &change.timing {
            timing.check()?;
            next.timing = timing.clone();
            next.longest_lease_ms = next.longest_lease_ms.max(timing.lease_ms);
        }
        if let Some(mode) = change.mode {
            if mode == Mode::QuorumSync && self.candidates().count() < 2 {
                return Err("quorum-sync needs two data members that may be primary".into());
            }
            next.mode = mode;
        }
        if let Some(bytes) = change.max_lag_bytes {
            next.max_lag_bytes = bytes;
        }
        for (key, value) in &change.parameters {
            match value {
                Some(value) => next.parameters.insert(key.clone(), value.clone()),
                None => next.parameters.remove(key),
            };
        }
        next.version += 1;
        self.settings = next;
        Ok(OrderOutcome::Done(format!("settings version {}", self.settings.version)))
    }

    fn add_member(&mut self, node: NodeId, member: &Member) -> Result<OrderOutcome, String> {
        if self.retired.contains(&node) {
            return Err(format!("{node} was removed once; use a new number"));
        }
        if self.members.contains_key(&node) {
            return Err(format!("{node} is a member already"));
        }
        if let Some((other, _)) = self.members.iter().find(|(_, m)| m.address == member.address) {
            return Err(format!("{} is the address of {other}", member.address));
        }
        self.members.insert(node, member.clone());
        self.note(format!("{node} was admitted"));
        Ok(OrderOutcome::Done(format!("{node} was admitted")))
    }

    /// I6: the holder cannot be removed, and what was removed never returns.
    fn remove_member(&mut self, node: NodeId, sabotage: Sabotage) -> Result<OrderOutcome, String> {
        if !self.members.contains_key(&node) {
            return Err(format!("{node} is no member"));
        }
        if self.primacy.holder == Some(node) && !sabotage.is(Saboteur::KeepRemovedMember) {
            return Err(format!("{node} is primary; switch over first"));
        }
        if self.handover.as_ref().is_some_and(|h| h.to == Some(node)) {
            return Err(format!("a handover to {node} is under way"));
        }
        let left = self.members.len() - 1;
        if left < 3 && left.is_multiple_of(2) {
            return Err(format!(
                "without {node} there are {left} members, which tolerate no failure; add its \
                 replacement first"
            ));
        }
        let candidates = self.candidates().filter(|other| *other != node).count();
        if self.settings.mode == Mode::QuorumSync && candidates < 2 {
            return Err("quorum-sync needs two data members that may be primary".into());
        }
        if candidates == 0 {
            return Err("no data member would be left".into());
        }
        self.members.remove(&node);
        self.retired.insert(node);
        self.note(format!("{node} was removed"));
        Ok(OrderOutcome::Done(format!("{node} was removed")))
    }

    fn tag_member(
        &mut self,
        node: NodeId,
        priority: u32,
        no_failover: bool,
    ) -> Result<OrderOutcome, String> {
        let others = self.candidates().filter(|other| *other != node).count();
        let Some(member) = self.members.get_mut(&node) else {
            return Err(format!("{node} is no member"));
        };
        let needed = if self.settings.mode == Mode::QuorumSync { 2 } else { 1 };
        if no_failover && others < needed {
            return Err(format!("without {node} too few members may be primary"));
        }
        member.priority = priority;
        member.no_failover = no_failover;
        Ok(OrderOutcome::Done(String::new()))
    }

    fn settle_order(&mut self, id: CommandId, outcome: OrderOutcome) {
        if let Some(known) = self.outcomes.iter_mut().find(|(known, _)| *known == id) {
            known.1 = outcome;
            return;
        }
        self.outcomes.push_back((id, outcome));
        while self.outcomes.len() > OUTCOMES_MAX {
            self.outcomes.pop_front();
        }
    }

    fn expect_held(&self, epoch: Epoch) -> Verdict {
        if epoch != self.primacy.epoch {
            return Err(format!("the present epoch is {}, not {epoch}", self.primacy.epoch));
        }
        if self.primacy.holder.is_none() {
            return Err(format!("{epoch} has ended"));
        }
        Ok(())
    }

    fn note(&mut self, what: String) {
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

    /// The members that may become primary, and whose confirmations therefore count.
    pub fn candidates(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.data_members().filter(|node| self.is_candidate(*node))
    }

    /// Whether `node` may become primary.
    #[must_use]
    pub fn is_candidate(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|m| m.kind == MemberKind::Data && !m.no_failover)
    }
}

fn check_founding(members: &std::collections::BTreeMap<NodeId, Member>) -> Verdict {
    if members.len().is_multiple_of(2) {
        return Err(format!(
            "{} members make an even number of voters, which tolerates no more failures than one \
             fewer; add a witness or leave one out",
            members.len()
        ));
    }
    if !members.values().any(|m| m.kind == MemberKind::Data && !m.no_failover) {
        return Err("no member keeps data and may be primary".into());
    }
    let addresses: BTreeSet<&str> = members.values().map(|m| m.address.as_str()).collect();
    if addresses.len() != members.len() {
        return Err("two members have the same address".into());
    }
    Ok(())
}
