//! The first words with a server that is to be followed.
//!
//! What has to be known before a single byte is streamed from there takes a dozen round trips, and
//! TCP waits for a second before it sends a lost first packet again. No verb may wait for so long:
//! until it returns nothing else can be done to this server. So the conversation goes on by itself,
//! and a verb that finds it unfinished fails; the next one goes on waiting for the same.

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;

use crate::env::{OBSERVE_WITHIN, PostgresError, Upstream};
use crate::ids::Timeline;

use super::births::{self, Births};
use super::hearsay::Line;
use super::plan::PostgresPlan;
use super::session::{REMOTE_DEADLINE, ask, connect_to};
use super::{slots, transient};

/// What was learnt there, and the connection on which it was.
pub(super) struct Introduced {
    /// The births of its timelines.
    pub(super) births: Births,
    /// By which line one comes to its newest timeline; `None` while it is in recovery.
    pub(super) line: Option<Line>,
    /// Whether commits wait for nobody there.
    pub(super) nobody: bool,
    /// To ask more.
    pub(super) client: Client,
    at: Instant,
}

/// With whom a conversation is under way.
#[derive(Default)]
pub(super) struct Introductions(Mutex<Option<UnderWay>>);

struct UnderWay {
    with: Upstream,
    talk: AbortOnDropHandle<Result<Introduced, PostgresError>>,
}

impl Introductions {
    /// What is known of `upstream`, once it has answered everything. Not longer than a look may
    /// take: where that is not enough, it fails, and the next call goes on from there.
    pub(super) async fn make(
        &self,
        plan: &PostgresPlan,
        upstream: &Upstream,
    ) -> Result<Introduced, PostgresError> {
        let mut under_way = self.0.lock().await;
        let until = Instant::now() + OBSERVE_WITHIN;
        loop {
            let fitting = under_way.take().filter(|one| one.with == *upstream);
            let one = under_way.insert(fitting.unwrap_or_else(|| UnderWay::begin(plan, upstream)));
            let left = until.saturating_duration_since(Instant::now());
            let Ok(end) = timeout(left, &mut one.talk).await else {
                let why = format!("{} has not answered yet", upstream.node);
                return Err(PostgresError::Transient(why));
            };
            *under_way = None;
            let introduced = end.map_err(|error| PostgresError::Transient(error.to_string()))??;
            if introduced.at.elapsed() < REMOTE_DEADLINE {
                return Ok(introduced);
            }
            // Nobody asked for so long that it may have changed.
        }
    }

    /// Nobody is to be followed any more.
    pub(super) async fn end(&self) {
        *self.0.lock().await = None;
    }
}

impl UnderWay {
    fn begin(plan: &PostgresPlan, with: &Upstream) -> Self {
        let talk = tokio::spawn(talk(plan.clone(), with.clone()));
        Self { with: with.clone(), talk: AbortOnDropHandle::new(talk) }
    }
}

async fn talk(plan: PostgresPlan, with: Upstream) -> Result<Introduced, PostgresError> {
    let client = connect_to(&plan, &with.address).await?;
    let question = format!(
        "select pg_read_binary_file('{}'), current_setting('synchronous_standby_names') = '', \
         case when pg_is_in_recovery() then null \
         else left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end",
        births::FILE
    );
    let row = ask(client.query_one(&question, &[]), REMOTE_DEADLINE).await?;
    let births = Births::parse(row.get(0)).map_err(transient)?;
    let line = match row.get(2) {
        Some(timeline) => Some(line_to(&client, timeline).await?),
        None => None,
    };
    slots::claim(&client, plan.node).await?;
    Ok(Introduced { births, line, nobody: row.get(1), client, at: Instant::now() })
}

/// The line to the timeline with this number, as the names of files have it.
async fn line_to(client: &Client, timeline: &str) -> Result<Line, PostgresError> {
    // The first timeline has no such file.
    let question =
        format!("select pg_read_binary_file('pg_wal/{timeline}.history', 0, 1048576, true)");
    let row = ask(client.query_one(&question, &[]), REMOTE_DEADLINE).await?;
    let history = row.get::<_, Option<&[u8]>>(0).map(String::from_utf8_lossy);
    let number = u32::from_str_radix(timeline, 16).ok().map(Timeline);
    number.and_then(|number| Line::of(number, history.as_deref())).ok_or_else(|| {
        PostgresError::Transient(format!("the history of timeline {timeline} is not understood"))
    })
}
