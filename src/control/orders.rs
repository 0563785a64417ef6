//! What operators ask for, and how it ended: an order is carried out once, and the answer to it is
//! what became of it (I10).
//!
//! An order that takes a while is a handover: it is pending until the epoch after the one that it
//! ends has a primary, or until whoever watches over it gives it up.

use crate::ids::{CommandId, Epoch, NodeId};
use crate::sabotage::{Sabotage, Saboteur};

use super::apply::{Applied, Verdict};
use super::command::{Order, VacateReason};
use super::settings::{Mode, Settings, SettingsChange};
use super::state::{ControlState, Handover, HandoverKind, ORDERS_MAX, OrderOutcome, OrderRecord};

impl ControlState {
    /// I10: an order is carried out once, however often it arrives.
    pub(super) fn operate(&mut self, id: CommandId, order: &Order, sabotage: Sabotage) -> Applied {
        if !sabotage.is(Saboteur::RepeatOrders)
            && let Some(answer) = self.answer_from_memory(id, order)
        {
            return answer;
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
        self.remember(OrderRecord { id, order: order.clone(), outcome });
        match verdict {
            Ok(_) => Applied::Done,
            Err(why) => Applied::Refused(why),
        }
    }

    /// What is known of an order that came before, or may have.
    fn answer_from_memory(&self, id: CommandId, order: &Order) -> Option<Applied> {
        if let Some(known) = self.orders.iter().find(|known| known.id == id) {
            if known.order == *order {
                return Some(Applied::Repeated(known.outcome.clone()));
            }
            return Some(Applied::Refused(format!(
                "{id} is the name of another order, {:?}; give this one a name of its own",
                known.order
            )));
        }
        (self.forgotten >= Some(id)).then(|| {
            Applied::Repeated(OrderOutcome::Unknown(format!(
                "{id} is older than every order that is remembered, and may have been carried out; \
                 look at how things are, and give it again under a new name"
            )))
        })
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
        let primacy = &self.primacy;
        let (from, former) = (primacy.epoch, primacy.last_holder);
        self.handover = Some(Handover { id, kind, from, former, to, begun: false });
        Ok(OrderOutcome::Pending)
    }

    /// The end of `epoch` is what its handover asked for, or comes before it.
    pub(super) fn handover_meets_vacancy(&mut self, epoch: Epoch, why: &VacateReason) {
        let Some(handover) = self.handover.as_mut().filter(|handover| handover.from == epoch)
        else {
            return;
        };
        if *why == VacateReason::Operator {
            handover.begun = true;
        } else if handover.kind == HandoverKind::Switchover {
            // What follows is a failover, with another promise.
            let id = handover.id;
            self.handover = None;
            self.settle_order(
                id,
                OrderOutcome::Refused(format!("the primary failed first: {why}")),
            );
        }
    }

    /// An election out of `after` is the work of the handover from there.
    pub(super) fn handover_meets_election(&mut self, after: Epoch) {
        if let Some(handover) = self.handover.as_mut().filter(|handover| handover.from == after) {
            handover.begun = true;
        }
    }

    /// `holder` has become primary of `epoch`: if that ends a handover, it is now known how.
    pub(super) fn handover_meets_birth(&mut self, epoch: Epoch, holder: NodeId) {
        // The birth of the epoch that is to end is not yet its end.
        let Some(handover) = self.handover.take_if(|handover| handover.from < epoch) else {
            return;
        };
        let outcome = match handover.to {
            Some(to) if to != holder => {
                OrderOutcome::Refused(format!("{holder} is primary of {epoch}: {to} was behind it"))
            }
            None if handover.former == Some(holder) => {
                OrderOutcome::Refused(format!("{holder} is primary again: nobody could follow it"))
            }
            Some(_) | None => OrderOutcome::Done(format!("{holder} is primary of {epoch}")),
        };
        self.settle_order(handover.id, outcome);
    }

    /// Nobody waits for the handover any more. Where primacy was taken away for it, that can no
    /// longer be refused: who follows is left to the election, and may be the one that was asked
    /// for.
    pub(super) fn end_handover(&mut self, id: CommandId, outcome: &OrderOutcome) -> Verdict {
        let Some(handover) = self.handover.take_if(|handover| handover.id == id) else {
            return Err(format!("no handover {id} is under way"));
        };
        let outcome = match outcome {
            OrderOutcome::Refused(why) if handover.begun => OrderOutcome::Unknown(format!(
                "primacy was taken away for it, and who follows is open: {why}"
            )),
            OrderOutcome::Refused(_)
            | OrderOutcome::Pending
            | OrderOutcome::Done(_)
            | OrderOutcome::Unknown(_) => outcome.clone(),
        };
        self.settle_order(id, outcome);
        Ok(())
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
            if mode == Mode::QuorumSync && self.counted().count() < 2 {
                return Err(TOO_FEW_FOR_QUORUM.into());
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
        let what = changed(change, &self.settings);
        self.settings = next;
        let told = format!("settings version {}", self.settings.version);
        self.note(if what.is_empty() { told.clone() } else { format!("{told}: {what}") });
        Ok(OrderOutcome::Done(told))
    }

    fn settle_order(&mut self, id: CommandId, outcome: OrderOutcome) {
        if let Some(known) = self.orders.iter_mut().find(|known| known.id == id) {
            known.outcome = outcome;
        }
    }

    /// Keeps the last orders and forgets the oldest, but none that is still being carried out: a
    /// repetition of it would begin it again.
    fn remember(&mut self, record: OrderRecord) {
        self.orders.retain(|known| known.id != record.id);
        self.orders.push_back(record);
        while self.orders.len() > ORDERS_MAX
            && let Some(at) = self.orders.iter().position(OrderRecord::has_ended)
            && let Some(oldest) = self.orders.remove(at)
        {
            self.forgotten = self.forgotten.max(Some(oldest.id));
        }
    }
}

/// What a change changes, for the history. The values of parameters may be nobody's business.
fn changed(change: &SettingsChange, before: &Settings) -> String {
    let SettingsChange { expected_version: _, mode, timing, max_lag_bytes, parameters } = change;
    let mut told = Vec::new();
    told.extend(mode.map(|mode| match mode {
        Mode::Async => "mode async".to_owned(),
        Mode::QuorumSync => "mode quorum-sync".to_owned(),
    }));
    told.extend(timing.as_ref().map(|timing| {
        let same = timing.lease_ms == before.timing.lease_ms;
        if same { "timing".into() } else { format!("a lease of {} ms", timing.lease_ms) }
    }));
    told.extend(max_lag_bytes.map(|bytes| format!("max_lag_bytes {bytes}")));
    told.extend(parameters.iter().map(|(name, value)| match value {
        Some(_) => format!("{name} set"),
        None => format!("{name} removed"),
    }));
    told.join(", ")
}

/// Why quorum-sync is refused, and a removal in it that would leave too few.
pub const TOO_FEW_FOR_QUORUM: &str =
    "quorum-sync needs two members that hold the data and may be primary";
/// Why a removal is refused that would leave nobody to lead.
pub const NOBODY_TO_LEAD: &str = "no member that holds the data and may be primary would be left";
