//! Consensus as the rest of the node sees it: propose, confirm, watch, change the voters.
//!
//! It translates and bounds; it decides nothing. Errors of the library become the few outcomes
//! that the core distinguishes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Precondition, Raft, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use openraft_rt::{AsyncRuntime, Select2, WatchReceiver};

use crate::control::{self, Applied, Command, ControlState};
use crate::env::{Entropy, Env};
use crate::ha::{NEAR_ENTRIES_MAX, RaftView};
use crate::ids::{Incarnation, NodeId, Term};
use crate::runtime::wire::{Request, Response};
use crate::runtime::{NodeEnv, Observer, SNAPSHOT_EVERY, Unobserved};
use crate::sabotage::Sabotage;

use super::error::OpenError;
use super::machine::Machine;
use super::members::{Goal, Step};
use super::network::Connector;
use super::pace::{Heard, Pace, pace};
use super::store::{Store, StoreOwner};
use super::types::{Membership, Payload, RaftNode, Snapshot, TypeConfig};
use super::watch;

/// The part of the entries between two snapshots that is kept behind one, so that a member that was
/// briefly away needs no snapshot.
const KEPT_PART: u64 = 5;
/// How long a snapshot may take to arrive: it is small, and its receiver syncs once.
const SNAPSHOT_DEADLINE_MS: u64 = 2_000;
/// How long a leader that cannot commit lets a proposer wait, in longest election timeouts.
const PATIENCE_ELECTIONS: u32 = 4;

type Config<E> = TypeConfig<<E as Env>::Rt>;
type Library<E> = Raft<Config<E>, Machine<<E as Env>::Disk>>;
type Instant<E> = <<E as Env>::Rt as AsyncRuntime>::Instant;
type Metrics<E> = RaftMetrics<Config<E>>;

/// What consensus needs to know about this member.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// This member.
    pub node: NodeId,
    /// Its cluster's name.
    pub cluster: String,
    /// The rule to break, if any.
    pub sabotage: Sabotage,
    /// How often a leader is heard.
    pub heartbeat_ms: u64,
    /// A follower that heard nothing for at least this long may ask for votes.
    pub election_min_ms: u64,
    /// A follower that heard nothing for this long does.
    pub election_max_ms: u64,
    /// A snapshot follows after so many entries.
    pub snapshot_every: u64,
    /// Sees what is applied.
    pub observer: Arc<dyn Observer>,
}

impl RaftOptions {
    /// The usual times, a heartbeat every 150 ms and an election after 350 to 500 ms of silence,
    /// and the usual snapshots.
    #[must_use]
    pub fn new(node: NodeId, cluster: impl Into<String>) -> Self {
        Self {
            node,
            cluster: cluster.into(),
            sabotage: Sabotage::NONE,
            heartbeat_ms: 150,
            election_min_ms: 350,
            election_max_ms: 500,
            snapshot_every: SNAPSHOT_EVERY,
            observer: Arc::new(Unobserved),
        }
    }

    fn config(&self) -> Result<openraft::Config, OpenError> {
        openraft::Config {
            cluster_name: self.cluster.clone(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            install_snapshot_timeout: SNAPSHOT_DEADLINE_MS,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.snapshot_every / KEPT_PART,
            enable_pre_vote: Some(true),
            // A restarted leader asks for votes like anybody else.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| OpenError::Failed(error.to_string()))
    }
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// It was committed and applied.
    Applied(Applied),
    /// It was not taken: this member does not lead. Who does, as far as it knows.
    NotLeader(Option<NodeId>),
    /// It may be committed now, later, or never.
    Unknown,
}

/// Consensus on this member. Clones share everything.
pub struct RaftHandle<E: NodeEnv>(Arc<Inner<E>>);

struct Inner<E: NodeEnv> {
    raft: Library<E>,
    options: RaftOptions,
    incarnation: Incarnation,
    control: watch::Receiver<Arc<ControlState>>,
    heard: Heard<Instant<E>>,
    reported: tokio::sync::Mutex<Reported<E>>,
}

/// What `changed` has reported last.
struct Reported<E: NodeEnv> {
    metrics: WatchReceiverOf<Config<E>, Metrics<E>>,
    control: watch::Receiver<Arc<ControlState>>,
    view: RaftView,
}

impl<E: NodeEnv> Clone for RaftHandle<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E: NodeEnv> RaftHandle<E> {
    /// Opens this member's store, or creates it, and starts consensus on it.
    pub async fn open(env: &E, options: RaftOptions) -> Result<Self, OpenError> {
        let config = Arc::new(options.config()?);
        let owner = StoreOwner {
            node: options.node,
            cluster: options.cluster.clone(),
            fresh: Incarnation(env.entropy().next_u64()),
        };
        let (store, resumed) = Store::open(env.disk(), owner, options.sabotage).await?;
        let incarnation = store.incarnation();
        let (machine, control) = Machine::new(store.clone(), resumed, options.sabotage);
        let machine = machine.observed_by(options.observer.clone());
        let connector = Connector::<E> {
            network: env.network().clone(),
            node: options.node,
            append_deadline: Duration::from_millis(2 * options.heartbeat_ms),
        };
        let raft = Library::<E>::new(options.node.0, config, connector, store, machine)
            .await
            .map_err(|error| OpenError::Failed(error.to_string()))?;
        let reported = tokio::sync::Mutex::new(Reported {
            metrics: raft.metrics(),
            control: control.clone(),
            view: RaftView::default(),
        });
        let heard = Heard::nothing();
        let inner = Arc::new(Inner { raft, options, incarnation, control, heard, reported });
        drop(E::Rt::spawn(keep_pace(Arc::downgrade(&inner))));
        Ok(Self(inner))
    }

    /// What this member's store is known by: drawn when it was created, kept since.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation
    }

    /// Whether this member was ever given a membership, by founding or by a leader.
    pub async fn is_initialised(&self) -> bool {
        self.0.raft.is_initialized().await.unwrap_or(false)
    }

    /// Founds the consensus log with these voters. Every one of them may do it, with the same
    /// members; a member that has a log already refuses.
    pub async fn initialise(&self, members: BTreeMap<NodeId, RaftNode>) -> Result<(), String> {
        let members: BTreeMap<u64, RaftNode> =
            members.into_iter().map(|(id, node)| (id.0, node)).collect();
        self.0.raft.initialize(members).await.map_err(|error| error.to_string())
    }

    /// Answers another member's consensus message.
    pub async fn serve(&self, request: Request<E::Rt>) -> Response<E::Rt> {
        let raft = &self.0.raft;
        match request {
            Request::Append(request) => {
                let outcome = raft.append_entries(request).await;
                if let Ok(response) = &outcome
                    && !matches!(response, AppendEntriesResponse::HigherVote(_))
                {
                    self.0.heard.note();
                }
                answer(outcome, Response::Append)
            }
            Request::Vote(request) => answer(raft.vote(request).await, Response::Vote),
            Request::PreVote(request) => answer(raft.pre_vote(request).await, Response::Vote),
            Request::Snapshot { vote, meta, data } => {
                // Refused before the library sees it: one that cannot be installed would end it.
                if let Err(error) = control::decode(&data) {
                    return Response::Refused(error.to_string());
                }
                let snapshot = Snapshot { meta, snapshot: data };
                let installed = raft.install_full_snapshot(vote, snapshot).await;
                answer(installed, Response::Snapshot)
            }
            Request::TransferLeader(request) => {
                // What follows may make this member a leader, whose clock must not rest.
                raft.runtime_config().tick(true);
                answer(raft.handle_transfer_leader(request).await, Response::Transferred)
            }
            Request::Heartbeat { .. }
            | Request::Propose(_)
            | Request::Hello
            | Request::Reports
            | Request::Chore(_) => Response::Refused("this is no consensus message".into()),
        }
    }

    /// Puts a command to the log, where this member leads.
    pub async fn propose(&self, command: Command) -> Proposal {
        let written = self.0.raft.client_write(command);
        match E::Rt::timeout(self.patience(), written).await {
            Ok(Ok(response)) => Proposal::Applied(response.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Proposal::NotLeader(forward.leader_id.map(NodeId))
            }
            Ok(Err(RaftError::APIError(
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_),
            )))
            | Ok(Err(RaftError::Fatal(_)))
            | Err(_) => Proposal::Unknown,
        }
    }

    /// ReadIndex: a quorum has confirmed, after this call began, that this member leads, and
    /// everything committed by then is applied and published. The term that it leads in; `None`
    /// where that could not be confirmed.
    pub async fn confirm(&self) -> Option<Term> {
        // A stalled disk holds the library up; the asker is not held up with it.
        E::Rt::timeout(self.patience(), self.read_index()).await.ok()?
    }

    /// What consensus looks like from here.
    #[must_use]
    pub fn view(&self) -> RaftView {
        view(&self.0.raft.metrics().borrow_watched())
    }

    /// Everybody in the membership in force, voting or not.
    #[must_use]
    pub fn nodes(&self) -> BTreeMap<NodeId, RaftNode> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(id, node)| (NodeId(*id), node.clone())).collect()
    }

    /// The control state, as far as this member has applied it.
    #[must_use]
    pub fn control(&self) -> Arc<ControlState> {
        self.0.control.borrow_watched().clone()
    }

    /// Returns once `view` or `control` differs from what it was when this returned last; `false`
    /// when consensus has died on this member, which then has to exit. Harmless to cancel. One
    /// caller at a time: the changes are handed out once, not to every clone.
    pub async fn changed(&self) -> bool {
        let reported = &mut *self.0.reported.lock().await;
        loop {
            let (alive, present) = {
                let metrics = reported.metrics.borrow_and_update();
                (metrics.running_state.is_ok(), view(&metrics))
            };
            if !alive {
                return false;
            }
            if present != reported.view {
                reported.view = present;
                return true;
            }
            match E::Rt::select2(reported.control.changed(), reported.metrics.changed()).await {
                Select2::First(Ok(())) => return true,
                Select2::Second(Ok(())) => {}
                Select2::First(Err(_)) | Select2::Second(Err(_)) => return false,
            }
        }
    }

    /// Asks the library to hand leadership to another voter. Whether it happened is seen in
    /// `view`. Without a quorum's help nothing is lost but the time of an election.
    pub async fn transfer_leadership(&self, to: NodeId) {
        let view = self.view();
        // A leader that has begun to hand over serves nobody until it is followed by another, so
        // it begins only where somebody can follow.
        if view.leads && to != self.0.options.node && view.voters.contains(&to) {
            // The only failure is that consensus has died, which `changed` reports.
            let _ = self.0.raft.trigger().transfer_leader(to.0).await;
        }
    }

    /// Makes these the voters and the other members learners; whoever is not among the members
    /// leaves. One change at a time; a change that was interrupted is ended first, and calling
    /// again continues where this stopped.
    pub async fn change_voters(
        &self,
        voters: BTreeSet<NodeId>,
        members: BTreeMap<NodeId, RaftNode>,
    ) -> Result<(), String> {
        let goal = Goal::new(&voters, members)?;
        loop {
            let present = self.0.raft.metrics().borrow_watched().membership_config.clone();
            let Step::Write { membership, gaining } = goal.next(present.membership())? else {
                return Ok(());
            };
            self.await_nearly_there(&gaining).await?;
            let expected =
                Precondition::LastMembershipLogId { last_membership_log_id: *present.log_id() };
            self.write_membership(membership, expected).await?;
        }
    }

    /// Stops consensus on this member.
    pub async fn shutdown(&self) {
        // The tasks may have ended before; that they end is all that is wanted.
        let _ = self.0.raft.shutdown().await;
    }

    async fn read_index(&self) -> Option<Term> {
        let linearizer = self.0.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
        let term = linearizer.read_log_id().log_id().leader_id.term;
        linearizer.await_ready(&self.0.raft).await.ok()?;
        Some(Term(term))
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.0.options.election_max_ms) * PATIENCE_ELECTIONS
    }

    /// Waits until these members hold nearly all of the log: a voter without it would take part
    /// in the quorum and be of no use to it.
    async fn await_nearly_there(&self, gaining: &BTreeSet<u64>) -> Result<(), String> {
        let mut metrics = self.0.raft.metrics();
        let lagging = |behind: &BTreeMap<NodeId, u64>| {
            let gaining =
                gaining.iter().map(|id| NodeId(*id)).filter(|id| *id != self.0.options.node);
            gaining.into_iter().find(|id| behind.get(id).is_none_or(|lag| *lag > NEAR_ENTRIES_MAX))
        };
        let waited = E::Rt::timeout(self.patience(), async {
            while lagging(&view(&metrics.borrow_and_update()).behind).is_some() {
                if metrics.changed().await.is_err() {
                    break;
                }
            }
        });
        // Whether time ran out shows in what is still lacking.
        let _ = waited.await;
        match lagging(&self.view().behind) {
            Some(member) => Err(format!("{member} does not hold the log yet and cannot vote")),
            None => Ok(()),
        }
    }

    async fn write_membership(
        &self,
        membership: Membership,
        expected: Precondition<Config<E>>,
    ) -> Result<(), String> {
        let written = self.0.raft.append_membership(membership, Payload::Blank, [expected]);
        match E::Rt::timeout(self.patience(), written).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no quorum confirmed the change in time".into()),
        }
    }
}

/// Lets the library's clock rest where it has nothing to do, for as long as anybody holds the
/// handle and consensus lives.
async fn keep_pace<E: NodeEnv>(member: Weak<Inner<E>>) {
    while let Some(inner) = member.upgrade() {
        let Some(pace) = inner.set_pace() else { return };
        if pace.beats && inner.raft.trigger().heartbeat().await.is_err() {
            return;
        }
        drop(inner);
        E::Rt::sleep(pace.look_again).await;
    }
}

impl<E: NodeEnv> Inner<E> {
    /// Starts or stops the clock; `None` once consensus has ended.
    fn set_pace(&self) -> Option<Pace> {
        let (alive, leads) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.running_state.is_ok(), metrics.state == ServerState::Leader)
        };
        let restful = Duration::from_millis(self.options.election_min_ms);
        let heartbeat = Duration::from_millis(self.options.heartbeat_ms);
        let pace = pace(leads, self.heard.silence(), restful, heartbeat);
        self.raft.runtime_config().tick(pace.ticks);
        alive.then_some(pace)
    }
}

fn answer<Rt: AsyncRuntime + Send + Sync, T>(
    outcome: Result<T, impl Display>,
    wrap: impl FnOnce(T) -> Response<Rt>,
) -> Response<Rt> {
    match outcome {
        Ok(value) => wrap(value),
        Err(error) => Response::Refused(error.to_string()),
    }
}

fn view<Rt: AsyncRuntime + Send + Sync>(metrics: &RaftMetrics<TypeConfig<Rt>>) -> RaftView {
    let membership = metrics.membership_config.membership();
    let length = metrics.last_log_index.map_or(0, |last| last + 1);
    let lag = |held: &Option<_>| -> u64 {
        let held: &Option<super::types::LogId> = held;
        length.saturating_sub(held.map_or(0, |id| id.index + 1))
    };
    let others = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id);
    RaftView {
        term: Term(metrics.current_term),
        leader: metrics.current_leader.map(NodeId),
        leads: metrics.state == ServerState::Leader,
        voters: membership.get_joint_config().iter().flatten().copied().map(NodeId).collect(),
        learners: membership.learner_ids().map(NodeId).collect(),
        behind: others.map(|(id, held)| (NodeId(*id), lag(held))).collect(),
        changing: membership.get_joint_config().len() > 1,
    }
}
