//! One heat of the race: a cluster comes up, clients write, one fault befalls its primary and is
//! taken away once somebody else serves, everything heals, and the rows are counted. What is
//! measured is what clients were told, for every kind of cluster alike.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pg_replica::ids::{NodeId, Timeline};
use sim::nemesis::Machines;
use sim::place::Place;
use sim::report::NEVER_UP;
use sim::scenario::{Answer, Order, Plan, Process};
use sim::streams::lock;
use sim::witness::Row;
use sim::workload::Workload;
use tokio::time::sleep;

use super::clients::SIDE;
use super::machine::Cost;
use super::tale::Ack;
use super::{LOOK_EVERY, Options, World};
use crate::race::{Fault, Figures};

/// How long clients write before anything happens, and after everything has healed.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long a fault goes on once another server has acknowledged something, or the same one
/// again.
const AFTERMATH: Duration = Duration::from_secs(5);
/// For how long a fault waits for that.
const HOLD_LIMIT: Duration = Duration::from_secs(90);
/// How long a cluster may take to become whole again.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);
/// How long an idle cluster is looked at, once it has settled.
const IDLE: Duration = Duration::from_secs(30);
/// From how long a silence on the service is interrupted.
const INTERRUPTED: Duration = Duration::from_millis(300);

/// Runs a heat; `number` tells it from others of this process.
pub fn heat(plan: &Plan, fault: Fault, number: u32, options: &Options) -> io::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let staged = World::build(plan, number, options, false)?;
        let world = &staged.0;
        let figures = world.race(fault).await;
        for node in world.hosts_ever() {
            world.take_down(node);
        }
        figures
    })
}

impl World {
    async fn race(self: &Arc<Self>, fault: Fault) -> io::Result<Figures> {
        let services = tokio::spawn(self.clone().look_after_services());
        let standing = tokio::spawn(self.clone().watch_replication());
        let raced = self.race_on(fault).await;
        services.abort();
        standing.abort();
        let figures = raced.map_err(io::Error::other)?;
        match lock(&self.tale).failed.first() {
            Some(broken) => Err(io::Error::other(format!("it proves nothing: {}", broken.what))),
            None => Ok(figures),
        }
    }

    async fn race_on(self: &Arc<Self>, fault: Fault) -> Result<Figures, String> {
        self.come_up().await.map_err(|why| format!("{NEVER_UP}: {why}"))?;
        *lock(&self.began) = self.now();
        if fault == Fault::Idle {
            return self.idle().await;
        }
        let clients = Workload::new(self.streams.clone());
        self.start_clients(&clients, true);
        sleep(WARM_UP).await;
        let primary = self.primary().ok_or("nobody acknowledges")?;
        let struck = self.now();
        if !self.strike(fault, primary) {
            return Err(format!("there was nothing at {primary} to be struck"));
        }
        self.hold(fault, primary, struck).await;
        let healed = self.now();
        self.heal_everything();
        // What the end of a fault brings with it belongs to the heat as well.
        sleep(WARM_UP).await;
        // One that is not whole even then is counted as it is.
        let whole = self.lacks_after(WHOLE_LIMIT).await.is_none();
        self.orders_done().await;
        clients.stop();
        let counted = self.now();
        lock(&self.tale).counted = Some(counted);
        let last = self.primary().ok_or("nobody is primary in the end")?;
        let counting = self.rows_of(last).await;
        let rows =
            counting.map_err(|why| format!("the rows of {last} could not be counted: {why}"))?;
        let rows: BTreeSet<Row> = rows.into_iter().map(|(row, _)| row).collect();
        let [manager, needed] = self.costs();
        let acks = lock(&self.tale).acks.clone();
        let (lost, lost_beside) = lost(&acks, &rows);
        let (silent_from, silent_to) = outage(&acks, &rows, struck, counted);
        let (overlap, late) = overlap(&acks, &rows);
        Ok(Figures {
            outage: (silent_to - silent_from).as_secs_f64(),
            outage_cut_short: silent_from <= healed && healed < silent_to,
            overlap: overlap.as_secs_f64(),
            overlap_cut_short: late
                .iter()
                .any(|(first, last)| *first <= healed && healed < *last + INTERRUPTED),
            whole,
            acknowledged: acks.iter().filter(|ack| ack.row.client < SIDE).count() as u64,
            lost,
            lost_beside,
            manager_mb: megabytes(manager),
            needed_mb: megabytes(needed),
            ..Figures::default()
        })
    }

    /// Nothing happens.
    async fn idle(&self) -> Result<Figures, String> {
        self.look_away();
        sleep(WARM_UP).await;
        let [manager, needed] = self.costs();
        sleep(IDLE).await;
        let [manager_then, needed_then] = self.costs();
        let share = |before: Cost, after: Cost| -> Result<Option<f64>, String> {
            let worked = after.worked.checked_sub(before.worked);
            let worked = worked.ok_or("a manager was started anew while nothing happened")?;
            Ok(Some(worked.as_secs_f64() / IDLE.as_secs_f64() * 100.0))
        };
        Ok(Figures {
            manager_mb: megabytes(manager_then),
            manager_cpu: share(manager, manager_then)?,
            needed_mb: megabytes(needed_then),
            needed_cpu: share(needed, needed_then)?,
            whole: true,
            ..Figures::default()
        })
    }

    /// What managers, and what they need, cost on one machine, on average.
    fn costs(&self) -> [Cost; 2] {
        let machines = lock(&self.machines);
        let mut sum = [Cost::default(); 2];
        for machine in machines.values() {
            for (total, one) in sum.iter_mut().zip(machine.costs()) {
                total.resident += one.resident;
                total.worked += one.worked;
            }
        }
        let count = u32::try_from(machines.len().max(1)).unwrap_or(1);
        sum.map(|total| Cost {
            resident: total.resident / u64::from(count),
            worked: total.worked / count,
        })
    }

    /// Whether there was anything to be struck.
    fn strike(self: &Arc<Self>, fault: Fault, primary: NodeId) -> bool {
        self.remark(format!("{fault:?} at {primary}"));
        let mut hit = true;
        match fault {
            Fault::HostLost => hit = self.take_down(primary),
            Fault::PostgresKilled => hit = self.crash(primary, Process::Postgres),
            Fault::ManagerKilled => hit = self.crash(primary, Process::Manager),
            Fault::ManagerFrozen => hit = self.pause(primary, Process::Manager, false),
            Fault::PostgresFrozen => hit = self.pause(primary, Process::Postgres, false),
            Fault::HostFrozen => hit = self.pause(primary, Process::Host, false),
            Fault::Isolated => self.isolate(primary, &[]),
            Fault::IsolatedWithClients => self.isolate(primary, &[0, 1]),
            Fault::OneWay => {
                for other in self.hosts().into_iter().filter(|other| *other != primary) {
                    self.block(Place::Host(primary), Place::Host(other), None);
                }
            }
            Fault::Switchover => {
                let order = Order::Switchover { to: None };
                // One that is not carried out makes the heat void.
                self.clone().give_order(order, Answer::Done, 1, None);
            }
            Fault::Idle => {}
        }
        self.show_cuts();
        hit
    }

    /// Cuts a member off from everybody but these clients, and them from everybody else.
    fn isolate(&self, primary: NodeId, with: &[u32]) {
        let mut inside = vec![Place::Host(primary)];
        inside.extend(with.iter().map(|client| Place::Client(*client)));
        let hosts = self.hosts().into_iter().map(Place::Host);
        let clients = self.clients().into_iter().map(Place::Client);
        let all: Vec<Place> = hosts.chain(clients).chain([Place::Operator]).collect();
        for outside in all.into_iter().filter(|place| !inside.contains(place)) {
            for one in &inside {
                self.block(*one, outside, None);
                self.block(outside, *one, None);
            }
        }
    }

    /// Lets the fault be until somebody else has acknowledged something, or the same one again
    /// where that is a way out, and a little longer.
    async fn hold(&self, fault: Fault, primary: NodeId, struck: Duration) {
        let in_place = matches!(fault, Fault::PostgresKilled | Fault::PostgresFrozen);
        while self.now() < struck + HOLD_LIMIT {
            sleep(LOOK_EVERY).await;
            if self.serves_again(primary, struck, in_place) {
                sleep(AFTERMATH).await;
                return;
            }
        }
    }

    fn serves_again(&self, primary: NodeId, struck: Duration, in_place: bool) -> bool {
        let tale = lock(&self.tale);
        let after = || tale.acks.iter().filter(|ack| ack.at > struck);
        let other = after().any(|ack| ack.server != primary);
        let clients = after().filter(|ack| ack.row.client < SIDE).map(|ack| ack.at);
        let told: Vec<Duration> = [struck].into_iter().chain(clients).collect();
        let interrupted = told.windows(2).any(|pair| pair[1] - pair[0] > INTERRUPTED);
        other || (in_place && interrupted)
    }
}

fn megabytes(cost: Cost) -> f64 {
    // Exact enough far beyond any machine's memory.
    #[allow(clippy::cast_precision_loss, reason = "for a person to read")]
    let bytes = cost.resident as f64;
    (bytes / 1e5).round() / 10.0
}

/// From when to when no client was told of a commit that remained, where that lasted longest.
fn outage(
    acks: &[Ack],
    rows: &BTreeSet<Row>,
    struck: Duration,
    counted: Duration,
) -> (Duration, Duration) {
    let remained = acks.iter().filter(|ack| ack.row.client < SIDE && rows.contains(&ack.row));
    let mut times: Vec<Duration> = remained.map(|ack| ack.at).chain([counted]).collect();
    times.sort();
    // The last one before the fault begins the time that is looked at.
    let first = times.iter().rposition(|at| *at <= struck).unwrap_or_default();
    let gaps = times[first..].windows(2).map(|pair| (pair[0], pair[1]));
    gaps.max_by_key(|(from, to)| *to - *from).unwrap_or((counted, counted))
}

/// For how long a server went on acknowledging what is gone while one of a later timeline did so as
/// well, and for each that did its first moment and its last. One that stood still meanwhile
/// acknowledged nothing.
fn overlap(acks: &[Ack], rows: &BTreeSet<Row>) -> (Duration, Vec<(Duration, Duration)>) {
    let mut begun: BTreeMap<(Timeline, NodeId), Duration> = BTreeMap::new();
    for ack in acks {
        let since = begun.entry((ack.timeline, ack.server)).or_insert(ack.at);
        *since = (*since).min(ack.at);
    }
    // By the server and its timeline: its first acknowledgement that came too late, and its last.
    let mut late: BTreeMap<(Timeline, NodeId), (Duration, Duration)> = BTreeMap::new();
    for ack in acks.iter().filter(|ack| !rows.contains(&ack.row)) {
        let mut later = begun.iter().filter(|((timeline, server), since)| {
            *timeline > ack.timeline && *server != ack.server && **since < ack.at
        });
        if later.next().is_some() {
            let (first, last) = late.entry((ack.timeline, ack.server)).or_insert((ack.at, ack.at));
            (*first, *last) = ((*first).min(ack.at), (*last).max(ack.at));
        }
    }
    let late: Vec<_> = late.into_values().collect();
    (late.iter().map(|(first, last)| *last - *first).max().unwrap_or_default(), late)
}

/// The acknowledged rows that are nowhere: clients', and those of the writers beside.
fn lost(acks: &[Ack], rows: &BTreeSet<Row>) -> (u64, u64) {
    let gone = acks.iter().filter(|ack| !rows.contains(&ack.row));
    let (clients, beside): (Vec<&Ack>, Vec<&Ack>) = gone.partition(|ack| ack.row.client < SIDE);
    (clients.len() as u64, beside.len() as u64)
}

#[cfg(test)]
mod tests {
    use pg_replica::env::SyncNames;
    use pg_replica::ids::Lsn;

    use super::*;

    fn ack(at: u64, server: u64, timeline: u32, client: u32, number: u64) -> Ack {
        Ack {
            at: Duration::from_millis(at),
            server: NodeId(server),
            timeline: Timeline(timeline),
            lsn: Lsn(0),
            row: Row { client, number },
            sync: SyncNames::default(),
        }
    }

    #[test]
    fn what_a_former_primary_still_acknowledged_is_overlap_and_loss_and_ends_no_outage() {
        let acks = [
            ack(0, 1, 1, 0, 1),
            ack(900, 1, 1, 0, 2),
            ack(1_500, 2, 2, 1, 1),
            ack(2_000, 1, 1, 0, 3),
            ack(2_100, 1, 1, SIDE + 1, 1),
            ack(2_200, 2, 2, 1, 2),
        ];
        let rows: BTreeSet<Row> =
            [(0, 1), (1, 1), (1, 2)].map(|(client, number)| Row { client, number }).into();
        assert_eq!(lost(&acks, &rows), (2, 1));
        let at = Duration::from_millis;
        assert_eq!(overlap(&acks, &rows), (at(100), vec![(at(2_000), at(2_100))]));
        assert_eq!(overlap(&acks[..3], &rows), (at(0), Vec::new()));
        assert_eq!(outage(&acks, &rows, at(800), at(2_300)), (at(0), at(1_500)));
    }

    #[test]
    fn one_that_never_served_again_was_away_until_the_count() {
        let acks = [ack(0, 1, 1, 0, 1)];
        let rows = BTreeSet::from([Row { client: 0, number: 1 }]);
        let at = Duration::from_millis;
        assert_eq!(outage(&acks, &rows, at(100), at(9_000)), (at(0), at(9_000)));
    }
}
