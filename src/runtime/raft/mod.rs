//! The adapter to the consensus library. Nothing outside this folder names it, except the wire.

mod types;

pub use types::{RaftNode, TypeConfig};
