//! One line on standard error that tells how far a tool is.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use super::now;

/// A line that is written again and again, or now and then a new one where nobody watches.
pub(super) struct Progress {
    told: bool,
    terminal: bool,
    shown: Instant,
}

impl Progress {
    /// A line that is shown at all where it is `told`.
    pub(super) fn new(told: bool) -> Self {
        Self { told, terminal: stderr().is_terminal(), shown: now() }
    }

    /// Shows `text`, unless the last one was only just shown.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        let every = Duration::from_millis(if self.terminal { 200 } else { 10_000 });
        if !self.told || now().saturating_duration_since(self.shown) < every {
            return;
        }
        self.shown = now();
        let text = text();
        if self.terminal {
            eprint!("\r\x1b[K{text}");
            // Progress that cannot be shown is no reason to stop.
            let _ = stderr().flush();
        } else {
            eprintln!("{text}");
        }
    }

    /// Makes room for what is said next.
    pub(super) fn end_line(&self) {
        if self.told && self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
