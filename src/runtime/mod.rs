//! The node: the loop that feeds the core with events and executes what it asks for.

pub mod raft;
pub mod wire;
