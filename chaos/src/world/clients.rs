//! The simulator's clients, with sockets under them; and the side channel: a writer at every
//! server's private socket, whatever becomes of the network.

use std::sync::Arc;
use std::time::Duration;

use pg_replica::ids::{Lsn, NodeId, SystemId, Timeline};
use sim::place::Place;
use sim::streams::lock;
use sim::witness::Row;
use sim::workload::{self, Servers, Written};
use tokio::time::{sleep, timeout};

use super::World;
use super::sql::{NotTold, Seen, Session as Talk, Told, parse_lsn};
use super::tale::{Ack, Shown};
use crate::lab::address;
use crate::subject::Ground;

/// What the numbers of the side channel's rows begin with: far from those of clients.
pub(super) const SIDE: u32 = 1_000;
/// How often the side channel writes.
const SIDE_EVERY: Duration = Duration::from_millis(100);
/// How long it waits for an answer: commits that wait for standbys may be answered late, and that
/// word is wanted.
const SIDE_PATIENCE: Duration = Duration::from_secs(5);

/// The servers, from the clients' namespace.
#[derive(Clone)]
pub(super) struct Network(pub(super) Arc<World>);

/// A client's session.
pub(super) struct Session {
    world: Arc<World>,
    server: NodeId,
    writable: bool,
    talk: Talk,
}

impl Servers for Network {
    type Session = Session;

    fn now(&self) -> Duration {
        self.0.now()
    }

    async fn sleep(&self, span: Duration) {
        sleep(span).await;
    }

    async fn connect(&self, from: Place, to: NodeId) -> Result<Session, String> {
        let (_, port) = self.0.subject.socket(to);
        let (own, server) = (address(from), address(Place::Host(to)));
        let talk = Talk::over_network(own, server, port, &self.0.subject.ground().writer).await?;
        let writable = talk.is_writable().await;
        Ok(Session { world: self.0.clone(), server: to, writable, talk })
    }
}

impl workload::Session for Session {
    async fn write(&self, row: Row) -> Written {
        let wrote = if self.world.registers {
            self.talk.swap(row).await
        } else {
            self.talk.write(row).await
        };
        match wrote {
            Ok(told) => {
                let found = told.found;
                self.world.acknowledged(self.server, row, told);
                Written::Acknowledged { found }
            }
            Err(NotTold::Refused) => Written::Refused,
            Err(NotTold::Broken) => Written::Broken,
        }
    }

    async fn read(&self) -> bool {
        let Ok(seen) = self.talk.read().await else { return false };
        if let Some(seen) = seen {
            self.world.shown(self.server, seen);
        }
        true
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn is_broken(&self) -> bool {
        self.talk.is_closed()
    }
}

impl World {
    fn acknowledged(&self, server: NodeId, row: Row, told: Told) {
        let Told { timeline, lsn, sync, found: _ } = told;
        let ack = Ack { at: self.now(), server, timeline, lsn, row, sync };
        let mut tale = lock(&self.tale);
        if tale.counted.is_none() {
            tale.note_ack(ack);
        }
    }

    /// A primary showed rows to a reader.
    fn shown(&self, server: NodeId, seen: Seen) {
        let Seen { timeline, sync, rows } = seen;
        let shown = Shown { at: self.now(), server, timeline, sync, rows };
        let mut tale = lock(&self.tale);
        if tale.counted.is_none() {
            tale.note_shown(shown);
        }
    }

    /// Writes at one server for ever, through its private socket.
    pub(super) async fn write_beside(self: Arc<Self>, server: NodeId) {
        let client = SIDE + u32::try_from(server.0).unwrap_or_default();
        let mut number = 0;
        let mut talk: Option<Talk> = None;
        loop {
            sleep(SIDE_EVERY).await;
            if self.looks_away() {
                talk = None;
                continue;
            }
            let socket = self.subject.socket(server);
            if talk.as_ref().is_none_or(Talk::is_closed) {
                let writer = &self.subject.ground().writer;
                let opening = Talk::at(&socket, writer, &writer.role);
                talk = timeout(SIDE_PATIENCE, opening).await.ok().and_then(Result::ok);
            }
            let Some(open) = &talk else { continue };
            number += 1;
            let row = Row { client, number };
            match timeout(SIDE_PATIENCE, open.write(row)).await {
                Ok(Ok(told)) => {
                    let timeline = told.timeline;
                    self.acknowledged(server, row, told);
                    self.note_beginning(server, timeline).await;
                }
                Ok(Err(NotTold::Refused)) => {}
                Ok(Err(NotTold::Broken)) | Err(_) => talk = None,
            }
        }
    }

    /// A server acknowledges on a timeline of its own for the first time: with which rows?
    async fn note_beginning(&self, server: NodeId, timeline: Timeline) {
        if lock(&self.tale).beginnings.contains_key(&(server, timeline)) {
            return;
        }
        // What it does not tell now it tells with its next acknowledgement.
        let Ok(rows) = self.rows_of(server).await else { return };
        let old = rows.into_iter().filter(|(_, written)| *written < timeline);
        let old = old.map(|(row, _)| row).collect();
        let origin = timeout(SIDE_PATIENCE, self.origin_of(server, timeline)).await;
        let (system, branch) = origin.ok().flatten().unwrap_or_default();
        let mut tale = lock(&self.tale);
        tale.beginnings.insert((server, timeline), old);
        tale.systems.extend(system.map(|system| ((server, timeline), system)));
        tale.branches.extend(branch.map(|at| ((server, timeline), at)));
    }

    /// Which database a server's directory belongs to, and where this timeline of its left the one
    /// before: the first has no file that says so.
    async fn origin_of(
        &self,
        server: NodeId,
        timeline: Timeline,
    ) -> Option<(Option<SystemId>, Option<Lsn>)> {
        let (socket, keeper) = (self.subject.socket(server), &self.subject.ground().keeper);
        let talk = Talk::at(&socket, keeper, "postgres").await.ok()?;
        let word = async |question: &str| {
            let said = talk.ask(question).await.ok()?;
            said.into_iter().flatten().flatten().next()
        };
        let system = word("select system_identifier from pg_control_system()").await;
        let file = format!("pg_wal/{:08X}.history", timeline.0);
        let branches = word(&format!("select pg_read_file('{file}')")).await.unwrap_or_default();
        let last = branches.lines().rfind(|line| !line.trim().is_empty());
        let branch = last.and_then(|line| parse_lsn(line.split_whitespace().nth(1)?));
        Some((system.and_then(|system| system.parse().ok()).map(SystemId), branch))
    }

    /// Every row that a server has, with the timeline that it was written on.
    pub(super) async fn rows_of(&self, server: NodeId) -> Result<Vec<(Row, Timeline)>, String> {
        let reading = async {
            let socket = self.subject.socket(server);
            let Ground { writer, keeper, .. } = self.subject.ground();
            Talk::at(&socket, keeper, &writer.role).await?.rows().await
        };
        let late = |_| format!("{server} does not tell its rows");
        timeout(SIDE_PATIENCE, reading).await.map_err(late)?
    }
}
