//! Raft's messages over the environment's network.
//!
//! A message is a call with a deadline; what the network may do to it is the same as for every
//! other call. Retries are the consensus library's.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft_rt::{AsyncRuntime, OptionalSend, Select2};

use crate::env::{Env, Network, NetworkError, Peer};
use crate::ids::NodeId;
use crate::runtime::NodeEnv;
use crate::runtime::wire::{Request, Response};

use super::types::{RaftNode, Snapshot, TypeConfig, Vote};

/// How long an unreachable member is left alone: a healed one is back within twice this.
const BACKOFF: Duration = Duration::from_millis(100);

type Config<E> = TypeConfig<<E as Env>::Rt>;
type Failed<E> = RPCError<Config<E>>;

/// Makes a connection per member.
#[derive(Debug)]
pub(super) struct Connector<E: Env> {
    pub(super) network: E::Network,
    pub(super) node: NodeId,
    /// Entries are answered after a sync of the receiver's disk; this bounds the two together.
    pub(super) append_deadline: Duration,
}

/// The way to one member.
#[derive(Debug)]
pub(super) struct Connection<E: Env> {
    network: E::Network,
    node: NodeId,
    peer: Peer,
    append_deadline: Duration,
}

impl<E: NodeEnv> RaftNetworkFactory<Config<E>> for Connector<E> {
    type Network = Connection<E>;

    async fn new_client(&mut self, target: u64, node: &RaftNode) -> Connection<E> {
        Connection {
            network: self.network.clone(),
            node: self.node,
            peer: Peer {
                node: NodeId(target),
                address: node.address.clone(),
                incarnation: node.incarnation,
            },
            append_deadline: self.append_deadline,
        }
    }
}

impl<E: NodeEnv> RaftNetworkV2<Config<E>> for Connection<E> {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Config<E>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Config<E>>, Failed<E>> {
        let deadline =
            if request.entries.is_empty() { option.hard_ttl() } else { self.append_deadline };
        let request = Request::Append(request);
        let response = self.call(request, deadline, RPCTypes::AppendEntries).await?;
        let Response::Append(response) = response else {
            return Err(self.misunderstood());
        };
        Ok(response)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Config<E>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config<E>>, Failed<E>> {
        let response = self.call(Request::Vote(request), option.hard_ttl(), RPCTypes::Vote).await?;
        let Response::Vote(response) = response else {
            return Err(self.misunderstood());
        };
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Config<E>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config<E>>, Failed<E>> {
        let response =
            self.call(Request::PreVote(request), option.hard_ttl(), RPCTypes::Vote).await?;
        let Response::Vote(response) = response else {
            return Err(self.misunderstood());
        };
        Ok(response)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Config<E>>, StreamingError<Config<E>>> {
        let request = Request::Snapshot { vote, meta: snapshot.meta, data: snapshot.snapshot };
        let sent = self.call(request, option.hard_ttl(), RPCTypes::InstallSnapshot);
        match E::Rt::select2(cancel, sent).await {
            Select2::First(closed) => Err(closed.into()),
            Select2::Second(Ok(Response::Snapshot(response))) => Ok(response),
            Select2::Second(Ok(_)) => Err(self.misunderstood().into()),
            Select2::Second(Err(error)) => Err(error.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Config<E>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Config<E>>, Failed<E>> {
        let request = Request::TransferLeader(request);
        let response = self.call(request, option.hard_ttl(), RPCTypes::TransferLeader).await?;
        let Response::Transferred(response) = response else {
            return Err(self.misunderstood());
        };
        Ok(response)
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

impl<E: NodeEnv> Connection<E> {
    async fn call(
        &self,
        request: Request<E::Rt>,
        deadline: Duration,
        action: RPCTypes,
    ) -> Result<Response<E::Rt>, Failed<E>> {
        match self.network.call(&self.peer, request, deadline).await {
            // A refusal counts as unreachable, so that the next attempt waits a moment.
            Ok(Response::Refused(why)) => {
                Err(self.unreachable(&format!("{} refuses: {why}", self.peer.node)))
            }
            Ok(response) => Ok(response),
            Err(NetworkError::TimedOut(_)) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.node.0,
                target: self.peer.node.0,
                timeout: deadline,
            })),
            Err(error @ (NetworkError::Unreachable(_) | NetworkError::WrongIncarnation(_))) => {
                Err(self.unreachable(&error))
            }
        }
    }

    fn misunderstood(&self) -> Failed<E> {
        self.unreachable(&format!("{} answered another question", self.peer.node))
    }

    fn unreachable(&self, why: &impl Display) -> Failed<E> {
        RPCError::Unreachable(Unreachable::from_string(why))
    }
}
