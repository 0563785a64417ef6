//! The standby's end of replication, and the end of being a standby.

use std::time::Duration;

use pg_replica::env::{PostgresError, Side, TimelineBirth, Upstream};
use pg_replica::ids::{Epoch, Lsn};

use super::control::Reply;
use super::durable::parting;
use super::process::Live;
use super::state::{Phase, Promotion, Receiver, Stream, Timer};
use super::wire::{Hello, Input, Link, Peer, Streamed};
use crate::scenario::PostgresFlaw;
use crate::witness::Fact;

/// `wal_receiver_timeout`.
const UPSTREAM_SILENT_FOR_MAX: Duration = Duration::from_secs(1);

/// `wal_retrieve_retry_interval`.
const RECONNECT_AFTER: Duration = Duration::from_millis(200);

/// A refusal is not worth a quick repetition.
const RECONNECT_AFTER_REFUSAL: Duration = Duration::from_millis(500);

impl Receiver {
    /// Whether it streams.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stream, Stream::Open(..))
    }

    /// Why it will never stream, where its upstream has said so.
    pub(super) fn starved(&self) -> Option<String> {
        self.refusal.clone().filter(|_| self.for_good)
    }

    /// Whether this is its connection.
    pub(super) fn is_on(&self, connection: u64) -> bool {
        self.stream.link().is_some_and(|link| link.number == connection)
    }
}

impl Live<'_> {
    /// Commands need a server that answers.
    pub(super) fn check_up(&self) -> Result<(), PostgresError> {
        match self.run.phase {
            Phase::Up => Ok(()),
            Phase::Starting | Phase::Stopping { .. } => Err(PostgresError::Transient(
                "the database system is not accepting connections".to_owned(),
            )),
        }
    }

    pub(super) fn follow(&mut self, upstream: Upstream) -> Result<(), PostgresError> {
        self.check_up()?;
        if self.run.side == Side::Primary {
            return Err(PostgresError::Permanent("a primary follows nobody".to_owned()));
        }
        if self.run.promotion.is_some() {
            return Err(PostgresError::Transient("a promotion is under way".to_owned()));
        }
        self.dir.upstream = Some(upstream.clone());
        let attached = self.run.receiver.as_ref().is_some_and(|own| own.upstream == upstream);
        if !attached && self.run.own_log_replayed_at.is_none() {
            self.attach_to(upstream);
        }
        Ok(())
    }

    /// Points the receiver there, away from wherever it was.
    pub(super) fn attach_to(&mut self, upstream: Upstream) {
        self.drop_receiver();
        self.run.receiver = Some(Receiver {
            upstream,
            stream: Stream::Idle,
            last_heard: self.now,
            parts_at: None,
            refusal: None,
            for_good: false,
        });
        self.on_reconnect();
    }

    pub(super) fn drop_receiver(&mut self) {
        self.run.timers.cancel(Timer::Reconnect);
        self.run.timers.cancel(Timer::Silence);
        if let Some(receiver) = self.run.receiver.take() {
            hang_up(&receiver.stream);
        }
    }

    /// Nothing is confirmed any more from here on. What was confirmed before is on the disk, so a
    /// confirmation that is still under way says nothing that the disk does not hold.
    pub(super) fn on_detach(&mut self, reply: Reply<()>) {
        self.drop_receiver();
        self.go_by_the_newest_line();
        self.dir.upstream = None;
        self.run.detaching.push(reply);
        self.begin_flush();
        self.end_detaching();
    }

    /// A standby that finds no more log looks for histories that were not there before.
    pub(super) fn go_by_the_newest_line(&mut self) {
        if let Some(line) = self.dir.next_line(&self.run.line) {
            self.run.line = line;
        }
    }

    pub(super) fn on_reconnect(&mut self) {
        self.go_by_the_newest_line();
        let Some(receiver) = &mut self.run.receiver else { return };
        let stops = matches!(self.run.phase, Phase::Stopping { .. });
        if stops || !matches!(receiver.stream, Stream::Idle) {
            return;
        }
        let core = self.core;
        let link =
            core.registry.link(core.place(), receiver.upstream.node, Peer::Standby(core.node));
        let hello = Hello {
            standby: core.node,
            epoch: receiver.upstream.epoch,
            system: self.dir.system,
            timeline: self.dir.birth().timeline,
            start: self.dir.written(),
        };
        receiver.stream = Stream::Connecting(link.clone());
        receiver.last_heard = self.now;
        link.up(Input::Attach(link.clone(), hello));
        self.run.timers.cancel(Timer::Silence);
        self.run.timers.add(self.now + UPSTREAM_SILENT_FOR_MAX, Timer::Silence);
    }

    pub(super) fn on_streamed(&mut self, link: Link, message: Streamed) {
        let Some(receiver) = self.run.receiver.as_mut().filter(|own| own.is_on(link.number)) else {
            Input::Streamed(link, message).bounce();
            return;
        };
        receiver.last_heard = self.now;
        match message {
            Streamed::Accepted(history) => {
                if !self.dir.can_complete_with(&history) {
                    // What the blocks need is on a timeline that the upstream has left before.
                    self.dir.broken = true;
                    self.panic("its minimum recovery point is not in the upstream's history");
                    return;
                }
                receiver.refusal = None;
                receiver.for_good = false;
                self.dir.know(&history);
                self.go_by_the_newest_line();
                let Some(receiver) = &mut self.run.receiver else { return };
                receiver.parts_at = parting(&self.run.line, &history);
                receiver.stream = Stream::Open(link, history);
                self.confirm();
            }
            Streamed::Refused { why, for_good } => {
                receiver.refusal = Some(why);
                receiver.for_good = for_good;
                self.reconnect_after(RECONNECT_AFTER_REFUSAL);
            }
            Streamed::Reset => self.reconnect_after(RECONNECT_AFTER),
            Streamed::Keepalive { reply: true } => self.confirm(),
            Streamed::Keepalive { reply: false } => {}
            Streamed::Wal(records) => {
                let Stream::Open(_, history) = &receiver.stream else { return };
                if self.flaws.has(PostgresFlaw::DiskFull) {
                    self.panic("disk full");
                    return;
                }
                let parts_at = receiver.parts_at;
                let taken = records
                    .partition_point(|record| parts_at.is_none_or(|parting| record.end <= parting));
                self.dir.receive(&records[..taken], history);
                self.begin_flush();
            }
        }
    }

    pub(super) fn on_silence_check(&mut self) {
        let Some(receiver) = &mut self.run.receiver else { return };
        if matches!(receiver.stream, Stream::Idle) {
            return;
        }
        let deadline = receiver.last_heard + UPSTREAM_SILENT_FOR_MAX;
        if self.now < deadline {
            self.run.timers.add(deadline, Timer::Silence);
            return;
        }
        receiver.for_good = false;
        hang_up(&receiver.stream);
        self.reconnect_after(RECONNECT_AFTER);
    }

    /// What was received is on the disk: say so, and begin to replay it.
    pub(super) fn on_received_flushed(&mut self) {
        self.confirm();
        let typical = Duration::from_millis(1);
        let span = self.core.stream.long_tail(typical, Duration::from_millis(400));
        let earliest = self.run.replay.back().map_or(Duration::ZERO, |(at, _)| *at);
        self.run.replay.push_back((earliest.max(self.now + span), self.dir.flushed()));
        self.replayed();
        self.end_detaching();
        self.answer_if_complete();
    }

    /// The end of what has been replayed.
    pub(super) fn replayed(&mut self) -> Lsn {
        self.run.advance_replay(self.now, self.flaws.has(PostgresFlaw::ReplayStuck))
    }

    pub(super) fn on_promote(&mut self, epoch: Epoch, reply: Reply<TimelineBirth>) {
        let refused = match (self.check_up(), self.run.side, &mut self.run.promotion) {
            (Err(error), _, _) => Err(error),
            (Ok(()), Side::Primary, _) if self.dir.birth().born == epoch => Ok(self.dir.birth()),
            (Ok(()), Side::Primary, _) => {
                Err(PostgresError::Permanent("the server is not in recovery".to_owned()))
            }
            (Ok(()), Side::Standby, _)
                if self.run.receiver.is_some() || self.dir.upstream.is_some() =>
            {
                Err(PostgresError::Transient("a receiver is attached; detach it first".to_owned()))
            }
            (Ok(()), Side::Standby, Some(promotion)) if promotion.epoch == epoch => {
                promotion.waiting.push(reply);
                return;
            }
            (Ok(()), Side::Standby, Some(_)) => {
                Err(PostgresError::Transient("another promotion is under way".to_owned()))
            }
            (Ok(()), Side::Standby, None) => {
                let typical = Duration::from_millis(80);
                let span = self.core.stream.long_tail(typical, Duration::from_millis(900));
                let received = self.run.replay.back().map(|(at, _)| *at);
                let replay_ends = received.max(self.run.own_log_replayed_at).unwrap_or(self.now);
                let opens_at = replay_ends.max(self.now) + self.flaws.slow_replay();
                self.run.promotion = Some(Promotion { epoch, opens_at, waiting: vec![reply] });
                self.run.timers.add(opens_at + span, Timer::Promoted);
                return;
            }
        };
        // A manager that gave up is not there to hear the answer.
        let _ = reply.send(refused);
    }

    pub(super) fn on_promoted(&mut self) {
        let Some(Promotion { epoch, waiting, .. }) = self.run.promotion.take() else { return };
        if self.flaws.has(PostgresFlaw::DiskFull) {
            self.panic("disk full");
            return;
        }
        self.dir.flush_to(self.dir.written());
        self.end_detaching();
        let birth = self.dir.promote(epoch, &self.run.line);
        let parent = self.dir.parent();
        self.run.side = Side::Primary;
        self.run.epoch = epoch;
        if self.run.sync.confirmations > 0 {
            self.run.admits = false;
            self.end_sessions("the primary admits no clients yet");
        }
        self.core.report(Fact::TimelineCreated { server: self.core.node, birth, parent });
        self.become_primary();
        for reply in waiting {
            let _ = reply.send(Ok(birth));
        }
    }

    fn confirm(&mut self) {
        let Some(receiver) = &self.run.receiver else { return };
        if let Stream::Open(link, _) = &receiver.stream {
            link.up(Input::Confirm(link.clone(), self.dir.flushed()));
        }
    }

    fn reconnect_after(&mut self, span: Duration) {
        if let Some(receiver) = &mut self.run.receiver {
            receiver.stream = Stream::Idle;
            self.run.timers.cancel(Timer::Reconnect);
            self.run.timers.add(self.now + span, Timer::Reconnect);
        }
    }

    fn end_detaching(&mut self) {
        if self.dir.flushed() == self.dir.written() {
            for reply in self.run.detaching.drain(..) {
                let _ = reply.send(Ok(()));
            }
        }
    }
}

fn hang_up(stream: &Stream) {
    if let Some(link) = stream.link() {
        link.up(Input::ReceiverGone(link.clone()));
    }
}
