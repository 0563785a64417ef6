//! The adapter to the consensus library. Nothing outside this folder names it, except the wire.
//!
//! `handle` is what the rest of the node sees. `store` and `machine` keep what must survive, on
//! top of `file`; `network` carries the messages, `members` plans changes of the voters, `pace`
//! lets the library's clock rest, `watch` is a channel that a simulation can repeat.

mod error;
mod file;
mod handle;
mod machine;
mod members;
mod network;
mod pace;
mod store;
mod types;
mod watch;

pub use error::OpenError;
pub use handle::{Proposal, RaftHandle, RaftOptions};
pub use machine::Machine;
pub use store::{FILE, Resumed, Store, StoreOwner};
pub use types::{RaftNode, TypeConfig};
pub use watch::OrderedWatch;
