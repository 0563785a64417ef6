//! `node` without arguments: a cluster of three with real Postgres on this machine, to look at.
//!
//! The nodes are processes of their own, started as anybody would start them (`nodes`). A small
//! writer (`writer`) lives through whatever is done to them and measures it; `screen` shows both.
//! Whatever ends this process ends the nodes as well, and nothing stays behind.
#![allow(clippy::disallowed_methods, reason = "it runs on the machine's own time and tasks")]

mod nodes;
mod screen;
mod writer;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::api::Status;
use crate::control::Mode;
use crate::os::postgres::{KEEPER, welcome_guest};

use nodes::Nodes;
use screen::Screen;
use writer::Writer;

/// How often the picture is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// How long the cluster may take to be there.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Show {
    /// When a commit is acknowledged.
    pub mode: Mode,
    /// How many clients write all the time.
    pub writers: u32,
    /// For how long they do; without it, until a signal.
    pub lasts: Option<Duration>,
    /// Whether it ends with a word for programs.
    pub json: bool,
}

/// Runs the demonstration.
pub async fn run(show: Show) -> Result<(), String> {
    let told = |error: std::io::Error| format!("no signals: {error}");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(told)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(told)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(told)?;
    let mut nodes = Nodes::start(show.mode)?;
    let ended = tokio::select! {
        ended = carry_on(&mut nodes, show) => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    };
    nodes.end().await;
    ended
}

async fn carry_on(nodes: &mut Nodes, show: Show) -> Result<(), String> {
    let began = Instant::now();
    let mut screen = Screen::new(nodes.installation(), show.json);
    let mut writer: Option<Writer> = None;
    loop {
        nodes.restart_the_dead()?;
        let status = nodes.status().await;
        if writer.is_none() {
            writer = begin_to_write(nodes, show.writers, status.as_ref()).await;
        }
        if writer.is_none() && began.elapsed() > READY_WITHIN {
            return Err(format!(
                "the cluster is not there after {} s:\n{}",
                READY_WITHIN.as_secs(),
                nodes.last_words()
            ));
        }
        let written = writer.as_ref().map(Writer::written);
        screen.draw(nodes, status.as_ref(), written.as_ref());
        let Some(lasts) = show.lasts else {
            sleep(DRAW_EVERY).await;
            continue;
        };
        match writer.as_ref().map(|writer| writer.age()) {
            Some(age) if age >= lasts => break,
            Some(_) | None => sleep(DRAW_EVERY).await,
        }
    }
    match writer {
        Some(writer) => screen.sum_up(&writer.count().await?),
        None => Ok(()),
    }
}

/// As soon as there is a primary it gets a role and a database for guests, and a writer.
async fn begin_to_write(nodes: &Nodes, writers: u32, status: Option<&Status>) -> Option<Writer> {
    let primary = status?.members.iter().find(|member| member.primary)?;
    let (socket, port) = nodes.socket_of(&primary.node)?;
    let (secret, guest) = (nodes.secret(), nodes.guest());
    let own = (KEEPER, secret);
    welcome_guest(&socket, port, own, (&guest.role, &guest.password)).await.ok()?;
    Some(Writer::start(writers, nodes.hosts(), guest.clone()))
}
