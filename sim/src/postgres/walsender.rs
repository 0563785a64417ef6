//! The primary's end of replication: standbys attach, are fed what is on the disk, and confirm.
//!
//! A standby has one connection at a time, as its replication slot sees to in a real server:
//! otherwise a broken connection that lingers would be counted beside its successor.

use std::sync::Arc;
use std::time::Duration;

use pg_replica::env::Side;
use pg_replica::ids::Lsn;

use super::durable::Record;
use super::process::Live;
use super::state::{Phase, Timer, Walsender};
use super::wire::{CopyRequest, Hello, Link, Streamed};
use crate::scenario::PostgresFlaw;
use crate::witness::Fact;

/// How often walsenders look whether there is something to say. A real primary has to be told to
/// talk this often: by itself it does so every half `wal_sender_timeout`.
const KEEPALIVE_EVERY: Duration = Duration::from_millis(200);

/// A walsender that sent something so recently does not add a sign of life.
const RECENTLY_SENT: Duration = Duration::from_millis(150);

/// `wal_sender_timeout`: a standby replies to signs of life about every second.
const STANDBY_SILENT_FOR_MAX: Duration = Duration::from_millis(2_500);

impl Live<'_> {
    pub(super) fn on_attach(&mut self, link: Link, hello: Hello) {
        if let Err((why, for_good)) = self.check_attach(&hello) {
            link.stream(Streamed::Refused { why, for_good });
            return;
        }
        let before: Vec<u64> = self
            .run
            .walsenders
            .iter()
            .filter(|(_, walsender)| walsender.standby == hello.standby)
            .map(|(number, _)| *number)
            .collect();
        for number in before {
            self.drop_walsender(number);
        }
        if self.run.walsenders.is_empty() {
            self.run.timers.cancel(Timer::Keepalive);
            self.run.timers.add(self.now + KEEPALIVE_EVERY, Timer::Keepalive);
        }
        link.stream(Streamed::Accepted(self.dir.history().to_vec()));
        let walsender = Walsender {
            standby: hello.standby,
            epoch: hello.epoch,
            link: link.clone(),
            sent: hello.start,
            flushed: Lsn::default(),
            last_sent: self.now,
            last_reply: self.now,
        };
        self.run.walsenders.insert(link.number, walsender);
        self.core.report(Fact::Attached {
            standby: hello.standby,
            primary: self.core.node,
            epoch: hello.epoch,
        });
        self.ship();
    }

    pub(super) fn on_confirm(&mut self, link: &Link, flushed: Lsn) {
        let Some(walsender) = self.run.walsenders.get_mut(&link.number) else {
            link.stream(Streamed::Reset);
            return;
        };
        walsender.flushed = walsender.flushed.max(flushed);
        walsender.last_reply = self.now;
        self.release();
        self.end_when_shipped();
    }

    pub(super) fn on_receiver_gone(&mut self, link: &Link) {
        self.run.walsenders.remove(&link.number);
        self.end_when_shipped();
    }

    /// Sends every standby what it has not been sent and what is on the disk: a walsender never
    /// ships what a power loss could take back.
    pub(super) fn ship(&mut self) {
        if self.flaws.has(PostgresFlaw::WalsenderStuck) {
            return;
        }
        let end = self.dir.flushed();
        let mut last_batch: Option<(Lsn, Arc<[Record]>)> = None;
        for walsender in self.run.walsenders.values_mut().filter(|other| other.sent < end) {
            // Standbys that are equally far share a batch.
            let batch = match &last_batch {
                Some((from, batch)) if *from == walsender.sent => batch.clone(),
                Some(_) | None => Arc::from(self.dir.flushed_after(walsender.sent)),
            };
            last_batch = Some((walsender.sent, batch.clone()));
            walsender.sent = end;
            walsender.last_sent = self.now;
            walsender.link.stream(Streamed::Wal(batch));
        }
    }

    pub(super) fn on_keepalive_due(&mut self) {
        let mut silent = Vec::new();
        for (number, walsender) in &mut self.run.walsenders {
            if self.now - walsender.last_reply > STANDBY_SILENT_FOR_MAX {
                silent.push(*number);
            } else if self.now - walsender.last_sent > RECENTLY_SENT
                && !self.flaws.has(PostgresFlaw::WalsenderStuck)
            {
                walsender.last_sent = self.now;
                walsender.link.stream(Streamed::Keepalive);
            }
        }
        for number in silent {
            self.drop_walsender(number);
        }
        if !self.run.walsenders.is_empty() {
            self.run.timers.add(self.now + KEEPALIVE_EVERY, Timer::Keepalive);
        }
        self.end_when_shipped();
    }

    /// A base backup, or what a rewind reads.
    pub(super) fn on_copy(&mut self, request: CopyRequest) {
        let result = if self.run.phase != Phase::Up {
            Err("the source is not up".to_owned())
        } else if request.primary_only && self.run.side == Side::Standby {
            Err("the source is in recovery".to_owned())
        } else {
            Ok(self.dir.backup())
        };
        (request.reply)(result);
    }

    fn drop_walsender(&mut self, number: u64) {
        if let Some(walsender) = self.run.walsenders.remove(&number) {
            walsender.link.stream(Streamed::Reset);
        }
    }

    /// Why a standby is refused, and whether that will not change.
    fn check_attach(&self, hello: &Hello) -> Result<(), (String, bool)> {
        if self.run.phase != Phase::Up {
            return Err(("the database system is not accepting connections".to_owned(), false));
        }
        if self.run.side == Side::Standby {
            return Err(("a standby feeds no standbys".to_owned(), false));
        }
        if hello.system != self.dir.system {
            let why = format!(
                "database system identifier differs: {} and {}",
                hello.system, self.dir.system
            );
            return Err((why, true));
        }
        self.dir.can_continue(hello.timeline, hello.start).map_err(|why| (why, true))
    }
}
