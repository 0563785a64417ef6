//! L4 and L5 as arithmetic: is it certain that the former holder acknowledges nothing more, and
//! that everything it acknowledged is among the reports?
//!
//! The same function guards the decision (`ha::election`) and the application of it (`apply`), so
//! that a decision which rested on a configuration that has changed since is refused.

use std::collections::BTreeMap;
use std::fmt;

use crate::env::SyncNames;
use crate::ids::{NodeId, WalPosition};
use crate::sabotage::{Sabotage, Saboteur};

use super::command::Clearance;

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

/// L5 for one configuration: with this many of its standbys detached, fewer than the required
/// confirmations can still be gathered, and one of the detached has every acknowledged commit.
#[must_use]
pub(super) fn reports_needed(config: &SyncNames, sabotage: Sabotage) -> usize {
    let needed = config.standbys.len() + 1 - config.confirmations as usize;
    if sabotage.is(Saboteur::ElectWithOneReportTooFew) { needed.saturating_sub(1) } else { needed }
}

/// The first thing that is missing for an election, if any.
///
/// `former` is the holder of the epoch that ended. Its own report (seen stopped, with data)
/// satisfies every configuration: it has all that it ever acknowledged.
#[must_use]
pub fn missing_evidence(
    configs: &[SyncNames],
    former: Option<NodeId>,
    reports: &BTreeMap<NodeId, Option<WalPosition>>,
    clearance: &Clearance,
    sabotage: Sabotage,
) -> Option<Missing> {
    let former_reported =
        former.is_some_and(|node| reports.get(&node).is_some_and(Option::is_some));
    if former_reported {
        return None;
    }
    for config in configs {
        if config.confirmations == 0 {
            // L4: no number of reports stops a primary that waits for nobody.
            if *clearance == Clearance::Quorum {
                return Some(Missing::LeaseOrStop);
            }
            continue;
        }
        // A member without data confirms nothing and proves nothing: what it once had is gone.
        let have = config
            .standbys
            .iter()
            .filter(|node| reports.get(node).is_some_and(Option::is_some))
            .count();
        let needed = reports_needed(config, sabotage);
        if have < needed {
            return Some(Missing::Reports { config: config.clone(), needed, have });
        }
    }
    None
}
