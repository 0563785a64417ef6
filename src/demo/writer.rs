//! A client that never stops writing, and counts: what was acknowledged, and for how long nothing
//! was.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, NoTls};

use super::nodes::Guest;

/// A gap between two acknowledgements that is shorter than this is no outage.
const OUTAGE_MIN: Duration = Duration::from_millis(250);
/// How long a commit may take before the client gives the connection up.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const CONNECT_WITHIN: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_millis(5);
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// What was written so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// How many commits were acknowledged.
    pub(super) acknowledged: u64,
    /// How many of them per second, lately.
    pub(super) rate: u64,
    /// How long nothing has been acknowledged now.
    pub(super) silent_for: Duration,
    /// The outages: when they began after the first commit, and how long they took.
    pub(super) outages: Vec<(Duration, Duration)>,
    /// How many acknowledged rows are gone; known once somebody counted.
    pub(super) lost: Option<u64>,
}

#[derive(Debug, Default)]
struct Book {
    began: Option<Instant>,
    last: Option<Instant>,
    acknowledged: u64,
    recent: Vec<Instant>,
    outages: Vec<(Duration, Duration)>,
    /// Rows of which no answer came: they may be there or not.
    in_doubt: BTreeSet<(u32, i64)>,
}

/// The writers, who share one book.
pub(super) struct Writer {
    book: Arc<Mutex<Book>>,
    /// The way to each server.
    ways: Vec<Config>,
    tasks: Vec<AbortHandle>,
    started: Instant,
}

impl Writer {
    pub(super) fn start(writers: u32, ports: Vec<u16>, guest: Guest) -> Self {
        let way = |port| {
            let mut config = Config::new();
            config.host("127.0.0.1").port(port);
            config
                .user(&guest.role)
                .password(&guest.password)
                .dbname(&guest.role)
                .application_name("demo writer")
                .target_session_attrs(TargetSessionAttrs::ReadWrite);
            config
        };
        let ways: Vec<Config> = ports.into_iter().map(way).collect();
        let book: Arc<Mutex<Book>> = Arc::default();
        let write = |writer| {
            let task = write_for_ever(writer, ways.clone(), book.clone());
            tokio::spawn(task).abort_handle()
        };
        let tasks = (1..=writers).map(write).collect();
        Self { book, ways, tasks, started: Instant::now() }
    }

    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn written(&self) -> Written {
        let mut book = lock(&self.book);
        let now = Instant::now();
        book.recent.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
        Written {
            acknowledged: book.acknowledged,
            rate: book.recent.len() as u64,
            silent_for: book.last.map_or(Duration::ZERO, |last| now.duration_since(last)),
            outages: book.outages.clone(),
            lost: None,
        }
    }

    /// Stops writing, and counts the rows that are there against those that were acknowledged.
    pub(super) async fn count(&self) -> Result<Written, String> {
        for task in &self.tasks {
            task.abort();
        }
        let told = |error: tokio_postgres::Error| format!("the rows cannot be counted: {error}");
        let client = connect(&self.ways).await.ok_or("no primary is there to count at")?;
        let rows = client.query("select writer, number from written", &[]).await.map_err(told)?;
        let doubtful = lock(&self.book).in_doubt.clone();
        let key = |row: &tokio_postgres::Row| {
            (u32::try_from(row.get::<_, i32>(0)).unwrap_or_default(), row.get::<_, i64>(1))
        };
        let certain = rows.iter().filter(|row| !doubtful.contains(&key(row))).count() as u64;
        let written = self.written();
        Ok(Written { lost: Some(written.acknowledged.saturating_sub(certain)), ..written })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// To the first that takes writes. Each has its own time: one that is frozen accepts a connection,
/// and says nothing.
async fn connect(ways: &[Config]) -> Option<Client> {
    for way in ways {
        if let Ok(Ok((client, connection))) = timeout(CONNECT_WITHIN, way.connect(NoTls)).await {
            // Its errors reach whoever waits for an answer.
            drop(tokio::spawn(connection));
            return Some(client);
        }
    }
    None
}

async fn write_for_ever(writer: u32, ways: Vec<Config>, book: Arc<Mutex<Book>>) {
    let mut number: i64 = 0;
    loop {
        let Some(client) = connect(&ways).await else {
            sleep(RETRY_AFTER).await;
            continue;
        };
        let insert = "insert into written values ($1, $2)";
        let Ok(Ok(insert)) = timeout(ANSWER_WITHIN, client.prepare(insert)).await else {
            sleep(RETRY_AFTER).await;
            continue;
        };
        let name = i32::try_from(writer).unwrap_or_default();
        loop {
            number += 1;
            // In doubt from the moment at which it leaves until the answer is there.
            lock(&book).in_doubt.insert((writer, number));
            match timeout(ANSWER_WITHIN, client.execute(&insert, &[&name, &number])).await {
                Ok(Ok(_)) => lock(&book).acknowledge((writer, number)),
                Ok(Err(_)) | Err(_) => break,
            }
            sleep(PAUSE).await;
        }
    }
}

impl Book {
    fn acknowledge(&mut self, row: (u32, i64)) {
        let now = Instant::now();
        self.in_doubt.remove(&row);
        let began = *self.began.get_or_insert(now);
        if let Some(last) = self.last.replace(now) {
            let gap = now.duration_since(last);
            if gap >= OUTAGE_MIN {
                self.outages.push((last.duration_since(began), gap));
            }
        }
        self.acknowledged += 1;
        self.recent.push(now);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
