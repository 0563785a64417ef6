//! Whether the upstream's Postgres is heard, outside of the stream.
//!
//! An idle primary's walsender says nothing for seconds, and what its manager says would make one
//! signal of two. So a standby asks the server itself, on a connection of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::env::KEEPALIVE;

use super::lock;
use super::plan::PostgresPlan;
use super::session::{ask, connect_to};

/// How long an answer may take before another connection is tried.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Whether the upstream is a primary still.
const QUESTION: &str = "select not pg_is_in_recovery()";

/// Asks for as long as it exists.
#[derive(Debug)]
pub(super) struct Ear {
    heard: Arc<Mutex<Option<Instant>>>,
    asking: AbortHandle,
}

impl Ear {
    /// Begins to ask the server at `address`.
    pub(super) fn of(plan: &PostgresPlan, address: &str) -> Self {
        let heard = Arc::default();
        let asking = tokio::spawn(listen(plan.clone(), address.to_owned(), Arc::clone(&heard)));
        Self { heard, asking: asking.abort_handle() }
    }

    /// How long ago it answered, if it ever did.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        lock(&self.heard).map(|at| at.elapsed())
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

async fn listen(plan: PostgresPlan, address: String, heard: Arc<Mutex<Option<Instant>>>) {
    loop {
        if let Ok(client) = connect_to(&plan, &address).await
            && let Ok(question) = ask(client.prepare(QUESTION), ANSWER_WITHIN).await
        {
            while let Ok(row) = ask(client.query_one(&question, &[]), ANSWER_WITHIN).await
                && row.get(0)
            {
                *lock(&heard) = Some(Instant::now());
                sleep(KEEPALIVE / 2).await;
            }
        }
        sleep(KEEPALIVE / 2).await;
    }
}
