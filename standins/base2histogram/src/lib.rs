//! Stands in for the histogram that openraft keeps statistics of itself with.
//!
//! The real one computes tables of 27 MB when the first Raft is created, for every resolution that
//! it knows, and openraft creates histograms whether or not its statistics are compiled in. A node
//! is to take 20 MB in all, and nobody asks for those statistics, so what is recorded is counted
//! and no more. `[patch.crates-io]` in the workspace puts this crate in its place; the day openraft
//! makes them only where they are wanted, both go.

use std::fmt;
use std::marker::PhantomData;

/// Counts what is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    samples: u64,
    labelled: PhantomData<T>,
}

/// How many samples there were. Which ones is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after what they would be")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

/// An empty chart.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsciiChart;

impl<T> Histogram<T> {
    /// Without samples.
    #[must_use]
    pub fn new() -> Self {
        Self { samples: 0, labelled: PhantomData }
    }

    /// One more.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// So many more.
    pub fn record_n(&mut self, _value: u64, times: u64) {
        self.samples = self.samples.saturating_add(times);
    }

    /// Their number.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats { samples: self.samples, ..PercentileStats::default() }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples", self.samples)
    }
}

impl AsciiChart {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    /// Still nothing.
    #[must_use]
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_counted() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(7);
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentile_stats().samples, 2);
    }
}
