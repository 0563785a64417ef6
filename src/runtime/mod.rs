//! The node: the loop that feeds the core with events and executes what it asks for.

use crate::env::{Env, Network};

pub mod raft;
pub mod wire;

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
