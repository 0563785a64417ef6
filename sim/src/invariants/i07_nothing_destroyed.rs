//! **I7 nothing destroyed.** No data directory holding commits that its replacement lacks is
//! removed or overwritten; it is set aside, and the operator is told which WAL range diverged.
//!
//! Checked on every replacement or removal of a data directory: where rows were lost by it, the old
//! directory was set aside, and the operator had been told a range of the log that holds them all.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_replica::ha::Divergence;
use pg_replica::ids::{Lsn, NodeId};

use crate::witness::Row;

use super::{Findings, Invariant};

/// What operators were told, and have not seen happen yet.
#[derive(Debug, Default)]
pub(super) struct NothingDestroyed {
    told: BTreeMap<NodeId, Divergence>,
}

/// A directory that was replaced or taken back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced<'a> {
    pub(super) server: NodeId,
    /// The rows that only it had.
    pub(super) lost: &'a [Row],
    /// The ends of the first and the last of their records.
    pub(super) span: (Lsn, Lsn),
}

impl NothingDestroyed {
    /// The last word before the deed counts.
    pub(super) fn told(&mut self, node: NodeId, divergence: Divergence) {
        self.told.insert(node, divergence);
    }

    pub(super) fn replaced(
        &mut self,
        at: Duration,
        replaced: Replaced<'_>,
        kept_aside: bool,
        findings: &mut Findings,
    ) {
        let Replaced { server, lost, span: (first_end, last_end) } = replaced;
        let told = self.told.remove(&server);
        let Some(first) = lost.first() else { return };
        if !kept_aside {
            findings.broken(
                Invariant::I7,
                at,
                format!(
                    "{server} replaced its data directory without setting aside {} rows that only \
                     it had; one is {first:?}",
                    lost.len()
                ),
            );
        }
        let holds =
            |told: &Divergence| told.from < first_end && told.to.is_none_or(|to| last_end <= to);
        if !told.as_ref().is_some_and(holds) {
            let told = told.map_or("nothing".to_owned(), |told| format!("\"{told}\""));
            findings.broken(
                Invariant::I7,
                at,
                format!(
                    "{server} replaced its data directory and with it {} rows up to {last_end}; \
                     its operator was told {told}",
                    lost.len()
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_broken, assert_kept, ms, rows};
    use super::*;

    const ALL: Divergence = Divergence { from: Lsn(100), to: Some(Lsn(160)) };

    fn replaced(lost: &[u64], kept_aside: bool, told: Option<Divergence>) -> Findings {
        let mut findings = Findings::default();
        let mut check = NothingDestroyed::default();
        if let Some(told) = told {
            check.told(NodeId(3), told);
        }
        let lost = rows(lost);
        let replaced = Replaced { server: NodeId(3), lost: &lost, span: (Lsn(120), Lsn(150)) };
        check.replaced(ms(1), replaced, kept_aside, &mut findings);
        findings
    }

    #[test]
    fn a_diverged_directory_that_is_told_of_and_set_aside_is_right() {
        assert_kept(&replaced(&[1, 2], true, Some(ALL)));
        assert_kept(&replaced(&[1, 2], true, Some(Divergence { to: None, ..ALL })));
    }

    #[test]
    fn a_directory_that_holds_nothing_of_its_own_may_go() {
        assert_kept(&replaced(&[], false, None));
    }

    #[test]
    fn a_diverged_directory_that_is_wiped_is_seen() {
        let found = replaced(&[1, 2], false, Some(ALL));
        assert_broken(&found, Invariant::I7, "without setting aside 2 rows");
    }

    #[test]
    fn a_range_that_was_never_told_or_is_too_short_is_seen() {
        assert_broken(&replaced(&[1, 2], true, None), Invariant::I7, "was told nothing");
        let short = Divergence { to: Some(Lsn(149)), ..ALL };
        assert_broken(&replaced(&[1, 2], true, Some(short)), Invariant::I7, "was told");
        let late = Divergence { from: Lsn(120), ..ALL };
        assert_broken(&replaced(&[1, 2], true, Some(late)), Invariant::I7, "was told");
    }
}
