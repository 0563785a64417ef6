//! Deliberate faults in the product, to prove that the checks can fail.
//!
//! Each names a rule and breaks it. They exist only where the `sim` feature is compiled in; in a
//! production build [`Sabotage::is`] is the constant `false` and every switch vanishes.

/// Declares the rules, and the list of all of them, in one place.
macro_rules! saboteurs {
    ($($name:ident),+ $(,)?) => {
        /// A rule to break. The documentation of each names the rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "docs/safety.md has the table of them")]
        pub enum Saboteur {
            $($name),+
        }

        #[cfg(feature = "sim")]
        impl Saboteur {
            /// Every rule that can be broken.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

saboteurs! {
    SkipLeaseWait,
    CountLeaseFromReply,
    RenewWithoutReadIndex,
    ElectWithoutDetaching,
    RankByReplayed,
    PickAnyStandby,
    SyncWithoutJointStep,
    ElectWithOneReportTooFew,
    CoverByTheSameEpoch,
    GuardNeverFires,
    ManagerNeverFences,
    ForgetVote,
    AckLogBeforeSync,
    PromoteWithoutLease,
    KeepRemovedMember,
    RemoveWhileVacant,
    IgnoreTimelineBirth,
    RejoinWithoutRewind,
    WipeDivergedDirectory,
    ReplaceInSilence,
    ReplaceOnAnOldRecord,
    AttachUnderOldEpoch,
    StartWithOldUpstream,
    SyncAfterPromote,
    AdmitBeforeTailConfirmed,
    SettleBeforeTailConfirmed,
    SettleByALateReport,
    DegradeWhenStandbysMissing,
    RenewAfterVacate,
    ForgetAppliedState,
    AcceptWipedVoter,
    ShareEpoch,
    IgnoreMaxLag,
    LagAcrossTimelines,
    OneSignalIsEnough,
    RepeatOrders,
    DropOrders,
    CommitFenceNeverLooks,
    InitialiseOverRecord,
    FoundOverData,
    LeadershipStaysOnPrimary,
    ForgetTheEnd,
    ForgetParameters,
    NeverElect,
    ReportBeforeDetached,
    HandOverUnclean,
    PromiseWhileConfigured,
    BelieveTheSetting,
    PageIgnoresTheLease,
    TrustARecovery,
    DescendFromHearsay,
    AwaitALostLine,
}

/// The switch: at most one rule is broken at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sabotage {
    #[cfg(feature = "sim")]
    active: Option<Saboteur>,
}

impl Sabotage {
    /// Breaks nothing.
    pub const NONE: Self = Self {
        #[cfg(feature = "sim")]
        active: None,
    };

    /// Breaks one rule.
    #[cfg(feature = "sim")]
    #[must_use]
    pub const fn of(kind: Saboteur) -> Self {
        Self { active: Some(kind) }
    }

    /// Whether `kind` is the broken rule.
    #[must_use]
    #[cfg(feature = "sim")]
    pub fn is(self, kind: Saboteur) -> bool {
        self.active == Some(kind)
    }

    /// Whether `kind` is the broken rule: never, in production.
    #[must_use]
    #[cfg(not(feature = "sim"))]
    #[inline(always)]
    pub const fn is(self, _kind: Saboteur) -> bool {
        false
    }
}
