//! L4 and L5 as arithmetic: is it certain that the former holder acknowledges nothing more, and
//! that everything that was ever acknowledged is among the reports?
//!
//! The same function guards the decision (`ha::election`) and the application of it (`apply`), so
//! that a decision which rested on a configuration that has changed since is refused.

use std::collections::BTreeMap;
use std::fmt;

use crate::env::SyncNames;
use crate::ids::{Epoch, NodeId, WalPosition};
use crate::sabotage::{Sabotage, Saboteur};

use super::command::Clearance;
use super::state::ControlState;

/// What an election still lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// L5: reports of the members of a synchronous configuration.
    Reports {
        /// The configuration.
        config: SyncNames,
        /// How many of its members have to report.
        needed: usize,
        /// How many have.
        have: usize,
    },
    /// L4: commits may be acknowledged without a standby, so only the end of the lease, or of the
    /// former holder's Postgres, is proof.
    LeaseOrStop,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reports { config, needed, have } => write!(
                f,
                "{have} of the {needed} reports that `{config}` requires have come; start the \
                 missing members, or accept data loss"
            ),
            Self::LeaseOrStop => f.write_str("the former primary's lease may not be over yet"),
        }
    }
}

type Reports = BTreeMap<NodeId, Option<WalPosition>>;

/// The first thing that is missing for an election out of the present vacancy, if any.
///
/// Each recorded configuration is proven to be covered in one of three ways: so many of its
/// standbys have reported that one of them has every commit acknowledged under it; or the member
/// that was primary then has reported, which has all that it ever acknowledged. (A later rewind
/// takes nothing of that away: it keeps what its own successor had, and that was elected with all
/// of it.) Or the chosen one's log goes on in a later epoch: whoever wrote there was elected with
/// all of it.
///
/// That the *last* holder is harmless needs a proof of its own: it was seen to have ended, its
/// lease is over, or every configuration that it may acknowledge under has lost too many standbys.
///
/// Only what the chosen one has is covered: the report of a member that is ahead of `chosen` (it
/// may not be primary, or it would have been chosen) proves that somebody is silent, and nothing
/// more.
#[must_use]
pub fn missing_evidence(
    control: &ControlState,
    chosen: NodeId,
    reports: &Reports,
    clearance: &Clearance,
    sabotage: Sabotage,
) -> Option<Missing> {
    let present = control.primacy.epoch;
    let reach = reach_of(chosen, reports, sabotage);
    for config in &control.sync.configs {
        let must_silence = config.epoch == present && *clearance == Clearance::Quorum;
        if config.confirmations == 0 {
            if must_silence {
                return Some(Missing::LeaseOrStop);
            }
            continue;
        }
        let same_is_enough =
            sabotage.is(Saboteur::CoverByTheSameEpoch) && config.epoch == reach.born;
        if config.epoch < reach.born || same_is_enough {
            continue;
        }
        let primary_then = holder_of(control, config.epoch);
        let covered =
            |node: NodeId| reports.get(&node).is_some_and(|r| r.is_some_and(|p| p <= reach));
        if !must_silence && primary_then.is_some_and(covered) {
            continue;
        }
        // A member without data confirms nothing and proves nothing: what it once had is gone.
        let have = config.standbys.iter().filter(|node| covered(**node)).count();
        let needed = reports_needed(config, sabotage);
        if have < needed {
            return Some(Missing::Reports { config: config.clone(), needed, have });
        }
    }
    let last = control.primacy.last_holder;
    let stopped = last.is_some_and(|node| has_reported(reports, node));
    (*clearance == Clearance::Stopped && !stopped).then_some(Missing::LeaseOrStop)
}

/// Where the log of the chosen one ends. The rules that choose another than the most advanced are
/// broken for the ranking alone: the evidence is measured as if the ranking were right.
fn reach_of(chosen: NodeId, reports: &Reports, sabotage: Sabotage) -> WalPosition {
    let careless = sabotage.is(Saboteur::PickAnyStandby) || sabotage.is(Saboteur::RankByReplayed);
    if careless {
        return reports.values().flatten().max().copied().unwrap_or_default();
    }
    reports.get(&chosen).copied().flatten().unwrap_or_default()
}

/// L5: with this many of its standbys detached, fewer than the required confirmations can still be
/// gathered, and one of the detached has every commit that was acknowledged.
fn reports_needed(config: &SyncNames, sabotage: Sabotage) -> usize {
    let needed = (config.standbys.len() + 1).saturating_sub(config.confirmations as usize);
    if sabotage.is(Saboteur::ElectWithOneReportTooFew) { needed.saturating_sub(1) } else { needed }
}

fn has_reported(reports: &Reports, node: NodeId) -> bool {
    reports.get(&node).is_some_and(Option::is_some)
}

fn holder_of(control: &ControlState, epoch: Epoch) -> Option<NodeId> {
    if epoch == control.primacy.epoch {
        return control.primacy.last_holder;
    }
    control.timelines.get(&epoch).map(|record| record.holder)
}
