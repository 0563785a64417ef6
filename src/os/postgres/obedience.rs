//! When a synchronous configuration is in force: not when the server's files say so, and not when
//! its sessions do.
//!
//! Two kinds of processes decide when a commit is acknowledged, each by its own copy of the
//! setting. Sessions ask a flag in shared memory whether they wait at all; the checkpointer sets it
//! from its copy, and may be busy with a slow disk when it is told to read the files anew. And each
//! walsender releases those that wait by its own copy. Whether a walsender knows who counts can be
//! seen; how many have to confirm cannot.
//!
//! So a change that the old copies would not fulfil goes by way of a name that nobody bears. It is
//! in force when no walsender counts and a commit is seen to wait; then the new one is written, and
//! nothing but the new one can release anything. A standby has that name from its start.
//!
//! What is known to be in force is written down with the server that obeys it, so that a node which
//! starts anew under a running server knows it too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::future::{Either, select};
use tokio::time::sleep;

use crate::env::SyncNames;

use super::LOOK_AGAIN;
use super::births::write_whole;
use super::plan::PostgresPlan;
use super::session::{ANSWER_DEADLINE, NoAnswer, ask, connect};

/// A configuration that a certain server is known to obey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obeyed {
    /// The server's process, in a way that no later one shares.
    pub(super) server: String,
    /// Its setting, as the server's files have it.
    pub(super) names: String,
    /// The epoch beside it.
    pub(super) epoch: String,
}

fn file(plan: &PostgresPlan) -> PathBuf {
    plan.home.join("sync_in_force")
}

/// The process that runs on `data`.
pub(super) fn server_on(data: &Path) -> Option<String> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let mut lines = text.lines().map(str::trim);
    let (process, started) = (lines.next()?, lines.nth(1)?);
    Some(format!("{process} since {started}"))
}

/// What the server that runs now is known to obey.
pub(super) fn obeyed(plan: &PostgresPlan) -> Option<Obeyed> {
    let text = fs::read_to_string(file(plan)).ok()?;
    let mut lines = text.lines().map(str::to_owned);
    let obeyed = Obeyed { server: lines.next()?, names: lines.next()?, epoch: lines.next()? };
    (server_on(&plan.data)? == obeyed.server).then_some(obeyed)
}

/// The server that runs now obeys this.
pub(super) fn note(plan: &PostgresPlan, names: &str, epoch: &str) -> io::Result<()> {
    let server = server_on(&plan.data).unwrap_or_default();
    write_whole(&file(plan), format!("{server}\n{names}\n{epoch}\n").as_bytes())
}

/// From here on it is not known what the server obeys.
pub(super) fn forget(plan: &PostgresPlan) -> io::Result<()> {
    match fs::remove_file(file(plan)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether it does no harm that some walsenders still go by `old` where `new` holds: what fulfils
/// the old one fulfils the new one, or whoever still goes by the old one can be told apart.
pub(super) fn may_linger(old: &SyncNames, new: &SyncNames) -> bool {
    if new.confirmations == 0 {
        return true;
    }
    if old.confirmations == 0 {
        return false;
    }
    let strangers = old.standbys.difference(&new.standbys).count();
    old.epoch != new.epoch || old.confirmations as usize >= new.confirmations as usize + strangers
}

/// Returns when every walsender counts if it bears one of the names, and not otherwise.
pub(super) async fn walsenders_know(plan: &PostgresPlan, names: &[String]) -> Result<(), NoAnswer> {
    const IGNORANT: &str = "select count(*) from pg_stat_replication \
         where (sync_priority > 0) <> (application_name = any($1))";
    let client = connect(plan).await?;
    loop {
        let row = ask(client.query_one(IGNORANT, &[&names]), ANSWER_DEADLINE).await?;
        if row.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Returns when a commit was seen to wait. Nobody may be able to confirm it.
pub(super) async fn commits_wait(plan: &PostgresPlan) -> Result<(), NoAnswer> {
    const OWN: &str = "select pg_backend_pid()";
    const COMMIT: &str = "set synchronous_commit = on; \
         select pg_logical_emit_message(true, 'pg_replica', '')";
    const WAITS: &str = "select count(*) from pg_stat_activity \
         where pid = $1 and wait_event = 'SyncRep'";
    const GIVE_UP: &str = "select pg_cancel_backend($1)";
    let watcher = connect(plan).await?;
    loop {
        let writer = connect(plan).await?;
        let process: i32 = ask(writer.query_one(OWN, &[]), ANSWER_DEADLINE).await?.get(0);
        let mut writing = std::pin::pin!(writer.batch_execute(COMMIT));
        let seen = loop {
            match select(writing.as_mut(), std::pin::pin!(sleep(LOOK_AGAIN))).await {
                Either::Left((Ok(()), _)) => break false,
                Either::Left((Err(error), _)) => return Err(NoAnswer::Refused(error.to_string())),
                Either::Right(_) => {}
            }
            let row = ask(watcher.query_one(WAITS, &[&process]), ANSWER_DEADLINE).await?;
            if row.get::<_, i64>(0) > 0 {
                break true;
            }
        };
        if seen {
            ask(watcher.execute(GIVE_UP, &[&process]), ANSWER_DEADLINE).await?;
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Has the standbys confirm what they have. A walsender releases those that wait when it hears of
/// its standby, which it does once in a while where nothing is written.
pub(super) async fn provoke_confirmations(plan: &PostgresPlan) -> Result<(), NoAnswer> {
    const RECORD: &str = "set synchronous_commit = local; \
         select pg_logical_emit_message(true, 'pg_replica', '')";
    let client = connect(plan).await?;
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
    fn old_copies_may_linger_where_they_ask_for_no_less() {
        let one_of_two = sync(1, 1, &[2, 3]);
        assert!(may_linger(&one_of_two, &sync(1, 1, &[2, 3, 4])));
        assert!(may_linger(&sync(1, 2, &[2, 3]), &sync(1, 1, &[2])));
        assert!(may_linger(&one_of_two, &sync(2, 2, &[2, 3])), "they bear other names");
        assert!(may_linger(&one_of_two, &sync(1, 0, &[])));
    }

    #[test]
    fn old_copies_that_ask_for_less_have_to_be_gone() {
        let one_of_two = sync(1, 1, &[2, 3]);
        assert!(!may_linger(&sync(1, 0, &[]), &one_of_two));
        assert!(!may_linger(&one_of_two, &sync(1, 2, &[2, 3])));
        assert!(!may_linger(&one_of_two, &sync(1, 1, &[2])), "3 alone would do");
    }
}
