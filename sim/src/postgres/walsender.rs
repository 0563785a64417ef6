//! The primary's end of replication: standbys attach, are fed what is on the disk, and confirm.
//!
//! A standby has one connection at a time: its replication slot is active for the process that
//! serves the old one, and a new one is refused until that has noticed that nobody is there.

use std::sync::Arc;
use std::time::Duration;

use pg_replica::env::{KEEPALIVE, STANDBY_SILENT_FOR_MAX, Side};
use pg_replica::ids::Lsn;

use super::durable::Record;
use super::process::Live;
use super::state::{Phase, Timer, Walsender};
use super::wire::{CopyRequest, Hello, Link, Streamed};
use crate::scenario::PostgresFlaw;
use crate::witness::Fact;

/// A stuck walsender keeps no time; somebody has to look whether it moves again.
const STUCK_LOOK_EVERY: Duration = Duration::from_millis(200);

impl Walsender {
    /// When it asks its standby for a word, half of `wal_sender_timeout` after the last one, or
    /// gives it up.
    fn reply_due_at(&self) -> Duration {
        let span = STANDBY_SILENT_FOR_MAX;
        self.last_reply + if self.asked { span } else { span / 2 }
    }

    /// When there is something to do if nothing comes. The sign of life stands for the answer that
    /// a standby gets when it asks outside of the stream.
    fn due_at(&self) -> Duration {
        self.reply_due_at().min(self.last_sent + KEEPALIVE)
    }
}

impl Live<'_> {
    pub(super) fn on_attach(&mut self, link: Link, hello: Hello) {
        if let Err((why, for_good)) = self.check_attach(&hello) {
            link.stream(Streamed::Refused { why, for_good });
            return;
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
            asked: false,
            closed: false,
        };
        self.run.walsenders.insert(link.number, walsender);
        self.set_keepalive();
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
        walsender.asked = false;
        self.release();
        self.end_when_shipped();
    }

    pub(super) fn on_receiver_gone(&mut self, link: &Link) {
        if self.flaws.has(PostgresFlaw::WalsenderStuck) {
            // It does not notice, and holds the slot.
            self.run.walsenders.entry(link.number).and_modify(|walsender| walsender.closed = true);
            return;
        }
        self.run.walsenders.remove(&link.number);
        self.end_when_shipped();
    }

    /// Sends every standby what it has not been sent and what is on the disk: a walsender never
    /// ships what a power loss could take back.
    pub(super) fn ship(&mut self) {
        if self.flaws.has(PostgresFlaw::WalsenderStuck) {
            return;
        }
        self.run.walsenders.retain(|_, walsender| !walsender.closed);
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
        if !self.flaws.has(PostgresFlaw::WalsenderStuck) {
            let mut silent = Vec::new();
            for (number, walsender) in &mut self.run.walsenders {
                let reply = walsender.reply_due_at() <= self.now;
                if reply && walsender.asked {
                    silent.push(*number);
                } else if reply || walsender.due_at() <= self.now {
                    walsender.asked |= reply;
                    walsender.last_sent = self.now;
                    walsender.link.stream(Streamed::Keepalive { reply });
                }
            }
            for number in silent {
                self.drop_walsender(number);
            }
        }
        self.set_keepalive();
        self.end_when_shipped();
    }

    fn set_keepalive(&mut self) {
        self.run.timers.cancel(Timer::Keepalive);
        let stuck = self.flaws.has(PostgresFlaw::WalsenderStuck);
        let next = self.run.walsenders.values().map(Walsender::due_at).min();
        if let Some(next) = next {
            let next = if stuck { self.now + STUCK_LOOK_EVERY } else { next };
            self.run.timers.add(next, Timer::Keepalive);
        }
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
        let old = self.run.walsenders.iter().find(|(_, other)| other.standby == hello.standby);
        if let Some((number, _)) = old {
            let why = format!("replication slot {} is active for {number}", hello.standby);
            return Err((why, false));
        }
        self.dir.can_continue(hello.timeline, hello.start).map_err(|why| (why, true))
    }
}
