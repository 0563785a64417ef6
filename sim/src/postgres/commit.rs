//! Sessions and the way of a commit: log, disk, standbys, fence, client.

use std::time::Duration;

use pg_replica::env::Side;
use pg_replica::ids::{Epoch, Lsn, Moment};
use pg_replica::sabotage::Saboteur;

use super::process::Live;
use super::server::Core;
use super::state::{Commit, Phase, Running, Timer, Walsender};
use super::wire::{Answer, Ask, Link};
use crate::scenario::PostgresFlaw;
use crate::witness::{Acknowledged, Fact, Row, Untold};

impl Running {
    /// Whether clients may write.
    pub(super) fn is_writable(&self) -> bool {
        self.phase == Phase::Up && self.side == Side::Primary && self.admits
    }

    /// Whether the confirmations of this standby count: it attached under a name of the
    /// configuration's own epoch.
    pub(super) fn counts(&self, walsender: &Walsender) -> bool {
        walsender.epoch == self.sync.epoch && self.sync.standbys.contains(&walsender.standby)
    }

    /// How far enough standbys have confirmed, where `flushed` is the end of this server's disk.
    fn confirmed(&self, flushed: Lsn) -> Lsn {
        let Some(others) = self.sync.confirmations.checked_sub(1) else { return flushed };
        let mut confirmed: Vec<Lsn> = self
            .walsenders
            .values()
            .filter(|walsender| self.counts(walsender))
            .map(|walsender| walsender.flushed)
            .collect();
        confirmed.sort_unstable_by(|one, other| other.cmp(one));
        let others = usize::try_from(others).unwrap_or(usize::MAX);
        confirmed.get(others).map_or(Lsn::default(), |lsn| flushed.min(*lsn))
    }
}

impl Core {
    /// Whether the commit fence lets commits through.
    pub(super) fn lease_holds(&self, run: &Running) -> bool {
        if !self.commit_fence || self.sabotage.is(Saboteur::CommitFenceNeverLooks) {
            return true;
        }
        let now = self.host.clock().now();
        run.lease.is_some_and(|(epoch, until)| epoch == run.epoch && now < until)
    }
}

impl Live<'_> {
    /// Returns whether there is a fence to extend.
    pub(super) fn extend_lease(&mut self, epoch: Epoch, until: Moment) -> bool {
        if self.core.commit_fence && self.run.lease.is_none_or(|held| held < (epoch, until)) {
            self.run.lease = Some((epoch, until));
        }
        self.core.commit_fence
    }

    pub(super) fn on_connect(&mut self, link: Link) {
        let refused = match self.run.phase {
            Phase::Starting => Some("the database system is starting up"),
            Phase::Stopping { .. } => Some("the database system is shutting down"),
            Phase::Up if !self.run.admits => Some("the database system admits no clients yet"),
            Phase::Up => None,
        };
        match refused {
            Some(why) => link.answer(0, Answer::Goodbye(why.to_owned())),
            None => {
                link.answer(0, Answer::Welcome { primary: self.run.side == Side::Primary });
                self.run.sessions.insert(link.number, link);
            }
        }
    }

    pub(super) fn on_ask(&mut self, link: Link, request: u64, ask: Ask) {
        if !self.run.sessions.contains_key(&link.number) {
            link.answer(request, Answer::Goodbye("no such session".to_owned()));
            return;
        }
        match ask {
            Ask::Write(row) => self.write(link, request, row),
            Ask::Read => self.read(&link, request),
        }
    }

    /// The client is gone. A commit that waits for standbys does not notice and goes on waiting.
    pub(super) fn on_closed(&mut self, link: &Link) {
        self.run.sessions.remove(&link.number);
        for commit in &mut self.run.commits {
            if commit.link.as_ref().is_some_and(|session| session.number == link.number) {
                commit.link = None;
            }
        }
    }

    /// Ends every session. Commits that were waiting have happened here and nobody is told.
    pub(super) fn end_sessions(&mut self, why: &str) {
        for link in std::mem::take(&mut self.run.sessions).into_values() {
            link.answer(0, Answer::Goodbye(why.to_owned()));
        }
        for commit in std::mem::take(&mut self.run.commits) {
            self.show(&commit);
            self.leave_untold(commit.row);
        }
    }

    fn write(&mut self, link: Link, request: u64, row: Row) {
        if self.run.side == Side::Standby {
            let why = "cannot execute INSERT in a read-only transaction";
            link.answer(request, Answer::Refused(why.to_owned()));
            return;
        }
        // I5: nothing is written to the log after the lease.
        if !self.core.lease_holds(self.run) {
            self.report_refusal();
            link.answer(request, Answer::Refused("the lease of this primary is over".to_owned()));
            return;
        }
        if self.flaws.has(PostgresFlaw::DiskFull) {
            self.panic("disk full");
            return;
        }
        let bytes = 96 + 8 * self.core.stream.below(32);
        let found = self.dir.last_row();
        let lsn = self.dir.append(self.run.epoch, Some(row), bytes);
        self.run.commits.push_back(Commit { lsn, row, found, link: Some(link), request });
        self.begin_flush();
    }

    /// Flushes what is written, unless a flush is under way: then the next one takes it along.
    pub(super) fn begin_flush(&mut self) {
        let written = self.dir.written();
        if self.run.flushing.is_none() && written > self.dir.flushed() {
            self.run.flushing = Some(written);
            let span =
                self.core.stream.long_tail(Duration::from_millis(2), Duration::from_millis(60));
            self.run.timers.add(self.now + span, Timer::Flushed);
        }
    }

    pub(super) fn on_flushed(&mut self) {
        let Some(upto) = self.run.flushing.take() else { return };
        if self.flaws.has(PostgresFlaw::DiskFull) {
            self.panic("disk full");
            return;
        }
        self.dir.flush_to(upto);
        self.begin_flush();
        match self.run.side {
            Side::Primary => {
                self.ship();
                self.release();
            }
            Side::Standby => self.on_received_flushed(),
        }
    }

    /// Answers every commit that has its confirmations.
    pub(super) fn release(&mut self) {
        let confirmed = self.run.confirmed(self.dir.flushed());
        while self.run.commits.front().is_some_and(|commit| commit.lsn <= confirmed) {
            let commit = self.run.commits.pop_front().expect("a commit was seen at the front");
            self.show(&commit);
            self.tell(commit);
        }
    }

    /// Readers see the commit from now on.
    fn show(&mut self, commit: &Commit) {
        self.run.visible = self.run.visible.max(commit.lsn);
        self.run.visible_rows += 1;
    }

    fn tell(&mut self, commit: Commit) {
        let Some(link) = commit.link else {
            self.leave_untold(commit.row);
            return;
        };
        // I5: the commit stands, but nobody is told: the lease may have ended during the wait.
        if !self.core.lease_holds(self.run) {
            self.report_refusal();
            self.leave_untold(commit.row);
            self.run.sessions.remove(&link.number);
            let why = "the lease of this primary ended during the commit";
            link.answer(commit.request, Answer::Goodbye(why.to_owned()));
            return;
        }
        self.core.registry.acknowledge(commit.row);
        self.core.report(Fact::Acknowledged(Acknowledged {
            at: self.now,
            server: self.core.node,
            epoch: self.run.epoch,
            birth: self.dir.birth(),
            lsn: commit.lsn,
            row: commit.row,
            sync: self.run.sync.clone(),
        }));
        link.answer(commit.request, Answer::Committed { found: commit.found });
    }

    fn leave_untold(&mut self, row: Row) {
        let waited = self.run.sync.confirmations;
        self.run.unacknowledged.push(Untold { row, waited });
    }

    /// Lets clients in. What they find has the confirmations that are asked for.
    pub(super) fn admit(&mut self) {
        self.run.admits = true;
        for untold in &mut self.run.unacknowledged {
            untold.waited = untold.waited.max(self.run.sync.confirmations);
        }
    }

    fn report_refusal(&self) {
        self.core.report(Fact::CommitRefused { server: self.core.node, epoch: self.run.epoch });
    }

    fn read(&mut self, link: &Link, request: u64) {
        let primary = self.run.side == Side::Primary;
        let (rows, upto) = if primary {
            self.core.registry.retain_unacknowledged(&mut self.run.unacknowledged);
            self.core.report(Fact::Read {
                server: self.core.node,
                epoch: self.run.epoch,
                upto: self.run.visible,
                unacknowledged: self.run.unacknowledged.clone(),
                sync: self.run.sync.clone(),
            });
            (self.run.visible_rows, self.run.visible)
        } else {
            (self.dir.row_count(), self.replayed())
        };
        link.answer(request, Answer::Seen { rows, upto, primary });
    }
}
