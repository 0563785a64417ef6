//! Time: the true one, and what each machine's clocks make of it.
//!
//! True time is the engine's virtual time. A [`HostClock`] is a piecewise linear function of it:
//! it starts at an origin of its own, drifts, and stops while a hypervisor holds the machine with
//! its clock. It does not know of processes or of pauses that leave the clock running.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use madsim::time::TimeHandle;
use pg_replica::env::Clock;
use pg_replica::ids::Moment;

use crate::streams::{Stream, lock};

/// One part in a million, as the divisor of rates.
const MILLION: u128 = 1_000_000;

/// Virtual time since the run began. Nothing in the product sees it.
#[must_use]
pub fn true_now() -> Duration {
    TimeHandle::current().elapsed()
}

/// Sleeps for `span` of true time.
pub fn sleep(span: Duration) -> TrueSleep {
    sleep_until_true(true_now() + span)
}

/// Sleeps until the true time `deadline`.
pub fn sleep_until_true(deadline: Duration) -> TrueSleep {
    TrueSleep { deadline, slot: Arc::default(), armed: false }
}

/// A sleep in true time.
///
/// The engine adds a timer at each poll of its own sleep and cannot take one back; this one adds a
/// single timer, however often it is polled, and wakes nobody once it is dropped.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct TrueSleep {
    deadline: Duration,
    slot: Arc<Slot>,
    armed: bool,
}

/// A machine's monotonic and wall clocks. Its clones are the same clock.
#[derive(Clone)]
pub struct HostClock(Arc<Mutex<Face>>);

/// A sleep on a machine's monotonic clock. It survives changes of the clock's rate.
#[must_use = "futures do nothing unless polled"]
pub struct HostSleep {
    clock: HostClock,
    deadline: Moment,
    ticket: Option<u64>,
    timer: Option<TrueSleep>,
}

/// Where a timer finds the task to wake: the last waker that polled.
#[derive(Debug, Default)]
struct Slot(AtomicWaker);

struct Face {
    /// The true time at which the present piece of the function begins.
    piece_from: Duration,
    /// What the clock showed then, since its origin.
    shown_then: Duration,
    rate_ppm: i64,
    freezes: u32,
    /// The wall clock's lead over the monotonic one.
    wall_offset_ms: i64,
    next_ticket: u64,
    sleepers: BTreeMap<u64, Waker>,
}

impl TrueSleep {
    /// The true time at which it ends.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }
}

impl Future for TrueSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let now = true_now();
        if now >= self.deadline {
            return Poll::Ready(());
        }
        self.slot.0.register(context.waker());
        if !self.armed {
            self.armed = true;
            arm(self.deadline, now, &self.slot);
        }
        Poll::Pending
    }
}

impl Drop for TrueSleep {
    fn drop(&mut self) {
        drop(self.slot.0.take());
    }
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

impl HostClock {
    /// A clock with an origin drawn from `stream`: between an hour and a month have passed on it
    /// already, so that comparing the instants of two machines gives nonsense quickly.
    #[must_use]
    pub fn new(stream: &Stream) -> Self {
        let origin = stream.between(Duration::from_hours(1), Duration::from_hours(24 * 30));
        Self::at(origin)
    }

    /// A clock that shows `shown` now.
    #[must_use]
    pub fn at(shown: Duration) -> Self {
        Self::piece(true_now(), shown)
    }

    /// A clock that shows the true time and nothing else.
    #[must_use]
    pub fn of_true_time() -> Self {
        Self::piece(Duration::ZERO, Duration::ZERO)
    }

    fn piece(piece_from: Duration, shown_then: Duration) -> Self {
        /// The wall clock's start: some day in 2026, the same in every run.
        const WALL_START_MS: i64 = 1_790_000_000_000;
        let shown_ms = i64::try_from(shown_then.as_millis()).unwrap_or(i64::MAX / 2);
        Self(Arc::new(Mutex::new(Face {
            piece_from,
            shown_then,
            rate_ppm: 0,
            freezes: 0,
            wall_offset_ms: WALL_START_MS - shown_ms,
            next_ticket: 0,
            sleepers: BTreeMap::new(),
        })))
    }

    /// The monotonic clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::from_origin(lock(&self.0).shown_at(true_now()))
    }

    /// From now on the clock gains `ppm` microseconds per second of true time.
    pub fn set_rate_ppm(&self, ppm: i64) {
        self.bend(|face| face.rate_ppm = ppm.clamp(-900_000, 900_000));
    }

    /// Stops the clock. Counted: it goes on when every freeze has been thawed.
    pub fn freeze(&self) {
        self.bend(|face| face.freezes += 1);
    }

    /// Ends one freeze; harmless where there is none.
    pub fn thaw(&self) {
        self.bend(|face| face.freezes = face.freezes.saturating_sub(1));
    }

    /// Moves the wall clock. The monotonic one does not notice.
    pub fn jump_wall_ms(&self, ms: i64) {
        let mut face = lock(&self.0);
        face.wall_offset_ms = face.wall_offset_ms.saturating_add(ms);
    }

    /// The wall clock, in milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        let face = lock(&self.0);
        let shown_ms = i64::try_from(face.shown_at(true_now()).as_millis()).unwrap_or(i64::MAX);
        u64::try_from(shown_ms.saturating_add(face.wall_offset_ms)).unwrap_or(0)
    }

    /// The true time at which the clock shows `moment` if its rate stays what it is;
    /// `Duration::MAX` while it stands still before that.
    #[must_use]
    pub fn true_instant_of(&self, moment: Moment) -> Duration {
        lock(&self.0).true_instant_of(moment.since_origin())
    }

    /// Sleeps until the clock shows `deadline`; never less, by this clock, whatever happens to its
    /// rate meanwhile.
    pub fn sleep_until(&self, deadline: Moment) -> HostSleep {
        HostSleep { clock: self.clone(), deadline, ticket: None, timer: None }
    }

    /// Begins a new piece of the function with another slope, and lets every sleeper look again.
    fn bend(&self, change: impl FnOnce(&mut Face)) {
        let sleepers: Vec<Waker> = {
            let mut face = lock(&self.0);
            let now = true_now();
            face.shown_then = face.shown_at(now);
            face.piece_from = now;
            change(&mut face);
            face.sleepers.values().cloned().collect()
        };
        for sleeper in sleepers {
            sleeper.wake();
        }
    }
}

impl fmt::Debug for HostClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostClock")
    }
}

impl Clock for HostClock {
    fn now(&self) -> Moment {
        HostClock::now(self)
    }

    fn wall_ms(&self) -> u64 {
        HostClock::wall_ms(self)
    }

    fn sleep_until(&self, deadline: Moment) -> impl Future<Output = ()> + Send {
        HostClock::sleep_until(self, deadline)
    }
}

impl Face {
    fn shown_at(&self, now: Duration) -> Duration {
        if self.freezes > 0 {
            return self.shown_then;
        }
        let gone = now.saturating_sub(self.piece_from).as_nanos();
        self.shown_then + from_nanos(gone * self.slope() / MILLION)
    }

    fn true_instant_of(&self, shown: Duration) -> Duration {
        let to_go = shown.saturating_sub(self.shown_then).as_nanos();
        if to_go == 0 {
            return self.piece_from;
        }
        if self.freezes > 0 {
            return Duration::MAX;
        }
        // Rounded up: at that instant the clock shows `shown`, and not a nanosecond less.
        self.piece_from + from_nanos((to_go * MILLION).div_ceil(self.slope()))
    }

    /// What a million true units are on this clock.
    fn slope(&self) -> u128 {
        u128::try_from(1_000_000 + self.rate_ppm).expect("the rate is clamped above -900000 ppm")
    }
}

impl Future for HostSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut face = lock(&this.clock.0);
        let now = true_now();
        if face.shown_at(now) >= this.deadline.since_origin() {
            return Poll::Ready(());
        }
        let due = face.true_instant_of(this.deadline.since_origin());
        let ticket = *this.ticket.get_or_insert_with(|| {
            face.next_ticket += 1;
            face.next_ticket
        });
        match face.sleepers.get_mut(&ticket) {
            Some(waker) => waker.clone_from(context.waker()),
            None => drop(face.sleepers.insert(ticket, context.waker().clone())),
        }
        drop(face);
        if due == Duration::MAX {
            // The clock stands still: the thaw wakes every sleeper.
            this.timer = None;
            return Poll::Pending;
        }
        if this.timer.as_ref().is_none_or(|timer| timer.deadline() != due) {
            this.timer = Some(sleep_until_true(due));
        }
        let timer = this.timer.as_mut().expect("it was set above");
        match Pin::new(timer).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => unreachable!("{due:?} is over and the clock does not show it"),
        }
    }
}

impl fmt::Debug for HostSleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostSleep until {}", self.deadline)
    }
}

impl Drop for HostSleep {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let waker = lock(&self.clock.0).sleepers.remove(&ticket);
            drop(waker);
        }
    }
}

/// Adds one timer to the engine.
fn arm(deadline: Duration, now: Duration, slot: &Arc<Slot>) {
    let handle = TimeHandle::current();
    let instant = handle.now_instant() + (deadline - now);
    let mut timer = handle.sleep_until(instant);
    // The engine's sleeps last a millisecond at least, a reset one does not.
    Pin::new(&mut timer).reset(instant);
    let waker = Waker::from(slot.clone());
    let polled = Pin::new(&mut timer).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "the deadline lies ahead, or this would not be called");
}

fn from_nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
