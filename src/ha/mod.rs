//! The pure core.
mod action;
mod agent;
mod coordinator;
mod desire;
mod election;
mod event;
mod fencing;
mod lease;
mod membership;
mod rejoin;
mod report;
mod role;
mod state;
mod step;
mod sync;
mod timers;

pub use action::{Action, Verb};
pub use event::{Event, Finished, HeartbeatAnswer, RaftView, RequestId};
pub use lease::Lease;
pub use report::{ReceiverReport, Report};
pub use role::Role;
pub use state::Core;
