//! Replication slots: what of the log is kept for whom.
//!
//! Every member keeps a slot for every other, so that whoever becomes primary still has what the
//! others lack. On a primary a slot moves by itself as its member confirms. On a standby nobody
//! streams, so the node moves it: to where the upstream's slot for the same member stands, and
//! never past the standby's own last restart point. That bound is for the former primary: a rewind
//! reads from the last checkpoint before the histories part, and a standby cannot have one later.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::ids::{Lsn, NodeId};

use super::births::parse_lsn;
use super::plan::slot_of;
use super::session::{ANSWER_DEADLINE, NoAnswer, REMOTE_DEADLINE, ask};

/// A slot for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Whether somebody streams through it.
    active: bool,
    /// From where on the log is kept; `None` where so much had to be kept that it was given up.
    from: Option<Lsn>,
    /// Whether it keeps old versions of rows from being cleaned away.
    holds_rows: bool,
}

pub(super) type Slots = BTreeMap<NodeId, Slot>;

/// From where on members need the log; `None` where that is what a rewind needs.
pub(super) type Needs = BTreeMap<NodeId, Option<Lsn>>;

/// What an upstream with these slots knows of the members' needs. It keeps nothing for itself, and
/// may have to be rewound one day.
pub(super) fn needs(upstream: &Slots, itself: Option<NodeId>) -> Needs {
    let kept = upstream.iter().map(|(node, slot)| (*node, slot.from));
    kept.chain(itself.map(|node| (node, None))).collect()
}

/// What is to be done about the slot for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Create(NodeId),
    Drop(NodeId),
    Advance(NodeId, Lsn),
}

/// The slots of the server at the other end, as far as they are members'.
pub(super) async fn of(client: &Client) -> Result<Slots, NoAnswer> {
    const SLOTS: &str = "select slot_name::text, active, \
         case when wal_status <> 'lost' then restart_lsn::text end, \
         xmin is not null or catalog_xmin is not null \
         from pg_replication_slots where slot_type = 'physical'";
    let rows = ask(client.query(SLOTS, &[]), REMOTE_DEADLINE).await?;
    let slot = |row: &tokio_postgres::Row| {
        let member = member_of(row.get(0))?;
        let from = row.get::<_, Option<&str>>(2).and_then(parse_lsn);
        Some((member, Slot { active: row.get(1), from, holds_rows: row.get(3) }))
    };
    Ok(rows.iter().filter_map(slot).collect())
}

/// Where the last restart point of the standby at the other end begins.
pub(super) async fn restart_point(client: &Client) -> Result<Lsn, NoAnswer> {
    const POINT: &str = "select redo_lsn::text from pg_control_checkpoint()";
    let row = ask(client.query_one(POINT, &[]), ANSWER_DEADLINE).await?;
    Ok(parse_lsn(row.get(0)).unwrap_or_default())
}

/// What a primary has to do: nobody but its members moves its slots.
pub(super) fn deeds_of_primary(present: &Slots, members: &BTreeSet<NodeId>) -> Vec<Deed> {
    let mut deeds = drops(present, members);
    for member in members {
        match present.get(member) {
            None => deeds.push(Deed::Create(*member)),
            Some(Slot { active: false, from: None, .. }) => {
                deeds.extend([Deed::Drop(*member), Deed::Create(*member)]);
            }
            Some(_) => {}
        }
    }
    deeds
}

/// What a standby has to do whose upstream knows of these needs, and whose last restart point is
/// there.
pub(super) fn deeds_of_standby(
    present: &Slots,
    members: &BTreeSet<NodeId>,
    needs: &Needs,
    restart_point: Lsn,
) -> Vec<Deed> {
    let mut deeds = drops(present, members);
    for member in members {
        // Of whom the upstream knows nothing yet nobody knows what it needs.
        let needed = needs.get(member).map(|from| from.unwrap_or(restart_point));
        let wanted = needed.map(|from| from.min(restart_point));
        match present.get(member) {
            None => deeds.push(Deed::Create(*member)),
            Some(Slot { active: true, .. }) => {}
            // A new one begins at the restart point, which is better than later or never. And one
            // that is left from when this member was primary holds rows that nobody reads.
            Some(slot) if slot.holds_rows || slot.from.is_none_or(|at| at > restart_point) => {
                deeds.extend([Deed::Drop(*member), Deed::Create(*member)]);
            }
            Some(slot) => {
                let onward = wanted.filter(|wanted| slot.from.is_some_and(|at| at < *wanted));
                deeds.extend(onward.map(|to| Deed::Advance(*member, to)));
            }
        }
    }
    deeds
}

/// A slot of somebody who is no member any more would keep the log for ever.
fn drops(present: &Slots, members: &BTreeSet<NodeId>) -> Vec<Deed> {
    let idle = present.iter().filter(|(_, slot)| !slot.active);
    idle.filter(|(node, _)| !members.contains(node)).map(|(node, _)| Deed::Drop(*node)).collect()
}

/// Does it, at the server at the other end.
pub(super) async fn perform(client: &Client, deed: Deed) -> Result<(), NoAnswer> {
    const DROP: &str = "select pg_drop_replication_slot(slot_name) \
         from pg_replication_slots where slot_name = $1 and not active";
    const ADVANCE: &str = "select pg_replication_slot_advance(slot_name, ($2::text)::pg_lsn) \
         from pg_replication_slots where slot_name = $1 and not active";
    match deed {
        Deed::Create(node) => claim(client, node).await,
        Deed::Drop(node) => {
            ask(client.execute(DROP, &[&slot_of(node)]), ANSWER_DEADLINE).await.map(drop)
        }
        Deed::Advance(node, to) => {
            let to = to.to_string();
            ask(client.execute(ADVANCE, &[&slot_of(node), &to]), ANSWER_DEADLINE).await.map(drop)
        }
    }
}

/// From now on the server at the other end keeps the log for this member.
pub(super) async fn claim(client: &Client, node: NodeId) -> Result<(), NoAnswer> {
    const EXISTS: &str = "select from pg_replication_slots where slot_name = $1";
    // One question, and not two: the other end may be far away.
    const CREATE: &str = "select pg_create_physical_replication_slot($1, true) \
                          where not exists (select from pg_replication_slots where slot_name = $1)";
    let slot = slot_of(node);
    match ask(client.execute(CREATE, &[&slot]), REMOTE_DEADLINE).await {
        Ok(_) => Ok(()),
        // Two members may want the same at once: the server's own node, and the one it is for.
        Err(why) => match ask(client.query_opt(EXISTS, &[&slot]), REMOTE_DEADLINE).await? {
            Some(_) => Ok(()),
            None => Err(why),
        },
    }
}

fn member_of(slot: &str) -> Option<NodeId> {
    let number: u64 = slot.strip_prefix("pg_replica_n")?.parse().ok()?;
    (slot_of(NodeId(number)) == slot).then_some(NodeId(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn slots(all: &[(u64, bool, Option<u64>)]) -> Slots {
        let slot = |(node, active, from): &(u64, bool, Option<u64>)| {
            (NodeId(*node), Slot { active: *active, from: from.map(Lsn), holds_rows: false })
        };
        all.iter().map(slot).collect()
    }

    #[test]
    fn a_slot_is_known_by_its_name() {
        assert_eq!(member_of(&slot_of(NodeId(12))), Some(NodeId(12)));
        for other in ["pg_replica_n", "pg_replica_n01", "pg_replica_n1_e2", "backup", ""] {
            assert_eq!(member_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_primary_keeps_for_members_and_for_nobody_else() {
        let present = slots(&[(2, true, Some(90)), (3, false, Some(10)), (4, false, Some(5))]);
        let deeds = deeds_of_primary(&present, &members(&[2, 3, 5]));
        assert_eq!(deeds, [Deed::Drop(NodeId(4)), Deed::Create(NodeId(5))]);
    }

    #[test]
    fn a_slot_that_was_given_up_is_begun_anew() {
        let present = slots(&[(2, false, None), (3, true, None)]);
        let anew = [Deed::Drop(NodeId(2)), Deed::Create(NodeId(2))];
        assert_eq!(deeds_of_primary(&present, &members(&[2, 3])), anew);
        let deeds = deeds_of_standby(&present, &members(&[2, 3]), &Needs::new(), Lsn(50));
        assert_eq!(deeds, anew);
    }

    /// 1 is the primary, which has no slot of its own; 3 is behind, and 4 ahead of this standby; 5
    /// is not known there yet.
    #[test]
    fn a_standby_keeps_what_its_upstream_keeps_and_what_a_rewind_may_need() {
        let upstream = slots(&[(3, false, Some(30)), (4, true, Some(80))]);
        let needs = needs(&upstream, Some(NodeId(1)));
        let all = [1, 3, 4, 5].map(|node| (node, false, Some(20)));
        let deeds = deeds_of_standby(&slots(&all), &members(&[1, 3, 4, 5]), &needs, Lsn(50));
        let to = |node, lsn| Deed::Advance(NodeId(node), Lsn(lsn));
        assert_eq!(deeds, [to(1, 50), to(3, 30), to(4, 50)]);
    }

    /// One of a former primary may: its standbys told it what they read.
    #[test]
    fn no_slot_of_a_standby_keeps_rows_from_being_cleaned_away() {
        let mut present = slots(&[(3, false, Some(10))]);
        present.get_mut(&NodeId(3)).unwrap().holds_rows = true;
        let needs = needs(&slots(&[(3, true, Some(60))]), None);
        let deeds = deeds_of_standby(&present, &members(&[3]), &needs, Lsn(50));
        assert_eq!(deeds, [Deed::Drop(NodeId(3)), Deed::Create(NodeId(3))]);
    }

    #[test]
    fn a_slot_moves_back_to_the_restart_point_and_otherwise_only_onward() {
        // A slot past the restart point is left from when this member was primary.
        let present = slots(&[(1, false, Some(50)), (3, false, Some(10)), (4, false, Some(70))]);
        let needs = needs(&slots(&[(3, false, Some(10)), (4, false, Some(20))]), None);
        let deeds = deeds_of_standby(&present, &members(&[1, 3, 4]), &needs, Lsn(50));
        assert_eq!(deeds, [Deed::Drop(NodeId(4)), Deed::Create(NodeId(4))]);
    }
}
