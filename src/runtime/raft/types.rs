//! The consensus library's type configuration, over whatever task runtime the environment brings.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use openraft::RaftTypeConfig;
use openraft_rt::AsyncRuntime;
use serde::{Deserialize, Serialize};

use crate::control::{Applied, Command};
use crate::ids::Incarnation;

/// The leadership that wrote a log entry, as the log records it: its term.
type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
/// A candidacy: a term, and who stood in it.
pub(super) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
/// A vote, as it is kept and sent.
pub(super) type Vote = openraft::impls::Vote<LeaderId>;
/// A position in the consensus log.
pub(super) type LogId = openraft::LogId<CommittedLeaderId>;
/// What an entry carries.
pub(super) type Payload = openraft::EntryPayload<Command, u64, RaftNode>;
/// An entry of the consensus log.
pub(super) type Entry = openraft::impls::Entry<CommittedLeaderId, Payload>;
/// Voters and learners.
pub(super) type Membership = openraft::Membership<u64, RaftNode>;
/// Voters and learners, and the entry that made them so.
pub(super) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, RaftNode>;
/// What a snapshot covers.
pub(super) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, RaftNode>;
/// A snapshot.
pub(super) type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, RaftNode, Vec<u8>>;

/// The configuration. It has no value of its own: `Rt` is the only thing that varies.
pub struct TypeConfig<Rt>(PhantomData<fn() -> Rt>);

impl<Rt> Clone for TypeConfig<Rt> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Rt> Copy for TypeConfig<Rt> {}
impl<Rt> Default for TypeConfig<Rt> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<Rt> PartialEq for TypeConfig<Rt> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<Rt> Eq for TypeConfig<Rt> {}
impl<Rt> PartialOrd for TypeConfig<Rt> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<Rt> Ord for TypeConfig<Rt> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}
impl<Rt> fmt::Debug for TypeConfig<Rt> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}

/// What the membership records about a member: enough to reach it, and to know it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftNode {
    /// Where its node listens.
    pub address: String,
    /// The store that it was admitted with.
    pub incarnation: Incarnation,
}

impl fmt::Display for RaftNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.incarnation)
    }
}

impl<Rt: AsyncRuntime + Send + Sync> RaftTypeConfig for TypeConfig<Rt> {
    type D = Command;
    type R = Applied;
    type NodeId = u64;
    type Node = RaftNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = Rt;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}
