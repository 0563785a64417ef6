//! **I7 nothing destroyed.** No data directory holding commits that its replacement lacks is
//! removed or overwritten; it is set aside, and the operator is told which WAL range diverged.
//!
//! Checked on every replacement or removal of a data directory: where rows were lost by it, the old
//! directory was set aside. What the operator is told is checked by scenarios, not here.

use std::time::Duration;

use pg_replica::ids::NodeId;

use crate::witness::Row;

use super::{Findings, Invariant};

/// The check keeps nothing: each replacement is judged by itself.
pub(super) fn directory_replaced(
    at: Duration,
    server: NodeId,
    lost: &[Row],
    kept_aside: bool,
    findings: &mut Findings,
) {
    if let Some(first) = lost.first()
        && !kept_aside
    {
        findings.broken(
            Invariant::I7,
            at,
            format!(
                "{server} replaced its data directory without setting aside {} rows that only it \
                 had; one is {first:?}",
                lost.len()
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_broken, assert_kept, ms, rows};
    use super::*;

    fn replaced(lost: &[u64], kept_aside: bool) -> Findings {
        let mut findings = Findings::default();
        directory_replaced(ms(1), NodeId(3), &rows(lost), kept_aside, &mut findings);
        findings
    }

    #[test]
    fn a_diverged_directory_that_is_set_aside_is_right() {
        assert_kept(&replaced(&[1, 2], true));
    }

    #[test]
    fn a_directory_that_holds_nothing_of_its_own_may_go() {
        assert_kept(&replaced(&[], false));
    }

    #[test]
    fn a_diverged_directory_that_is_wiped_is_seen() {
        assert_broken(&replaced(&[1, 2], false), Invariant::I7, "without setting aside 2 rows");
    }
}
