//! Whether the upstream's Postgres is heard, outside of the stream.
//!
//! An idle primary's walsender says nothing for seconds, and what its manager says would make one
//! signal of two. So a standby asks the server itself, on a connection of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use crate::env::KEEPALIVE;

use super::lock;
use super::plan::PostgresPlan;
use super::session::{ask, connect_to};

/// How long an answer may take before another connection is tried.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Whether the upstream is a primary still.
const QUESTION: &str = "select not pg_is_in_recovery()";

/// When it answered last.
type Heard = Arc<Mutex<Option<Instant>>>;

/// Asks for as long as it exists.
#[derive(Debug)]
pub(super) struct Ear {
    heard: Heard,
    asking: AbortHandle,
}

impl Ear {
    /// Begins to ask the server at `address`: on this connection, for as long as it lasts.
    pub(super) fn of(plan: &PostgresPlan, address: &str, first: Client) -> Self {
        let heard: Heard = Arc::default();
        let asking = listen(plan.clone(), address.to_owned(), first, heard.clone());
        let asking = tokio::spawn(asking);
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

async fn listen(plan: PostgresPlan, address: String, first: Client, heard: Heard) {
    let mut connected = Ok(first);
    loop {
        if let Ok(client) = connected
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
        connected = connect_to(&plan, &address).await;
    }
}
