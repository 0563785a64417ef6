//! The lease: for how long a holder may act on its primacy without hearing from the quorum again.
//!
//! Both ends of L1 and L4 are here: the holder's (count from before the request, stop early) and
//! the coordinator's (wait until it is certainly over). No clock is read; instants come in.

use std::time::Duration;

use crate::control::Timing;
use crate::ids::{Epoch, Moment};
use crate::sabotage::{Sabotage, Saboteur};

/// A lease as its holder sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The primacy.
    pub epoch: Epoch,
    /// Its end on the holder's clock.
    pub until: Moment,
}

impl Lease {
    /// L1: the lease runs from before the request was sent, because only that instant is certain
    /// to be earlier than the quorum's confirmation of it.
    #[must_use]
    pub fn granted(
        epoch: Epoch,
        sent: Moment,
        answered: Moment,
        lease: Duration,
        sabotage: Sabotage,
    ) -> Self {
        let from = if sabotage.is(Saboteur::CountLeaseFromReply) { answered } else { sent };
        Self { epoch, until: from + lease }
    }

    /// When the manager starts to stop Postgres.
    #[must_use]
    pub fn fence_at(&self, timing: &Timing) -> Moment {
        self.until.before(Duration::from_millis(timing.fence_margin_ms))
    }

    /// When the guard ends Postgres.
    #[must_use]
    pub fn guard_at(&self, timing: &Timing) -> Moment {
        self.until.before(Duration::from_millis(timing.guard_margin_ms))
    }

    /// I5: whether the holder of `epoch` may still write at `now`.
    #[must_use]
    pub fn covers(&self, epoch: Epoch, now: Moment, timing: &Timing) -> bool {
        self.epoch == epoch && now < self.fence_at(timing)
    }
}

/// What a leader of the control plane knows about leases that it or others granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseLedger {
    /// Since when it leads.
    led_since: Moment,
    /// The epoch that was given while it led, and so by it; leases of that epoch are its own.
    given: Option<Epoch>,
    /// When it last confirmed a renewal of the present epoch.
    confirmed: Option<Moment>,
}

impl LeaseLedger {
    /// The ledger of a leader that begins to lead.
    #[must_use]
    pub(super) fn new(led_since: Moment) -> Self {
        Self { led_since, given: None, confirmed: None }
    }

    /// A new epoch was given while this member led.
    pub(super) fn epoch_given(&mut self, epoch: Epoch) {
        self.given = Some(epoch);
        self.confirmed = None;
    }

    /// A renewal was confirmed.
    pub(super) fn renewal_confirmed(&mut self, now: Moment) {
        self.confirmed = Some(now);
    }

    /// L4: from when on every lease of `epoch` is certainly over.
    ///
    /// Leases that a predecessor confirmed were asked for before the election that made this member
    /// leader. Leases of an epoch that was given under this leadership can only have been confirmed
    /// by it, so where it confirmed none there is none.
    #[must_use]
    pub(super) fn clear_at(&self, epoch: Epoch, wait: Duration, sabotage: Sabotage) -> Moment {
        if sabotage.is(Saboteur::SkipLeaseWait) {
            return self.led_since;
        }
        match (self.given == Some(epoch), self.confirmed) {
            (true, None) => self.led_since,
            (true, Some(confirmed)) => confirmed + wait,
            (false, confirmed) => {
                confirmed.map_or(self.led_since, |c| c.max(self.led_since)) + wait
            }
        }
    }
}
