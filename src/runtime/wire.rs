//! What members say to each other.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotMetaOf, VoteOf};
use openraft_rt::AsyncRuntime;
use serde::{Deserialize, Serialize};

use crate::control::{Applied, Command};
use crate::ha::{Ask, Chore, HeartbeatAnswer, Report};
use crate::ids::Incarnation;

use super::raft::TypeConfig;

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Request<Rt: AsyncRuntime + Send + Sync> {
    /// Raft.
    Append(AppendEntriesRequest<TypeConfig<Rt>>),
    /// Raft.
    Vote(VoteRequest<TypeConfig<Rt>>),
    /// Raft.
    PreVote(VoteRequest<TypeConfig<Rt>>),
    /// Raft: a whole snapshot, which is small here.
    Snapshot {
        /// The sender's vote.
        vote: VoteOf<TypeConfig<Rt>>,
        /// What it covers.
        meta: SnapshotMetaOf<TypeConfig<Rt>>,
        /// The encoded control state.
        data: Vec<u8>,
    },
    /// Raft.
    TransferLeader(TransferLeaderRequest<TypeConfig<Rt>>),
    /// A report, and what it asks for. A member that does not lead passes it on, once.
    Heartbeat {
        /// The report.
        report: Box<Report>,
        /// What it asks for.
        ask: Ask,
        /// Whether it was passed on already.
        relayed: bool,
    },
    /// A command for the log.
    Propose(Box<Command>),
    /// Who are you? Asked before a cluster is founded.
    Hello,
    /// What did the members last say of themselves? Only whoever leads can tell.
    Reports,
    /// Please do this to your own Postgres.
    Chore(Chore),
}

/// What one member said of itself, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Its account.
    pub report: Report,
    /// How long ago it came, in milliseconds.
    pub age_ms: u64,
}

/// A response.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Response<Rt: AsyncRuntime + Send + Sync> {
    /// Raft.
    Append(AppendEntriesResponse<TypeConfig<Rt>>),
    /// Raft, to a vote or a pre-vote.
    Vote(VoteResponse<TypeConfig<Rt>>),
    /// Raft.
    Snapshot(SnapshotResponse<TypeConfig<Rt>>),
    /// Raft: whether the transfer was taken up.
    Transferred(openraft::raft::TransferLeaderResponse<TypeConfig<Rt>>),
    /// To a heartbeat.
    Heartbeat(HeartbeatAnswer),
    /// To a command.
    Proposed(Applied),
    /// To a greeting.
    Hello {
        /// The store that the member runs on.
        incarnation: Incarnation,
        /// The cluster that it belongs to, or is configured to found or to join.
        cluster: String,
        /// Whether its consensus log was ever started.
        initialised: bool,
        /// The stores that it knows the members to run on.
        members: std::collections::BTreeMap<crate::ids::NodeId, Incarnation>,
    },
    /// To the question for reports.
    Reports {
        /// Who said what, in the order of the members.
        heard: Vec<Heard>,
        /// Why nobody is elected, where somebody should be.
        obstacle: Option<String>,
    },
    /// To a chore: what will be done.
    TakenOn(String),
    /// The member cannot do this now; the sentence says why.
    Refused(String),
}

// Written out, because a derived `Clone` would ask for `Rt: Clone`, which no task runtime is.
impl<Rt: AsyncRuntime + Send + Sync> Clone for Request<Rt> {
    fn clone(&self) -> Self {
        match self {
            Self::Append(request) => Self::Append(request.clone()),
            Self::Vote(request) => Self::Vote(request.clone()),
            Self::PreVote(request) => Self::PreVote(request.clone()),
            Self::Snapshot { vote, meta, data } => {
                Self::Snapshot { vote: *vote, meta: meta.clone(), data: data.clone() }
            }
            Self::TransferLeader(request) => Self::TransferLeader(request.clone()),
            Self::Heartbeat { report, ask, relayed } => {
                Self::Heartbeat { report: report.clone(), ask: *ask, relayed: *relayed }
            }
            Self::Propose(command) => Self::Propose(command.clone()),
            Self::Hello => Self::Hello,
            Self::Reports => Self::Reports,
            Self::Chore(chore) => Self::Chore(*chore),
        }
    }
}

impl<Rt: AsyncRuntime + Send + Sync> Clone for Response<Rt> {
    fn clone(&self) -> Self {
        match self {
            Self::Append(response) => Self::Append(response.clone()),
            Self::Vote(response) => Self::Vote(response.clone()),
            Self::Snapshot(response) => Self::Snapshot(response.clone()),
            Self::Transferred(response) => Self::Transferred(response.clone()),
            Self::Heartbeat(answer) => Self::Heartbeat(answer.clone()),
            Self::Proposed(applied) => Self::Proposed(applied.clone()),
            Self::Hello { incarnation, cluster, initialised, members } => Self::Hello {
                members: members.clone(),
                incarnation: *incarnation,
                cluster: cluster.clone(),
                initialised: *initialised,
            },
            Self::Reports { heard, obstacle } => {
                Self::Reports { heard: heard.clone(), obstacle: obstacle.clone() }
            }
            Self::TakenOn(what) => Self::TakenOn(what.clone()),
            Self::Refused(why) => Self::Refused(why.clone()),
        }
    }
}
