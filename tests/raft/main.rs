//! Consensus as the house uses it: its store, its members, and the channel that it waits on.
#![allow(clippy::unwrap_used, reason = "a test may end where it stands")]

mod cluster;
mod disk;
mod runtime;
mod storage;
mod watch;
