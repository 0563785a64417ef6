//! The one lane on which verbs reach Postgres.
//!
//! A verb begins when the one before it has ended. A stop begins at once and wins: what waits is
//! not begun any more, what is under way makes no further call, and once the stop has returned
//! nothing is left of it. All of this happens in one task, so that no verb which was decided before
//! a stop can reach the server after it, on however many threads the rest of the node runs.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use tokio::sync::mpsc;

use crate::env::{Outcome, Postgres, PostgresError};
use crate::ha::{Finished, Verb};
use crate::ids::{ActionId, Epoch};
use crate::sabotage::{Sabotage, Saboteur};

/// How many verbs may wait to be taken up. The core has one under way, and a stop after it; a lane
/// that is that full stands still, and what does not fit is reported as failed.
pub(super) const VERBS_MAX: usize = 32;
/// How long the broken rule of `sync-after-promote` lets everybody write.
const CARELESS_FOR: Duration = Duration::from_millis(500);

/// A verb that the core has asked for.
pub(super) struct VerbOrder {
    pub(super) id: ActionId,
    pub(super) epoch: Epoch,
    pub(super) verb: Verb,
}

type Ended = (ActionId, Outcome<Finished>);
type UnderWay = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// The lane. Ends when nobody can put verbs on it any more.
pub(super) struct Lane<P, Rt> {
    postgres: P,
    sabotage: Sabotage,
    /// Grows with every stop that arrives: a verb of an earlier generation calls nothing more.
    generation: Arc<AtomicU64>,
    waiting: VecDeque<VerbOrder>,
    running: Option<UnderWay>,
    stops: Vec<UnderWay>,
    /// What has ended and was not told yet.
    ended: VecDeque<Ended>,
    runtime: std::marker::PhantomData<fn() -> Rt>,
}

impl<P: Postgres, Rt: AsyncRuntime> Lane<P, Rt> {
    pub(super) fn new(postgres: P, sabotage: Sabotage) -> Self {
        Self {
            postgres,
            sabotage,
            generation: Arc::default(),
            waiting: VecDeque::new(),
            running: None,
            stops: Vec::new(),
            ended: VecDeque::new(),
            runtime: std::marker::PhantomData,
        }
    }

    /// The next verb to end; `None` when there are no more orders.
    pub(super) async fn next(&mut self, orders: &mut mpsc::Receiver<VerbOrder>) -> Option<Ended> {
        poll_fn(|context| self.poll_next(orders, context)).await
    }

    fn poll_next(
        &mut self,
        orders: &mut mpsc::Receiver<VerbOrder>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Ended>> {
        loop {
            // Everything that was ordered is known before anything is begun or continued.
            let closed = loop {
                match orders.poll_recv(context) {
                    Poll::Ready(Some(order)) => self.take(order),
                    Poll::Ready(None) => break true,
                    Poll::Pending => break false,
                }
            };
            if let Some(ended) = self.ended.pop_front() {
                return Poll::Ready(Some(ended));
            }
            if closed {
                return Poll::Ready(None);
            }
            let moved = self.poll_stops(context) || self.poll_verb(context) || self.begin();
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn take(&mut self, order: VerbOrder) {
        if !matches!(order.verb, Verb::Stop(_)) {
            self.waiting.push_back(order);
            return;
        }
        self.generation.fetch_add(1, Ordering::SeqCst);
        let late = self.waiting.drain(..).map(|order| (order.id, Outcome::Failed(overtaken())));
        self.ended.extend(late);
        let stop = self.carry_out(order);
        self.stops.push(stop);
    }

    /// The stops go first. One that has done its work leaves nothing of what was under way.
    fn poll_stops(&mut self, context: &mut Context<'_>) -> bool {
        let ready = self.stops.iter_mut().enumerate().find_map(|(at, stop)| {
            match stop.as_mut().poll(context) {
                Poll::Ready(ended) => Some((at, ended)),
                Poll::Pending => None,
            }
        });
        let Some((at, ended)) = ready else { return false };
        drop(self.stops.remove(at));
        if matches!(ended.1, Outcome::Done(_)) {
            self.running = None;
            // Earlier ones asked for less than what has happened.
            drop(self.stops.drain(..at));
        }
        self.ended.push_back(ended);
        true
    }

    fn poll_verb(&mut self, context: &mut Context<'_>) -> bool {
        let Some(running) = &mut self.running else { return false };
        let Poll::Ready(ended) = running.as_mut().poll(context) else { return false };
        self.running = None;
        self.ended.push_back(ended);
        true
    }

    fn begin(&mut self) -> bool {
        if self.running.is_some() || !self.stops.is_empty() {
            return false;
        }
        let Some(order) = self.waiting.pop_front() else { return false };
        self.running = Some(self.carry_out(order));
        true
    }

    fn carry_out(&self, order: VerbOrder) -> UnderWay {
        let VerbOrder { id, epoch, verb } = order;
        let turn = Turn {
            postgres: self.postgres.clone(),
            sabotage: self.sabotage,
            begun: self.generation.load(Ordering::SeqCst),
            generation: self.generation.clone(),
        };
        Box::pin(async move { (id, outcome_of(turn.perform::<Rt>(epoch, &verb).await)) })
    }
}

/// One verb's turn at the server.
struct Turn<P> {
    postgres: P,
    sabotage: Sabotage,
    begun: u64,
    generation: Arc<AtomicU64>,
}

impl<P: Postgres> Turn<P> {
    async fn perform<Rt: AsyncRuntime>(
        &self,
        epoch: Epoch,
        verb: &Verb,
    ) -> Result<Finished, PostgresError> {
        let postgres = &self.postgres;
        match verb {
            Verb::Initialise => postgres.initialise(epoch).await.map(plain),
            Verb::Clone(source) => postgres.clone_from(source).await.map(plain),
            Verb::Rewind(source) => postgres.rewind(source).await.map(Finished::Rewound),
            Verb::Start(how) => postgres.start(how).await.map(plain),
            Verb::Promote(sync) if self.sabotage.is(Saboteur::SyncAfterPromote) => {
                postgres.promote(epoch).await?;
                postgres.admit().await?;
                Rt::sleep(CARELESS_FOR).await;
                postgres.set_sync(sync).await.map(plain)
            }
            Verb::Promote(sync) => {
                // Not one write is acknowledged without the configuration of its epoch.
                postgres.set_sync(sync).await?;
                self.still_mine()?;
                postgres.promote(epoch).await.map(plain)
            }
            Verb::Follow(upstream) => postgres.follow(upstream).await.map(plain),
            Verb::Detach => postgres.detach().await.map(plain),
            Verb::SetSync(sync) => postgres.set_sync(sync).await.map(plain),
            Verb::Admit => postgres.admit().await.map(plain),
            Verb::Configure(parameters) => postgres.configure(parameters).await.map(plain),
            Verb::Stop(how) => postgres.stop(*how).await.map(plain),
        }
    }

    /// Asked between two calls: a stop that came in the meantime ends the verb here.
    fn still_mine(&self) -> Result<(), PostgresError> {
        if self.generation.load(Ordering::SeqCst) == self.begun { Ok(()) } else { Err(overtaken()) }
    }
}

fn overtaken() -> PostgresError {
    PostgresError::Transient("a stop came first".into())
}

fn plain<T>(_: T) -> Finished {
    Finished::Plain
}

/// How a call ended, in the words of the core.
pub(super) fn outcome_of<T>(result: Result<T, PostgresError>) -> Outcome<T> {
    match result {
        Ok(value) => Outcome::Done(value),
        Err(why) if why.outcome_unknown() => Outcome::Unknown,
        Err(why) => Outcome::Failed(why),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};
    use std::task::Waker;

    use super::*;
    use crate::env::{Observation, RewindReport, StartAs, StopHow, SyncNames, Upstream};
    use crate::ids::{Moment, NodeId, SystemId};

    type Sim = openraft_rt_tokio::TokioRuntime;

    /// Writes down what it is asked for. `start` and `set_sync` return when they are let, a fast
    /// stop never does.
    #[derive(Clone, Default)]
    struct Scribe(Arc<Mutex<(Vec<&'static str>, bool)>>);

    impl Scribe {
        fn note(&self, call: &'static str) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(call);
        }

        fn calls(&self) -> Vec<&'static str> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
        }

        fn let_go(&self) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        }

        async fn wait(&self) {
            poll_fn(|_| {
                let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).1;
                if free { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    impl Postgres for Scribe {
        async fn observe(&self) -> Result<Observation, PostgresError> {
            Err(overtaken())
        }
        async fn initialise(&self, _: Epoch) -> Result<SystemId, PostgresError> {
            Err(overtaken())
        }
        async fn clone_from(&self, _: &Upstream) -> Result<(), PostgresError> {
            Err(overtaken())
        }
        async fn rewind(&self, _: &Upstream) -> Result<RewindReport, PostgresError> {
            Err(overtaken())
        }
        async fn start(&self, _: &StartAs) -> Result<(), PostgresError> {
            self.note("start");
            self.wait().await;
            Ok(())
        }
        async fn promote(&self, _: Epoch) -> Result<crate::env::TimelineBirth, PostgresError> {
            self.note("promote");
            Err(overtaken())
        }
        async fn follow(&self, _: &Upstream) -> Result<(), PostgresError> {
            Ok(())
        }
        async fn detach(&self) -> Result<(), PostgresError> {
            self.note("detach");
            Ok(())
        }
        async fn set_sync(&self, _: &SyncNames) -> Result<(), PostgresError> {
            self.note("set sync");
            self.wait().await;
            Ok(())
        }
        async fn configure(
            &self,
            _: &std::collections::BTreeMap<String, String>,
        ) -> Result<(), PostgresError> {
            Ok(())
        }
        async fn keep_log_for(&self, _: &BTreeSet<NodeId>) -> Result<(), PostgresError> {
            Ok(())
        }
        async fn admit(&self) -> Result<(), PostgresError> {
            Ok(())
        }
        async fn extend_lease(&self, _: Epoch, _: Moment) -> Result<bool, PostgresError> {
            Ok(false)
        }
        async fn stop(&self, how: StopHow) -> Result<(), PostgresError> {
            self.note("stop");
            if how == StopHow::Fast {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    }

    struct Bench {
        scribe: Scribe,
        lane: Lane<Scribe, Sim>,
        orders: mpsc::Sender<VerbOrder>,
        receiver: mpsc::Receiver<VerbOrder>,
        next: u64,
    }

    impl Bench {
        fn new() -> Self {
            let scribe = Scribe::default();
            let (orders, receiver) = mpsc::channel(VERBS_MAX);
            let lane = Lane::new(scribe.clone(), Sabotage::NONE);
            Self { scribe, lane, orders, receiver, next: 0 }
        }

        fn order(&mut self, verb: Verb) -> &mut Self {
            self.next += 1;
            let order = VerbOrder { id: ActionId(self.next), epoch: Epoch(1), verb };
            assert!(self.orders.try_send(order).is_ok());
            self
        }

        /// Lets the lane go as far as it can: which verbs ended, and whether they were done.
        fn run(&mut self) -> Vec<(u64, bool)> {
            let mut context = Context::from_waker(Waker::noop());
            let mut all = Vec::new();
            while let Poll::Ready(Some((id, outcome))) =
                self.lane.poll_next(&mut self.receiver, &mut context)
            {
                all.push((id.0, matches!(outcome, Outcome::Done(_))));
            }
            all
        }
    }

    fn start() -> Verb {
        Verb::Start(StartAs::Standby { upstream: None })
    }

    #[test]
    fn a_verb_that_a_stop_overtakes_never_reaches_the_server() {
        let mut bench = Bench::new();
        bench.order(start()).order(Verb::Stop(StopHow::Immediate));
        assert_eq!(bench.run(), [(1, false), (2, true)]);
        assert_eq!(bench.scribe.calls(), ["stop"]);
    }

    #[test]
    fn a_stop_in_the_middle_of_a_promotion_leaves_it_half_done() {
        let mut bench = Bench::new();
        bench.order(Verb::Promote(SyncNames::default()));
        assert_eq!(bench.run(), []);
        bench.scribe.let_go();
        bench.order(Verb::Stop(StopHow::Fast));
        assert_eq!(bench.run(), [(1, false)]);
        assert_eq!(bench.scribe.calls(), ["set sync", "stop"], "nothing is promoted any more");
    }

    #[test]
    fn verbs_go_one_after_the_other() {
        let mut bench = Bench::new();
        bench.order(start()).order(Verb::Detach);
        assert_eq!(bench.run(), []);
        assert_eq!(bench.scribe.calls(), ["start"]);
        bench.scribe.let_go();
        assert_eq!(bench.run(), [(1, true), (2, true)]);
        assert_eq!(bench.scribe.calls(), ["start", "detach"]);
    }

    #[test]
    fn what_never_returns_is_gone_after_a_stop() {
        let mut bench = Bench::new();
        bench.order(start()).run();
        bench.order(Verb::Stop(StopHow::Fast)).run();
        bench.order(Verb::Stop(StopHow::Immediate));
        assert_eq!(bench.run(), [(3, true)]);
        bench.order(Verb::Detach);
        assert_eq!(bench.run(), [(4, true)], "the lane is free");
        assert_eq!(bench.scribe.calls(), ["start", "stop", "stop", "detach"]);
    }
}
