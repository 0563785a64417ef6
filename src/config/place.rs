//! Where a value comes from, and the one sentence that says what is wrong with it.

use std::fmt;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a file.
    Line {
        /// The file, as the user named it.
        file: String,
        /// From one.
        line: usize,
        /// From one.
        column: usize,
    },
    /// A file as a whole: what is wrong is that something is missing.
    File(String),
    /// An environment variable.
    Variable(String),
    /// `--set` with this key.
    Flag(String),
    /// The command line as a whole.
    CommandLine,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::File(file) => f.write_str(file),
            Self::Variable(name) => write!(f, "the variable {}", shortened(name)),
            Self::Flag(key) => write!(f, "--set {}", shortened(key)),
            Self::CommandLine => f.write_str("the command line"),
        }
    }
}

/// What is wrong with a configuration: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct BadConfig {
    /// Where.
    pub place: Place,
    /// One sentence, with the remedy.
    pub what: String,
}

impl BadConfig {
    /// An error at a place.
    #[must_use]
    pub fn at(place: Place, what: impl Into<String>) -> Self {
        Self { place, what: what.into() }
    }
}

/// How much of a user's own text a sentence repeats.
const QUOTED_MAX: usize = 60;

/// A user's text within a sentence: on one line, and not longer than one reads.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", shortened(text))
}

fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_MAX).flat_map(char::escape_debug).collect();
    if text.chars().count() > QUOTED_MAX {
        shown.push('…');
    }
    shown
}
