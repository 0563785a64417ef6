//! Three and more members in one process: founding, proposing, confirming, handing over, changing
//! the voters, and what a dead disk or a cut does.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant};
use tokio::sync::{mpsc, oneshot};

use pg_replica::control::Applied;
use pg_replica::env::{
    Armed, Clock, Entropy, Env, Guard, GuardError, Incoming, Network, NetworkError, Observation,
    Peer, Postgres, PostgresError, ReplyTo, RewindReport, StartAs, StopHow, SyncNames,
    TimelineBirth, Upstream,
};
use pg_replica::ids::{Epoch, Incarnation, Moment, NodeId, SystemId};
use pg_replica::runtime::raft::{Proposal, RaftHandle, RaftNode, RaftOptions};
use pg_replica::runtime::wire;

use super::disk::MemoryDisk;
use super::founding;
use super::runtime::OrderedRuntime;

type Request = wire::Request<OrderedRuntime>;
type Response = wire::Response<OrderedRuntime>;
type Handle = RaftHandle<House>;

/// Consensus asks for neither Postgres nor guard nor clock.
#[derive(Clone, Copy, Debug)]
enum Absent {}

impl Clock for Absent {
    fn now(&self) -> Moment {
        match *self {}
    }
    fn wall_ms(&self) -> u64 {
        match *self {}
    }
    async fn sleep_until(&self, _: Moment) {
        match *self {}
    }
}

impl Guard for Absent {
    async fn arm(&self, _: Armed) -> Result<(), GuardError> {
        match *self {}
    }
    async fn disarm(&self, _: Epoch) -> Result<(), GuardError> {
        match *self {}
    }
    async fn armed(&self) -> Result<Option<Armed>, GuardError> {
        match *self {}
    }
}

impl Postgres for Absent {
    async fn observe(&self) -> Result<Observation, PostgresError> {
        match *self {}
    }
    async fn initialise(&self, _: Epoch) -> Result<SystemId, PostgresError> {
        match *self {}
    }
    async fn clone_from(&self, _: &Upstream) -> Result<(), PostgresError> {
        match *self {}
    }
    async fn rewind(&self, _: &Upstream) -> Result<RewindReport, PostgresError> {
        match *self {}
    }
    async fn start(&self, _: &StartAs) -> Result<(), PostgresError> {
        match *self {}
    }
    async fn promote(&self, _: Epoch) -> Result<TimelineBirth, PostgresError> {
        match *self {}
    }
    async fn follow(&self, _: &Upstream) -> Result<(), PostgresError> {
        match *self {}
    }
    async fn detach(&self) -> Result<(), PostgresError> {
        match *self {}
    }
    async fn set_sync(&self, _: &SyncNames) -> Result<(), PostgresError> {
        match *self {}
    }
    async fn configure(
        &self,
        _: &std::collections::BTreeMap<String, String>,
    ) -> Result<(), PostgresError> {
        Ok(())
    }
    async fn keep_log_for(&self, _: &BTreeSet<NodeId>) -> Result<(), PostgresError> {
        match *self {}
    }
    async fn admit(&self) -> Result<(), PostgresError> {
        match *self {}
    }
    async fn extend_lease(&self, _: Epoch, _: Moment) -> Result<bool, PostgresError> {
        match *self {}
    }
    async fn stop(&self, _: StopHow) -> Result<(), PostgresError> {
        match *self {}
    }
}

#[derive(Clone, Debug)]
struct Seeded(u64);

impl Entropy for Seeded {
    fn next_u64(&self) -> u64 {
        self.0
    }
}

type Inboxes = BTreeMap<NodeId, mpsc::UnboundedSender<Incoming<Request, Response>>>;

/// Direct delivery between members, except from and to those that are cut off.
#[derive(Clone, Default)]
struct Switchboard(Arc<Mutex<(Inboxes, BTreeSet<NodeId>)>>);

#[derive(Clone)]
struct Line {
    node: NodeId,
    board: Switchboard,
}

impl Network for Line {
    type Request = Request;
    type Response = Response;

    async fn call(
        &self,
        peer: &Peer,
        request: Request,
        deadline: Duration,
    ) -> Result<Response, NetworkError> {
        let (send, receive) = oneshot::channel();
        {
            let (inboxes, cut) = &*self.board.0.lock().unwrap();
            let inbox = inboxes.get(&peer.node).ok_or(NetworkError::Unreachable(peer.node))?;
            if !cut.contains(&self.node) && !cut.contains(&peer.node) {
                let reply = ReplyTo::new(move |response| drop(send.send(response)));
                drop(inbox.send(Incoming { from: self.node, request, reply }));
            } else {
                // A cut is silent: the caller learns nothing before its deadline.
                std::mem::forget(send);
            }
        }
        match OrderedRuntime::timeout(deadline, receive).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) | Err(_) => Err(NetworkError::TimedOut(peer.node)),
        }
    }

    async fn accept(&self, _: Incarnation) -> Option<Incoming<Request, Response>> {
        None
    }
}

#[derive(Clone)]
struct House {
    line: Line,
    disk: MemoryDisk,
    entropy: Seeded,
}

impl Env for House {
    type Rt = OrderedRuntime;
    type Clock = Absent;
    type Network = Line;
    type Disk = MemoryDisk;
    type Postgres = Absent;
    type Guard = Absent;
    type Entropy = Seeded;

    fn clock(&self) -> &Absent {
        unreachable!("consensus takes its time from the task runtime")
    }
    fn network(&self) -> &Line {
        &self.line
    }
    fn disk(&self) -> &MemoryDisk {
        &self.disk
    }
    fn postgres(&self) -> &Absent {
        unreachable!("consensus knows no Postgres")
    }
    fn guard(&self) -> &Absent {
        unreachable!("consensus knows no guard")
    }
    fn entropy(&self) -> &Seeded {
        &self.entropy
    }
}

#[derive(Default)]
struct Cluster {
    board: Switchboard,
    members: BTreeMap<NodeId, (Handle, MemoryDisk)>,
}

impl Cluster {
    /// A founded cluster of `size` voters.
    async fn of(size: u64) -> Self {
        let mut cluster = Self::default();
        for id in 1..=size {
            cluster.start(id, MemoryDisk::default()).await;
        }
        for id in 1..=size {
            assert!(!cluster.handle(id).is_initialised().await);
        }
        cluster.handle(1).initialise(nodes(1..=size)).await.unwrap();
        cluster
    }

    async fn start(&mut self, id: u64, disk: MemoryDisk) {
        let node = NodeId(id);
        let (send, mut inbox) = mpsc::unbounded_channel();
        let line = Line { node, board: self.board.clone() };
        let house = House { line, disk: disk.clone(), entropy: Seeded(id) };
        let handle = Handle::open(&house, RaftOptions::new(node, "blue")).await.unwrap();
        let server = handle.clone();
        drop(OrderedRuntime::spawn(async move {
            while let Some(Incoming { request, reply, .. }) = inbox.recv().await {
                let server = server.clone();
                drop(OrderedRuntime::spawn(async move {
                    reply.send(server.serve(request).await);
                }));
            }
        }));
        self.board.0.lock().unwrap().0.insert(node, send);
        self.members.insert(node, (handle, disk));
    }

    /// Ends a member and returns what is on its disk.
    async fn stop(&mut self, id: u64) -> MemoryDisk {
        self.board.0.lock().unwrap().0.remove(&NodeId(id));
        let (handle, disk) = self.members.remove(&NodeId(id)).unwrap();
        handle.shutdown().await;
        MemoryDisk::holding(disk.0.synced())
    }

    fn cut(&self, id: u64) {
        self.board.0.lock().unwrap().1.insert(NodeId(id));
    }

    fn heal(&self) {
        self.board.0.lock().unwrap().1.clear();
    }

    fn handle(&self, id: u64) -> Handle {
        self.members[&NodeId(id)].0.clone()
    }

    /// The member that leads and can prove it.
    async fn leader(&self) -> u64 {
        within("somebody leads", || async {
            for (id, (handle, _)) in &self.members {
                if handle.view().leads && handle.confirm().await.is_some() {
                    return Some(id.0);
                }
            }
            None
        })
        .await
    }
}

fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, RaftNode> {
    let node = |id| RaftNode { address: format!("n{id}"), incarnation: Incarnation(id) };
    ids.into_iter().map(|id| (NodeId(id), node(id))).collect()
}

fn voters(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

async fn within<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    for _ in 0..500 {
        if let Some(found) = look().await {
            return found;
        }
        OrderedRuntime::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[test]
fn a_proposal_is_applied_on_every_member_once() {
    OrderedRuntime::run(async {
        let cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        assert_eq!(
            cluster.handle(leader).propose(founding()).await,
            Proposal::Applied(Applied::Done)
        );
        assert!(matches!(
            cluster.handle(leader).propose(founding()).await,
            Proposal::Applied(Applied::Refused(_))
        ));
        for id in 1..=3 {
            let handle = cluster.handle(id);
            within("it is applied everywhere", || async {
                (handle.control().cluster == "blue").then_some(())
            })
            .await;
        }
        let other = cluster.handle(leader % 3 + 1);
        assert_eq!(other.propose(founding()).await, Proposal::NotLeader(Some(NodeId(leader))));
        assert_eq!(other.confirm().await, None);
    });
}

#[test]
fn leadership_goes_where_it_is_sent() {
    OrderedRuntime::run(async {
        let cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        let next = leader % 3 + 1;
        cluster.handle(leader).transfer_leadership(NodeId(99)).await;
        assert_eq!(cluster.leader().await, leader);
        let began = <OrderedRuntime as AsyncRuntime>::Instant::now();
        cluster.handle(leader).transfer_leadership(NodeId(next)).await;
        within("it arrives", || async { cluster.handle(next).view().leads.then_some(()) }).await;
        assert!(began.elapsed() < Duration::from_millis(200), "it waited for an election");
    });
}

#[test]
fn a_leader_that_is_cut_off_confirms_nothing() {
    OrderedRuntime::run(async {
        let cluster = Cluster::of(3).await;
        let old = cluster.leader().await;
        cluster.cut(old);
        // It still believes in itself; it cannot prove it.
        assert!(cluster.handle(old).view().leads);
        assert_eq!(cluster.handle(old).confirm().await, None);
        let lost = cluster.handle(old).propose(founding()).await;
        assert!(!matches!(lost, Proposal::Applied(_)), "{lost:?}");
        let new = within("another leads", || async {
            let mut others = cluster.members.iter().filter(|(id, _)| id.0 != old);
            others.find(|(_, (handle, _))| handle.view().leads).map(|(id, _)| id.0)
        })
        .await;
        let done = cluster.handle(new).propose(founding()).await;
        assert_eq!(done, Proposal::Applied(Applied::Done));
        cluster.heal();
        let healed = cluster.handle(old);
        within("it follows", || async { (healed.control().cluster == "blue").then_some(()) }).await;
        assert!(!healed.view().leads);
    });
}

#[test]
fn voters_are_added_and_removed() {
    OrderedRuntime::run(async {
        let mut cluster = Cluster::of(3).await;
        for id in 4..=5 {
            cluster.start(id, MemoryDisk::default()).await;
        }
        let leader = cluster.leader().await;
        let handle = cluster.handle(leader);
        assert_eq!(handle.propose(founding()).await, Proposal::Applied(Applied::Done));
        handle.change_voters(voters(1..=3), nodes(1..=4)).await.unwrap();
        assert_eq!(handle.view().learners, voters([4]));
        handle.change_voters(voters(1..=5), nodes(1..=5)).await.unwrap();
        assert_eq!(handle.view().voters, voters(1..=5));
        assert!(!handle.view().changing);
        assert!(cluster.handle(5).is_initialised().await);
        // Everybody but a majority of the old ones goes, the leader included.
        let stay = [leader % 3 + 1, 4, 5];
        handle.change_voters(voters(stay), nodes(stay)).await.unwrap();
        let member = cluster.handle(4);
        within("the rest goes on alone", || async {
            let view = member.view();
            let leads = view.leader.is_some_and(|id| stay.contains(&id.0));
            (leads && view.voters == voters(stay) && view.learners.is_empty()).then_some(())
        })
        .await;
        let refused = member.change_voters(voters([9]), nodes([4])).await.unwrap_err();
        assert!(refused.contains("n9"), "{refused}");
    });
}

#[test]
fn a_member_that_missed_the_log_is_sent_the_state() {
    OrderedRuntime::run(async {
        let mut cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        let handle = cluster.handle(leader);
        let absent = leader % 3 + 1;
        let disk = cluster.stop(absent).await;
        for _ in 0..1_200 {
            assert!(matches!(handle.propose(founding()).await, Proposal::Applied(_)));
        }
        cluster.start(absent, disk).await;
        let late = cluster.handle(absent);
        within("it has caught up", || async { (late.control().cluster == "blue").then_some(()) })
            .await;
        within("the leader knows", || async {
            (handle.view().behind.get(&NodeId(absent)) == Some(&0)).then_some(())
        })
        .await;
    });
}

#[test]
fn everything_is_remembered_across_a_power_loss_of_all() {
    OrderedRuntime::run(async {
        let mut cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        let done = cluster.handle(leader).propose(founding()).await;
        assert_eq!(done, Proposal::Applied(Applied::Done));
        let term = cluster.handle(leader).view().term;
        let mut disks = Vec::new();
        for id in 1..=3 {
            disks.push((id, cluster.stop(id).await));
        }
        for (id, disk) in disks {
            cluster.start(id, disk).await;
        }
        let again = cluster.leader().await;
        assert!(cluster.handle(again).view().term > term, "a leader came back without a vote");
        assert_eq!(cluster.handle(again).control().cluster, "blue");
        assert_eq!(cluster.handle(again).incarnation(), Incarnation(again));
    });
}

#[test]
fn a_member_whose_disk_dies_says_so() {
    OrderedRuntime::run(async {
        let cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        let (handle, disk) = &cluster.members[&NodeId(leader)];
        disk.0.break_down();
        let _ = handle.propose(founding()).await;
        let noticed = OrderedRuntime::timeout(Duration::from_secs(5), async {
            while handle.changed().await {}
        });
        noticed.await.expect("consensus never reported its end");
        assert_eq!(handle.confirm().await, None);
        assert_eq!(handle.propose(founding()).await, Proposal::Unknown);
    });
}

#[test]
fn changes_are_reported_and_silence_is_kept() {
    OrderedRuntime::run(async {
        let cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        let handle = cluster.handle(leader);
        let settle = |wait| {
            let handle = handle.clone();
            async move {
                let mut reports = 0;
                while OrderedRuntime::timeout(wait, handle.changed()).await.is_ok() {
                    reports += 1;
                }
                reports
            }
        };
        settle(Duration::from_millis(300)).await;
        // Heartbeats go on; nothing that they bring is a change.
        let quiet = OrderedRuntime::timeout(Duration::from_secs(1), handle.changed()).await;
        assert!(quiet.is_err(), "a heartbeat was reported as a change");
        assert_eq!(handle.propose(founding()).await, Proposal::Applied(Applied::Done));
        assert!(settle(Duration::from_millis(300)).await > 0);
    });
}
