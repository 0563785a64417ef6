//! Why consensus could not be started on a member, in words for whoever runs it.

use crate::env::DiskError;
use crate::ids::NodeId;

/// Why the store was refused. Nothing was written to it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file could not be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file could not be read or written.
    #[error("cannot use {file}: {cause}")]
    Unusable {
        /// The file's name.
        file: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is not what was once written.
    #[error(
        "{file} is damaged ({cause}); remove this member from the cluster, clear its directory \
         and add it again under a new number"
    )]
    Damaged {
        /// The file's name.
        file: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// It belongs to another cluster.
    #[error(
        "the store was written by cluster {found:?} and this node is configured for {expected:?}; \
         correct the configuration or use another directory"
    )]
    OtherCluster {
        /// What it belongs to.
        found: String,
        /// What the node is configured for.
        expected: String,
    },
    /// It belongs to another member.
    #[error(
        "the store was written by member {found} and this node is configured as {expected}; \
         correct the configuration or use another directory"
    )]
    OtherNode {
        /// Whose it is.
        found: NodeId,
        /// What the node is configured as.
        expected: NodeId,
    },
    /// A later version wrote it.
    #[error("the store was written by a later version: {0}")]
    Newer(String),
    /// Everything was read, and consensus still did not start.
    #[error("consensus did not start: {0}")]
    Failed(String),
}
