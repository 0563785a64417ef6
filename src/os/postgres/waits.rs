//! Whom commits wait for, in the words of the server's files and of its sessions.

use crate::env::SyncNames;
use crate::ids::Epoch;

use super::plan::{name_in, named};

/// What says that commits wait for a standby which never comes.
const FOR_EVER: &str = "ANY 1 (\"pg_replica_nobody\")";

/// `synchronous_standby_names`, and the epoch that stands beside it: where commits wait for nobody
/// no name tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) names: String,
    pub(super) epoch: String,
}

impl Waits {
    /// For those of a configuration.
    pub(super) fn of(sync: &SyncNames) -> Self {
        let names: Vec<String> =
            Self::bearers(sync).iter().map(|name| format!("\"{name}\"")).collect();
        let names = if names.is_empty() {
            String::new()
        } else {
            format!("ANY {} ({})", sync.confirmations, names.join(", "))
        };
        Self { names, epoch: sync.epoch.0.to_string() }
    }

    /// For somebody who does not exist.
    pub(super) fn for_ever() -> Self {
        Self { names: FOR_EVER.into(), epoch: String::new() }
    }

    /// What a standby goes by, which commits nothing, so that a promotion finds every process in
    /// the state that it will most likely have to be in: where `nobody` is waited for by the
    /// primary, nobody will be by its successor.
    pub(super) fn of_standby(nobody: bool) -> Self {
        if nobody { Self::default() } else { Self::for_ever() }
    }

    /// Whether that is somebody who does not exist.
    pub(super) fn are_for_ever(&self) -> bool {
        self.names == FOR_EVER
    }

    /// Whether commits wait for nobody.
    pub(super) fn are_for_nobody(&self) -> bool {
        self.names.is_empty()
    }

    /// The configuration that this stands for; `None` for one that is not ours.
    pub(super) fn sync(&self) -> Option<SyncNames> {
        if self.are_for_nobody() {
            let epoch = Epoch(self.epoch.parse().unwrap_or_default());
            return Some(SyncNames { epoch, ..SyncNames::default() });
        }
        let (confirmations, list) = self.names.strip_prefix("ANY ")?.split_once(" (")?;
        let confirmations = confirmations.parse().ok()?;
        let mut sync = SyncNames { confirmations, ..SyncNames::default() };
        for name in list.strip_suffix(')')?.split(", ") {
            let (node, epoch) = named(name.trim_matches('"'))?;
            sync.epoch = epoch;
            sync.standbys.insert(node);
        }
        Some(sync)
    }

    /// The names that the standbys of a configuration bear.
    pub(super) fn bearers(sync: &SyncNames) -> Vec<String> {
        if sync.confirmations == 0 {
            return Vec::new();
        }
        sync.standbys.iter().map(|node| name_in(*node, sync.epoch)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn a_configuration_is_read_back_as_it_was_written() {
        let standbys = BTreeSet::from([NodeId(2), NodeId(13)]);
        let sync = SyncNames { epoch: Epoch(7), confirmations: 1, standbys };
        let waits = Waits::of(&sync);
        assert_eq!(waits.names, "ANY 1 (\"pg_replica_n2_e7\", \"pg_replica_n13_e7\")");
        assert_eq!(waits.sync(), Some(sync));
        let nobody = SyncNames { epoch: Epoch(7), ..SyncNames::default() };
        assert_eq!(Waits::of(&nobody).sync(), Some(nobody));
        assert_eq!(Waits::default().sync(), Some(SyncNames::default()));
    }

    #[test]
    fn what_is_not_ours_stands_for_nothing() {
        assert_eq!(Waits::for_ever().sync(), None);
        for names in ["*", "FIRST 1 (a)", "ANY 1 (a)"] {
            assert_eq!(Waits { names: names.into(), epoch: "1".into() }.sync(), None, "{names}");
        }
    }
}
