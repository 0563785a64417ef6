//! Lays what was seen before the simulator's oracle, in the order of its times, after the run.
//!
//! The oracle is told the same facts as in the simulator, from other sources: what the members
//! agreed on from their own stores, who became primary with which rows and what was acknowledged
//! from the side channels and the clients. Leases are the one thing that nobody can see from
//! outside: each is taken to have ended when the next holder was elected because it had; one lease
//! later, where the election needed no clock; and one lease after a holder that stood still was
//! frozen, where it lost its epoch meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_replica::control::{Applied, Clearance, Command, ControlState, OrderOutcome};
use pg_replica::env::{SyncNames, TimelineBirth};
use pg_replica::ha::RaftView;
use pg_replica::ids::{CommandId, Epoch, Lsn, NodeId, SystemId, Term, Timeline};
use sim::invariants::{GUARD_WAKES_WITHIN, Oracle, OrderAnswer, Promise};
use sim::report::{Measured, Violation};
use sim::scenario::{Overlap, Plan};
use sim::since::Since;
use sim::streams::lock;
use sim::witness::{Acknowledged, Fact, Row, Witness};
use sim::workload::{Truth, Untruth, Workload, miscounted, untruths};

use super::sight::Last;
use super::tale::{Ack, Frozen, Led, Shown};
use super::{World, remains};
use crate::slack;
use crate::subject::{Entry, Record};

/// One thing that happened. At the same instant the earlier kind comes first.
#[derive(Clone, Debug)]
enum Item {
    Applied(Entry),
    Began(Primacy, Vec<Row>),
    Thawed(Frozen),
    Told(Acknowledged),
    Shown(Epoch, Shown),
    Led(Led),
    StoreLost(NodeId),
    Sent(CommandId),
    FaultsOver,
    Answered(CommandId, OrderAnswer),
}

/// A primacy whose birth is on record.
#[derive(Clone, Debug)]
struct Primacy {
    epoch: Epoch,
    holder: NodeId,
    birth: TimelineBirth,
    elected: Duration,
    born: Duration,
    history: Vec<TimelineBirth>,
    system: SystemId,
}

/// A plan with what a real machine is granted.
pub(super) fn with_slack(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let expect = &mut plan.expect;
    for bound in [&mut expect.writable_within, &mut expect.writable_after].into_iter().flatten() {
        *bound += slack::WRITABLE;
    }
    if let Overlap::AtMost(most) = &mut expect.overlap {
        *most += slack::OVERLAP;
    }
    // Most rare states can be seen from inside a model alone.
    expect.sometimes.clear();
    plan
}

/// Judges the run, and completes what was measured.
pub(super) async fn settle(
    world: &World,
    clients: &Workload,
    measured: &mut Measured,
    last: Option<Last>,
) -> Vec<Violation> {
    let began = *lock(&world.began);
    let mut found = Vec::new();
    let mut tell = |invariant: &str, what: String| {
        found.push(Violation { invariant: invariant.into(), at: measured.ended.into(), what });
    };
    for line in world.subject.panics(&world.hosts_ever()) {
        tell("panic", line);
    }
    let lost_disks = lock(&world.tale).disks_lost.iter().map(|(node, _)| *node).collect();
    let recorded = world.subject.record(world.hosts_ever(), lost_disks, world.wall_at_start());
    let Record { entries, wrongs } = match recorded.await {
        Ok(record) => record,
        Err(why) => {
            tell(super::LABORATORY, why);
            return found;
        }
    };
    let otherwise = entries.iter().filter_map(said_otherwise).map(|what| ("I8", what));
    wrongs.into_iter().chain(otherwise).for_each(|(invariant, what)| tell(invariant, what));
    let mut primacies = primacies(&entries);
    primacies.extend(unrecorded(world, &entries, &primacies));
    primacies.sort_by_key(|primacy| primacy.epoch);
    let (told, homeless) = acknowledgements(world, &primacies);
    if let Some((ack, count)) = homeless {
        let what = format!(
            "{} acknowledged row {:?} on {}, which is nobody's on record, and {count} such rows in \
             all",
            ack.server, ack.row, ack.timeline
        );
        tell("I2", what);
    }
    let begun = beginnings(world, &primacies, last.as_ref());
    measured.acknowledged = told.len() as u64;
    let first_words = first_words(&told);
    let frozen = lock(&world.tale).frozen.clone();
    measured.overlap = overlap(&told, &begun, &frozen);
    let newest = entries.iter().max_by_key(|entry| entry.state.version);
    let newest = newest.map(|entry| entry.state.clone()).unwrap_or_default();
    let longest = Duration::from_millis(newest.settings.longest_lease_ms);
    let mut leases = leases(&elections(&entries), &frozen, longest, slack::answers(&world.plan));
    wait_for_late_words(&mut leases, &told, &begun);
    let items = in_order(world, told, shown(world, &primacies), begun, entries, &frozen, &newest);

    let rows: Option<Vec<Row>> =
        last.as_ref().map(|last| last.rows.iter().map(|(row, _)| *row).collect());
    let lost = rows.as_ref().map(|rows| lost(world, rows)).unwrap_or_default();
    if let Some(what) = remains::destroyed(&*world.subject, &lost) {
        tell("I7", what);
    }
    let held = last.as_ref().zip(rows.as_deref());
    let held = held.map(|(last, rows)| (last.node, newest.primacy.epoch, rows));
    let oracle = ask(world, items, &leases, held);

    let untrue = untrue(world, clients, rows.as_deref(), &first_words);
    let summary = oracle.summary();
    measured.last_primary = last.map(|last| last.node);
    measured.late = summary.late_acknowledgements;
    measured.lost = summary.lost_rows;
    measured.failovers = (primacies.len() as u64).saturating_sub(1);
    measured.sometimes = oracle.reached().iter().map(|(state, _)| state).collect();
    let findings = oracle.findings();
    let mut all: Vec<Violation> =
        findings.violations.iter().map(|violation| Violation::found(violation, began)).collect();
    all.extend(untrue.into_iter().map(|Untruth { at, what }| {
        let at = Since::of(at, began);
        Violation { invariant: "client".into(), at, what }
    }));
    all.extend(found);
    all
}

/// A member that says of an entry what it cannot have come to.
fn said_otherwise(entry: &Entry) -> Option<String> {
    let Entry { node, index, command, applied, otherwise, .. } = entry;
    let words = otherwise.as_ref()?;
    Some(format!("entry {index} is `{command}` ({applied}), and {node} says `{words}`"))
}

/// What clients were told and is not so; in the end there are these rows.
fn untrue(
    world: &World,
    clients: &Workload,
    rows: Option<&[Row]>,
    first_words: &[Duration],
) -> Vec<Untruth> {
    let truth = Truth::of(&world.plan);
    let counted = lock(&world.tale).counted;
    // From the count on nobody noted who acknowledged.
    let first_words: Vec<Duration> = first_words.iter().copied().chain(counted).collect();
    clients.history(|history| {
        let count = rows.zip(counted).map(|(rows, at)| miscounted(history, truth, rows, at));
        let mut untrue = count.unwrap_or_default();
        untrue.extend(untruths(history, None, truth, &first_words));
        untrue
    })
}

/// When each primacy acknowledged first.
fn first_words(told: &[Acknowledged]) -> Vec<Duration> {
    let mut first: BTreeMap<Epoch, Duration> = BTreeMap::new();
    for ack in told {
        let known = first.entry(ack.epoch).or_insert(ack.at);
        *known = ack.at.min(*known);
    }
    first.into_values().collect()
}

/// What was acknowledged, and is not among the rows in the end. A machine whose disk was lost has
/// to answer for none of it.
fn lost(world: &World, rows: &[Row]) -> Vec<Ack> {
    let rows: BTreeSet<&Row> = rows.iter().collect();
    let tale = lock(&world.tale);
    let answers = |server| tale.disks_lost.iter().all(|(node, _)| *node != server);
    let is_lost = |ack: &&Ack| !rows.contains(&ack.row) && answers(ack.server);
    tale.acks.iter().filter(is_lost).cloned().collect()
}

/// Everything that happened, in the order in which the oracle is told.
fn in_order(
    world: &World,
    told: Vec<Acknowledged>,
    shown: Vec<(Epoch, Shown)>,
    begun: Vec<(Primacy, Vec<Row>)>,
    entries: Vec<Entry>,
    frozen: &[Frozen],
    newest: &ControlState,
) -> Vec<(Duration, Item)> {
    let faults_over = *lock(&world.began) + world.plan.duration;
    let mut items = vec![(faults_over, Item::FaultsOver)];
    for (primacy, rows) in begun {
        // Nobody sees the instant; it is before the first commit.
        let first = told.iter().find(|ack| ack.epoch == primacy.epoch);
        let at = first.map_or(primacy.born, |ack| ack.at.min(primacy.born));
        items.push((at, Item::Began(primacy, rows)));
    }
    items.extend(told.into_iter().map(|ack| (ack.at, Item::Told(ack))));
    items.extend(shown.into_iter().map(|(epoch, shown)| (shown.at, Item::Shown(epoch, shown))));
    let tale = lock(&world.tale);
    items.extend(tale.led.iter().map(|led| (led.at, Item::Led(*led))));
    items.extend(tale.disks_lost.iter().map(|(node, at)| (*at, Item::StoreLost(*node))));
    drop(tale);
    items.extend(orders(world, newest));
    items.extend(frozen.iter().flat_map(|frozen| thaws(*frozen)));
    items.extend(entries.into_iter().map(|entry| (entry.at, Item::Applied(entry))));
    items.sort_by_key(|(at, item)| (*at, rank(item)));
    items
}

/// Tells the oracle everything, and the end of it.
fn ask(
    world: &World,
    items: Vec<(Duration, Item)>,
    leases: &BTreeMap<Epoch, Duration>,
    held: Option<(NodeId, Epoch, &[Row])>,
) -> Oracle {
    let clock = Arc::new(AtomicU64::new(0));
    let oracle = oracle(&clock);
    for (at, item) in items {
        clock.store(nanos(at), Ordering::Relaxed);
        feed(&oracle, item, leases);
    }
    clock.store(nanos(world.now()), Ordering::Relaxed);
    oracle.finish(held, lock(&world.sight).recovered);
    oracle
}

fn oracle(clock: &Arc<AtomicU64>) -> Oracle {
    let clock = clock.clone();
    Oracle::new(Promise { commit_fence: false }, move || {
        Duration::from_nanos(clock.load(Ordering::Relaxed))
    })
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

fn rank(item: &Item) -> u32 {
    match item {
        Item::Applied(_) => 0,
        Item::Began(..) => 1,
        Item::Thawed(_) => 2,
        Item::Told(_) => 3,
        Item::Shown(..) => 4,
        Item::Led(_) => 5,
        Item::StoreLost(_) => 6,
        Item::Sent(_) => 7,
        Item::FaultsOver => 8,
        Item::Answered(..) => 9,
    }
}

fn feed(oracle: &Oracle, item: Item, leases: &BTreeMap<Epoch, Duration>) {
    match item {
        Item::Applied(entry) => {
            let Entry { node, index, command, applied, state, .. } = entry;
            if let Command::Elect { holder, .. } = &command
                && applied == Applied::Done
            {
                let epoch = state.primacy.epoch;
                let until = leases.get(&epoch).copied().unwrap_or(Duration::MAX);
                oracle.lease(*holder, epoch, until);
            }
            oracle.control(node, &state);
            oracle.committed(node, index, &command, &applied);
        }
        Item::Began(primacy, rows) => oracle.fact(Fact::BecamePrimary {
            server: primacy.holder,
            epoch: primacy.epoch,
            history: primacy.history,
            system: primacy.system,
            rows,
        }),
        Item::Thawed(Frozen { node, since, .. }) => oracle.thawed(node, since, false),
        Item::Told(ack) => oracle.fact(Fact::Acknowledged(ack)),
        Item::Shown(epoch, shown) => oracle.fact(Fact::Read {
            server: shown.server,
            epoch,
            upto: Lsn::default(),
            unacknowledged: shown.rows,
            sync: shown.sync,
        }),
        Item::Led(Led { node, term, leader, .. }) => {
            let (term, leads) = (Term(term), leader == node);
            let view = RaftView { term, leader: Some(leader), leads, ..RaftView::default() };
            oracle.raft(node, &view);
        }
        Item::StoreLost(node) => oracle.store_lost(node),
        Item::Sent(id) => oracle.order_sent(id),
        Item::FaultsOver => oracle.faults_over(),
        Item::Answered(id, answer) => oracle.order_answered(id, &answer),
    }
}

/// Every primacy whose holder became primary, in order.
fn primacies(entries: &[Entry]) -> Vec<Primacy> {
    let mut elected: BTreeMap<Epoch, Duration> = BTreeMap::new();
    let mut known: BTreeMap<Epoch, Primacy> = BTreeMap::new();
    for entry in entries {
        let state = &entry.state;
        let epoch = state.primacy.epoch;
        elected.entry(epoch).or_insert(entry.at);
        let (Some(record), Some(system)) = (state.timelines.get(&epoch), state.system) else {
            continue;
        };
        let began = elected.get(&epoch).copied().unwrap_or(entry.at);
        known.entry(epoch).or_insert_with(|| Primacy {
            epoch,
            holder: record.holder,
            birth: record.birth,
            elected: began,
            born: entry.at,
            history: state.lineage.clone(),
            system,
        });
    }
    known.into_values().collect()
}

/// Whoever became primary and lost its epoch before that was on record: it served within its lease,
/// and its timeline is known from its server alone.
fn unrecorded(world: &World, entries: &[Entry], recorded: &[Primacy]) -> Vec<Primacy> {
    let mut elections: BTreeMap<Epoch, &Entry> = BTreeMap::new();
    for entry in entries {
        elections.entry(entry.state.primacy.epoch).or_insert(entry);
    }
    let tale = lock(&world.tale);
    let its = |(server, timeline): (NodeId, Timeline)| {
        let known = |p: &Primacy| p.holder == server && p.birth.timeline == timeline;
        if recorded.iter().any(known) {
            return None;
        }
        let mut acks = tale.acks.iter();
        let first = acks.find(|ack| (ack.server, ack.timeline) == (server, timeline))?;
        let elected = elections.values().rev().find(|entry| {
            let primacy = &entry.state.primacy;
            let born = recorded.iter().any(|p| p.epoch == primacy.epoch);
            primacy.holder == Some(server) && !born && entry.at <= first.at
        })?;
        let epoch = elected.state.primacy.epoch;
        let begins = tale.branches.get(&(server, timeline)).copied().unwrap_or(first.lsn);
        let birth = TimelineBirth { timeline, born: epoch, begins };
        let mut history = elected.state.lineage.clone();
        history.push(birth);
        Some(Primacy {
            epoch,
            holder: server,
            birth,
            elected: elected.at,
            born: first.at,
            history,
            system: elected.state.system?,
        })
    };
    tale.beginnings.keys().copied().filter_map(its).collect()
}

/// What was acknowledged, with the epochs of its timelines; and the first row, and how many, that
/// were acknowledged on a timeline which is nobody's.
fn acknowledgements(
    world: &World,
    primacies: &[Primacy],
) -> (Vec<Acknowledged>, Option<(Ack, usize)>) {
    let mut acks = lock(&world.tale).acks.clone();
    acks.sort_by_key(|ack| ack.at);
    let (mut told, mut homeless) = (Vec::new(), Vec::new());
    resolve_held(&mut acks);
    for ack in acks {
        let its = |p: &&Primacy| {
            p.holder == ack.server && p.birth.timeline == ack.timeline && p.elected <= ack.at
        };
        match primacies.iter().rev().find(its) {
            None => homeless.push(ack),
            Some(Primacy { epoch, birth, .. }) => {
                let mut sync = ack.sync;
                sync.epoch = *epoch;
                let (epoch, birth) = (*epoch, *birth);
                let Ack { at, server, lsn, row, .. } = ack;
                told.push(Acknowledged { at, server, epoch, birth, lsn, row, sync });
            }
        }
    }
    let count = homeless.len();
    (told, homeless.into_iter().next().map(|first| (first, count)))
}

/// What readers saw on primaries, with the epochs of their timelines.
fn shown(world: &World, primacies: &[Primacy]) -> Vec<(Epoch, Shown)> {
    let all = lock(&world.tale).shown.clone();
    let with_epoch = |shown: Shown| {
        let mut its = primacies.iter().rev().filter(|p| {
            p.holder == shown.server && p.birth.timeline == shown.timeline && p.elected <= shown.at
        });
        Some((its.next()?.epoch, shown))
    };
    all.into_iter().filter_map(with_epoch).collect()
}

/// While its configuration changes a server waits for a standby that does not exist. A commit that
/// began then was answered once the new configuration was in force: it waited for that one.
fn resolve_held(acks: &mut [Ack]) {
    let mut next: BTreeMap<(NodeId, Timeline), SyncNames> = BTreeMap::new();
    for ack in acks.iter_mut().rev() {
        let key = (ack.server, ack.timeline);
        if ack.sync.confirmations == 0 || !ack.sync.standbys.is_empty() {
            next.insert(key, ack.sync.clone());
        } else if let Some(after) = next.get(&key) {
            ack.sync = after.clone();
        }
    }
}

/// With which rows each primacy began, as far as anybody saw: from the first look at its server, or
/// else from the last primary where that one's history has it.
fn beginnings(
    world: &World,
    primacies: &[Primacy],
    last: Option<&Last>,
) -> Vec<(Primacy, Vec<Row>)> {
    let seen = lock(&world.tale).beginnings.clone();
    let lineage: BTreeSet<(Timeline, Epoch)> = primacies
        .last()
        .map(|p| p.history.iter().map(|birth| (birth.timeline, birth.born)).collect())
        .unwrap_or_default();
    let rows_of = |primacy: &Primacy| -> Option<Vec<Row>> {
        let timeline = primacy.birth.timeline;
        if let Some(rows) = seen.get(&(primacy.holder, timeline)) {
            return Some(rows.clone());
        }
        let last = last.filter(|_| lineage.contains(&(timeline, primacy.epoch)))?;
        let older = last.rows.iter().filter(|(_, written)| *written < timeline);
        Some(older.map(|(row, _)| *row).collect())
    };
    let systems = lock(&world.tale).systems.clone();
    let as_seen = |primacy: &Primacy| {
        let seen = systems.get(&(primacy.holder, primacy.birth.timeline));
        Primacy { system: seen.copied().unwrap_or(primacy.system), ..primacy.clone() }
    };
    primacies.iter().filter_map(|p| Some((as_seen(p), rows_of(p)?))).collect()
}

/// For how long commits that waited for nobody were acknowledged after a later epoch's first one. A
/// machine that stood still meanwhile acknowledged nothing before it went on.
fn overlap(
    told: &[Acknowledged],
    beginnings: &[(Primacy, Vec<Row>)],
    frozen: &[Frozen],
) -> Duration {
    let mut firsts: BTreeMap<Epoch, Duration> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    for ack in told {
        firsts.entry(ack.epoch).or_insert(ack.at);
        let newer = firsts.range(ack.epoch..).find(|(epoch, _)| **epoch > ack.epoch);
        let inherited = |epoch: Epoch| {
            beginnings.iter().any(|(p, rows)| p.epoch == epoch && rows.contains(&ack.row))
        };
        if let Some((epoch, since)) = newer
            && !(ack.sync.confirmations > 0 && inherited(*epoch))
        {
            let thaws = frozen.iter().filter(|f| f.node == ack.server && f.until <= ack.at);
            let thawed = thaws.map(|f| f.until).max().unwrap_or_default();
            longest = longest.max(ack.at.saturating_sub(thawed.max(*since)));
        }
    }
    longest
}

/// Who was elected for each epoch, when, and why the holder before was harmless.
fn elections(entries: &[Entry]) -> BTreeMap<Epoch, (Duration, NodeId, Clearance)> {
    let mut all = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.applied == Applied::Done) {
        if let Command::Elect { after, holder, clearance, .. } = &entry.command {
            let election = (entry.at, *holder, clearance.clone());
            all.entry(after.next()).or_insert(election);
        }
    }
    all
}

/// When the lease of each epoch had ended at the latest that was followed by another one.
fn leases(
    elections: &BTreeMap<Epoch, (Duration, NodeId, Clearance)>,
    frozen: &[Frozen],
    lease: Duration,
    answers: Duration,
) -> BTreeMap<Epoch, Duration> {
    let mut ends = BTreeMap::new();
    let followed = elections.iter().zip(elections.values().skip(1));
    for ((epoch, (elected, holder, _)), (next, _, clearance)) in followed {
        let stood = frozen.iter().find(|f| {
            let outlasted = f.until >= f.since + lease && *next <= f.until + lease;
            f.node == *holder && (*elected..=*next).contains(&f.since) && outlasted
        });
        let end = match (stood, clearance) {
            (Some(stood), _) => stood.since + lease,
            (None, Clearance::Quorum) => *next + lease,
            (None, Clearance::LeaseOver | Clearance::Stopped) => *next + answers,
        };
        ends.insert(*epoch, end);
    }
    ends
}

/// What every later primary has was acknowledged in time, however late the word of it was heard.
fn wait_for_late_words(
    leases: &mut BTreeMap<Epoch, Duration>,
    told: &[Acknowledged],
    begun: &[(Primacy, Vec<Row>)],
) {
    let begun: Vec<(Epoch, BTreeSet<Row>)> =
        begun.iter().map(|(p, rows)| (p.epoch, rows.iter().copied().collect())).collect();
    for ack in told {
        let mut later = begun.iter().filter(|(epoch, _)| *epoch > ack.epoch);
        if let Some(end) = leases.get_mut(&ack.epoch)
            && later.all(|(_, rows)| rows.contains(&ack.row))
        {
            *end = ack.at.max(*end);
        }
    }
}

/// The thaw, again and again for as long as a guard of a real machine may take to wake up.
fn thaws(frozen: Frozen) -> Vec<(Duration, Item)> {
    let mut items = Vec::new();
    let mut at = frozen.until;
    while at < frozen.until + slack::GUARD_WAKES {
        items.push((at, Item::Thawed(frozen)));
        at += GUARD_WAKES_WITHIN;
    }
    items
}

/// What operators asked for and were told. What the cluster has on record says how an order ended
/// in its own words; the interface says the same in others.
fn orders(world: &World, newest: &ControlState) -> Vec<(Duration, Item)> {
    let mut items = Vec::new();
    for asked in &lock(&world.tale).asked {
        items.push((asked.at, Item::Sent(asked.id)));
        for (at, answer) in &asked.answers {
            let recorded = newest.outcome_of(asked.id);
            let same = |recorded: &&OrderOutcome| match (recorded, answer) {
                (OrderOutcome::Done(_), OrderAnswer::Known(OrderOutcome::Done(_)))
                | (OrderOutcome::Refused(_), OrderAnswer::Known(OrderOutcome::Refused(_)))
                | (OrderOutcome::Unknown(_), OrderAnswer::Known(OrderOutcome::Unknown(_))) => true,
                (
                    OrderOutcome::Pending
                    | OrderOutcome::Done(_)
                    | OrderOutcome::Refused(_)
                    | OrderOutcome::Unknown(_),
                    OrderAnswer::Known(_) | OrderAnswer::Unknown,
                ) => false,
            };
            let answer = match recorded.filter(same) {
                Some(recorded) => OrderAnswer::Known(recorded.clone()),
                None => answer.clone(),
            };
            items.push((*at, Item::Answered(asked.id, answer)));
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use pg_replica::ids::Lsn;

    use super::*;

    fn ack(ms: u64, confirmations: u32, standbys: &[u64]) -> Ack {
        let standbys = standbys.iter().copied().map(NodeId).collect();
        Ack {
            at: Duration::from_millis(ms),
            server: NodeId(1),
            timeline: Timeline(1),
            lsn: Lsn(ms),
            row: Row { client: 1, number: ms },
            sync: SyncNames { epoch: Epoch(1), confirmations, standbys },
        }
    }

    fn told(ms: u64, epoch: u64) -> Acknowledged {
        let Ack { at, server, lsn, row, sync, .. } = ack(ms, 0, &[]);
        let birth = TimelineBirth { timeline: Timeline(1), born: Epoch(epoch), begins: Lsn(0) };
        Acknowledged { at, server, epoch: Epoch(epoch), birth, lsn, row, sync }
    }

    fn primacy(number: u64, elected: u64) -> Primacy {
        let (epoch, elected) = (Epoch(number), Duration::from_millis(elected));
        let timeline = Timeline(u32::try_from(number).unwrap_or_default());
        Primacy {
            epoch,
            holder: NodeId(number),
            birth: TimelineBirth { timeline, born: epoch, begins: Lsn(0) },
            elected,
            born: elected,
            history: Vec::new(),
            system: SystemId(1),
        }
    }

    #[test]
    fn a_primacy_counts_from_its_first_word() {
        let words = [told(1_500, 1), told(4_900, 3), told(6_000, 3), told(6_100, 1)];
        assert_eq!(first_words(&words), [1_500, 4_900].map(Duration::from_millis));
    }

    #[test]
    fn a_commit_that_was_held_waited_for_the_configuration_that_followed() {
        let mut acks = [ack(1, 1, &[2]), ack(2, 1, &[]), ack(3, 2, &[2, 3]), ack(4, 1, &[])];
        resolve_held(&mut acks);
        let waited: Vec<u32> = acks.iter().map(|ack| ack.sync.confirmations).collect();
        assert_eq!(waited, [1, 2, 2, 1]);
    }

    #[test]
    fn a_lease_is_over_when_the_next_holder_was_elected_because_it_was() {
        let ms = Duration::from_millis;
        let elected = |at, node, clearance| (ms(at), NodeId(node), clearance);
        let elections = BTreeMap::from([
            (Epoch(1), elected(1_000, 1, Clearance::Stopped)),
            (Epoch(2), elected(5_000, 2, Clearance::LeaseOver)),
            (Epoch(3), elected(9_000, 3, Clearance::Quorum)),
            (Epoch(4), elected(20_000, 1, Clearance::Stopped)),
        ]);
        let stood = Frozen { node: NodeId(3), since: ms(12_000), until: ms(25_000) };
        let mut ends = leases(&elections, &[stood], ms(2_000), ms(300));
        let expected = [(Epoch(1), ms(5_300)), (Epoch(2), ms(11_000)), (Epoch(3), ms(14_000))];
        assert_eq!(ends, BTreeMap::from(expected));
        let shortly = Frozen { until: ms(12_500), ..stood };
        let without = leases(&elections, &[shortly], ms(2_000), ms(300));
        assert_eq!(without[&Epoch(3)], ms(20_300), "it renewed its lease after that");
        let late = |at, number| {
            let row = Row { client: 1, number };
            Acknowledged { row, ..told(at, 1) }
        };
        let begun = [(primacy(2, 5_000), vec![Row { client: 1, number: 7 }])];
        wait_for_late_words(&mut ends, &[late(7_000, 7), late(8_000, 8)], &begun);
        assert_eq!(ends[&Epoch(1)], ms(7_000), "the other row is not there: it was too late");
    }

    #[test]
    fn an_overlap_is_what_is_told_after_a_later_epoch_has_begun() {
        let length = |told: &[Acknowledged]| overlap(told, &[], &[]).as_millis();
        assert_eq!(length(&[told(10, 1), told(20, 2), told(30, 2)]), 0);
        assert_eq!(length(&[told(10, 1), told(20, 2), told(30, 2), told(35, 1)]), 15);
        let at = Duration::from_millis;
        let stood = Frozen { node: NodeId(1), since: at(12), until: at(32) };
        let all = [told(10, 1), told(20, 2), told(30, 2), told(35, 1)];
        assert_eq!(overlap(&all, &[], &[stood]), at(3));
    }
}
