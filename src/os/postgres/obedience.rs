//! When a synchronous configuration is in force: not when the server's files say so, and not when
//! its sessions do.
//!
//! Two kinds of processes decide when a commit is acknowledged, each by its own copy of the
//! setting. Sessions ask a flag in shared memory whether they wait at all; the checkpointer sets it
//! from its copy, and may be busy with a slow disk when it is told to read the files anew. And each
//! walsender releases those that wait by its own copy of how many have to confirm, and counts every
//! other that by *its* own copy is to be counted. Whether a walsender counts itself can be seen;
//! nothing else of its copy can.
//!
//! So unless a change only adds to what was asked for, it goes by way of a name that nobody bears.
//! That is in force when no walsender counts and a commit is seen to wait; then the new one is
//! written, and nothing but the new one can release anything. A standby has that name from its
//! start, where its primary waits for standbys.
//!
//! What is known to be in force is written down with the server that obeys it, so that a node which
//! starts anew under a running server knows it too.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::env::SyncNames;

use super::LOOK_AGAIN;
use super::births::write_whole;
use super::plan::PostgresPlan;
use super::server::{Postmaster, postmaster};
use super::session::{ANSWER_DEADLINE, NoAnswer, ask, connect};
use super::waits::Waits;

/// The longest pause between two commits that are watched.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What a certain server is known to obey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obeyed {
    /// The server's process, in a way that no later one shares.
    server: String,
    pub(super) waits: Waits,
}

fn file(plan: &PostgresPlan) -> PathBuf {
    plan.home.join("sync_in_force")
}

/// What the server that runs now is known to obey.
pub(super) fn obeyed(plan: &PostgresPlan, server: &Postmaster) -> Option<Obeyed> {
    noted(plan).filter(|obeyed| obeyed.server == server.mark)
}

fn noted(plan: &PostgresPlan) -> Option<Obeyed> {
    let text = fs::read_to_string(file(plan)).ok()?;
    let mut lines = text.lines().map(str::to_owned);
    let server = lines.next()?;
    Some(Obeyed { server, waits: Waits { names: lines.next()?, epoch: lines.next()? } })
}

/// The server was seen to say something else than this: somebody has changed its settings, and
/// what it was known to obey is over, whatever it says next.
pub(super) fn is_over(plan: &PostgresPlan, obeyed: &Obeyed) {
    if noted(plan).as_ref() == Some(obeyed) {
        // Where it cannot be removed it is compared again at the next look.
        let _ = forget(plan);
    }
}

/// The server that runs now obeys this.
pub(super) fn note(plan: &PostgresPlan, waits: &Waits) -> io::Result<()> {
    let Some(server) = postmaster(&plan.data) else { return forget(plan) };
    let text = format!("{}\n{}\n{}\n", server.mark, waits.names, waits.epoch);
    write_whole(&file(plan), text.as_bytes())
}

/// From here on it is not known what the server obeys.
pub(super) fn forget(plan: &PostgresPlan) -> io::Result<()> {
    match fs::remove_file(file(plan)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the one may take the other's place while some processes still go by the old one: it asks
/// for no more, of everybody whom the old one asked. Who leaves, or was known by another name, must
/// not be counted by those who know the new one already.
pub(super) fn may_linger(old: &SyncNames, new: &SyncNames) -> bool {
    let only_adds = old.epoch == new.epoch && old.standbys.is_subset(&new.standbys);
    old.confirmations > 0 && only_adds && old.confirmations >= new.confirmations
}

/// Returns when every walsender counts if it bears one of the names, and not otherwise.
pub(super) async fn walsenders_know(client: &Client, names: &[String]) -> Result<(), NoAnswer> {
    // Of one that has confirmed nothing yet the view does not tell.
    const IGNORANT: &str = "select count(*) from pg_stat_replication \
         where (sync_priority > 0) <> (application_name = any($1)) \
         or (flush_lsn is null and application_name like 'pg\\_replica\\_n%')";
    loop {
        let row = ask(client.query_one(IGNORANT, &[&names]), ANSWER_DEADLINE).await?;
        if row.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Returns when a commit was seen to wait. Nobody may be able to confirm it.
pub(super) async fn commits_wait(plan: &PostgresPlan, watcher: &Client) -> Result<(), NoAnswer> {
    let mut pause = LOOK_AGAIN;
    while !one_waits(plan, watcher).await? {
        // Each of them is a sync of a disk that is busy already.
        sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
    Ok(())
}

/// Returns when a commit did not wait for anybody. No walsender may count: else it could have
/// waited, and been released.
pub(super) async fn commits_pass(client: &Client) -> Result<(), NoAnswer> {
    client.batch_execute(COMMIT).await.map_err(|error| NoAnswer::Refused(error.to_string()))
}

/// A commit of the node's own: one record, which concerns nobody.
const COMMIT: &str = "set synchronous_commit = on; \
     select pg_logical_emit_message(true, 'pg_replica', '')";

async fn one_waits(plan: &PostgresPlan, watcher: &Client) -> Result<bool, NoAnswer> {
    const OWN: &str = "select pg_backend_pid()";
    const WAITS: &str = "select count(*) from pg_stat_activity \
         where pid = $1 and wait_event = 'SyncRep'";
    const GIVE_UP: &str = "select pg_cancel_backend($1)";
    let writer = connect(plan).await?;
    let process: i32 = ask(writer.query_one(OWN, &[]), ANSWER_DEADLINE).await?.get(0);
    let mut writing = std::pin::pin!(writer.batch_execute(COMMIT));
    loop {
        match select(writing.as_mut(), std::pin::pin!(sleep(LOOK_AGAIN))).await {
            Either::Left((Ok(()), _)) => return Ok(false),
            Either::Left((Err(error), _)) => return Err(NoAnswer::Refused(error.to_string())),
            Either::Right(_) => {}
        }
        let row = ask(watcher.query_one(WAITS, &[&process]), ANSWER_DEADLINE).await?;
        if row.get::<_, i64>(0) > 0 {
            ask(watcher.execute(GIVE_UP, &[&process]), ANSWER_DEADLINE).await?;
            return Ok(true);
        }
    }
}

/// Has the standbys confirm what they have. A walsender releases those that wait when it hears of
/// its standby, which it does once in a while where nothing is written.
pub(super) async fn provoke_confirmations(client: &Client) -> Result<(), NoAnswer> {
    const RECORD: &str = "set synchronous_commit = local; \
         select pg_logical_emit_message(true, 'pg_replica', '')";
    ask(client.batch_execute(RECORD), ANSWER_DEADLINE).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, NodeId};

    fn sync(epoch: u64, confirmations: u32, standbys: &[u64]) -> SyncNames {
        let standbys = standbys.iter().copied().map(NodeId).collect();
        SyncNames { epoch: Epoch(epoch), confirmations, standbys }
    }

    #[test]
    fn old_copies_may_linger_where_the_new_one_only_adds() {
        let one_of_two = sync(1, 1, &[2, 3]);
        assert!(may_linger(&one_of_two, &one_of_two));
        assert!(may_linger(&one_of_two, &sync(1, 1, &[2, 3, 4])));
        assert!(may_linger(&sync(1, 2, &[2, 3]), &one_of_two));
    }

    #[test]
    fn every_other_change_goes_by_way_of_nobody() {
        let one_of_two = sync(1, 1, &[2, 3]);
        assert!(!may_linger(&sync(1, 0, &[]), &one_of_two), "sessions do not wait yet");
        assert!(!may_linger(&one_of_two, &sync(1, 2, &[2, 3])), "one may still do");
        assert!(!may_linger(&one_of_two, &sync(1, 1, &[2])), "3 alone may still do");
        // 3 counts itself still, and 2 knows already that one is enough.
        assert!(!may_linger(&sync(1, 2, &[2, 3]), &sync(1, 1, &[2])));
        assert!(!may_linger(&one_of_two, &sync(2, 1, &[2, 3])), "they bear other names");
    }
}
