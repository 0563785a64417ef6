//! The one task that carries everything.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::{Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::clock::{TrueSleep, sleep_until_true, true_now};
use crate::streams::lock;

use super::lane::{self, LaneRef};
use super::link::Way;
use super::{Fabric, Inner};

/// What waits to be delivered, and the courier that waits for it.
#[derive(Default)]
pub(super) struct Courier {
    bag: Mutex<Bag>,
    waker: AtomicWaker,
}

/// One thing to deliver.
pub(super) enum Load {
    /// A closure to call, unless the link was cut meanwhile.
    Datagram {
        /// The direction.
        way: Way,
        /// What to call.
        deliver: Box<dyn FnMut() + Send>,
    },
    /// A lane whose oldest segment is due.
    Lane(LaneRef),
}

#[derive(Default)]
struct Bag {
    heap: BinaryHeap<Delivery>,
    next_sequence: u64,
    /// The instant for which the courier has set its alarm.
    alarm: Option<Duration>,
    shut_down: bool,
}

struct Delivery {
    at: Duration,
    sequence: u64,
    load: Load,
}

impl Load {
    /// What waits in a lane may hold the lane itself, and would keep both for ever.
    fn discard(self) {
        match self {
            Self::Datagram { .. } => {}
            Self::Lane(lane) => lane::close(&lane),
        }
    }
}

impl Courier {
    /// Puts a load into the bag, and wakes the courier where it is the first to be due.
    pub(super) fn add(&self, at: Duration, load: Load) {
        let earlier = {
            let mut bag = lock(&self.bag);
            if bag.shut_down {
                drop(bag);
                load.discard();
                return;
            }
            let sequence = bag.next_sequence;
            bag.next_sequence += 1;
            bag.heap.push(Delivery { at, sequence, load });
            bag.alarm.is_none_or(|alarm| at < alarm)
        };
        if earlier {
            self.waker.wake();
        }
    }

    /// Drops every load, and those that are still to come.
    pub(super) fn shut_down(&self) {
        let heap = {
            let mut bag = lock(&self.bag);
            bag.shut_down = true;
            std::mem::take(&mut bag.heap)
        };
        heap.into_iter().for_each(|delivery| delivery.load.discard());
        self.waker.wake();
    }

    fn is_shut_down(&self) -> bool {
        lock(&self.bag).shut_down
    }

    /// Takes what is due, or says when the next load will be.
    fn next(&self, now: Duration) -> Result<Load, Option<Duration>> {
        let mut bag = lock(&self.bag);
        match bag.heap.peek().map(|delivery| delivery.at) {
            Some(at) if at <= now => {
                Ok(bag.heap.pop().expect("a load was seen at the top of the heap").load)
            }
            next => {
                bag.alarm = next;
                Err(next)
            }
        }
    }
}

/// Carries until the network is shut down, or nobody holds it any more.
pub(super) async fn run(fabric: Weak<Inner>) {
    let mut alarm: Option<TrueSleep> = None;
    poll_fn(|context| round(&fabric, &mut alarm, context)).await;
}

fn round(
    fabric: &Weak<Inner>,
    alarm: &mut Option<TrueSleep>,
    context: &mut Context<'_>,
) -> Poll<()> {
    let Some(inner) = fabric.upgrade() else { return Poll::Ready(()) };
    let fabric = Fabric(inner);
    if fabric.0.courier.is_shut_down() {
        return Poll::Ready(());
    }
    fabric.0.courier.waker.register(context.waker());
    loop {
        let at = match fabric.0.courier.next(true_now()) {
            Ok(load) => {
                carry_out(&fabric, load);
                continue;
            }
            Err(None) => {
                *alarm = None;
                return Poll::Pending;
            }
            Err(Some(at)) => at,
        };
        if alarm.as_ref().is_none_or(|alarm| alarm.deadline() != at) {
            *alarm = Some(sleep_until_true(at));
        }
        let alarm = alarm.as_mut().expect("it was set above");
        if Pin::new(alarm).poll(context).is_pending() {
            return Poll::Pending;
        }
    }
}

fn carry_out(fabric: &Fabric, load: Load) {
    match load {
        Load::Datagram { way, mut deliver } => {
            if !fabric.is_blocked(way.from, way.to, way.port) {
                deliver();
            }
        }
        Load::Lane(lane) => lane::carry_on(fabric, &lane),
    }
}

impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Delivery {}

impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delivery {
    /// Reversed: the heap's top is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}
