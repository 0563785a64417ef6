//! `initdb`, `pg_basebackup` and `pg_rewind`: what works on the directory of a stopped server.
//!
//! Each can be cut short at every point where it takes time, by a stop or with its caller, and
//! leaves then what the trait says: nothing, or a directory that says that it is unusable.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{Either, select};
use pg_replica::env::{PostgresError, RewindReport, SOURCE_WITHIN, Side, Upstream};
use pg_replica::ids::{Epoch, Lsn, SystemId};
use pg_replica::sabotage::Saboteur;
use tokio::sync::oneshot;

use super::durable::{Directory, Fork, SetAside};
use super::server::{Core, Server};
use super::state::State;
use super::verbs::within;
use crate::clock::sleep;
use crate::scenario::PostgresFlaw;
use crate::witness::{Fact, Row};

/// The right to work on a directory, until a stop takes it.
struct Tool<'a> {
    core: &'a Core,
    cut: oneshot::Receiver<()>,
}

/// Makes a new cluster.
pub(super) async fn initialise(server: &Server, epoch: Epoch) -> Result<SystemId, PostgresError> {
    let mut tool = Tool::begin(server.core())?;
    if tool.core.state().directory.is_some() {
        return Err(PostgresError::Permanent("the data directory is not empty".to_owned()));
    }
    if tool.core.state().flaws.has(PostgresFlaw::InitialiseFails) {
        return Err(PostgresError::Permanent("initdb: permission denied".to_owned()));
    }
    tool.work_for(Duration::from_millis(600), Duration::from_secs(3)).await?;
    let system = SystemId(tool.core.stream.next_u64());
    tool.core.state().directory = Some(Directory::new(system, epoch));
    Ok(system)
}

/// Copies the source. The old directory stays until the copy is whole, and is then set aside.
pub(super) async fn clone_from(server: &Server, source: &Upstream) -> Result<(), PostgresError> {
    let mut tool = Tool::begin(server.core())?;
    let begun = tool.fetch(source, false).await?.flushed();
    tool.work_for(Duration::from_millis(220), Duration::from_secs(4)).await?;
    if tool.core.state().flaws.has(PostgresFlaw::CloneFails) {
        return Err(PostgresError::Transient("the base backup broke off".to_owned()));
    }
    let mut copy = tool.fetch(source, false).await?;
    copy.recycle_to(begun);
    let mut state = tool.core.state();
    if state.flaws.has(PostgresFlaw::DiskFull) {
        return Err(PostgresError::Transient("no space left on device".to_owned()));
    }
    if let Some(old) = state.directory.replace(copy) {
        tool.core.keep(&mut state, old.set_aside());
    }
    Ok(())
}

/// Goes back to where the histories part.
pub(super) async fn rewind(
    server: &Server,
    source: &Upstream,
) -> Result<RewindReport, PostgresError> {
    let mut tool = Tool::begin(server.core())?;
    tool.with_directory(|directory| match directory.broken {
        true => Err("an earlier rewind was cut short; clone the directory".to_owned()),
        false => Ok(()),
    })?;
    // The checkpoint makes the source's newest timeline known to whoever compares.
    tool.work_for(Duration::from_millis(120), Duration::from_secs(2)).await?;
    let before = tool.fetch(source, true).await?;
    if !tool.with_directory(|directory| Ok(directory.clean))? {
        tool.work_for(Duration::from_millis(250), Duration::from_secs(4)).await?;
        tool.with_directory(|directory| {
            directory.recover();
            Ok(())
        })?;
    }
    let (fork, end) =
        tool.with_directory(|directory| Ok((compare(directory, &before)?, directory.flushed())))?;
    if end > fork.at {
        tool.rewind_to(fork, source, &before).await?;
    }
    tool.with_directory(|directory| {
        directory.become_standby_of(&before);
        Ok(())
    })?;
    Ok(RewindReport { diverged_from: fork.at.min(end), diverged_to: end })
}

/// Where the histories part, or why that cannot be mended by going back: the judgement of the real
/// tool, which knows timelines by their numbers, and is wrong where a number names two births.
fn compare(target: &Directory, source: &Directory) -> Result<Fork, String> {
    if target.system != source.system {
        return Err("the directories belong to different clusters".to_owned());
    }
    let Some(mut fork) = target.fork_with(source) else {
        return Err("could not find a common ancestor of the timelines".to_owned());
    };
    if target.birth().timeline == source.birth().timeline {
        // "Source and target cluster are on the same timeline; no rewind required."
        fork.at = target.flushed();
        return Ok(fork);
    }
    if target.flushed() > fork.at && !target.has_record_ending_at(fork.at) {
        return Err("could not find the previous record of the log at the fork".to_owned());
    }
    if target.flushed() > fork.at && target.lacks_log_since(fork.at) {
        return Err("the target has recycled the log since the fork".to_owned());
    }
    if target.flushed() > fork.at && source.lacks_log_since(fork.at) {
        return Err("the source has recycled the log since the fork".to_owned());
    }
    Ok(fork)
}

impl<'a> Tool<'a> {
    fn begin(core: &'a Core) -> Result<Self, PostgresError> {
        let mut state = core.state();
        state.dark = false;
        if state.running.is_some() {
            return Err(PostgresError::Transient("the server is running".to_owned()));
        }
        let (keep, cut) = oneshot::channel();
        state.tool = Some(keep);
        Ok(Self { core, cut })
    }

    async fn work_for(&mut self, typical: Duration, worst: Duration) -> Result<(), PostgresError> {
        let span = self.core.stream.long_tail(typical, worst);
        match select(&mut self.cut, sleep(span)).await {
            Either::Left(_) => Err(PostgresError::Transient("ended by a stop".to_owned())),
            Either::Right(_) => Ok(()),
        }
    }

    /// What the source has on its disk.
    async fn fetch(
        &mut self,
        source: &Upstream,
        primary_only: bool,
    ) -> Result<Directory, PostgresError> {
        let answer = self.core.registry.copy(self.core.place(), source.node, primary_only);
        match select(&mut self.cut, std::pin::pin!(within(SOURCE_WITHIN, answer))).await {
            Either::Left(_) => Err(PostgresError::Transient("ended by a stop".to_owned())),
            Either::Right((Some(Ok(Ok(copy))), _)) => Ok(copy),
            Either::Right((Some(Ok(Err(why))), _)) => Err(PostgresError::Transient(why)),
            Either::Right((Some(Err(_)) | None, _)) => {
                Err(PostgresError::Transient(format!("{} does not answer", source.node)))
            }
        }
    }

    fn with_directory<T>(
        &self,
        look: impl FnOnce(&mut Directory) -> Result<T, String>,
    ) -> Result<T, PostgresError> {
        match &mut self.core.state().directory {
            Some(directory) => look(directory).map_err(PostgresError::Permanent),
            None => Err(PostgresError::Permanent("the data directory is empty".to_owned())),
        }
    }

    /// Copies blocks over the directory: while that lasts it is worth nothing. The log comes along
    /// as it was in the beginning, the blocks as they are in the end; what the source wrote in
    /// between has to be streamed before they fit together.
    async fn rewind_to(
        &mut self,
        fork: Fork,
        source: &Upstream,
        before: &Directory,
    ) -> Result<(), PostgresError> {
        let diverged = self.with_directory(|directory| {
            directory.broken = true;
            Ok(directory.rewind_to(fork))
        })?;
        self.core.keep(&mut self.core.state(), diverged);
        self.work_for(Duration::from_millis(380), Duration::from_secs(4)).await?;
        if self.core.state().flaws.has(PostgresFlaw::RewindFails) {
            return Err(PostgresError::Permanent("the rewind broke off half-way".to_owned()));
        }
        let after = self.fetch(source, true).await?;
        self.with_directory(|directory| {
            directory.receive(before.flushed_after(fork.at), before.history());
            directory.flush_to(before.flushed());
            directory.min_recovery = Some((after.birth().timeline, after.flushed()));
            directory.broken = false;
            Ok(())
        })
    }
}

impl Core {
    /// I7: what the directory has lost is kept.
    fn keep(&self, state: &mut State, aside: SetAside) {
        let left: BTreeSet<Row> =
            state.directory.iter().flat_map(Directory::flushed_rows).collect();
        let lost: Vec<(Lsn, Row)> =
            aside.positions().filter(|(_, row)| !left.contains(row)).collect();
        let ends = || lost.iter().map(|(end, _)| *end);
        let span = (ends().min().unwrap_or_default(), ends().max().unwrap_or_default());
        let lost = lost.iter().map(|(_, row)| *row).collect();
        let kept_aside = !self.sabotage.is(Saboteur::WipeDivergedDirectory);
        if kept_aside {
            state.aside.push(aside);
        }
        self.report(Fact::DirectoryReplaced { server: self.node, lost, span, kept_aside });
    }
}

impl Directory {
    /// Which side a server in this directory is on.
    pub(super) fn side(&self) -> Side {
        if self.standby_signal { Side::Standby } else { Side::Primary }
    }

    /// What a single-user recovery does: the log is complete on the disk, and a former primary
    /// adds its checkpoint.
    fn recover(&mut self) {
        if !self.standby_signal {
            self.append(self.birth().born, None, 120);
        }
        self.flush_to(Lsn(u64::MAX));
        self.clean = true;
    }

    fn become_standby_of(&mut self, source: &Self) {
        self.know(source.history());
        self.standby_signal = true;
        self.clean = true;
        self.upstream = None;
    }
}
