//! What can be seen of all members at once, while the run goes on: each member's own view, asked
//! from within its own namespace, and what the primary's server says of those that stream from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pg_replica::ids::{Lsn, NodeId, Timeline};
use sim::nemesis::Machines;
use sim::place::Place;
use sim::streams::lock;
use sim::witness::Row;
use tokio::time::{sleep, timeout};

use super::World;
use super::clients::SIDE;
use super::sql::{Session, parse_lsn};
use crate::lab::address;
use crate::subject::{Done, Programs, View};

const LOOK_EVERY: Duration = Duration::from_millis(100);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A view older than this says nothing of the present.
const FRESH: Duration = Duration::from_secs(2);
/// A server whose last commit is older than this acknowledges nothing now.
const WILLING: Duration = Duration::from_millis(800);

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Sight {
    views: BTreeMap<NodeId, (Duration, View)>,
    streams: Option<Streams>,
    /// Nobody looks any more.
    away: bool,
    /// The cluster has recovered from everything.
    pub(super) recovered: bool,
}

/// Who streams from a primary, and how far each has replayed its log.
#[derive(Clone, Debug)]
struct Streams {
    at: Duration,
    primary: NodeId,
    log: Log,
}

/// The end of a primary's log, and what those that stream from it have of it.
#[derive(Clone, Debug)]
struct Log {
    end: Lsn,
    replayed: BTreeMap<NodeId, Lsn>,
}

/// How far everybody has to have replayed: where the log of a primary ended when it was asked
/// first. Another primary is asked anew.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Goal(Option<(NodeId, Lsn)>);

impl Goal {
    fn with(&mut self, streams: &Streams) -> Lsn {
        let of_another = self.0.is_none_or(|(primary, _)| primary != streams.primary);
        if of_another {
            self.0 = Some((streams.primary, streams.log.end));
        }
        self.0.map_or(streams.log.end, |(_, end)| end)
    }
}

/// The primary that is left, with all its rows.
#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) node: NodeId,
    pub(super) rows: Vec<(Row, Timeline)>,
}

impl World {
    /// From now on nobody asks or writes anything: what the cluster costs is its own doing.
    pub(super) fn look_away(&self) {
        lock(&self.sight).away = true;
    }

    pub(super) fn looks_away(&self) -> bool {
        lock(&self.sight).away
    }

    /// Asks a member for its view of the cluster, for ever.
    pub(super) async fn watch(self: Arc<Self>, node: NodeId) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.looks_away() {
                continue;
            }
            let asked = self.now();
            if let Some(view) = self.subject.view(node).await {
                let now = self.now();
                if let Some(led) = view.leader {
                    // An answer that its machine did not survive is of the time before.
                    lock(&self.tale).note_leader(asked, node, led);
                }
                lock(&self.sight).views.insert(node, (now, view));
            }
        }
    }

    /// Asks the primary's server who streams from it, for ever.
    pub(super) async fn watch_replication(self: Arc<Self>) {
        loop {
            sleep(LOOK_EVERY).await;
            let Some(primary) = self.primary().filter(|_| !self.looks_away()) else { continue };
            let Ok(Ok(log)) = timeout(ANSWER_WITHIN, self.streams_from(primary)).await else {
                continue;
            };
            let at = self.now();
            lock(&self.sight).streams = Some(Streams { at, primary, log });
        }
    }

    async fn streams_from(&self, primary: NodeId) -> Result<Log, String> {
        let socket = self.subject.socket(primary);
        let session = Session::at(&socket, &self.subject.ground().keeper, "postgres").await?;
        let question = "select pg_current_wal_lsn(), host(client_addr), replay_lsn \
             from (select) as one left join pg_stat_replication \
             on state = 'streaming' and replay_lsn is not null";
        let said = session.ask(question).await?;
        let end = said.first().and_then(|row| parse_lsn(row.first()?.as_deref()?));
        let end = end.ok_or("it does not say where its log ends")?;
        let hosts = self.hosts();
        let replayed = said.into_iter().filter_map(|row| {
            let mut columns = row.into_iter().skip(1).flatten();
            let (host, upto) = (columns.next()?, columns.next()?);
            let is = |node: &&NodeId| address(Place::Host(**node)).to_string() == host;
            Some((*hosts.iter().find(is)?, parse_lsn(&upto)?))
        });
        Ok(Log { end, replayed: replayed.collect() })
    }

    /// The freshest views, the latest primacy first.
    fn view(&self) -> Option<View> {
        let now = self.now();
        let sight = lock(&self.sight);
        let fresh = sight.views.values().filter(|(at, _)| *at + FRESH > now);
        let rank = |(at, view): &&(Duration, View)| (view.epoch, !view.blind, *at);
        fresh.max_by_key(rank).map(|(_, view)| view.clone())
    }

    /// Who holds primacy and is primary, by what members say.
    pub(super) fn holder(&self) -> Option<NodeId> {
        self.view()?.primary
    }

    /// Whose server acknowledged last; of the side channel and the clients, whoever was told.
    pub(super) fn primary(&self) -> Option<NodeId> {
        let tale = lock(&self.tale);
        let told = tale.acks.iter().rev().take(64).max_by_key(|ack| (ack.timeline, ack.at));
        let told = told.map(|ack| ack.server);
        drop(tale);
        told.or_else(|| self.holder())
    }

    /// Who leads those that decide.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let now = self.now();
        let sight = lock(&self.sight);
        let fresh = sight.views.values().filter(|(at, _)| *at + FRESH > now);
        let led = fresh.filter_map(|(at, view)| view.leader.map(|(term, who)| (term, *at, who)));
        led.max_by_key(|(term, at, _)| (*term, *at)).map(|(_, _, who)| who)
    }

    /// The members, and whether each keeps data, as they were seen last.
    pub(super) fn members(&self) -> BTreeMap<NodeId, bool> {
        let sight = lock(&self.sight);
        let newest = sight.views.values().max_by_key(|(at, view)| (view.epoch, *at));
        newest.map(|(_, view)| view.members.clone()).unwrap_or_default()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.view().is_some_and(|view| view.paused)
    }

    /// What keeps the cluster from being whole, in words: one server that acknowledges, everybody
    /// else streams from it and has replayed what there was when this was first asked, and somebody
    /// else leads.
    pub(super) fn lacks(&self, goal: &mut Goal) -> Option<String> {
        let now = self.now();
        let Some(primary) = self.primary() else { return Some("nobody acknowledges".into()) };
        let tale = lock(&self.tale);
        let own =
            tale.acks.iter().rev().take(256).find(|ack| {
                ack.server == primary && ack.row.client >= SIDE && ack.at + WILLING > now
            });
        if own.is_none() {
            return Some(format!("{primary} acknowledges nothing"));
        }
        drop(tale);
        let others: Vec<NodeId> = self
            .members()
            .into_iter()
            .filter(|(_, data)| *data)
            .map(|(n, _)| n)
            .filter(|n| *n != primary)
            .collect();
        let sight = lock(&self.sight);
        let streams = sight.streams.clone().filter(|s| s.primary == primary && s.at + FRESH > now);
        drop(sight);
        let Some(streams) = streams else { return Some(format!("{primary} tells nothing")) };
        let goal = goal.with(&streams);
        for node in &others {
            match streams.log.replayed.get(node) {
                None => return Some(format!("{node} does not stream from {primary}")),
                Some(upto) if *upto < goal => {
                    return Some(format!("{node} has replayed up to {upto}, and not to {goal}"));
                }
                Some(_) => {}
            }
        }
        if self.view().is_some_and(|view| !view.in_step) {
            return Some("not everybody counts for commits who is to".into());
        }
        if !others.is_empty() && self.leader() == Some(primary) {
            return Some(format!("{primary} is primary and leads Raft as well"));
        }
        None
    }

    /// Whose server goes by other parameters than the members agreed on, in words.
    pub(super) async fn lacks_parameters(&self) -> Option<String> {
        // What the leader has applied, nobody else has overtaken.
        let Some(leader) = self.leader().or_else(|| self.primary()) else {
            return Some("nobody leads".into());
        };
        let world = self.itself();
        let asked = self.lab.outside.spawn(async move { world.subject.parameters(leader).await });
        let Ok(Some(agreed)) = asked.await else {
            return Some(format!("{leader} does not tell the cluster's parameters"));
        };
        if agreed.is_empty() {
            return None;
        }
        for (node, _) in self.members().into_iter().filter(|(_, data)| *data) {
            let asked = timeout(ANSWER_WITHIN, self.compare(node, &agreed)).await;
            let compared = asked.unwrap_or_else(|_| Err("no answer".into()));
            if let Err(why) = compared {
                return Some(format!("{node} does not go by the cluster's parameters: {why}"));
            }
        }
        None
    }

    /// The values are compared as the server shows them.
    async fn compare(&self, node: NodeId, agreed: &BTreeMap<String, String>) -> Result<(), String> {
        let socket = self.subject.socket(node);
        let session = Session::at(&socket, &self.subject.ground().keeper, "postgres").await?;
        for (name, wanted) in agreed {
            let said = session.ask(&format!("show {name}")).await?;
            let shown = said.first().and_then(|row| row.first()?.as_deref());
            if shown != Some(wanted.as_str()) {
                return Err(format!("{name} is {shown:?}, and not {wanted}"));
            }
        }
        Ok(())
    }

    /// The rewinds and copies of all machines.
    pub(super) fn programs_done(&self) -> Done {
        let machines = self.hosts_ever().into_iter();
        machines.fold(Done::default(), |sum, node| {
            let done = Programs::of(&self.subject.folder(node)).done();
            Done { rewinds: sum.rewinds + done.rewinds, clones: sum.clones + done.clones }
        })
    }

    /// The count: the primary that is left, and its rows.
    pub(super) async fn last_rows(&self) -> Option<Last> {
        if !lock(&self.sight).recovered {
            return None;
        }
        let node = self.primary()?;
        match self.rows_of(node).await {
            Ok(rows) => Some(Last { node, rows }),
            Err(why) => {
                self.trouble(&format!("the rows could not be counted: {why}"));
                None
            }
        }
    }
}
