//! The election: who becomes primary, when it is certain that nobody else still is.
//!
//! Vacate comes first, so that every report is a detached one. The choice then follows from the
//! reports alone, and each refusal is a sentence.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::control::{
    Clearance, Command, ControlState, HandoverKind, Missing, Mode, VacateReason, missing_evidence,
};
use crate::env::SyncNames;
use crate::ids::{Epoch, Moment, NodeId, SystemId, WalPosition};
use crate::sabotage::{Sabotage, Saboteur};

use super::report::Report;

/// How long the members that are known to be alive are waited for, so that the best of them is not
/// passed over because it detached a moment later than the others.
const REPORT_GRACE: Duration = Duration::from_millis(600);

/// Why nobody is elected yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Evidence is missing.
    Evidence(Missing),
    /// The lease of the former holder ends then.
    LeaseUntil(Moment),
    /// These members are alive and have not detached yet.
    AwaitingReports(BTreeSet<NodeId>),
    /// Nobody that may be primary has reported.
    NoCandidate,
    /// I4: the best candidate would lose too much.
    TooFarBehind {
        /// The best candidate.
        best: NodeId,
        /// How many bytes it lacks.
        behind_bytes: u64,
        /// How many it may lack.
        max_lag_bytes: u64,
    },
    /// Maintenance.
    Paused,
    /// Genesis: these data members have not been heard yet.
    GenesisAwaits(BTreeSet<NodeId>),
    /// Genesis: this member holds a database already.
    GenesisOverData(NodeId),
    /// Genesis: nobody that is alive holds the database that is to be taken over.
    NothingToAdopt(SystemId),
    /// Genesis: all of these hold the database that is to be taken over.
    AdoptedTwice(BTreeSet<NodeId>),
}

/// How a holder failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// When that was noticed.
    pub(super) at: Moment,
    /// Whether it had become primary in the epoch that it lost.
    pub(super) born: bool,
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evidence(missing) => write!(f, "not promotable: {missing}"),
            Self::LeaseUntil(at) => write!(f, "the former primary's lease is over at {at}"),
            Self::AwaitingReports(nodes) => write!(f, "awaiting the reports of {}", list(nodes)),
            Self::NoCandidate => f.write_str("no member that may be primary has reported"),
            Self::TooFarBehind { best, behind_bytes, max_lag_bytes } => write!(
                f,
                "not promotable: {best} is {behind_bytes} bytes behind, max_lag is \
                 {max_lag_bytes}; bring the former primary back, or fail over with data loss \
                 accepted"
            ),
            Self::Paused => f.write_str("paused: no automatic failover"),
            Self::GenesisAwaits(nodes) => {
                write!(f, "the first start awaits all data members; missing: {}", list(nodes))
            }
            Self::GenesisOverData(node) => write!(
                f,
                "{node} holds a database that this cluster did not make; found the cluster on it \
                 (`node adopt`), or empty its data directory"
            ),
            Self::NothingToAdopt(system) => write!(
                f,
                "the cluster is founded on the database with the system identifier {}, and no \
                 member that answers holds it",
                system.0
            ),
            Self::AdoptedTwice(nodes) => write!(
                f,
                "{} all hold the database that the cluster is founded on, and one of them has to \
                 be the newest; empty the data directories of the others, and they are copied",
                list(nodes)
            ),
        }
    }
}

/// What the coordinator knows when it decides.
#[derive(Debug)]
pub(super) struct Ballot<'a> {
    /// Now.
    pub(super) now: Moment,
    /// The control state: vacant.
    pub(super) control: &'a ControlState,
    /// Reports of members that are alive now.
    pub(super) alive: &'a BTreeMap<NodeId, Report>,
    /// Since when the vacancy is known here.
    pub(super) vacant_since: Moment,
    /// L4: when every lease of the ended epoch is certainly over.
    pub(super) lease_clear_at: Moment,
    /// How far the former primary is known to have got.
    pub(super) primary_position: Option<WalPosition>,
    /// Who lost primacy lately by a fault of its own.
    pub(super) failed: &'a BTreeMap<NodeId, Failure>,
    /// The broken rule, in simulation.
    pub(super) sabotage: Sabotage,
}

impl Ballot<'_> {
    /// The command that gives the next primacy, or what stands in its way.
    pub(super) fn decide(&self) -> Result<Command, Obstacle> {
        if !self.control.is_born() {
            return self.genesis();
        }
        let reports = self.reports();
        self.await_the_living(&reports)?;
        let wanted = self.control.handover.as_ref().and_then(|handover| handover.to);
        let hopeless = |node: &NodeId| {
            wanted != Some(*node) && self.failed.get(node).is_some_and(|failure| !failure.born)
        };
        if reports.keys().any(hopeless) {
            // One that was given primacy in vain is as good as one that does not answer: where
            // the others can do without what it has, they do, within the same bounds.
            let others = reports.clone().into_iter().filter(|(node, _)| !hopeless(node)).collect();
            let chosen = self.choose(others);
            // What time alone will settle is waited for.
            if matches!(chosen, Ok(_) | Err(Obstacle::LeaseUntil(_))) {
                return chosen;
            }
        }
        self.choose(reports)
    }

    fn choose(&self, reports: BTreeMap<NodeId, Option<WalPosition>>) -> Result<Command, Obstacle> {
        let holder = self.best(&reports).ok_or(Obstacle::NoCandidate)?;
        let clearance = self.clearance(holder, &reports)?;
        self.check_pause(holder)?;
        self.check_lag(holder, &reports)?;
        Ok(self.elect(holder, reports, clearance))
    }

    /// The genesis guard: the first primary is chosen only when every data member was seen to be
    /// empty, so that there are never two initialised clusters, and no database is built over.
    fn genesis(&self) -> Result<Command, Obstacle> {
        let missing: BTreeSet<NodeId> =
            self.control.data_members().filter(|node| !self.alive.contains_key(node)).collect();
        let careless = self.sabotage.is(Saboteur::FoundOverData);
        if self.control.primacy.epoch.0 == 0 && !missing.is_empty() && !careless {
            return Err(Obstacle::GenesisAwaits(missing));
        }
        // From before there was a cluster, or from one that was founded earlier and whose record is
        // lost: of this one's own first start is what bears one of its epochs.
        let epoch = self.control.primacy.epoch;
        let foreign = self.alive.values().find(|report| {
            let own = report.birth.is_some_and(|it| it.born.0 > 0 && it.born <= epoch);
            report.has_data() && !own && report.system != self.control.system
        });
        if let Some(report) = foreign
            && !careless
        {
            return Err(Obstacle::GenesisOverData(report.node));
        }
        if let Some(system) = self.control.system {
            return self.adopt(system);
        }
        let holder = self
            .control
            .candidates()
            .filter(|node| self.alive.contains_key(node))
            .max_by_key(|node| {
                let has_data = self.alive.get(node).is_some_and(Report::has_data);
                (!self.failed.contains_key(node), has_data, self.priority(*node), Reverse(*node))
            })
            .ok_or(Obstacle::NoCandidate)?;
        Ok(self.elect(holder, BTreeMap::new(), Clearance::LeaseOver))
    }

    /// A database is taken over where it is, and by nobody else: what it holds is somebody's.
    fn adopt(&self, system: SystemId) -> Result<Command, Obstacle> {
        let owners = self.alive.values().filter(|report| report.system == Some(system));
        let owners: BTreeSet<NodeId> = owners.map(|report| report.node).collect();
        match owners.first() {
            Some(_) if owners.len() > 1 => Err(Obstacle::AdoptedTwice(owners)),
            Some(owner) => Ok(self.elect(*owner, BTreeMap::new(), Clearance::LeaseOver)),
            None => Err(Obstacle::NothingToAdopt(system)),
        }
    }

    /// The detached reports of the ended epoch.
    fn reports(&self) -> BTreeMap<NodeId, Option<WalPosition>> {
        let epoch = self.control.primacy.epoch;
        self.alive
            .values()
            .filter(|report| report.detached == Some(epoch))
            .map(|report| (report.node, report.position))
            .collect()
    }

    fn await_the_living(
        &self,
        reports: &BTreeMap<NodeId, Option<WalPosition>>,
    ) -> Result<(), Obstacle> {
        let late: BTreeSet<NodeId> = self
            .control
            .candidates()
            .filter(|node| self.alive.contains_key(node) && !reports.contains_key(node))
            .collect();
        if late.is_empty() || self.now.since(self.vacant_since) > REPORT_GRACE {
            return Ok(());
        }
        Err(Obstacle::AwaitingReports(late))
    }

    /// L4 and L5: the first proof that the former holder is harmless. None of them is needed twice.
    fn clearance(
        &self,
        holder: NodeId,
        reports: &BTreeMap<NodeId, Option<WalPosition>>,
    ) -> Result<Clearance, Obstacle> {
        let primacy = &self.control.primacy;
        let stopped = primacy
            .last_holder
            .is_some_and(|former| reports.get(&former).is_some_and(Option::is_some));
        let lease_over = self.now >= self.lease_clear_at;
        let forced = self.control.accepts_data_loss(primacy.epoch);
        let offered = match (stopped, lease_over) {
            (true, _) => Clearance::Stopped,
            (false, true) => Clearance::LeaseOver,
            (false, false) if forced => return Err(Obstacle::LeaseUntil(self.lease_clear_at)),
            (false, false) => Clearance::Quorum,
        };
        if forced {
            return Ok(offered);
        }
        match missing_evidence(self.control, holder, reports, &offered, self.sabotage) {
            None => Ok(offered),
            Some(Missing::LeaseOrStop) => Err(Obstacle::LeaseUntil(self.lease_clear_at)),
            Some(missing) => Err(Obstacle::Evidence(missing)),
        }
    }

    /// I4: the most advanced by what is on disk. Wishes and priorities decide among equals only.
    fn best(&self, reports: &BTreeMap<NodeId, Option<WalPosition>>) -> Option<NodeId> {
        let handover = self.control.handover.as_ref();
        let wanted = handover.and_then(|h| h.to);
        let leaving = handover
            .filter(|h| h.kind == HandoverKind::Switchover)
            .and(self.control.primacy.last_holder);
        let rank = |node: NodeId, position: WalPosition| {
            (
                position,
                wanted == Some(node),
                leaving != Some(node),
                self.control.is_candidate(node),
                !self.failed.contains_key(&node),
                self.priority(node),
                Reverse(node),
            )
        };
        let mut candidates: Vec<(NodeId, WalPosition)> = reports
            .iter()
            .filter(|(node, _)| self.may_be_elected(**node))
            .filter_map(|(node, position)| Some((*node, self.ranked_by(*node, (*position)?))))
            .collect();
        if self.control.accepts_data_loss(self.control.primacy.epoch)
            && let Some(wanted) = wanted
        {
            candidates.retain(|(node, _)| *node == wanted);
        }
        if self.sabotage.is(Saboteur::PickAnyStandby) {
            return candidates.into_iter().min_by_key(|(n, p)| rank(*n, *p)).map(|(n, _)| n);
        }
        candidates.into_iter().max_by_key(|(n, p)| rank(*n, *p)).map(|(n, _)| n)
    }

    /// The tag keeps a member from being failed over *to*. The former holder is where the data are:
    /// to give it back what it had is no failover, and may be the only way to lose nothing.
    fn may_be_elected(&self, node: NodeId) -> bool {
        self.control.is_candidate(node)
            || (self.control.primacy.last_holder == Some(node) && self.control.keeps_data(node))
    }

    fn ranked_by(&self, node: NodeId, flushed: WalPosition) -> WalPosition {
        if self.sabotage.is(Saboteur::RankByReplayed) {
            return self.alive.get(&node).and_then(|r| r.replayed).unwrap_or(flushed);
        }
        flushed
    }

    fn check_pause(&self, holder: NodeId) -> Result<(), Obstacle> {
        let asked = self.control.handover.is_some()
            || self.control.primacy.vacated == Some(VacateReason::Operator)
            || self.control.primacy.last_holder == Some(holder);
        if self.control.settings.paused && !asked { Err(Obstacle::Paused) } else { Ok(()) }
    }

    fn check_lag(
        &self,
        best: NodeId,
        reports: &BTreeMap<NodeId, Option<WalPosition>>,
    ) -> Result<(), Obstacle> {
        let settings = &self.control.settings;
        let forced = self.control.accepts_data_loss(self.control.primacy.epoch);
        if self.control.sync.relies_on_standbys()
            || forced
            || self.sabotage.is(Saboteur::IgnoreMaxLag)
        {
            return Ok(());
        }
        let known = self.primary_position.max(self.control.progress);
        let (Some(known), Some(Some(own))) = (known, reports.get(&best)) else { return Ok(()) };
        let behind_bytes = self.bytes_behind(known, best, *own);
        if behind_bytes > settings.max_lag_bytes {
            let max_lag_bytes = settings.max_lag_bytes;
            return Err(Obstacle::TooFarBehind { best, behind_bytes, max_lag_bytes });
        }
        Ok(())
    }

    /// How much of the true history up to `known` the candidate lacks.
    ///
    /// Bytes are comparable on one timeline only. Of two histories each counts up to where it left
    /// the recorded one: what lies behind that place is nobody's loss and nobody's merit.
    fn bytes_behind(&self, known: WalPosition, node: NodeId, own: WalPosition) -> u64 {
        if self.sabotage.is(Saboteur::LagAcrossTimelines) {
            return known.flushed.ahead_of(own.flushed);
        }
        let lineage = &self.control.lineage;
        let left = |born: Epoch| lineage.iter().find(|l| l.born > born).map(|l| l.begins);
        let upto = |position: WalPosition| {
            left(position.born).map_or(position.flushed, |end| position.flushed.min(end))
        };
        let same = own.born == known.born || lineage.iter().any(|line| line.born == own.born);
        // A timeline that the record passed over is common ground only up to where it began, and so
        // is every other that it may descend from.
        let passed_over = self
            .control
            .timelines
            .values()
            .map(|record| record.birth)
            .filter(|birth| birth.born <= own.born)
            .filter(|birth| !lineage.iter().any(|line| line.born == birth.born))
            .chain(self.alive.get(&node).and_then(|report| report.birth))
            .map(|birth| birth.begins)
            .min();
        let own_end = match passed_over {
            Some(begins) if !same => upto(own).min(begins),
            Some(_) | None => upto(own),
        };
        upto(known).ahead_of(own_end)
    }

    fn elect(
        &self,
        holder: NodeId,
        reports: BTreeMap<NodeId, Option<WalPosition>>,
        clearance: Clearance,
    ) -> Command {
        let after = self.control.primacy.epoch;
        let shared = self.sabotage.is(Saboteur::ShareEpoch) && self.control.is_born();
        let epoch = if shared { after } else { after.next() };
        Command::Elect {
            after,
            holder,
            sync: first_sync(self.control, holder, epoch, self.alive),
            sync_version: self.control.sync.version,
            reports,
            clearance,
        }
    }

    fn priority(&self, node: NodeId) -> u32 {
        self.control.members.get(&node).map_or(0, |member| member.priority)
    }
}

/// The synchronous configuration that a new epoch begins with: the living, and as many others as
/// the required confirmations need.
fn first_sync(
    control: &ControlState,
    holder: NodeId,
    epoch: Epoch,
    alive: &BTreeMap<NodeId, Report>,
) -> SyncNames {
    let confirmations = control.confirmations();
    if confirmations == 0 || control.settings.mode == Mode::Async {
        return SyncNames { epoch, confirmations: 0, standbys: BTreeSet::new() };
    }
    let counted = || control.counted().filter(move |node| *node != holder);
    let mut standbys: BTreeSet<NodeId> = counted().filter(|n| alive.contains_key(n)).collect();
    // A newcomer can confirm nothing yet: it is named only where there is nobody else.
    let newcomers = control.candidates().filter(|node| *node != holder);
    for node in counted().chain(newcomers) {
        if standbys.len() >= confirmations as usize {
            break;
        }
        standbys.insert(node);
    }
    SyncNames { epoch, confirmations, standbys }
}
