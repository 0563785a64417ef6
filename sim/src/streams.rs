//! Independent random streams, one per concern.
//!
//! It owns every random number that the simulated world draws; the scheduler's own draws are the
//! engine's. One concern never reads another's stream: a draw more in the product must not move
//! the faults, and a fault more must not move the workload.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pg_replica::env::Entropy;
use pg_replica::ids::NodeId;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What a stream serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// Turning a random budget into an explicit plan.
    Plan,
    /// Latency, loss, duplication.
    Network,
    /// How long a machine's disk takes, and what a power loss leaves of it.
    Disk(NodeId),
    /// How long a machine's Postgres takes.
    Postgres(NodeId),
    /// What clients do.
    Workload,
    /// What the product itself draws on a machine.
    Node(NodeId),
    /// What the event of this number leaves open: what one draws must not move the others.
    Event(u64),
    /// How late a machine's guard wakes up.
    Guard(NodeId),
    /// Turning a plan that is known into another one.
    Variation,
    /// Where connections break.
    Sockets,
    /// What strangers say.
    Strangers,
}

/// All streams of one run.
#[derive(Clone)]
pub struct Streams {
    seed: u64,
    streams: Arc<Mutex<BTreeMap<Concern, Stream>>>,
}

/// One stream. Its clones draw from the same sequence.
#[derive(Clone)]
pub struct Stream(Arc<Mutex<ChaCha8Rng>>);

impl Streams {
    /// The streams that belong to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, streams: Arc::default() }
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The stream of `concern`: the same object at every call.
    #[must_use]
    pub fn stream(&self, concern: Concern) -> Stream {
        let mut streams = lock(&self.streams);
        streams.entry(concern).or_insert_with(|| Stream::of(self.seed, concern.number())).clone()
    }

    /// The next number in `0..n` that the event of this number draws; zero where `n` is zero.
    #[must_use]
    pub fn draw(&self, event: usize, n: usize) -> usize {
        let event = u64::try_from(event).unwrap_or(u64::MAX);
        let n = u64::try_from(n.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.stream(Concern::Event(event)).below(n)).unwrap_or_default()
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Streams(seed {})", self.seed)
    }
}

impl Concern {
    /// The stream's number, spelled out instead of hashed so that it never changes with a library.
    fn number(self) -> u64 {
        let (kind, node) = match self {
            Self::Plan => (1, 0),
            Self::Network => (2, 0),
            Self::Disk(node) => (3, node.0),
            Self::Postgres(node) => (4, node.0),
            Self::Workload => (5, 0),
            Self::Node(node) => (6, node.0),
            Self::Event(number) => (7, number),
            Self::Guard(node) => (8, node.0),
            Self::Variation => (9, 0),
            Self::Sockets => (10, 0),
            Self::Strangers => (11, 0),
        };
        assert!(node < 1 << 56, "a member's number fits the lower 56 bits of a stream's number");
        (kind << 56) | node
    }
}

impl Stream {
    /// A stream of its own, for a test or a tool.
    #[must_use]
    pub fn of(seed: u64, number: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(number);
        Self(Arc::new(Mutex::new(generator)))
    }

    /// Sixty-four fresh bits.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        lock(&self.0).next_u64()
    }

    /// A number in `0..n`; zero where `n` is zero.
    #[must_use]
    pub fn below(&self, n: u64) -> u64 {
        let scaled = (u128::from(self.next_u64()) * u128::from(n)) >> 64;
        u64::try_from(scaled).expect("a 128-bit product shifted by 64 fits 64 bits")
    }

    /// True with probability `p`. Draws once whatever `p` is, so that the presence of a fault
    /// does not shift what comes after it.
    #[must_use]
    pub fn chance(&self, p: f64) -> bool {
        self.fraction() < p
    }

    /// A span in `lo..=hi`; `lo` where `hi` is shorter.
    #[must_use]
    pub fn between(&self, lo: Duration, hi: Duration) -> Duration {
        let width = nanos(hi.saturating_sub(lo));
        lo + Duration::from_nanos(self.below(width.saturating_add(1)))
    }

    /// A span around `typical` (0.7 to 1.3 of it), and in a few percent of all draws one that
    /// reaches up to `worst`.
    #[must_use]
    pub fn long_tail(&self, typical: Duration, worst: Duration) -> Duration {
        const TAIL: f64 = 0.03;
        let in_tail = self.chance(TAIL);
        let position = self.fraction();
        if !in_tail {
            return typical.mul_f64(0.7 + 0.6 * position);
        }
        let start = typical.mul_f64(1.3);
        // The square makes the far end of the tail rarer than its beginning.
        start + worst.saturating_sub(start).mul_f64(position * position)
    }

    /// One of `items`, which must not be empty.
    #[must_use]
    pub fn pick<'a, T>(&self, items: &'a [T]) -> &'a T {
        assert!(!items.is_empty(), "there is nothing to pick from");
        let index = self.below(items.len() as u64);
        &items[usize::try_from(index).expect("an index below a length fits")]
    }

    /// A number in `0.0..1.0`, with the 53 bits that the type can hold.
    fn fraction(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl Entropy for Stream {
    fn next_u64(&self) -> u64 {
        Stream::next_u64(self)
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A run is one thread: a poisoned lock means that a panic is unwinding already, and what it
/// guards is not looked at any more.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(stream: &Stream) -> Vec<u64> {
        (0..8).map(|_| stream.next_u64()).collect()
    }

    #[test]
    fn the_same_seed_and_concern_give_the_same_numbers() {
        let (one, two) = (Streams::new(7), Streams::new(7));
        let _ = two.stream(Concern::Workload).next_u64();
        assert_eq!(draws(&one.stream(Concern::Network)), draws(&two.stream(Concern::Network)));
    }

    #[test]
    fn concerns_do_not_share_numbers() {
        let streams = Streams::new(7);
        let mut seen = Vec::new();
        for node in 1..4 {
            for concern in [
                Concern::Disk(NodeId(node)),
                Concern::Postgres(NodeId(node)),
                Concern::Node(NodeId(node)),
                Concern::Guard(NodeId(node)),
            ] {
                seen.push(draws(&streams.stream(concern)));
            }
        }
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn a_concern_has_one_stream_however_often_it_is_asked_for() {
        let streams = Streams::new(7);
        let first = streams.stream(Concern::Event(0)).next_u64();
        assert_ne!(first, streams.stream(Concern::Event(0)).next_u64());
    }

    #[test]
    fn spans_stay_within_their_bounds() {
        let stream = Stream::of(1, 1);
        let (typical, worst) = (Duration::from_millis(2), Duration::from_millis(50));
        let mut in_tail = 0;
        for _ in 0..10_000 {
            let span = stream.long_tail(typical, worst);
            assert!(span >= typical.mul_f64(0.69) && span <= worst);
            in_tail += u32::from(span > typical.mul_f64(1.31));
            let between = stream.between(typical, worst);
            assert!(between >= typical && between <= worst);
            assert!(stream.below(3) < 3);
        }
        assert!((150..600).contains(&in_tail), "{in_tail} of 10000 draws are in the tail");
    }
}
