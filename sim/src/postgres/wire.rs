//! What travels to a server and back: client requests, streaming replication, base backups.
//!
//! A connection is a pair of lanes. What is sent while the link is blocked arrives when it heals,
//! so an end that is gone answers late traffic with a reset, as an operating system does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use pg_replica::env::TimelineBirth;
use pg_replica::ids::{Epoch, Lsn, NodeId, SystemId, Timeline};
use tokio::sync::oneshot;

use super::control::Control;
use super::durable::{Directory, Record};
use super::server::{Core, Server};
use super::session::ClientEnd;
use super::verbs::within;
use crate::fabric::{Fabric, Lane, Port};
use crate::place::Place;
use crate::streams::lock;
use crate::witness::{Row, Untold};

/// All servers of a world, by their members' numbers, and the network between them. It keeps none
/// of them alive.
#[derive(Clone)]
pub struct Registry {
    fabric: Fabric,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    servers: BTreeMap<NodeId, Weak<Core>>,
    acknowledged: BTreeSet<Row>,
    connections: u64,
}

/// A connection, as both of its ends hold it.
pub(super) type Link = Arc<Connection>;

/// The two lanes of a connection and who is at their ends.
pub(super) struct Connection {
    /// Unique in a world.
    pub(super) number: u64,
    /// The server that was connected to.
    pub(super) server: NodeId,
    from: Place,
    peer: Peer,
    registry: Registry,
    forward: Lane,
    back: Lane,
}

/// Who opened a connection.
pub(super) enum Peer {
    /// A client.
    Client(Arc<ClientEnd>),
    /// The receiver of a standby.
    Standby(NodeId),
}

/// What a server's process has to deal with.
pub(super) enum Input {
    /// A command of the manager on the same machine.
    Control(Control),
    /// A client opens a session.
    Connect(Link),
    /// A client asks something in its session.
    Ask(Link, u64, Ask),
    /// A client closed its session.
    Closed(Link),
    /// A standby asks for the log.
    Attach(Link, Hello),
    /// A standby has this much on its disk.
    Confirm(Link, Lsn),
    /// A standby's receiver is gone.
    ReceiverGone(Link),
    /// Something came from the upstream.
    Streamed(Link, Streamed),
    /// A base backup is asked for.
    Copy(CopyRequest),
    /// One of the words before a stream.
    Word(WordReply),
}

/// What a client asks.
pub(super) enum Ask {
    /// Insert a row and commit.
    Write(Row),
    /// Look at the table.
    Read,
}

/// What a server tells a client.
pub(super) enum Answer {
    /// The session is open.
    Welcome { primary: bool },
    /// The session is refused, or ended.
    Goodbye(String),
    /// The commit is acknowledged; the register held this row until then.
    Committed { found: Option<Row> },
    /// The statement failed and nothing of it remains.
    Refused(String),
    /// What a reader saw.
    Seen { rows: u64, upto: Lsn, primary: bool },
}

/// How a standby introduces itself.
pub(super) struct Hello {
    pub(super) standby: NodeId,
    pub(super) epoch: Epoch,
    pub(super) system: SystemId,
    pub(super) timeline: Timeline,
    pub(super) start: Lsn,
}

/// What an upstream tells a standby.
#[derive(Clone)]
pub(super) enum Streamed {
    /// Streaming begins; these are the upstream's timelines.
    Accepted(Vec<TimelineBirth>),
    /// Streaming is refused, by a server that will not change its mind where it is `for_good`.
    Refused { why: String, for_good: bool },
    /// A batch of the log.
    Wal(Arc<[Record]>),
    /// The upstream lives and has nothing to send. It may ask for a word.
    Keepalive { reply: bool },
    /// The walsender is gone.
    Reset,
}

/// A request for everything that a server has on its disk.
pub(super) struct CopyRequest {
    pub(super) primary_only: bool,
    pub(super) reply: CopyReply,
}

type WordReply = Box<dyn FnOnce(Result<(), String>) + Send>;
type CopyReply = Box<dyn FnOnce(Result<Directory, String>) + Send>;

impl Registry {
    /// No servers yet.
    #[must_use]
    pub fn new(fabric: Fabric) -> Self {
        Self { fabric, known: Arc::default() }
    }

    /// The server of `node`, where there is one.
    #[must_use]
    pub fn server(&self, node: NodeId) -> Option<Server> {
        let known = lock(&self.known);
        known.servers.get(&node)?.upgrade().map(Server::from_core)
    }

    pub(super) fn register(&self, node: NodeId, core: &Arc<Core>) {
        let mut known = lock(&self.known);
        known.servers.insert(node, Arc::downgrade(core));
    }

    /// A client was told that `row` is committed.
    pub(super) fn acknowledge(&self, row: Row) {
        let mut known = lock(&self.known);
        known.acknowledged.insert(row);
    }

    /// Keeps the rows that no client was told to be committed.
    pub(super) fn retain_unacknowledged(&self, rows: &mut Vec<Untold>) {
        let known = lock(&self.known);
        rows.retain(|untold| !known.acknowledged.contains(&untold.row));
    }

    /// A new connection from `from` to the server of `node`.
    pub(super) fn link(&self, from: Place, node: NodeId, peer: Peer) -> Link {
        let number = {
            let mut known = lock(&self.known);
            known.connections += 1;
            known.connections
        };
        let to = Place::Host(node);
        Arc::new(Connection {
            number,
            server: node,
            from,
            peer,
            registry: self.clone(),
            forward: self.fabric.lane(from, to, Port::Postgres),
            back: self.fabric.lane(to, from, Port::Postgres),
        })
    }

    /// Asks the server of `node` for everything that it has on its disk.
    pub(super) fn copy(
        &self,
        from: Place,
        node: NodeId,
        primary_only: bool,
    ) -> oneshot::Receiver<Result<Directory, String>> {
        let (send, receive) = oneshot::channel();
        let to = Place::Host(node);
        let forward = self.fabric.lane(from, to, Port::Postgres);
        let back = self.fabric.lane(to, from, Port::Postgres);
        let registry = self.clone();
        let reply: CopyReply = Box::new(move |result| {
            back.send(move || {
                // The asker may have given up; then nobody misses the answer.
                let _ = send.send(result);
            });
        });
        forward.send(move || {
            registry.deliver(node, Input::Copy(CopyRequest { primary_only, reply }));
        });
        receive
    }

    /// Speaks with the server of `node` on one connection, so many times there and back.
    pub(super) async fn talk(
        &self,
        from: Place,
        node: NodeId,
        round_trips: u32,
        each: Duration,
    ) -> Result<(), String> {
        let to = Place::Host(node);
        let forward = self.fabric.lane(from, to, Port::Postgres);
        let back = self.fabric.lane(to, from, Port::Postgres);
        for _ in 0..round_trips {
            let (send, receive) = oneshot::channel();
            let (registry, back) = (self.clone(), back.clone());
            let reply: WordReply = Box::new(move |answer| {
                back.send(move || {
                    // The asker may have given up; then nobody misses the answer.
                    let _ = send.send(answer);
                });
            });
            forward.send(move || registry.deliver(node, Input::Word(reply)));
            match within(each, receive).await {
                Some(Ok(answer)) => answer?,
                Some(Err(_)) => return Err("the connection broke".to_owned()),
                None => return Err(format!("{node} does not answer")),
            }
        }
        Ok(())
    }

    /// Hands `input` to the process of `node`, or tells its sender that there is none.
    fn deliver(&self, node: NodeId, input: Input) {
        let refused = match self.server(node) {
            Some(server) => server.core().enqueue(input),
            None => Some(input),
        };
        if let Some(input) = refused {
            input.bounce();
        }
    }
}

impl Connection {
    /// Sends to the server's end.
    pub(super) fn up(self: &Arc<Self>, input: Input) {
        let registry = self.registry.clone();
        let server = self.server;
        self.forward.send(move || registry.deliver(server, input));
    }

    /// Sends to the standby's end.
    pub(super) fn stream(self: &Arc<Self>, message: Streamed) {
        let Peer::Standby(standby) = self.peer else { return };
        let link = self.clone();
        self.back.send(move || {
            link.registry.clone().deliver(standby, Input::Streamed(link, message));
        });
    }

    /// Sends to the client's end.
    pub(super) fn answer(self: &Arc<Self>, request: u64, answer: Answer) {
        let Peer::Client(end) = &self.peer else { return };
        let end = end.clone();
        self.back.send(move || end.take(request, answer));
    }

    /// Whether bytes flow in both directions.
    pub(super) fn flows(&self) -> bool {
        let to = Place::Host(self.server);
        let fabric = &self.registry.fabric;
        !fabric.is_blocked(self.from, to, Port::Postgres)
            && !fabric.is_blocked(to, self.from, Port::Postgres)
    }
}

impl Input {
    /// Answers in place of a process or a connection that does not exist.
    pub(super) fn bounce(self) {
        let refused = || "connection refused".to_owned();
        match self {
            // A dropped command is seen by its sender as a lost connection.
            Self::Control(_) | Self::Closed(_) | Self::ReceiverGone(_) => {}
            Self::Connect(link) => link.answer(0, Answer::Goodbye(refused())),
            Self::Ask(link, request, _) => link.answer(request, Answer::Goodbye(refused())),
            Self::Attach(link, _) => {
                link.stream(Streamed::Refused { why: refused(), for_good: false });
            }
            Self::Confirm(link, _) => link.stream(Streamed::Reset),
            Self::Streamed(_, Streamed::Reset | Streamed::Refused { .. }) => {}
            Self::Streamed(
                link,
                Streamed::Accepted(_) | Streamed::Wal(_) | Streamed::Keepalive { .. },
            ) => link.clone().up(Self::ReceiverGone(link)),
            Self::Copy(request) => (request.reply)(Err(refused())),
            Self::Word(reply) => reply(Err(refused())),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}
