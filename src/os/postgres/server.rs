//! The server's processes: starting them, finding them, ending them.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::sleep;

use crate::env::PostgresError;

use super::super::guard::{command_line, end_postgres, is_server_process, server_processes};
use super::plan::PostgresPlan;
use super::tools::{judge, last_words};

/// How soon it is looked again while something is awaited from a process.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How much of the end of the log is read for a reason.
const LOG_TAIL: u64 = 8 << 10;

/// How far the server says that it is, in its lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Recovering, or not yet consistent.
    Starting,
    /// Lets sessions in.
    Ready,
    /// Going down.
    Stopping,
}

/// A postmaster that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: Pid,
    pub(super) status: Status,
    /// What no other one of this directory has, before or after it.
    pub(super) mark: String,
}

/// The postmaster of `data`, if one runs, and what it says of itself.
pub(super) fn postmaster(data: &Path) -> Option<Postmaster> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let (process, began) = (lines.first()?, lines.get(2)?);
    // A server that serves a tool alone writes a negative number.
    let pid = Pid::from_raw(process.parse().ok().filter(|number| *number > 0)?)?;
    // The file may have been left by a server that was killed, and its number be somebody else's.
    is_server_process(pid, data).then_some(())?;
    let status = match lines.get(7).copied().unwrap_or_default() {
        "ready" => Status::Ready,
        "stopping" => Status::Stopping,
        _ => Status::Starting,
    };
    Some(Postmaster { pid, status, mark: format!("{process} since {began}") })
}

/// From what length on a log is turned over.
const LOG_MAX: u64 = 64 << 20;

/// Whether any process is left that may serve somebody; it may where nobody can tell. One that a
/// tool runs for itself, to recover a directory before it is rewound, lets nobody in.
pub(super) fn may_serve(data: &Path) -> bool {
    let Ok(processes) = server_processes(data) else { return true };
    processes.into_iter().any(|process| {
        let command = command_line(process);
        // One that has ended meanwhile has none.
        let mut words = command.split(|byte| *byte == 0);
        words.next().is_some_and(|name| !name.is_empty()) && words.next() != Some(b"--single")
    })
}

/// Whether any process of the server exists; it may where nobody can tell.
pub(super) fn is_running(data: &Path) -> bool {
    server_processes(data).map_or(true, |processes| !processes.is_empty())
}

/// Begins a new log where the present one has grown long; the one before it is kept, and no older
/// one. While a server runs it goes on writing where it began.
pub(super) fn turn_log_over(plan: &PostgresPlan) -> std::io::Result<()> {
    let log = plan.log();
    if fs::metadata(&log).is_ok_and(|log| log.len() > LOG_MAX) {
        fs::rename(&log, log.with_extension("log.1"))?;
    }
    Ok(())
}

/// Starts the server, with these parameters whatever its files say, and returns when it lets
/// sessions in.
pub(super) async fn start(
    plan: &PostgresPlan,
    parameters: &[(&str, u64)],
) -> Result<(), PostgresError> {
    let transient = |error: std::io::Error| PostgresError::Transient(error.to_string());
    let log =
        fs::OpenOptions::new().create(true).append(true).open(plan.log()).map_err(transient)?;
    plan.give(&plan.log()).map_err(transient)?;
    let before = log.metadata().map_err(transient)?.len();
    let mut command = plan.command("postgres");
    command
        .arg("-D")
        .arg(&plan.data)
        // Read before any file, and obeyed whatever the files say.
        .args(["-c", &format!("hba_file={}", plan.access_file().display())])
        .stdout(Stdio::from(log.try_clone().map_err(transient)?))
        .stderr(Stdio::from(log))
        // The terminal's signals are for the node.
        .process_group(0);
    for (name, value) in parameters {
        command.args(["-c", &format!("{name}={value}")]);
    }
    let child = Nascent(Some(command.spawn().map_err(transient)?));
    await_ready(plan, child, before).await
}

/// A server that nobody knows of yet: it does not outlive whoever starts it.
struct Nascent(Option<Child>);

impl Drop for Nascent {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.start_kill();
        }
    }
}

async fn await_ready(
    plan: &PostgresPlan,
    mut nascent: Nascent,
    log_from: u64,
) -> Result<(), PostgresError> {
    loop {
        let ended = nascent.0.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if let Some(status) = ended {
            let said = tail(&plan.log(), log_from);
            let why = format!("the server ended ({status}): {}", last_words(&said));
            return Err(judge(why));
        }
        if postmaster(&plan.data).is_some_and(|server| server.status == Status::Ready) {
            break;
        }
        sleep(LOOK_AGAIN).await;
    }
    // It is this process's child for as long as both live, and somebody has to notice its end.
    if let Some(mut child) = nascent.0.take() {
        drop(tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                tracing::info!("the server's process ended: {status}");
            }
        }));
    }
    Ok(())
}

/// What the server wrote since its log was `from` bytes long.
pub(super) fn tail(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        // One that is shorter than it was has been cut, by a program that turns logs over.
        let from = if from > length { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_TAIL))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// Asks the server to shut down and waits until it has: no longer than whoever waits for this.
pub(super) async fn stop_fast(data: &Path) {
    if let Some(server) = postmaster(data) {
        let _ = kill_process(server.pid, Signal::INT);
    }
    while is_running(data) {
        sleep(LOOK_AGAIN).await;
    }
}

/// Ends every process of the server at once.
pub(super) async fn stop_now(data: &Path) {
    let data = data.to_owned();
    // It cannot fail but by a panic, and then the guard is what is left.
    let _ = tokio::task::spawn_blocking(move || end_postgres(&data)).await;
}

/// Tells the server to read its files again.
pub(super) fn reload(data: &Path) {
    if let Some(server) = postmaster(data) {
        let _ = kill_process(server.pid, Signal::HUP);
    }
}
