//! The guard: a process of its own that ends Postgres when the manager cannot.
//!
//! `process` is what it runs, `words` what is said to it, `strike` what it does. This file is the
//! manager's end: it starts a guard where none answers, and speaks to it over a socket in the
//! node's own directory. The guard outlives the manager, so that a manager that comes back finds it
//! armed.

mod process;
mod strike;
mod words;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::env::{Armed, Guard, GuardError};
use crate::ids::Epoch;

pub use process::{GuardPlan, serve};
pub use strike::{command_line, end_filling, end_postgres, is_server_process, server_processes};
use words::{Answer, Order};

/// An answer comes at once or the guard is not well.
const ANSWER_DEADLINE: Duration = Duration::from_millis(500);
/// How long a guard that was just started may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(2);
/// How often the new socket is tried.
const START_LOOK: Duration = Duration::from_millis(5);

/// The way to this machine's guard.
#[derive(Clone, Debug)]
pub struct OsGuard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    plan: GuardPlan,
    /// One word at a time: the answers come in the order of the orders.
    line: Mutex<Option<BufReader<UnixStream>>>,
}

impl OsGuard {
    /// A guard that runs `program guard …` where none listens yet.
    #[must_use]
    pub fn new(program: &Path, plan: GuardPlan) -> Self {
        Self(Arc::new(Inner { program: program.to_owned(), plan, line: Mutex::default() }))
    }

    /// Ends the guard, and Postgres where it has not ended: this manager ends, and nobody comes
    /// after it. Where no guard runs there is nothing to end.
    pub async fn retire(&self) {
        if UnixStream::connect(&self.0.plan.socket).await.is_ok() {
            let _ = self.order(Order::Retire).await;
        }
    }

    async fn order(&self, order: Order) -> Result<Answer, GuardError> {
        let mut line = self.0.line.lock().await;
        // An old connection may be to a guard that is gone; a new one is tried once.
        if let Some(mut open) = line.take()
            && let Ok(answer) = ask(&mut open, order).await
        {
            *line = Some(open);
            return Ok(answer);
        }
        let gone = |error: io::Error| GuardError::Gone(error.to_string());
        let mut open = self.0.connect().await.map_err(gone)?;
        let answer = ask(&mut open, order).await.map_err(gone)?;
        *line = Some(open);
        Ok(answer)
    }
}

async fn ask(line: &mut BufReader<UnixStream>, order: Order) -> io::Result<Answer> {
    let conversation = async {
        line.get_mut().write_all(format!("{order}\n").as_bytes()).await?;
        let mut answer = String::new();
        line.read_line(&mut answer).await?;
        answer.trim().parse().map_err(io::Error::other)
    };
    timeout(ANSWER_DEADLINE, conversation).await?
}

impl Inner {
    async fn connect(&self) -> io::Result<BufReader<UnixStream>> {
        if let Ok(stream) = UnixStream::connect(&self.plan.socket).await {
            return Ok(BufReader::new(stream));
        }
        let mut guard = Command::new(&self.program)
            .args(self.plan.arguments())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        // Whoever starts a process has to notice its end, or it stays behind as a name.
        drop(tokio::spawn(async move {
            if let Ok(status) = guard.wait().await {
                tracing::info!("the guard ended: {status}");
            }
        }));
        let trying = async {
            loop {
                if let Ok(stream) = UnixStream::connect(&self.plan.socket).await {
                    return BufReader::new(stream);
                }
                sleep(START_LOOK).await;
            }
        };
        timeout(START_DEADLINE, trying)
            .await
            .map_err(|_| io::Error::other("it was started and does not listen"))
    }
}

impl Guard for OsGuard {
    async fn arm(&self, armed: Armed) -> Result<(), GuardError> {
        self.order(Order::Arm(armed)).await.map(|_| ())
    }

    async fn disarm(&self, epoch: Epoch) -> Result<(), GuardError> {
        self.order(Order::Disarm(epoch)).await.map(|_| ())
    }

    async fn armed(&self) -> Result<Option<Armed>, GuardError> {
        match self.order(Order::Ask).await? {
            Answer::Armed(armed) => Ok(Some(armed)),
            Answer::Heard | Answer::Idle => Ok(None),
        }
    }
}
