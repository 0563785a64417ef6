//! One machine: its namespace, what runs in it, and what keeps that from running.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use pg_replica::ids::NodeId;
use pg_replica::os::guard::command_line;
use rustix::process::{Pid, Signal, kill_process};
use sim::scenario::Process;

use crate::lab::{Disks, Space, kill_all, processes_in};
use crate::subject::Subject;

/// How soon the machine's service manager starts a node again that has ended by itself.
const SERVICE_RESTART: Duration = Duration::from_millis(500);
/// How often what is to stand still is looked for again: a server may have begun another process.
const STOPS_MAX: u32 = 5;

/// What a machine starts by itself.
#[derive(Default)]
struct Service {
    process: Option<Child>,
    /// When it was seen to have ended by itself.
    ended: Option<Duration>,
}

impl Service {
    fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

/// What a manager costs on one machine, with everything that belongs to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// Resident memory in bytes.
    pub(super) resident: u64,
    /// Processor time since its beginning.
    pub(super) worked: Duration,
}

/// A machine.
pub(super) struct Machine {
    pub(super) node: NodeId,
    pub(super) space: Arc<Space>,
    subject: Arc<dyn Subject>,
    /// Its own disks, where its scenario breaks some.
    disks: Option<Disks>,
    /// The manager, and what it needs.
    services: Vec<Service>,
    /// What a fault keeps down.
    down: BTreeMap<Process, bool>,
    /// How many faults keep each still, and since when the whole machine stands.
    still: BTreeMap<Process, u32>,
    pub(super) frozen_since: Option<Duration>,
    /// Gone for ever.
    pub(super) destroyed: bool,
}

impl Machine {
    /// One on which nothing runs yet.
    pub(super) fn new(
        node: NodeId,
        space: Space,
        disks: Option<Disks>,
        subject: Arc<dyn Subject>,
    ) -> Self {
        Self {
            node,
            space: Arc::new(space),
            subject,
            disks,
            services: Vec::new(),
            down: BTreeMap::new(),
            still: BTreeMap::new(),
            frozen_since: None,
            destroyed: false,
        }
    }

    /// Starts what the machine starts by itself when it boots, as far as it does not run.
    pub(super) fn start(&mut self) -> io::Result<()> {
        if self.destroyed {
            return Ok(());
        }
        let programs = self.subject.services(self.node)?;
        self.services.resize_with(programs.len(), Service::default);
        let managed = !self.is_kept_down(Process::Manager);
        for (place, program) in programs.into_iter().enumerate() {
            let service = &mut self.services[place];
            if !service.runs() && (place > 0 || managed) {
                let process = Some(self.space.start(program)?);
                *service = Service { process, ended: None };
            }
        }
        Ok(())
    }

    /// What a service manager does all the time: starts again what has ended by itself. And what a
    /// fault keeps down is ended again where somebody else has started it.
    pub(super) fn look_after(&mut self, now: Duration) -> io::Result<()> {
        if self.is_kept_down(Process::Guard) {
            self.signal(Process::Guard, Signal::KILL);
        }
        let up = !self.is_kept_down(Process::Host) && !self.destroyed;
        let managed = !self.is_kept_down(Process::Manager);
        let mut due = false;
        for (place, service) in self.services.iter_mut().enumerate() {
            if !up || (place == 0 && !managed) || service.runs() {
                service.ended = None;
            } else {
                let ended = *service.ended.get_or_insert(now);
                due |= now >= ended + SERVICE_RESTART;
            }
        }
        if due { self.start() } else { Ok(()) }
    }

    pub(super) fn is_kept_down(&self, process: Process) -> bool {
        self.down.get(&process).copied().unwrap_or_default()
    }

    /// Whether its node waits for a disk, which lets go for the end of a process.
    pub(super) fn stalls(&self) -> bool {
        self.disks.as_ref().is_some_and(|disks| disks.store.is_stalled())
    }

    /// Whether nothing more fits onto its server's disk.
    pub(super) fn is_full(&self) -> bool {
        self.disks.as_ref().is_some_and(|disks| disks.data.is_full())
    }

    /// Ends a process, or with `Host` all of them; whether there was one.
    pub(super) fn crash(&mut self, process: Process) -> io::Result<bool> {
        // Nothing ends that waits for a disk which stalls: its end is what the fault asks for. A
        // server has nothing there but its own log.
        let disks = if process == Process::Postgres { None } else { self.disks.take() };
        match disks {
            None => Ok(self.end(process)),
            Some(mut disks) => {
                let hit = disks.store.spared(|| self.end(process));
                self.disks = Some(disks);
                hit
            }
        }
    }

    fn end(&mut self, process: Process) -> bool {
        let hit = match process {
            Process::Postgres => {
                let Some(postmaster) = self.postmaster() else { return false };
                return kill_process(postmaster, Signal::KILL).is_ok();
            }
            Process::Manager | Process::Guard => self.signal(process, Signal::KILL) > 0,
            Process::Host => {
                let any = !processes_in(self.space.inode).is_empty();
                let _ = kill_all(self.space.inode);
                any
            }
        };
        self.down.insert(process, true);
        let ended = match process {
            Process::Guard | Process::Postgres => 0,
            Process::Manager => 1,
            Process::Host => self.services.len(),
        };
        for service in self.services.iter_mut().take(ended) {
            let _ = service.process.as_mut().map(Child::wait);
        }
        hit
    }

    /// What was ended may run again, and does.
    pub(super) fn restart(&mut self, process: Process) -> io::Result<()> {
        self.down.insert(process, false);
        match process {
            // The manager starts its guard, and its server.
            Process::Guard | Process::Postgres => Ok(()),
            Process::Manager | Process::Host => self.start(),
        }
    }

    /// Stops a process, or with `Host` everything; whether there was one.
    pub(super) fn pause(&mut self, process: Process, now: Duration) -> bool {
        *self.still.entry(process).or_default() += 1;
        if process == Process::Host {
            self.frozen_since.get_or_insert(now);
        }
        let mut hit = false;
        for _ in 0..STOPS_MAX {
            hit |= self.signal(process, Signal::STOP) > 0;
        }
        hit && !self.is_kept_down(Process::Host)
    }

    /// Ends one pause; since when the whole machine stood, where it goes on now.
    pub(super) fn resume(&mut self, process: Process) -> Option<Duration> {
        let count = self.still.entry(process).or_default();
        *count = count.saturating_sub(1);
        if *count > 0 {
            return None;
        }
        let held = |by| self.still.get(&by).is_some_and(|count| *count > 0);
        for (pid, kind) in self.processes() {
            let concerned = process == Process::Host || kind == Some(process);
            // What the manager needs stands still with the whole machine alone.
            let goes_on = concerned && !kind.is_some_and(held) && !held(Process::Host);
            if goes_on && let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::CONT);
            }
        }
        if process == Process::Host { self.frozen_since.take() } else { None }
    }

    /// Does something with its disks.
    pub(super) fn with_disks(
        &mut self,
        act: impl FnOnce(&mut Disks) -> io::Result<()>,
    ) -> io::Result<()> {
        match &mut self.disks {
            Some(disks) => act(disks),
            None => Err(io::Error::other("it has no disks of its own")),
        }
    }

    /// Nothing is wrong with its disks any more.
    pub(super) fn heal_disks(&mut self) -> io::Result<()> {
        self.disks.as_mut().map_or(Ok(()), Disks::heal)
    }

    /// Nothing stands still any more.
    pub(super) fn resume_all(&mut self) -> Option<Duration> {
        self.still.clear();
        self.resume(Process::Host)
    }

    /// Sends a signal to every process of this kind; to how many.
    fn signal(&self, process: Process, signal: Signal) -> usize {
        let concerned = self
            .processes()
            .into_iter()
            .filter(|(_, kind)| process == Process::Host || *kind == Some(process));
        let sent = concerned.filter_map(|(pid, _)| Pid::from_raw(pid)).filter(|pid| {
            let sent = kill_process(*pid, signal);
            sent.is_ok()
        });
        sent.count()
    }

    /// Every process of the machine, and what it is.
    fn processes(&self) -> Vec<(i32, Option<Process>)> {
        let kind = |pid: &i32| {
            let line = Pid::from_raw(*pid).map(command_line).unwrap_or_default();
            let words: Vec<String> = line
                .split(|byte| *byte == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            self.subject.kind(&words)
        };
        let all = processes_in(self.space.inode).into_iter();
        all.map(|pid| (pid, kind(&pid))).collect()
    }

    /// What the manager and its guard cost so far, and what else the manager needs.
    pub(super) fn costs(&self) -> [Cost; 2] {
        let mut costs = [Cost::default(); 2];
        for (pid, kind) in self.processes() {
            let place = match kind {
                Some(Process::Manager | Process::Guard) => 0,
                None => 1,
                Some(Process::Postgres | Process::Host) => continue,
            };
            let one = cost_of(pid).unwrap_or_default();
            costs[place].resident += one.resident;
            costs[place].worked += one.worked;
        }
        costs
    }

    /// The server's first process, if there is one.
    fn postmaster(&self) -> Option<Pid> {
        let file = self.subject.data(self.node).join("postmaster.pid");
        let first: i32 = fs::read_to_string(file).ok()?.lines().next()?.parse().ok()?;
        processes_in(self.space.inode).contains(&first).then(|| Pid::from_raw(first))?
    }
}

/// What a process costs, by the kernel's book.
fn cost_of(pid: i32) -> Option<Cost> {
    /// `getconf PAGESIZE` and `CLK_TCK` of every machine that this runs on.
    const PAGE: u64 = 4_096;
    const TICKS: u64 = 100;
    let memory = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let resident: u64 = memory.split_whitespace().nth(1)?.parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; the numbers come after its end.
    let numbers: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |place: usize| numbers.get(place)?.parse::<u64>().ok();
    let worked = Duration::from_millis((ticks(11)? + ticks(12)?) * 1_000 / TICKS);
    Some(Cost { resident: resident * PAGE, worked })
}
