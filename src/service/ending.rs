//! What happens when somebody ends a node: a primary hands over where it can, then the server is
//! stopped. Whoever is in a hurry asks twice.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{sleep, timeout};

use crate::api::{Desk, OrderEnd, StatusBoard};
use crate::control::Order;
use crate::env::{Postgres, Process, Side, StopHow};
use crate::ha::Role;

/// How long a handover may hold up the end of a node.
const HANDOVER_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether anybody streams, while a handover is under way.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// In how many looks in a row nobody has to: a standby that reconnects is no reason to give up.
const ALONE_LOOKS: u32 = 10;

/// The signals that end a node.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Is closed when the standard input is, where that matters.
    parent: Option<Receiver<Infallible>>,
}

impl Signals {
    /// From here on they do not end the process by themselves.
    pub(super) fn listen(with_parent: bool) -> io::Result<Self> {
        Ok(Self {
            parent: with_parent.then(end_of_input),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one.
    pub(super) async fn next(&mut self) {
        let parent_ends = async {
            match &mut self.parent {
                Some(parent) => drop(parent.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = parent_ends => {}
        }
    }
}

/// A thread of its own waits for the end of the standard input: it cannot be asked to stop waiting.
fn end_of_input() -> Receiver<Infallible> {
    let (open, closed) = channel(1);
    drop(std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(open);
    }));
    closed
}

/// Gives primacy to somebody else, where this member has it and anybody can take it.
pub(super) async fn hand_over(board: &StatusBoard, desk: &dyn Desk) {
    let snapshot = board.snapshot();
    let others = snapshot.control.candidates().filter(|node| *node != snapshot.node).count();
    if snapshot.role != Role::Primary || others == 0 {
        return;
    }
    tracing::info!(node = %snapshot.node, "asked to end: handing over first");
    let order = desk.carry_out(desk.new_id(), Order::Switchover { to: None });
    let order = timeout(HANDOVER_MAX, order);
    let end = tokio::select! {
        end = order => end,
        () = left_alone(board) => {
            tracing::warn!(node = %snapshot.node, "not handed over: no standby streams any more");
            return;
        }
    };
    match end {
        Ok(OrderEnd::Done(how)) => tracing::info!(node = %snapshot.node, "handed over: {how}"),
        Ok(OrderEnd::Refused(why) | OrderEnd::Unknown(why)) => {
            tracing::warn!(node = %snapshot.node, "not handed over: {why}");
        }
        Err(_) => tracing::warn!(node = %snapshot.node, "not handed over in time"),
    }
}

/// Returns when nobody has streamed from a primary that is up for a while: the others end as well.
async fn left_alone(board: &StatusBoard) {
    let mut looks = 0;
    while looks < ALONE_LOOKS {
        sleep(LOOK_EVERY).await;
        let snapshot = board.snapshot();
        let alone = snapshot.seen.as_ref().is_some_and(|(seen, _)| {
            seen.process == Process::Up && seen.side == Side::Primary && seen.streams.is_empty()
        });
        looks = if alone { looks + 1 } else { 0 };
    }
}

/// Ends the server: with a checkpoint where that does not take too long.
pub(super) async fn end_server(postgres: &impl Postgres, limit: Duration) -> Result<(), String> {
    if let Ok(Ok(())) = timeout(limit, postgres.stop(StopHow::Fast)).await {
        return Ok(());
    }
    let told = |why| format!("the server could not be ended: {why}");
    postgres.stop(StopHow::Immediate).await.map_err(told)
}
