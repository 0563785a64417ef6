//! The words with an upstream that come before the stream: a connection, TLS, the password, and
//! what has to be known of its log.
//!
//! They go on by themselves, in a task of the manager's; a verb waits for their end no longer than
//! a look may take, and the next one goes on waiting for the same.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use madsim::task::AbortHandle;
use pg_replica::env::{OBSERVE_WITHIN, PostgresError, Upstream};
use tokio::sync::oneshot;

use super::server::Core;
use super::verbs::within;
use crate::streams::lock;

/// There and back: the handshakes of TCP and TLS, the exchange of passwords, two questions.
const ROUND_TRIPS: u32 = 10;

/// How long one of them may take.
const WORD_WITHIN: Duration = Duration::from_secs(4);

type End = Result<(), PostgresError>;

/// What of it is under way.
#[derive(Clone, Default)]
pub(super) struct Introductions(Arc<Mutex<Option<UnderWay>>>);

struct UnderWay {
    with: Upstream,
    end: oneshot::Receiver<End>,
    talk: AbortHandle,
}

impl Introductions {
    /// Returns once `upstream` has answered everything.
    pub(super) async fn make(&self, core: &Arc<Core>, upstream: &Upstream) -> End {
        let fitting = self.take().filter(|one| one.with == *upstream);
        let mut one = fitting.unwrap_or_else(|| UnderWay::begin(core, upstream));
        match within(OBSERVE_WITHIN, &mut one.end).await {
            Some(Ok(end)) => end,
            Some(Err(_)) => Err(PostgresError::Transient("the conversation broke off".into())),
            None => {
                *lock(&self.0) = Some(one);
                let why = format!("{} has not answered yet", upstream.node);
                Err(PostgresError::Transient(why))
            }
        }
    }

    /// Nobody is to be followed any more.
    pub(super) fn end(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<UnderWay> {
        lock(&self.0).take()
    }
}

impl UnderWay {
    fn begin(core: &Arc<Core>, with: &Upstream) -> Self {
        let (send, end) = oneshot::channel();
        let (node, place, registry) = (with.node, core.place(), core.registry.clone());
        let talk = madsim::task::spawn(async move {
            let talking = registry.talk(place, node, ROUND_TRIPS, WORD_WITHIN);
            let outcome = talking.await.map_err(PostgresError::Transient);
            // Whoever waited may be gone.
            let _ = send.send(outcome);
        });
        Self { with: with.clone(), end, talk: talk.abort_handle() }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.talk.abort();
    }
}
