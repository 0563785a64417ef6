//! The rare states that show in what the oracle is told anyway.
//!
//! Others (a frozen host, a relayed renewal, an installed snapshot) only the world can see; it
//! marks them itself.

use std::collections::BTreeMap;

use pg_replica::control::{Applied, ControlState};
use pg_replica::ha::RaftView;
use pg_replica::ids::{Epoch, NodeId};

use crate::sometimes::{Reached, Sometimes};
use crate::witness::Fact;

/// What has to be remembered to recognise them.
#[derive(Debug, Default)]
pub(super) struct RareStates {
    pub(super) reached: Reached,
    /// The servers whose process runs as primary, and under which epoch.
    running: BTreeMap<NodeId, Epoch>,
    /// The last epoch in which each server became primary.
    served: BTreeMap<NodeId, Epoch>,
    holder: Option<NodeId>,
    led_by_holder: bool,
}

impl RareStates {
    pub(super) fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::BecamePrimary { server, epoch, .. } => {
                if self.running.keys().any(|other| other != server) {
                    self.reached.mark(Sometimes::PromotionRacedDemotion);
                }
                if self.served.insert(*server, *epoch) == Some(*epoch) {
                    self.reached.mark(Sometimes::RestartInPlace);
                }
                self.running.insert(*server, *epoch);
            }
            Fact::ProcessEnded { server, .. } => {
                self.running.remove(server);
            }
            Fact::CommitRefused { .. } => self.reached.mark(Sometimes::CommitFenceRefused),
            Fact::Acknowledged(_)
            | Fact::Read { .. }
            | Fact::DirectoryReplaced { .. }
            | Fact::TimelineCreated { .. }
            | Fact::Attached { .. } => {}
        }
    }

    pub(super) fn advanced(&mut self, before: &ControlState, after: &ControlState) {
        self.holder = after.primacy.holder;
        let vacated = !before.is_vacant() && after.is_vacant();
        if vacated && before.sync.is_joint() {
            self.reached.mark(Sometimes::JointSyncUnsettledAtFailover);
        }
        let same_members = before.members.keys().eq(after.members.keys());
        if before.is_vacant() && before.is_born() && !same_members {
            self.reached.mark(Sometimes::MembershipChangeDuringFailover);
        }
        let elected = after.primacy.epoch > before.primacy.epoch;
        if elected && before.is_born() && before.current_timeline().is_none() {
            self.reached.mark(Sometimes::ElectedAndNeverBorn);
        }
        if elected && after.accepts_data_loss(before.primacy.epoch) {
            self.reached.mark(Sometimes::ForcedFailover);
        }
        let born = after.current_timeline().is_some() && before.current_timeline().is_none();
        if born && before.handover.as_ref().is_some_and(is_switchover) {
            self.reached.mark(Sometimes::SwitchoverDone);
        }
    }

    pub(super) fn raft(&mut self, node: NodeId, view: &RaftView) {
        if !view.leads {
            return;
        }
        let led_by_holder = self.holder == Some(node);
        if self.led_by_holder && !led_by_holder {
            self.reached.mark(Sometimes::LeaderMovedOffPrimary);
        }
        self.led_by_holder = led_by_holder;
    }

    pub(super) fn applied(&mut self, applied: &Applied) {
        if matches!(applied, Applied::Repeated(_)) {
            self.reached.mark(Sometimes::OrdersRepeated);
        }
    }
}

fn is_switchover(handover: &pg_replica::control::Handover) -> bool {
    handover.kind == pg_replica::control::HandoverKind::Switchover
}
