//! The guard, which outlives the manager and freezes with its host.
//!
//! [`SimGuard::serve`] is the guard's process; everything else is the pipe to it. It knows one
//! deadline and one thing to do, which it is given as a function.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use pg_replica::env::{Armed, Guard, GuardError};
use pg_replica::ids::Epoch;
use pg_replica::sabotage::{Sabotage, Saboteur};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{HostClock, HostSleep, sleep};
use crate::streams::{Stream, lock};

/// How many orders the pipe holds; whoever writes more waits, as on any pipe.
const PIPE_ORDERS: usize = 16;

/// The guard of one machine. Its clones are the same guard.
#[derive(Clone)]
pub struct SimGuard(Arc<Inner>);

struct Inner {
    clock: HostClock,
    stream: Stream,
    sabotage: Sabotage,
    kill_postgres: Box<dyn Fn() + Send + Sync>,
    /// The way to the running process; closed when there is none.
    pipe: Mutex<Option<mpsc::Sender<Order>>>,
}

enum Order {
    Arm(Armed, oneshot::Sender<()>),
    Disarm(Epoch, oneshot::Sender<()>),
    Ask(oneshot::Sender<Option<Armed>>),
}

/// What the process holds in memory.
struct Watch {
    orders: mpsc::Receiver<Order>,
    armed: Option<Armed>,
    alarm: Option<HostSleep>,
}

impl SimGuard {
    /// A guard whose process does not run yet. `kill_postgres` ends every Postgres process of the
    /// machine, at once.
    #[must_use]
    pub fn new(
        clock: HostClock,
        stream: Stream,
        sabotage: Sabotage,
        kill_postgres: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let kill_postgres = Box::new(kill_postgres);
        Self(Arc::new(Inner { clock, stream, sabotage, kill_postgres, pipe: Mutex::default() }))
    }

    /// The guard's process: spawned on the machine's guard at every start of it. Without memory of
    /// the one before.
    pub fn serve(&self) -> impl Future<Output = ()> + Send + 'static {
        let (sender, orders) = mpsc::channel(PIPE_ORDERS);
        *lock(&self.0.pipe) = Some(sender);
        let guard = self.clone();
        async move {
            let mut watch = Watch { orders, armed: None, alarm: None };
            loop {
                poll_fn(|context| watch.poll_deadline(&guard.0.clock, context)).await;
                sleep(guard.draw_wake_up()).await;
                watch.take_orders(&mut Context::from_waker(std::task::Waker::noop()));
                guard.strike(&mut watch);
            }
        }
    }

    /// How late the process runs after its alarm.
    fn draw_wake_up(&self) -> Duration {
        const EARLIEST: Duration = Duration::from_micros(100);
        const USUAL: Duration = Duration::from_millis(3);
        const WORST: Duration = Duration::from_millis(15);
        let late = self.0.stream.chance(0.02);
        let (lo, hi) = if late { (USUAL, WORST) } else { (EARLIEST, USUAL) };
        self.0.stream.between(lo, hi)
    }

    fn strike(&self, watch: &mut Watch) {
        let now = self.0.clock.now();
        if watch.armed.is_none_or(|armed| armed.deadline > now) {
            return;
        }
        watch.armed = None;
        if !self.0.sabotage.is(Saboteur::GuardNeverFires) {
            (self.0.kill_postgres)();
        }
    }

    /// Writes an order and waits for its answer.
    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Result<T, GuardError> {
        const PIPE: Duration = Duration::from_micros(50);
        let gone = || GuardError::Gone("its end of the pipe is closed".to_owned());
        let pipe = lock(&self.0.pipe).clone().ok_or_else(gone)?;
        sleep(PIPE).await;
        let (sender, answer) = oneshot::channel();
        pipe.send(order(sender)).await.map_err(|_| gone())?;
        // Not kept while waiting: the process must be able to close the pipe by ending.
        drop(pipe);
        answer.await.map_err(|_| gone())
    }
}

impl Guard for SimGuard {
    async fn arm(&self, armed: Armed) -> Result<(), GuardError> {
        self.order(|answer| Order::Arm(armed, answer)).await
    }

    async fn disarm(&self, epoch: Epoch) -> Result<(), GuardError> {
        self.order(|answer| Order::Disarm(epoch, answer)).await
    }

    async fn armed(&self) -> Result<Option<Armed>, GuardError> {
        self.order(Order::Ask).await
    }
}

impl fmt::Debug for SimGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimGuard")
    }
}

impl Watch {
    /// Ready when the deadline has passed; takes orders meanwhile.
    fn poll_deadline(&mut self, clock: &HostClock, context: &mut Context<'_>) -> Poll<()> {
        self.take_orders(context);
        let Some(armed) = self.armed else {
            self.alarm = None;
            return Poll::Pending;
        };
        // An alarm that is set for an earlier deadline is left alone: it finds out when it rings.
        if self.alarm.is_none() {
            self.alarm = Some(clock.sleep_until(armed.deadline));
        }
        loop {
            let alarm = self.alarm.as_mut().expect("it was set above");
            if Pin::new(alarm).poll(context).is_pending() {
                return Poll::Pending;
            }
            if clock.now() >= armed.deadline {
                self.alarm = None;
                return Poll::Ready(());
            }
            self.alarm = Some(clock.sleep_until(armed.deadline));
        }
    }

    fn take_orders(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some(order)) = self.orders.poll_recv(context) {
            self.obey(order);
        }
    }

    fn obey(&mut self, order: Order) {
        // Whoever asked may be dead by now; the order counts all the same.
        match order {
            Order::Arm(wanted, answer) => {
                self.arm(wanted);
                let _ = answer.send(());
            }
            Order::Disarm(epoch, answer) => {
                if self.armed.is_some_and(|armed| armed.epoch == epoch) {
                    self.armed = None;
                    self.alarm = None;
                }
                let _ = answer.send(());
            }
            Order::Ask(answer) => {
                let _ = answer.send(self.armed);
            }
        }
    }

    /// An older epoch, or an earlier deadline of the same one, is a late delivery.
    fn arm(&mut self, wanted: Armed) {
        match self.armed {
            Some(armed) if wanted.epoch < armed.epoch => {}
            Some(armed) if wanted.epoch == armed.epoch && wanted.deadline <= armed.deadline => {}
            Some(_) | None => {
                if self.armed.is_some_and(|armed| wanted.deadline < armed.deadline) {
                    self.alarm = None;
                }
                self.armed = Some(wanted);
            }
        }
    }
}
