//! I5: may this member's Postgres still write? If not, it is ended, whatever else is under way.
//!
//! This looks at the last known state of Postgres however old it is: a look that does not come back
//! must not keep a primary alive. The guard does the same without the manager.

use crate::control::ControlState;
use crate::env::StartAs;
use crate::ids::{Epoch, Moment, NodeId};
use crate::sabotage::{Sabotage, Saboteur};

use super::action::Verb;
use super::agent::Agent;

/// Why Postgres must be ended now, if it must.
pub(super) fn must_fence(
    agent: &Agent,
    me: NodeId,
    control: &ControlState,
    now: Moment,
    sabotage: Sabotage,
) -> Option<String> {
    if sabotage.is(Saboteur::ManagerNeverFences) {
        return None;
    }
    let epoch = writable_epoch(agent, control)?;
    let primacy = &control.primacy;
    if primacy.epoch != epoch {
        return Some(format!("its primacy was {epoch}, and {} is the present one", primacy.epoch));
    }
    match primacy.holder {
        None => return Some(format!("{epoch} has ended")),
        Some(holder) if holder != me => return Some(format!("{holder} holds {epoch}")),
        Some(_) => {}
    }
    if sabotage.is(Saboteur::PromoteWithoutLease) {
        return None;
    }
    let timing = &control.settings.timing;
    match &agent.lease {
        Some(lease) if lease.covers(epoch, now, timing) => None,
        Some(lease) if lease.epoch == epoch => {
            Some(format!("the lease of {epoch} ends at {}", lease.until))
        }
        _ => Some(format!("there is no lease for {epoch}")),
    }
}

/// Whether the directory is somebody else's database, which is neither used nor ended.
///
/// What is on record is not, whether the cluster made it or took it over. Nothing that it made was
/// born before its first epoch; what was born in a later one is its own as long as there is no
/// record that says otherwise, and so is what a first start left behind that came to nothing.
pub(super) fn is_strangers(agent: &Agent, control: &ControlState) -> bool {
    let Some(seen) = agent.seen() else { return false };
    let (Some(system), Some(born)) = (seen.system, agent.born()) else { return false };
    if control.system == Some(system) {
        return false;
    }
    if born == Epoch::default() || control.primacy.epoch == Epoch::default() {
        return true;
    }
    let first = control.timelines.keys().next().copied().unwrap_or_default();
    let left_behind = born < first && seen.history.len() == 1;
    control.system.is_some() && !left_behind
}

/// The epoch under which Postgres writes, or is about to; `None` where it certainly does not.
pub(super) fn writable_epoch(agent: &Agent, control: &ControlState) -> Option<Epoch> {
    if let Some(busy) = &agent.busy {
        match &busy.verb {
            Verb::Promote(_) | Verb::Start(StartAs::Primary { .. }) => return Some(busy.epoch),
            Verb::Stop(crate::env::StopHow::Immediate) => return None,
            Verb::Initialise
            | Verb::Clone(_)
            | Verb::Rewind(_)
            | Verb::Start(StartAs::Standby { .. })
            | Verb::Follow(_)
            | Verb::Detach
            | Verb::SetSync(_)
            | Verb::Admit
            | Verb::Configure(_)
            | Verb::Stop(crate::env::StopHow::Fast) => {}
        }
    }
    if let Some(unseen) = agent.unseen {
        return Some(unseen.epoch);
    }
    let seen = agent.seen()?;
    let writes = seen.may_write() && !is_strangers(agent, control);
    let epoch = || seen.promoting.or_else(|| agent.born()).unwrap_or_default();
    writes.then(epoch)
}
