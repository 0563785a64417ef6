//! The picture of the whole cluster: what the members last said of themselves, and how far the
//! primary was.
//!
//! Whoever leads the consensus hears everybody. The others ask it when somebody asks them, and keep
//! the answer for a moment, so that an idle cluster sends nothing for it and a crowd of readers
//! costs one question. Where the leader cannot be asked the last picture stays, with its age.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::env::Side;
use crate::ha::Report;
use crate::ids::{Epoch, Lsn, Moment, NodeId};

use super::board::{Snapshot, StatusBoard};
use super::operator::{Desk, Reported};

/// For how long an answer is as good as a new one: reports are that old anyway.
const FRESH: Duration = Duration::from_millis(500);

/// What the members last said.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    /// Who said what, and when, on this member's clock.
    pub(super) heard: BTreeMap<NodeId, (Report, Moment)>,
    /// Why nobody is elected, where somebody should be.
    pub(super) obstacle: Option<String>,
    /// The furthest that a primary is known to have got. It outlives the leader's silence: one that
    /// the quorum does not hear writes nothing more after its lease.
    pub(super) primary_end: Option<(Epoch, Lsn)>,
    /// Why the leader could not be asked, where it could not.
    pub(super) blind: Option<String>,
}

#[derive(Debug, Default)]
struct Kept {
    picture: Picture,
    asked_at: Option<Moment>,
}

/// Draws the picture, and keeps the last one.
#[derive(Debug, Default)]
pub(super) struct Painter {
    kept: Mutex<Kept>,
}

impl Painter {
    /// The picture as it is now, or as it was a moment ago.
    pub(super) async fn picture(&self, board: &StatusBoard, desk: &dyn Desk) -> Picture {
        // Whoever comes second waits for the first one's answer and takes it.
        let mut kept = self.kept.lock().await;
        let snapshot = board.snapshot();
        if let Some(reports) = &snapshot.reports {
            kept.picture.heard = (**reports).clone();
            kept.picture.obstacle.clone_from(&snapshot.obstacle);
            kept.picture.blind = None;
        } else if kept.asked_at.is_none_or(|at| desk.now().since(at) >= FRESH) {
            let answer = desk.reports().await;
            let now = desk.now();
            kept.asked_at = Some(now);
            kept.picture.take(answer, now);
        }
        kept.picture.add_own(&snapshot);
        kept.picture.note_primary(&snapshot);
        kept.picture.clone()
    }
}

impl Picture {
    fn take(&mut self, answer: Result<Reported, String>, now: Moment) {
        match answer {
            Ok(Reported { heard, obstacle }) => {
                let dated = heard.into_iter().map(|heard| {
                    let age = Duration::from_millis(heard.age_ms);
                    (heard.report.node, (heard.report, now.before(age)))
                });
                self.heard = dated.collect();
                self.obstacle = obstacle;
                self.blind = None;
            }
            Err(why) => self.blind = Some(why),
        }
    }

    /// Of itself a member knows best.
    fn add_own(&mut self, snapshot: &Snapshot) {
        let Some((own, at)) = &snapshot.own else { return };
        let newer = self.heard.get(&snapshot.node).is_none_or(|(_, heard)| heard <= at);
        if newer {
            self.heard.insert(snapshot.node, (Report::clone(own), *at));
        }
    }

    fn note_primary(&mut self, snapshot: &Snapshot) {
        let Some(holder) = snapshot.control.primacy.holder else { return };
        let Some((report, _)) = self.heard.get(&holder) else { return };
        let Some(position) = report.position.filter(|_| report.side == Side::Primary) else {
            return;
        };
        let end = (position.born, position.flushed);
        if self.primary_end.is_none_or(|known| known <= end) {
            self.primary_end = Some(end);
        }
    }

    /// How many bytes a member has yet to receive, or to replay, where both ends are known.
    pub(super) fn lag(&self, own: Option<Lsn>) -> Option<u64> {
        let (_, end) = self.primary_end?;
        Some(end.ahead_of(own?))
    }
}

/// What is shared by everybody who answers.
pub(super) struct Sources {
    pub(super) board: Arc<StatusBoard>,
    pub(super) desk: Arc<dyn Desk>,
    pub(super) painter: Painter,
}

impl Sources {
    pub(super) async fn picture(&self) -> Picture {
        self.painter.picture(&self.board, &*self.desk).await
    }
}
