//! One client's loop.
//!
//! It knows the hosts by number and nothing of roles, epochs or the true time of anything but its
//! own operations.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::ids::NodeId;

use crate::place::Place;
use crate::streams::{Stream, lock};
use crate::witness::Row;

use super::history::{Ended, History, Operation};
use super::{ClientKind, ClientPlan, Servers, Session, Written};

/// The pause after a round over all hosts that found no writable server.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// How many refusals in a row a client takes before it looks for another server: the first may be
/// a moment's trouble.
const REFUSALS_MAX: u32 = 2;

/// An open session and what the client thinks of it.
struct Open<S> {
    session: S,
    server: NodeId,
    since: Duration,
    unanswered: u32,
    refused: u32,
}

/// A client.
pub(super) struct Client<S: Servers> {
    servers: S,
    plan: ClientPlan,
    hosts: Vec<NodeId>,
    stream: Stream,
    history: Arc<Mutex<History>>,
    stopping: Arc<AtomicBool>,
    open: Option<Open<S::Session>>,
    /// The index of the host that served last.
    favourite: usize,
    next_row: u64,
}

impl<S: Servers> Client<S> {
    pub(super) fn new(
        servers: S,
        plan: ClientPlan,
        hosts: Vec<NodeId>,
        stream: Stream,
        history: Arc<Mutex<History>>,
        stopping: Arc<AtomicBool>,
    ) -> Self {
        assert!(!hosts.is_empty(), "a client needs a host to try");
        let open = None;
        Self { servers, plan, hosts, stream, history, stopping, open, favourite: 0, next_row: 1 }
    }

    pub(super) async fn run(mut self) {
        while !self.is_stopping() {
            let think = self.plan.think;
            let pause = self.stream.between(think / 2, think + think / 2);
            self.servers.sleep(pause).await;
            if self.is_stopping() {
                return;
            }
            if self.open.as_ref().is_none_or(|open| open.session.is_broken()) {
                self.open = None;
                self.look_for_writable().await;
            }
            match self.plan.kind {
                ClientKind::Writer => self.write().await,
                ClientKind::Reader => self.read().await,
            }
        }
    }

    /// Tries the hosts once around, the last known one first, until one takes writes.
    async fn look_for_writable(&mut self) {
        for step in 0..self.hosts.len() {
            let index = (self.favourite + step) % self.hosts.len();
            let server = self.hosts[index];
            let connecting = self.servers.connect(Place::Client(self.plan.number), server);
            let connected = within(&self.servers, self.plan.connect_timeout, connecting).await;
            if let Some(Ok(session)) = connected
                && session.is_writable()
            {
                self.favourite = index;
                let since = self.servers.now();
                self.open = Some(Open { session, server, since, unanswered: 0, refused: 0 });
                return;
            }
            if self.is_stopping() {
                return;
            }
        }
        self.servers.sleep(ROUND_PAUSE).await;
    }

    async fn write(&mut self) {
        let Some(open) = &mut self.open else { return };
        let row = Row { client: self.plan.number, number: self.next_row };
        self.next_row += 1;
        let invoked = self.servers.now();
        lock(&self.history).begin(row, invoked);
        let written = within(&self.servers, self.plan.timeout, open.session.write(row)).await;
        let (ended, found) = match written {
            Some(Written::Acknowledged { found }) => (Ended::Acknowledged, found),
            Some(Written::Refused) => (Ended::Refused, None),
            Some(Written::Broken) | None => (Ended::Unknown, None),
        };
        let (server, ended_at) = (open.server, self.servers.now());
        let operation = Operation { row, server, invoked, ended_at, ended, found };
        lock(&self.history).record(operation, open.since);
        let let_go = match written {
            Some(Written::Acknowledged { .. }) => {
                (open.unanswered, open.refused) = (0, 0);
                false
            }
            Some(Written::Refused) => {
                open.refused += 1;
                open.refused >= REFUSALS_MAX
            }
            Some(Written::Broken) => true,
            None => {
                open.unanswered += 1;
                open.unanswered >= self.plan.patience
            }
        };
        if let_go {
            if written.is_none() && self.plan.moves_on {
                self.favourite = (self.favourite + 1) % self.hosts.len();
            }
            self.open = None;
        }
    }

    async fn read(&mut self) {
        let Some(open) = &mut self.open else { return };
        let seen = within(&self.servers, self.plan.timeout, open.session.read()).await;
        match seen {
            Some(true) => open.unanswered = 0,
            Some(false) => open.unanswered = self.plan.patience,
            None => open.unanswered += 1,
        }
        // A reader wants the newest rows: a server that has become a standby is let go.
        if open.unanswered >= self.plan.patience || !open.session.is_writable() {
            self.open = None;
            return;
        }
        lock(&self.history).note_read();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Waits for `future`, but not longer than `span`.
async fn within<S: Servers, F: Future>(
    servers: &S,
    span: Duration,
    future: F,
) -> Option<F::Output> {
    match select(pin!(future), pin!(servers.sleep(span))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), _)) => None,
    }
}
