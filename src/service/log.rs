//! What a node says to its standard error: one line for each thing that happened.

use std::io;

use tracing::Level;
use tracing::subscriber::set_global_default;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// From here on what is logged is written as configured. A second call changes nothing.
pub fn install(log: LogConfig) {
    let level = match log.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_span_events(FmtSpan::NONE);
    let _ = match log.format {
        LogFormat::Text => set_global_default(lines.with_ansi(false).with_target(false).finish()),
        LogFormat::Json => set_global_default(lines.json().flatten_event(true).finish()),
    };
}
