//! The rare states that a sweep must have reached: a sweep that never went there proves nothing
//! about them.
//!
//! Whoever sees such a state marks it; which run reached which is collected over a sweep. Nothing
//! here decides what counts: the place that marks says so.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

macro_rules! rare_states {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A rare state.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Sometimes {
            $($(#[$doc])* $name,)*
        }

        impl Sometimes {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

rare_states! {
    /// Primacy changed hands while the manager or the host of some member was frozen.
    FailoverDuringPause = "failover-during-pause",
    /// A holder's lease ended while a partition kept it from the quorum.
    LeaseEndedInPartition = "lease-ended-in-partition",
    /// A new primary was born while a former one's process still existed.
    PromotionRacedDemotion = "promotion-raced-demotion",
    /// A former primary had diverged and was taken back.
    RewindNeeded = "rewind-needed",
    /// No rewind was possible, and a member was copied anew; the copies of a founding, before the
    /// clients begin, are none of these.
    CloneNeeded = "clone-needed",
    /// A standby that confirms commits was lost while one waited for it.
    SyncStandbyLostMidCommit = "sync-standby-lost-mid-commit",
    /// Two faults at once concerned different members.
    DoubleFault = "double-fault",
    /// The members changed while nobody held primacy.
    MembershipChangeDuringFailover = "membership-change-during-failover",
    /// A primary crashed and came back in its own epoch.
    RestartInPlace = "restart-in-place",
    /// The guard ended Postgres.
    GuardFired = "guard-fired",
    /// The commit fence refused a commit.
    CommitFenceRefused = "commit-fence-refused",
    /// A manager came back within the lease and found its Postgres alive.
    ManagerRestartedUnderLivePostgres = "manager-restarted-under-live-postgres",
    /// A client stayed on the connection to a former primary after a new one was there.
    StaleClientKeptItsConnection = "stale-client-kept-its-connection",
    /// No election, because too few members had reported.
    ElectionRefusedForEvidence = "election-refused-for-evidence",
    /// No election, because the best candidate lacked too much.
    ElectionRefusedForLag = "election-refused-for-lag",
    /// Primacy ended while a change of the synchronous configuration was unsettled.
    JointSyncUnsettledAtFailover = "joint-sync-unsettled-at-failover",
    /// Leadership of the consensus was moved away from the holder of primacy.
    LeaderMovedOffPrimary = "leader-moved-off-primary",
    /// A renewal reached the leader through another member.
    RenewalRelayed = "renewal-relayed",
    /// An order arrived a second time and was recognised.
    OrdersRepeated = "orders-repeated",
    /// An operator forced a failover and accepted its loss.
    ForcedFailover = "forced-failover",
    /// A planned handover ended well.
    SwitchoverDone = "switchover-done",
    /// A holder was elected and another one after it, before the first was born.
    ElectedAndNeverBorn = "elected-and-never-born",
    /// A commit waited for standbys, its session ended, and nobody knows whether it is kept.
    CommitOutcomeUnknown = "commit-outcome-unknown",
    /// A whole host lost power with writes that were not yet safe.
    PowerLossDroppedWrites = "power-loss-dropped-writes",
    /// A commit that every later history has was acknowledged late, by a frozen or distant primary.
    SlowAcknowledgement = "slow-acknowledgement",
    /// A member got its log by a snapshot, because the entries were gone.
    SnapshotInstalled = "snapshot-installed",
}

impl fmt::Display for Sometimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is the name of no rare state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rare state; the names are in sim/src/sometimes.rs")]
pub struct UnknownState(String);

impl FromStr for Sometimes {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .iter()
            .copied()
            .find(|state| state.name() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// Which rare states were reached, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    counts: BTreeMap<Sometimes, u64>,
}

impl Reached {
    /// Notes one.
    pub fn mark(&mut self, state: Sometimes) {
        *self.counts.entry(state).or_default() += 1;
    }

    /// How often one was reached.
    #[must_use]
    pub fn count(&self, state: Sometimes) -> u64 {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// Adds what another run reached.
    pub fn merge(&mut self, other: &Self) {
        for (state, count) in &other.counts {
            *self.counts.entry(*state).or_default() += count;
        }
    }

    /// Those that were reached, with their counts, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = (Sometimes, u64)> + '_ {
        self.counts.iter().map(|(state, count)| (*state, *count))
    }

    /// Those that were never reached.
    pub fn never(&self) -> impl Iterator<Item = Sometimes> + '_ {
        Sometimes::ALL.iter().copied().filter(|state| self.count(*state) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_state() {
        for state in Sometimes::ALL {
            assert_eq!(state.to_string().parse(), Ok(*state));
        }
    }

    #[test]
    fn a_wrong_name_is_refused_in_a_sentence() {
        let error = "failover".parse::<Sometimes>().expect_err("no such state");
        assert!(error.to_string().starts_with("`failover` is no rare state"));
    }

    #[test]
    fn a_sweep_knows_what_none_of_its_runs_reached() {
        let (mut sweep, mut run) = (Reached::default(), Reached::default());
        run.mark(Sometimes::GuardFired);
        run.mark(Sometimes::GuardFired);
        sweep.merge(&run);
        sweep.merge(&run);
        assert_eq!(sweep.count(Sometimes::GuardFired), 4);
        assert_eq!(sweep.never().count(), Sometimes::ALL.len() - 1);
        assert!(sweep.never().all(|state| state != Sometimes::GuardFired));
    }
}
