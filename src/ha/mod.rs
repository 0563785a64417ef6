//! The pure core: the protocol and nothing else.

mod action;
mod event;
mod report;

pub use action::{Action, Verb};
pub use event::{Event, Finished, HeartbeatAnswer, RaftView, RequestId};
pub use report::{ReceiverReport, Report};
