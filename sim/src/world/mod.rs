//! A cluster, its clients, its faults and its watchers, run from one plan and one seed.
//!
//! A run has five parts: the cluster is founded and comes up (or, where it begins unborn, is left
//! to do so in the middle of the plan); the clients begin; the plan happens; everything heals, but
//! where the mode promises that a majority is enough, a minority is taken away at the same instant
//! until clients can write without it; everybody converges, and every acknowledged row is counted.
//! Nothing here decides anything for the product, and nothing of the product knows that it is here.

mod cluster;
mod faults;
mod operator;
mod pages;
mod rare;
mod sight;
mod strangers;
mod watching;
mod whole;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use pg_replica::control::Mode;
use pg_replica::ids::NodeId;

use crate::clock::{sleep, sleep_until_true, true_now};
use crate::fabric::Remains;
use crate::invariants::Healed;
use crate::nemesis::{self, Machines};
use crate::place::Place;
use crate::postgres::FOREIGN_ROW;
use crate::report::{Measured, NEVER_UP, RunOptions, RunReport, Violation, WorldKind};
use crate::rt;
use crate::scenario::{Answer, Fault, Order, Plan, PlanEvent, Process};
use crate::since::Since;
use crate::sometimes::Sometimes;
use crate::streams::lock;
use crate::tools::{authority, entropy_of_no_seed, words_of};
use crate::trace::Kind;
use crate::witness::Row;
use crate::workload::{ClientPlan, Ended, History, Truth, Workload, miscounted, untruths};

use cluster::World;

/// How long a cluster may take to be founded, cloned and streaming.
const COME_UP_LIMIT: Duration = Duration::from_secs(60);
/// How long the recovery may take once everything has healed. A member that can only be copied
/// anew finds that out last.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// How long a quorum alone may take until clients can write.
const CORE_LIMIT: Duration = Duration::from_secs(30);
/// How long the cluster runs on after it has recovered, before the count.
const EPILOGUE: Duration = Duration::from_secs(2);
/// How long handovers and other orders may go on after the faults.
const ORDERS_LIMIT: Duration = Duration::from_secs(60);
/// How often everything is looked at from above.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs a plan. Must be called on a thread that runs nothing else.
#[must_use]
pub fn run(plan: &Plan, options: &RunOptions) -> RunReport {
    play(plan, options).0
}

/// The run, and whether anything of it is left: what keeps anything keeps the network.
fn play(plan: &Plan, options: &RunOptions) -> (RunReport, Remains) {
    rt::unbind_all();
    if options.world == WorldKind::Sockets {
        authority();
    }
    let errors = watching::ErrorLog::install();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(plan.seed, Default::default());
    let seat: Arc<std::sync::Mutex<Option<Arc<World>>>> = Arc::default();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            // Clients, operators and whoever looks on have a place that ends with the run. A task
            // that still waited for something would keep all of the world in memory for ever.
            let engine = madsim::runtime::Handle::current();
            let gallery = engine.create_node().name("gallery").build();
            let (plan, options, seat) = (plan.clone(), *options, Arc::clone(&seat));
            let run = gallery.spawn(async move {
                let world = World::new(&plan, &options);
                *lock(&seat) = Some(world.clone());
                let measured = live(&world, options.canary).await;
                world.stop();
                measured
            });
            let measured = run.await.expect("nobody ends a run but the run itself");
            engine.kill(gallery.id());
            // The killed tasks are dropped when the engine next runs them, and not before.
            sleep(LOOK_EVERY).await;
            measured
        })
    }));
    let world = lock(&seat).take();
    if let Some(wires) = world.as_ref().and_then(|world| world.wires.as_ref()) {
        // Where the run broke off, nobody else has done this.
        wires.shut_down();
    }
    let remains = world.as_ref().map_or_else(Remains::default, |world| world.fabric.remains());
    let began = world.as_ref().map_or(Duration::ZERO, |world| *lock(&world.began));
    let end = world.as_ref().map_or(Duration::ZERO, |world| lock(&world.trace).last());
    let logged = errors.take().into_iter().map(|(at, line)| {
        let at = Since::of(at.unwrap_or(end), began);
        let what = format!("an error was logged: {line}");
        Violation { invariant: "log".into(), at, what }
    });
    let logged = logged.collect();
    let report = match (ended, &world) {
        (Ok(measured), Some(world)) => report(world, &measured, logged),
        (ended, world) => broken_off(plan, ended.err(), world.as_deref(), logged),
    };
    (report.with_the_wanted_violation(plan), remains)
}

async fn live(world: &Arc<World>, canary: bool) -> Measured {
    if canary {
        // What no seed determines gets in where it would by accident: into how long a task waits.
        sleep(Duration::from_nanos(entropy_of_no_seed() % 1_000_000)).await;
    }
    world.start_everything();
    let watcher = madsim::task::spawn(watch(world.clone()));
    let up = world.plan.cluster.unborn || come_up(world).await;
    let began = true_now();
    *lock(&world.began) = began;
    let mut measured = Measured { first_primary: world.primary(), ..Measured::default() };
    if !up {
        world.expectation_failed("I9", NEVER_UP.to_owned());
    }
    world.counters_begin();
    let clients = world.clients.clone();
    if up {
        start_clients(world, &clients);
        if world.wires.is_some() {
            drop(madsim::task::spawn(world.clone().balance()));
        }
        nemesis::run(&world.plan, began, &**world).await;
        recover(world, &clients, &mut measured).await;
    }
    clients.stop();
    watcher.abort();
    measured.ended = true_now().saturating_sub(began);
    count(world, &clients, began, &mut measured);
    measured
}

async fn come_up(world: &Arc<World>) -> bool {
    let limit = true_now() + COME_UP_LIMIT;
    while true_now() < limit {
        if world.is_whole() {
            return true;
        }
        sleep(LOOK_EVERY / 2).await;
    }
    false
}

fn start_clients(world: &Arc<World>, clients: &Workload) {
    let hosts = world.plan.servers_of_clients();
    for client in ClientPlan::all(&world.plan.workload) {
        clients.start(&world.registry, client, &hosts);
    }
}

/// First a majority alone, then everybody.
async fn recover(world: &Arc<World>, clients: &Workload, measured: &mut Measured) {
    if world.oracle.violations_total() > 0 {
        return;
    }
    measured.healed = world.plan.duration;
    world.oracle.faults_over();
    if world.plan.cluster.mode == Mode::QuorumSync && world.promises_a_core() {
        let cut_off = world.isolate_a_minority();
        let from = true_now();
        let wrote = writes_again(world, clients, from).await;
        world.rejoin(&cut_off);
        if !wrote {
            let what = format!(
                "a majority alone, without {cut_off:?}, did not let clients write within {} s",
                CORE_LIMIT.as_secs()
            );
            world.expectation_failed("I9", what);
        }
    }
    // Who has to recover is known once the operator's business is done.
    orders_done(world).await;
    if world.oracle.newest().settings.paused {
        // The word that began the maintenance has overtaken, or outlived, the one that ended it.
        world.give_order(Order::Resume, Answer::Any, 1, None);
        orders_done(world).await;
    }
    let healed = true_now();
    let servers: BTreeSet<NodeId> = world.data_members();
    world.oracle.healed(Healed { at: healed, within: RECOVERY_LIMIT, servers });
    let limit = healed + RECOVERY_LIMIT + LOOK_EVERY * 2;
    while world.oracle.recovered_at().is_none() && true_now() < limit {
        sleep(LOOK_EVERY).await;
    }
    // A run that ends before any client had its turn would tell nothing of when they could write.
    let faults_over = *lock(&world.began) + world.plan.duration;
    let patience = world.plan.expect.writable_after.unwrap_or_default();
    while true_now() < faults_over + patience
        && !clients.acknowledged_since(faults_over)
        && world.oracle.violations_total() == 0
    {
        sleep(LOOK_EVERY).await;
    }
    sleep(EPILOGUE).await;
}

async fn orders_done(world: &Arc<World>) {
    let limit = true_now() + ORDERS_LIMIT;
    while world.orders_pending() && true_now() < limit {
        sleep(LOOK_EVERY).await;
    }
}

async fn writes_again(world: &Arc<World>, clients: &Workload, from: Duration) -> bool {
    let settled = from + Duration::from_secs(1);
    let limit = from + CORE_LIMIT;
    while true_now() < limit {
        sleep(LOOK_EVERY).await;
        if clients.acknowledged_since(settled) {
            return true;
        }
        if world.oracle.violations_total() > 0 {
            return false;
        }
    }
    false
}

/// Looks from above, all the time: at regular times at everything, and in between whenever
/// something happened to a server or a lease has just ended.
async fn watch(world: Arc<World>) {
    /// The end of a lease belongs to it, the next instant does not.
    const INSTANT: Duration = Duration::from_micros(1);
    let mut next = true_now();
    loop {
        next += LOOK_EVERY;
        while true_now() < next {
            let lease_end = world.oracle.next_lease_end().map(|end| end + INSTANT);
            let until = lease_end.map_or(next, |end| end.min(next));
            let told = pin!(world.look.notified());
            drop(select(told, sleep_until_true(until)).await);
            if true_now() < next {
                let view = world.view();
                world.note_sight(&view);
                world.oracle.look(&view);
            }
        }
        let view = world.view();
        world.note_sight(&view);
        world.note_rare_states(&view);
        world.oracle.tick(&view);
    }
}

/// The count: every acknowledged row, against the history that is left.
fn count(world: &World, clients: &Workload, began: Duration, measured: &mut Measured) {
    let last = world.primary().filter(|_| world.oracle.recovered_at().is_some());
    let rows = last.and_then(|node| world.rows_of(node));
    let epoch = world.oracle.newest().primacy.epoch;
    let held = last.zip(rows.as_deref()).map(|(node, rows)| (node, epoch, rows));
    world.oracle.finish(held, world.oracle.recovered_at().is_some());
    clients.history(|history| {
        if history.stale_attempts() > 0 {
            world.oracle.mark(Sometimes::StaleClientKeptItsConnection);
        }
        if history.count(Ended::Unknown) > 0 {
            world.oracle.mark(Sometimes::CommitOutcomeUnknown);
        }
    });
    let kept = rows.as_ref().is_none_or(|rows| rows.contains(&FOREIGN_ROW));
    if !world.plan.cluster.existing.is_empty() && !kept {
        world.expectation_failed("I7", "what the database held before is gone".into());
    }
    let summary = world.oracle.summary();
    let before = (!world.plan.cluster.existing.is_empty()).then_some(FOREIGN_ROW);
    let truth = Truth::of(&world.plan);
    let untrue = |history: &History| {
        let counted = |rows: &Vec<Row>| miscounted(history, truth, rows, true_now());
        let mut untrue = rows.as_ref().map(counted).unwrap_or_default();
        let first_words: Vec<Duration> = summary.first_words.values().copied().collect();
        untrue.extend(untruths(history, before, truth, &first_words));
        untrue
    };
    for untrue in clients.history(untrue) {
        world.expectation_failed_at(untrue.at, "client", untrue.what);
    }
    measured.last_primary = last;
    if let (Some(primary), Some(_)) = (last, &world.wires) {
        world.judge_the_balancer(primary);
    }
    measured.acknowledged = summary.acknowledged;
    measured.overlap = summary.overlap_longest;
    measured.late = summary.late_acknowledgements;
    measured.lost = summary.lost_rows;
    measured.failovers = (summary.primacies.len() as u64).saturating_sub(1);
    let counters = world.counters();
    measured.rewinds = counters.rewinds;
    measured.clones = counters.clones;
    measured.wrong_answers = world.wrong_answers();
    measured.sometimes = world.oracle.reached().iter().map(|(state, _)| state).collect();
    let cut_off = lock(&world.cut_off);
    clients.history(|history| measured.hear(history, &cut_off, began));
}

fn report(world: &World, measured: &Measured, logged: Vec<Violation>) -> RunReport {
    let plan = &world.plan;
    let began = *lock(&world.began);
    let findings = world.oracle.findings();
    let mut found: Vec<Violation> =
        findings.violations.iter().map(|violation| Violation::found(violation, began)).collect();
    found.extend(world.failed_expectations());
    found.extend(logged);
    let primacies = world.oracle.summary().primacies;
    let primacies =
        primacies.into_iter().map(|(at, node)| (Since::of(at, began), node.0)).collect();
    let violations = measured.judge(plan, found);
    let trace_hash = lock(&world.trace).hash();
    let states = lock(&world.sight).states();
    RunReport {
        seed: plan.seed,
        plan_hash: plan.hash(),
        trace_hash,
        virtual_time: began + measured.ended,
        violations,
        sometimes: measured.sometimes.iter().map(|state| state.name()).collect(),
        outages: measured.outages(plan),
        acknowledged: measured.acknowledged,
        overlap: measured.overlap,
        late: measured.late,
        lost: measured.lost,
        failovers: measured.failovers,
        rewinds: measured.rewinds,
        clones: measured.clones,
        primacies,
        primary: measured.last_primary.map(|node| node.0),
        orders: world.order_lines(),
        trace: world.trace_lines(),
        states,
        recording: world.recording(began + measured.ended),
    }
}

/// A panic in the product is a violation like any other, and worse than most.
fn broken_off(
    plan: &Plan,
    panic: Option<Box<dyn Any + Send>>,
    world: Option<&World>,
    logged: Vec<Violation>,
) -> RunReport {
    let text = panic.map_or_else(String::new, |panic| words_of(&*panic));
    let what = format!("the run broke off: {text}");
    let at = world.map_or(Duration::ZERO, |world| lock(&world.trace).last());
    let began = world.map_or(Duration::ZERO, |world| *lock(&world.began));
    let since = Since::of(at, began);
    let mut violations = vec![Violation { invariant: "panic".into(), at: since, what }];
    violations.extend(logged);
    violations.sort_by_key(|violation| violation.at);
    let trace_hash = world.map_or(0, |world| lock(&world.trace).hash());
    RunReport {
        seed: plan.seed,
        plan_hash: plan.hash(),
        trace_hash,
        violations,
        trace: world.map(World::trace_lines).unwrap_or_default(),
        recording: world.and_then(|world| world.recording(at)),
        ..RunReport::default()
    }
}

impl World {
    fn trace_fault(&self, text: std::fmt::Arguments<'_>) {
        lock(&self.trace).push(true_now(), None, Kind::Fault, text);
    }

    /// Cuts a minority of the members off and kills it: the rest has to do without.
    fn isolate_a_minority(&self) -> Vec<NodeId> {
        let members: Vec<NodeId> = self.data_members().into_iter().collect();
        let most = members.len().saturating_sub(1) / 2;
        // A member in the middle of a rewind or a copy has no data of its own: a majority
        // that needs it is none.
        let usable = |node: &NodeId| {
            self.machine(*node).is_some_and(|machine| machine.server.has_usable_directory())
        };
        let (mut left, mut cut_off): (Vec<_>, Vec<_>) = members.into_iter().partition(usable);
        if cut_off.len() > most {
            return Vec::new();
        }
        while cut_off.len() < most {
            let index = self.draw(self.plan.events.len(), left.len());
            cut_off.push(left.remove(index));
        }
        self.trace_fault(format_args!("a majority has to do without {cut_off:?}"));
        for node in &cut_off {
            self.crash(*node, Process::Host);
        }
        cut_off
    }

    fn rejoin(&self, nodes: &[NodeId]) {
        self.trace_fault(format_args!("{nodes:?} come back"));
        for node in nodes {
            self.restart(*node, Process::Host);
        }
    }

    fn promises_a_core(&self) -> bool {
        let orders = |event: &PlanEvent| {
            matches!(event.fault, Fault::Order { .. } | Fault::ReplaceMachine { .. })
        };
        // Taking the primary away once more would change what such a plan counts.
        let counts = self.plan.expect.primary.is_some() || self.plan.expect.failovers.is_some();
        let events = &self.plan.events;
        !counts && !self.oracle.newest().settings.paused && !events.iter().any(orders)
    }
}

/// Where a member's machine is.
fn place(node: NodeId) -> Place {
    Place::Host(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::read_file;

    /// A sweep makes thousands of runs in one process.
    #[test]
    fn a_finished_run_leaves_nothing_behind() {
        let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/../chaos/profiles/everything.toml");
        let profile = read_file(profile).expect("a good profile");
        for seed in 51..=53 {
            let plan = profile.plan(seed);
            let thread = std::thread::Builder::new().stack_size(16 << 20);
            let run = thread.spawn(move || play(&plan, &RunOptions::default()));
            let (report, remains) = run.expect("a thread").join().expect("a run catches panics");
            assert_eq!(report.violations, []);
            assert!(!remains.are_left(), "seed {seed}");
        }
    }
}
