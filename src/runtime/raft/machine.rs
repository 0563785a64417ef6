//! The state machine: committed entries become the control state that the core sees.
//!
//! A state is durable before it is published, so that a restart can never forget a state that
//! somebody has acted on. What a command does is decided in `control`, not here.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use openraft_rt::{AsyncRuntime, WatchSender};

use crate::control::{self, Applied, ControlState};
use crate::env::Disk;
use crate::runtime::{Observer, Unobserved};
use crate::sabotage::{Sabotage, Saboteur};

use super::store::{Progress, Resumed, Store};
use super::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use super::watch;

/// The state machine of one member.
#[derive(Debug)]
pub struct Machine<D: Disk> {
    store: Store<D>,
    progress: Progress,
    control: Arc<ControlState>,
    published: watch::Sender<Arc<ControlState>>,
    sabotage: Sabotage,
    observer: Arc<dyn Observer>,
}

/// One moment of the state machine, to be turned into a snapshot.
#[derive(Debug)]
pub struct Moment {
    progress: Progress,
    control: Arc<ControlState>,
}

impl<D: Disk> Machine<D> {
    /// Starts from what the store resumed, and publishes every later state to the receiver.
    pub fn new(
        store: Store<D>,
        resumed: Resumed,
        sabotage: Sabotage,
    ) -> (Self, watch::Receiver<Arc<ControlState>>) {
        let control = Arc::new(resumed.control);
        let (published, receiver) = watch::channel(control.clone());
        let observer = Arc::new(Unobserved);
        let progress = resumed.progress;
        (Self { store, progress, control, published, sabotage, observer }, receiver)
    }

    /// Lets somebody see what is applied.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    fn moment(&self) -> Moment {
        Moment { progress: self.progress.clone(), control: self.control.clone() }
    }

    async fn advance(&mut self, progress: Progress, control: ControlState) -> io::Result<()> {
        let changed = control != *self.control;
        if !self.sabotage.is(Saboteur::ForgetAppliedState) {
            let bytes = if changed { Some(encode(&control)?) } else { None };
            self.store.save_applied(&progress, bytes).await?;
        }
        self.progress = progress;
        if changed {
            self.control = Arc::new(control);
            // Nobody may be listening: the node is going down then.
            let _ = self.published.send(self.control.clone());
        }
        Ok(())
    }
}

impl<D: Disk, Rt: AsyncRuntime + Send + Sync> RaftStateMachine<TypeConfig<Rt>> for Machine<D> {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Moment;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.progress.last_applied, self.progress.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig<Rt>>>> + Unpin + OptionalSend,
    {
        let mut progress = self.progress.clone();
        let mut control = (*self.control).clone();
        let mut answers = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            progress.last_applied = Some(entry.log_id);
            let applied = match entry.payload {
                EntryPayload::Blank => Applied::Done,
                EntryPayload::Normal(command) => {
                    let applied = control.apply(&command, self.sabotage);
                    self.observer.applied(entry.log_id.index, &command, &applied);
                    applied
                }
                EntryPayload::Membership(membership) => {
                    progress.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Applied::Done
                }
            };
            answers.extend(responder.map(|responder| (responder, applied)));
        }
        self.advance(progress, control).await?;
        for (responder, applied) in answers {
            responder.send(applied);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Moment {
        self.moment()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Vec<u8>) -> io::Result<()> {
        let control = control::decode(&data).map_err(io::Error::other)?;
        let progress =
            Progress { last_applied: meta.last_log_id, membership: meta.last_membership.clone() };
        self.advance(progress, control).await?;
        self.observer.installed(meta.last_log_id.map_or(0, |last| last.index));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        // The applied state is durable, so any moment of it is as good as one that was set aside.
        match self.progress.last_applied {
            Some(_) => self.moment().snapshot().map(Some),
            None => Ok(None),
        }
    }
}

impl<Rt: AsyncRuntime + Send + Sync> RaftSnapshotBuilder<TypeConfig<Rt>> for Moment {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        self.snapshot()
    }
}

impl Moment {
    fn snapshot(&self) -> io::Result<Snapshot> {
        let meta = SnapshotMeta {
            last_log_id: self.progress.last_applied,
            last_membership: self.progress.membership.clone(),
        };
        Ok(Snapshot { meta, snapshot: encode(&self.control)? })
    }
}

fn encode(control: &ControlState) -> io::Result<Vec<u8>> {
    control::encode(control).map_err(io::Error::other)
}
