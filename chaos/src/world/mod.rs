//! A run: a cluster is founded, clients begin, the plan happens, everything heals and converges,
//! every row is counted, and the simulator's oracle judges what was seen.
//!
//! The run happens in real time and is judged afterwards: what was seen (`tale`) and what the
//! members have on record are laid before the oracle in the order of their times (`account`). Two
//! side channels that no fault cuts see more than any client: a writer at every server's private
//! socket, and the files.

mod account;
mod clients;
mod faults;
mod machine;
mod operator;
mod race;
mod remains;
mod sight;
mod sql;
mod tale;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::chown;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pg_replica::ids::{CommandId, NodeId};
use pg_replica::os::postgres::{Account, welcome_guest};
use sim::nemesis;
use sim::report::{Measured, NEVER_UP, Violation};
use sim::scenario::{Answer, Order, Plan};
use sim::since::Since;
use sim::streams::{Streams, lock};
use sim::workload::{ClientPlan, Workload};
use tokio::time::sleep;

use crate::lab::{Cables, Disks, Lab, Name};
use crate::slack;
use crate::subject::{self, Ground, Kind, Subject};

use clients::Network;
use faults::Wires;
use machine::Machine;
use sight::{Goal, Sight};
use tale::Tale;

pub use race::heat;

/// What is told as violated where the laboratory did not do what it should.
const LABORATORY: &str = "laboratory";
/// How long a cluster may take to be founded, cloned and streaming.
const COME_UP_LIMIT: Duration = Duration::from_secs(60);
/// How long the recovery may take once everything has healed, as in the simulator.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// How long the cluster runs on after it has recovered, before the count.
const EPILOGUE: Duration = Duration::from_secs(1);
/// How often somebody looks whether it is time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the service managers do.
const SERVICE_LOOK: Duration = Duration::from_millis(50);

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// What went wrong; empty is a clean run.
    pub violations: Vec<Violation>,
    /// What was measured.
    pub measured: Measured,
    /// How long clients waited for a commit, wherever that was noticeable.
    pub outages: Vec<Duration>,
    /// What the operator asked for and was told.
    pub orders: Vec<String>,
    /// Everything that was seen, one JSON object per line.
    pub history: Vec<String>,
    /// The members' logs: what each is called, and what it says.
    pub logs: Vec<(String, Vec<u8>)>,
}

/// How a run is made, beyond its plan.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kind of cluster.
    pub kind: Kind,
    /// Leave the folder of the run where it is.
    pub keep: bool,
}

/// Everything in a run.
struct World {
    plan: Plan,
    started: Instant,
    streams: Streams,
    lab: Lab,
    subject: Arc<dyn Subject>,
    machines: Mutex<BTreeMap<NodeId, Machine>>,
    wires: Mutex<Wires>,
    sight: Mutex<Sight>,
    tale: Mutex<Tale>,
    began: Mutex<Duration>,
    /// How many faults have the server of each hang.
    hangs: Mutex<BTreeMap<NodeId, u32>>,
    orders_pending: Mutex<u32>,
    order_names: Mutex<BTreeMap<u32, CommandId>>,
    orders_named: Mutex<BTreeMap<CommandId, Order>>,
    order_lines: Mutex<Vec<String>>,
    /// Whether clients put what they write into the register, one after the other.
    registers: bool,
    itself: Weak<World>,
}

/// Runs a plan; `number` tells this run from others of this process.
pub fn run(plan: &Plan, number: u32, options: &Options) -> io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let staged = World::build(plan, number, options, true)?;
        staged.0.live().await
    })
}

/// A world whose laboratory is taken away with it, however a run ends: whoever still holds the
/// world lives in one of its namespaces, and ends with them.
struct Staged(Arc<World>);

impl Drop for Staged {
    fn drop(&mut self) {
        for machine in lock(&self.0.machines).values() {
            machine.space.leave();
        }
        self.0.lab.clear();
    }
}

impl World {
    fn build(plan: &Plan, number: u32, options: &Options, registers: bool) -> io::Result<Staged> {
        let clients = plan.workload.clients();
        let name = Name::of_this_process(number);
        let lab = Lab::build(name, clients, Cables::of(plan), options.keep)?;
        let subject = subject::laid_out_in(&lab.folder(), &options.kind, plan);
        let world = Arc::new_cyclic(|itself| Self {
            plan: plan.clone(),
            started: Instant::now(),
            streams: Streams::new(plan.seed),
            lab,
            subject,
            machines: Mutex::default(),
            wires: Mutex::default(),
            sight: Mutex::default(),
            tale: Mutex::default(),
            began: Mutex::default(),
            hangs: Mutex::default(),
            orders_pending: Mutex::default(),
            order_names: Mutex::default(),
            orders_named: Mutex::default(),
            order_lines: Mutex::default(),
            registers,
            itself: itself.clone(),
        });
        let staged = Staged(world);
        for node in plan.cluster.members() {
            staged.0.add_machine(node, false)?;
        }
        Ok(staged)
    }

    fn itself(&self) -> Arc<Self> {
        self.itself.upgrade().expect("whoever calls holds the world")
    }

    /// True time: since the laboratory was there.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the wall clock showed when the world's time began.
    fn wall_at_start(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(self.now())
    }

    fn remark(&self, line: String) {
        let at = self.now();
        lock(&self.tale).notes.push((at, line));
    }

    fn failed(&self, invariant: &str, what: String) {
        let at = Since::of(self.now(), *lock(&self.began));
        lock(&self.tale).failed.push(Violation { invariant: invariant.into(), at, what });
    }

    /// The laboratory itself did not do what it should: nothing was proven.
    fn trouble(&self, what: &str) {
        self.failed(LABORATORY, what.to_owned());
    }

    /// Makes a machine, starts what it starts by itself, and begins to look at it.
    fn add_machine(&self, node: NodeId, newcomer: bool) -> io::Result<()> {
        if lock(&self.machines).contains_key(&node) {
            return Ok(());
        }
        self.subject.lay_out(node, newcomer)?;
        let space = self.lab.machine(node)?;
        let disks = Disks::are_for(&self.plan).then(|| self.disks_of(node)).transpose()?;
        let mut machine = Machine::new(node, space, disks, self.subject.clone());
        machine.start()?;
        let space = machine.space.clone();
        lock(&self.machines).insert(node, machine);
        drop(space.spawn(self.itself().watch(node)));
        let side = self.itself().write_beside(node);
        if newcomer {
            // Its rows are known under the same number wherever it is started from.
            drop(self.lab.outside.spawn(side));
        } else {
            drop(tokio::spawn(side));
        }
        Ok(())
    }

    fn disks_of(&self, node: NodeId) -> io::Result<Disks> {
        let (store, data) = (self.subject.store(node), self.subject.data(node));
        let server = data.parent().unwrap_or(&data);
        let disks = Disks::make(&store, server)?;
        // As its manager makes that folder.
        let none = || io::Error::other("there is no account `postgres`");
        let account = Account::named("postgres").ok_or_else(none)?;
        chown(server, Some(account.user), Some(account.group))?;
        Ok(disks)
    }

    async fn live(self: &Arc<Self>) -> io::Result<Outcome> {
        let services = tokio::spawn(self.clone().look_after_services());
        let standing = tokio::spawn(self.clone().watch_replication());
        let up = self.come_up().await;
        let began = self.now();
        *lock(&self.began) = began;
        let founding = self.programs_done();
        let mut measured = Measured { first_primary: self.primary(), ..Measured::default() };
        let clients = Workload::new(self.streams.clone());
        if let Err(why) = up {
            self.failed("I9", format!("{NEVER_UP}: {why}"));
        } else {
            self.start_clients(&clients, false);
            nemesis::run(&self.plan, began, &**self).await;
            self.recover(&clients, &mut measured).await;
        }
        clients.stop();
        measured.ended = self.now().saturating_sub(began);
        // Whatever is told from here on may be of rows that the count has not seen.
        lock(&self.tale).counted = Some(self.now());
        let last = self.last_rows().await;
        services.abort();
        standing.abort();
        let done = self.programs_done();
        measured.rewinds = done.rewinds - founding.rewinds;
        measured.clones = done.clones - founding.clones;
        for node in self.hosts_ever() {
            self.take_down(node);
        }
        Ok(self.close(&clients, measured, last).await)
    }

    /// Judges, and collects what a reader may want.
    async fn close(
        self: &Arc<Self>,
        clients: &Workload,
        mut measured: Measured,
        last: Option<sight::Last>,
    ) -> Outcome {
        let began = *lock(&self.began);
        let cut_off = lock(&self.tale).cut_off.clone();
        clients.history(|history| measured.hear(history, &cut_off, began));
        let mut found = account::settle(self, clients, &mut measured, last).await;
        let plan = account::with_slack(&self.plan);
        let tale = lock(&self.tale);
        found.extend(tale.failed.iter().cloned());
        // Where the laboratory failed, what it should have measured says nothing.
        let broken = found.iter().any(|violation| violation.invariant == LABORATORY);
        let violations = if broken { found } else { measured.judge(&plan, found) };
        let logs = self.hosts_ever().into_iter().flat_map(|node| {
            let folder = self.subject.folder(node);
            let files = [
                (format!("{node}.log"), self.subject.log(node)),
                (
                    format!("{node}-postgres.log"),
                    self.subject.store(node).join("home/postgres.log"),
                ),
                (format!("{node}.toml"), folder.join("pg_replica.toml")),
            ];
            files.into_iter().filter_map(|(name, path)| Some((name, std::fs::read(path).ok()?)))
        });
        Outcome {
            outages: measured.outages(&self.plan),
            history: clients
                .history(|history| tale.lines(history))
                .iter()
                .map(ToString::to_string)
                .collect(),
            orders: lock(&self.order_lines).clone(),
            logs: logs.collect(),
            violations,
            measured,
        }
    }

    fn hosts_ever(&self) -> Vec<NodeId> {
        lock(&self.machines).keys().copied().collect()
    }

    async fn look_after_services(self: Arc<Self>) {
        loop {
            sleep(SERVICE_LOOK).await;
            let now = self.now();
            let mut machines = lock(&self.machines);
            let ended: Vec<String> = machines
                .values_mut()
                .filter_map(|machine| {
                    let error = machine.look_after(now).err()?;
                    Some(format!("{} cannot be started: {error}", machine.node))
                })
                .collect();
            drop(machines);
            for what in ended {
                self.trouble(&what);
            }
        }
    }

    /// A primary, a table in it, and everybody else streaming from it.
    async fn come_up(&self) -> Result<(), String> {
        let limit = self.now() + COME_UP_LIMIT;
        let mut why = String::from("nobody became primary");
        let (mut welcomed, mut goal) = (false, Goal::default());
        while self.now() < limit {
            sleep(LOOK_EVERY).await;
            if let Some(primary) = self.holder()
                && !welcomed
            {
                match self.welcome(primary).await {
                    Ok(()) => welcomed = true,
                    Err(error) => why = error,
                }
            }
            if welcomed {
                match self.lacks(&mut goal) {
                    None => return Ok(()),
                    Some(lack) => why = lack,
                }
            }
        }
        Err(why)
    }

    /// The role, the database and the tables that clients write to.
    async fn welcome(&self, primary: NodeId) -> Result<(), String> {
        let socket = self.subject.socket(primary);
        let Ground { writer, keeper, .. } = self.subject.ground();
        let own = (keeper.role.as_str(), keeper.password.as_str());
        let guest = (writer.role.as_str(), writer.password.as_str());
        welcome_guest(&socket.0, socket.1, own, guest).await?;
        let inside = sql::Session::at(&socket, keeper, &writer.role).await?;
        let tables = "alter table written add column if not exists \
                      wal text not null default pg_walfile_name(pg_current_wal_insert_lsn()), \
                      add column if not exists \
                      waited_for text not null \
                      default current_setting('synchronous_standby_names'); \
                      create table if not exists register (writer bigint, number bigint); \
                      insert into register select null, null \
                      where not exists (select from register); \
                      grant select, update on register to public";
        inside.ask(tables).await.map(|_| ())
    }

    fn start_clients(self: &Arc<Self>, clients: &Workload, moves_on: bool) {
        let hosts = self.plan.servers_of_clients();
        let delayed = Cables::of(&self.plan) == Cables::Carried;
        for mut plan in ClientPlan::all(&self.plan.workload) {
            plan.moves_on = moves_on;
            if delayed {
                plan.timeout *= slack::WAITS;
                plan.connect_timeout *= slack::WAITS;
            }
            let life = clients.life(&Network(self.clone()), plan, &hosts);
            drop(self.lab.outside.spawn(life));
        }
    }

    async fn recover(self: &Arc<Self>, clients: &Workload, measured: &mut Measured) {
        measured.healed = self.plan.duration;
        self.orders_done().await;
        if self.is_paused() {
            // The word that began the maintenance has overtaken the one that ended it.
            self.clone().give_order(Order::Resume, Answer::Any, 1, None);
            self.orders_done().await;
        }
        if let Some(lack) = self.lacks_after(RECOVERY_LIMIT).await {
            let within = RECOVERY_LIMIT.as_secs();
            self.failed("I9", format!("{within} s after the faults ended, {lack}"));
        }
        lock(&self.sight).recovered = lock(&self.tale).failed.iter().all(|f| f.invariant != "I9");
        let faults_over = *lock(&self.began) + self.plan.duration;
        let patience = self.plan.expect.writable_after.unwrap_or_default();
        while self.now() < faults_over + patience && !clients.acknowledged_since(faults_over) {
            sleep(LOOK_EVERY).await;
        }
        sleep(EPILOGUE).await;
    }

    /// What keeps the cluster from being whole even then; returns as soon as nothing does.
    async fn lacks_after(&self, limit: Duration) -> Option<String> {
        let until = self.now() + limit;
        let mut goal = Goal::default();
        loop {
            let mut lack = self.lacks(&mut goal);
            if lack.is_none() {
                lack = self.lacks_parameters().await;
            }
            if lack.is_none() || self.now() >= until {
                return lack;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn orders_done(&self) {
        while self.orders_pending() {
            sleep(LOOK_EVERY).await;
        }
    }
}
