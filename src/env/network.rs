//! Requests and responses between members.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::ids::{Incarnation, NodeId};

/// The other side of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub node: NodeId,
    /// Where it listens, in the transport's own notation.
    pub address: String,
    /// The store that it is expected to run on; zero when the caller cannot know it yet.
    pub incarnation: Incarnation,
}

/// Why a call brought no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Nothing was sent, or the other side refused the connection.
    #[error("{0} cannot be reached")]
    Unreachable(NodeId),
    /// The deadline passed. The request may have been carried out.
    #[error("{0} did not answer in time")]
    TimedOut(NodeId),
    /// The machine at that address runs on another store than expected: it lost its disk, or the
    /// address belongs to somebody else now.
    #[error(
        "{0} answers with another identity than the cluster knows; remove the member and add it \
         under a new number"
    )]
    WrongIncarnation(NodeId),
}

impl NetworkError {
    /// Whether the request may have had its effect although no response came.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::TimedOut(_))
    }
}

/// Where the response to one request goes. Dropped unused, the caller sees a timeout.
pub struct ReplyTo<R>(Box<dyn FnOnce(R) + Send>);

impl<R> ReplyTo<R> {
    /// Wraps the way back.
    pub fn new(send: impl FnOnce(R) + Send + 'static) -> Self {
        Self(Box::new(send))
    }

    /// Sends the response.
    pub fn send(self, response: R) {
        (self.0)(response);
    }
}

impl<R> fmt::Debug for ReplyTo<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyTo")
    }
}

/// One request as it arrives.
#[derive(Debug)]
pub struct Incoming<Q, R> {
    /// Who sent it.
    pub from: NodeId,
    /// What was asked.
    pub request: Q,
    /// The way back.
    pub reply: ReplyTo<R>,
}

/// The network as one member sees it. Messages may be lost, delayed, reordered and duplicated;
/// nothing above relies on anything better.
pub trait Network: Clone + Send + Sync + 'static {
    /// What members ask each other.
    type Request: Send + 'static;
    /// What they answer.
    type Response: Send + 'static;

    /// Sends one request and waits for its response, at most until `deadline` from now. The
    /// request may be carried out whatever the error says, except for `Unreachable` and
    /// `WrongIncarnation`. Cancelling gives up waiting and nothing else.
    fn call(
        &self,
        peer: &Peer,
        request: Self::Request,
        deadline: Duration,
    ) -> impl Future<Output = Result<Self::Response, NetworkError>> + Send;

    /// The next request to this member; `None` when the network was shut down. `incarnation` is
    /// the store that this member runs on: requests meant for another one are refused before they
    /// get here.
    fn accept(
        &self,
        incarnation: Incarnation,
    ) -> impl Future<Output = Option<Incoming<Self::Request, Self::Response>>> + Send;
}
