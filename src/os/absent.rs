//! What a witness has where other members have a server and its guard: nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::env::{
    Armed, Guard, GuardError, Observation, Postgres, PostgresError, RewindReport, StartAs, StopHow,
    SyncNames, TimelineBirth, Upstream,
};
use crate::ids::{Epoch, Moment, NodeId, SystemId};

/// A part of the machine, or its absence.
#[derive(Clone, Debug)]
pub struct IfAny<T>(pub Option<T>);

impl<P: Postgres> IfAny<P> {
    fn server(&self) -> Result<&P, PostgresError> {
        let none = || PostgresError::Permanent("this member is a witness: it has no server".into());
        self.0.as_ref().ok_or_else(none)
    }
}

impl<P: Postgres> Postgres for IfAny<P> {
    async fn observe(&self) -> Result<Observation, PostgresError> {
        match &self.0 {
            Some(server) => server.observe().await,
            None => Ok(Observation::of_nothing()),
        }
    }

    async fn initialise(&self, epoch: Epoch) -> Result<SystemId, PostgresError> {
        self.server()?.initialise(epoch).await
    }

    async fn clone_from(&self, source: &Upstream) -> Result<(), PostgresError> {
        self.server()?.clone_from(source).await
    }

    async fn rewind(&self, source: &Upstream) -> Result<RewindReport, PostgresError> {
        self.server()?.rewind(source).await
    }

    async fn start(&self, how: &StartAs) -> Result<(), PostgresError> {
        self.server()?.start(how).await
    }

    async fn promote(&self, epoch: Epoch) -> Result<TimelineBirth, PostgresError> {
        self.server()?.promote(epoch).await
    }

    async fn follow(&self, upstream: &Upstream) -> Result<(), PostgresError> {
        self.server()?.follow(upstream).await
    }

    async fn detach(&self) -> Result<(), PostgresError> {
        self.server()?.detach().await
    }

    async fn set_sync(&self, sync: &SyncNames) -> Result<(), PostgresError> {
        self.server()?.set_sync(sync).await
    }

    async fn configure(&self, parameters: &BTreeMap<String, String>) -> Result<(), PostgresError> {
        self.server()?.configure(parameters).await
    }

    async fn keep_log_for(&self, members: &BTreeSet<NodeId>) -> Result<(), PostgresError> {
        self.server()?.keep_log_for(members).await
    }

    async fn admit(&self) -> Result<(), PostgresError> {
        self.server()?.admit().await
    }

    async fn extend_lease(&self, epoch: Epoch, until: Moment) -> Result<bool, PostgresError> {
        self.server()?.extend_lease(epoch, until).await
    }

    async fn stop(&self, how: StopHow) -> Result<(), PostgresError> {
        match &self.0 {
            Some(server) => server.stop(how).await,
            None => Ok(()),
        }
    }
}

impl<G: Guard> Guard for IfAny<G> {
    async fn arm(&self, armed: Armed) -> Result<(), GuardError> {
        match &self.0 {
            Some(guard) => guard.arm(armed).await,
            None => Err(GuardError::Gone("this member is a witness: it has no guard".into())),
        }
    }

    async fn disarm(&self, epoch: Epoch) -> Result<(), GuardError> {
        match &self.0 {
            Some(guard) => guard.disarm(epoch).await,
            None => Ok(()),
        }
    }

    async fn armed(&self) -> Result<Option<Armed>, GuardError> {
        match &self.0 {
            Some(guard) => guard.armed().await,
            None => Ok(None),
        }
    }
}
