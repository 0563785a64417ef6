//! The machine's randomness.

use crate::env::Entropy;

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn next_u64(&self) -> u64 {
        // It can fail only where the system has no generator at all, and then nothing is safe.
        getrandom::u64().expect("the operating system has a random number generator")
    }
}
