//! A client's end of a session.
//!
//! It applies no timeouts: a caller that gives up treats the outcome as unknown and drops the
//! session. A session stays open across a partition and goes on when the link heals.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pg_replica::ids::{Lsn, NodeId};
use tokio::sync::oneshot;

use super::wire::{Answer, Ask, Input, Link, Peer, Registry};
use crate::clock::{sleep, true_now};
use crate::place::Place;
use crate::streams::lock;
use crate::witness::Row;
use crate::workload;

/// How a write ended, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The server said COMMIT.
    Acknowledged {
        /// The row that the register held until then.
        found: Option<Row>,
    },
    /// The server said that nothing was written, and why.
    Refused(String),
    /// The session ended in the middle: the row may be there.
    Broken,
}

/// Why no session was opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub String);

/// The session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is broken")]
pub struct Broken;

/// What a reader saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many rows.
    pub rows: u64,
    /// The end of the last visible commit.
    pub upto: Lsn,
}

/// An open session. Dropping it closes it.
pub struct Session {
    link: Link,
    end: Arc<ClientEnd>,
    requests: AtomicU64,
}

/// Where answers arrive.
#[derive(Default)]
pub(super) struct ClientEnd {
    primary: AtomicBool,
    mailbox: Mutex<Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    broken: bool,
    waiting: Option<(u64, oneshot::Sender<Answer>)>,
}

impl Registry {
    /// Opens a session from `from` to the server of `to`. Waits as long as the network makes it
    /// wait.
    pub async fn connect(&self, from: Place, to: NodeId) -> Result<Session, ConnectError> {
        let end = Arc::new(ClientEnd::default());
        let link = self.link(from, to, Peer::Client(end.clone()));
        // The session exists from the first message on, so that giving up closes it.
        let session = Session { link: link.clone(), end, requests: AtomicU64::new(0) };
        let answer = session.end.expect_answer(0);
        link.up(Input::Connect(link.clone()));
        match answer.await {
            Ok(Answer::Welcome { primary }) => {
                session.end.primary.store(primary, Ordering::Relaxed);
                Ok(session)
            }
            Ok(Answer::Goodbye(why) | Answer::Refused(why)) => Err(ConnectError(why)),
            Ok(Answer::Committed { .. } | Answer::Seen { .. }) | Err(_) => {
                Err(ConnectError("the connection broke".to_owned()))
            }
        }
    }
}

impl Session {
    /// Inserts a row and commits.
    pub async fn write(&self, row: Row) -> WriteOutcome {
        match self.ask(Ask::Write(row)).await {
            Some(Answer::Committed { found }) => WriteOutcome::Acknowledged { found },
            Some(Answer::Refused(why)) => WriteOutcome::Refused(why),
            Some(Answer::Welcome { .. } | Answer::Goodbye(_) | Answer::Seen { .. }) | None => {
                WriteOutcome::Broken
            }
        }
    }

    /// Looks at the table.
    pub async fn read(&self) -> Result<Seen, Broken> {
        match self.ask(Ask::Read).await {
            Some(Answer::Seen { rows, upto, primary }) => {
                self.end.primary.store(primary, Ordering::Relaxed);
                Ok(Seen { rows, upto })
            }
            Some(
                Answer::Welcome { .. }
                | Answer::Goodbye(_)
                | Answer::Committed { .. }
                | Answer::Refused(_),
            )
            | None => Err(Broken),
        }
    }

    /// Whether the server was out of recovery when the session opened, or at the last read.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.end.primary.load(Ordering::Relaxed)
    }

    /// Whether the session is known to have ended.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.end.mailbox().broken
    }

    /// The member whose server this is.
    #[must_use]
    pub fn server(&self) -> NodeId {
        self.link.server
    }

    async fn ask(&self, ask: Ask) -> Option<Answer> {
        if self.is_broken() {
            return None;
        }
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = self.end.expect_answer(request);
        self.link.up(Input::Ask(self.link.clone(), request, ask));
        answer.await.ok()
    }
}

impl workload::Servers for Registry {
    type Session = Session;

    fn now(&self) -> Duration {
        true_now()
    }

    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send {
        // Its deadline counts from here, not from the first poll.
        sleep(span)
    }

    async fn connect(&self, from: Place, to: NodeId) -> Result<Session, String> {
        self.connect(from, to).await.map_err(|refused| refused.0)
    }
}

impl workload::Session for Session {
    async fn write(&self, row: Row) -> workload::Written {
        match self.write(row).await {
            WriteOutcome::Acknowledged { found } => workload::Written::Acknowledged { found },
            WriteOutcome::Refused(_) => workload::Written::Refused,
            WriteOutcome::Broken => workload::Written::Broken,
        }
    }

    async fn read(&self) -> bool {
        self.read().await.is_ok()
    }

    fn is_writable(&self) -> bool {
        self.is_primary()
    }

    fn is_broken(&self) -> bool {
        self.is_broken()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Outside of the simulation nothing is left to be told.
        if !self.is_broken() && madsim::runtime::Handle::try_current().is_ok() {
            self.link.up(Input::Closed(self.link.clone()));
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} of {})", self.link.number, self.link.server)
    }
}

impl ClientEnd {
    /// Takes what the server sent. An answer to a request that was given up is dropped.
    pub(super) fn take(&self, request: u64, answer: Answer) {
        let mut mailbox = self.mailbox();
        if matches!(answer, Answer::Goodbye(_)) {
            mailbox.broken = true;
        }
        let expected = mailbox.waiting.as_ref().is_some_and(|(number, _)| *number == request);
        if !expected && !mailbox.broken {
            return;
        }
        if let Some((_, send)) = mailbox.waiting.take() {
            // The asker may have given up; then nobody misses the answer.
            let _ = send.send(answer);
        }
    }

    fn expect_answer(&self, request: u64) -> oneshot::Receiver<Answer> {
        let (send, receive) = oneshot::channel();
        self.mailbox().waiting = Some((request, send));
        receive
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        lock(&self.mailbox)
    }
}
