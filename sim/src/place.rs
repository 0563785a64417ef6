//! Who is where: the ends of every link.

use std::fmt;

use pg_replica::ids::NodeId;

/// A place on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A member's machine.
    Host(NodeId),
    /// A client's machine.
    Client(u32),
    /// Where orders come from.
    Operator,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(node) => write!(f, "{node}"),
            Self::Client(number) => write!(f, "client{number}"),
            Self::Operator => f.write_str("operator"),
        }
    }
}
