//! Randomness.

/// A source of random numbers, seeded by the operating system or by the simulation's seed.
pub trait Entropy: Clone + Send + Sync + 'static {
    /// Sixty-four fresh bits.
    fn next_u64(&self) -> u64;
}
