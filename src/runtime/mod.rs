//! The node: the loop that feeds the core with events and executes what it asks for.
//!
//! `node` is the loop, `execute` carries actions out, `verbs` is the one lane to Postgres, `serve`
//! answers other members, `founding` brings a first cluster into being. None of them decides
//! anything: what depends on the protocol is in `ha`, what depends on the machine is behind `env`.

use crate::env::{Env, Network};

mod config;
mod execute;
mod founding;
mod node;
mod observer;
pub mod raft;
mod serve;
mod verbs;
pub mod wire;

pub use config::{FoundingMember, NodeConfig, SNAPSHOT_EVERY};
pub use founding::FoundingError;
pub use node::{RunError, run};
pub use observer::{Observer, Unobserved};

/// An environment whose network carries what members say to each other.
///
/// It adds nothing to [`Env`] but this one equation, and everything that satisfies it is one.
pub trait NodeEnv:
    Env<
    Network: Network<
        Request = wire::Request<<Self as Env>::Rt>,
        Response = wire::Response<<Self as Env>::Rt>,
    >,
>
{
}

impl<E> NodeEnv for E where
    E: Env<
        Network: Network<
            Request = wire::Request<<E as Env>::Rt>,
            Response = wire::Response<<E as Env>::Rt>,
        >,
    >
{
}
