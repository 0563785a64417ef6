//! The task runtime that the consensus library runs on, over madsim.
//!
//! The library asks for time and randomness through static functions, so the machine that they
//! belong to is found through the engine's ambient node, in a table that each thread keeps for the
//! run on it. Tasks are the engine's: whatever a process spawned ends with it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use madsim::task::NodeId as EngineNode;
use openraft_rt::{AsyncRuntime, Instant, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot};
use pg_replica::ids::Moment;
use pg_replica::runtime::raft::OrderedWatch;

use crate::clock::{HostClock, HostSleep};
use crate::streams::Stream;

type Ambients = BTreeMap<EngineNode, Ambient>;

thread_local! {
    static AMBIENT: RefCell<Ambients> = const { RefCell::new(Ambients::new()) };
}

/// The runtime.
pub struct SimRt(madsim::runtime::Runtime);

/// An instant on the clock of the machine that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostInstant(Moment);

/// A future with a deadline on the machine's clock.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct HostTimeout<F> {
    future: Pin<Box<F>>,
    sleep: HostSleep,
}

/// The deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlinePassed;

/// The random numbers of the machine that asks.
#[derive(Clone, Debug)]
pub struct HostRng(Stream);

#[derive(Clone)]
struct Ambient {
    clock: HostClock,
    stream: Stream,
}

/// Gives the tasks of `node` a clock and a stream. Tasks of a node that was never bound see the
/// true time, and draw from a stream that belongs to no seed.
pub fn bind(node: EngineNode, clock: HostClock, stream: Stream) {
    AMBIENT.with_borrow_mut(|table| table.insert(node, Ambient { clock, stream }));
}

/// Forgets every binding of this thread. A run begins with it, because engines number their nodes
/// alike.
pub fn unbind_all() {
    drop(AMBIENT.with_borrow_mut(std::mem::take));
}

/// The clock of the machine that asks.
#[must_use]
pub fn ambient_clock() -> HostClock {
    ambient(|ambient| ambient.clock.clone())
}

fn ambient<T>(look: impl FnOnce(&Ambient) -> T) -> T {
    let node = madsim::plugin::node();
    AMBIENT.with_borrow_mut(|table| {
        let unbound = || Ambient { clock: HostClock::of_true_time(), stream: Stream::of(0, 0) };
        look(table.entry(node).or_insert_with(unbound))
    })
}

impl fmt::Debug for SimRt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRt")
    }
}

impl AsyncRuntime for SimRt {
    type JoinError = madsim::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = madsim::task::JoinHandle<T>;
    type Sleep = HostSleep;
    type Instant = HostInstant;
    type TimeoutError = DeadlinePassed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = HostTimeout<T>;
    type ThreadLocalRng = HostRng;
    type Mpsc = TokioMpsc;
    type Watch = OrderedWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        madsim::task::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        let clock = ambient_clock();
        clock.sleep_until(clock.now() + duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        ambient_clock().sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        HostTimeout { future: Box::pin(future), sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        HostTimeout { future: Box::pin(future), sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        HostRng(ambient(|ambient| ambient.stream.clone()))
    }

    fn new(_threads: usize) -> Self {
        unbind_all();
        Self(madsim::runtime::Runtime::new())
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    /// Runs the function at once: the simulation has one thread, and work that blocks takes no
    /// virtual time unless the disk says so.
    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(f()))
    }
}

impl Instant for HostInstant {
    fn now() -> Self {
        Self(ambient(|ambient| ambient.clock.now()))
    }
}

impl Add<Duration> for HostInstant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}

impl AddAssign<Duration> for HostInstant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub<Duration> for HostInstant {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.before(span))
    }
}

impl SubAssign<Duration> for HostInstant {
    fn sub_assign(&mut self, span: Duration) {
        *self = *self - span;
    }
}

impl Sub<Self> for HostInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.since(earlier.0)
    }
}

impl<F: Future> Future for HostTimeout<F> {
    type Output = Result<F::Output, DeadlinePassed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.sleep).poll(context).map(|()| Err(DeadlinePassed))
    }
}

impl fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed")
    }
}

impl std::error::Error for DeadlinePassed {}

impl rand_core::TryRng for HostRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let upper = self.0.next_u64() >> 32;
        Ok(u32::try_from(upper).expect("the upper half of 64 bits fits 32"))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.0.next_u64().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        Ok(())
    }
}
