//! The guard's process: one thread, one deadline, one thing to do.
//!
//! It is kept small and in memory, because it has to work when the machine is short of everything.
//! It asks nobody and decides nothing: who may write until when is the manager's business.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, thread};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::env::Armed;

use super::super::clock::boottime;
use super::strike::end_postgres;
use super::words::{Answer, Order};

/// How many managers may speak to it: the one that runs, and one that is just being replaced.
const LINES_MAX: usize = 8;
/// The longest order.
const ORDER_MAX: usize = 128;
/// An idle guard that no manager speaks to ends after this long.
const ALONE_MAX: Duration = Duration::from_secs(60);
/// How often it looks around when nothing happens, and pats the watchdog.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// What a guard is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardPlan {
    /// Where it listens.
    pub socket: PathBuf,
    /// The data directory whose Postgres it ends.
    pub data: PathBuf,
    /// The kernel's watchdog device, where the guard keeps it quiet.
    pub watchdog: Option<PathBuf>,
    /// End Postgres and the guard when the last manager has gone: for demonstrations.
    pub with_manager: bool,
}

impl GuardPlan {
    /// The plan as a command line.
    pub(super) fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> =
            vec!["guard".into(), "--socket".into(), (&self.socket).into()];
        arguments.extend(["--data".into(), (&self.data).into()]);
        if let Some(device) = &self.watchdog {
            arguments.extend(["--watchdog".into(), device.into()]);
        }
        if self.with_manager {
            arguments.push("--with-manager".into());
        }
        arguments
    }
}

/// A manager's connection, and what of an order has arrived.
struct Line {
    stream: UnixStream,
    heard: Vec<u8>,
}

struct GuardProcess {
    plan: GuardPlan,
    listener: UnixListener,
    lines: Vec<Line>,
    armed: Option<Armed>,
    retired: bool,
    alone_since: Duration,
    watchdog: Option<fs::File>,
}

/// Runs the guard until it is not needed any more.
pub fn serve(plan: GuardPlan) -> io::Result<()> {
    // Of its own session: what ends the manager's terminal does not end the guard.
    let _ = rustix::process::setsid();
    stay_in_memory();
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(plan.socket.with_extension("lock"))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        // Two managers started one at the same time; the other guard is as good.
        return Ok(());
    }
    // A socket without a guard behind it was left by one that was killed.
    let _ = fs::remove_file(&plan.socket);
    let listener = UnixListener::bind(&plan.socket)?;
    listener.set_nonblocking(true)?;
    let watchdog = plan.watchdog.as_ref().map(|device| {
        fs::OpenOptions::new().write(true).open(device).map_err(|error| {
            io::Error::other(format!("the watchdog {}: {error}", device.display()))
        })
    });
    let alone_since = boottime().since_origin();
    let watchdog = watchdog.transpose()?;
    let mut guard = GuardProcess {
        plan,
        listener,
        lines: Vec::new(),
        armed: None,
        retired: false,
        alone_since,
        watchdog,
    };
    guard.run()?;
    let _ = fs::remove_file(&guard.plan.socket);
    Ok(())
}

/// Best effort, each: a container may forbid any of them, and the guard works without.
fn stay_in_memory() {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if mlockall(flags).is_err() {
        eprintln!("guard: its memory cannot be locked (allow it with LimitMEMLOCK=infinity)");
    }
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

impl GuardProcess {
    fn run(&mut self) -> io::Result<()> {
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        loop {
            let next = self.next_look();
            let until = Timespec {
                tv_sec: i64::try_from(next.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(next.subsec_nanos()),
            };
            let never = Timespec { tv_sec: 0, tv_nsec: 0 };
            let alarm = Itimerspec { it_interval: never, it_value: until };
            timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &alarm)?;
            let mut sources = vec![
                PollFd::new(&timer, PollFlags::IN),
                PollFd::new(&self.listener, PollFlags::IN),
            ];
            sources.extend(
                self.lines
                    .iter()
                    .map(|line| PollFd::from_borrowed_fd(line.stream.as_fd(), PollFlags::IN)),
            );
            match poll(&mut sources, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            drop(sources);
            // What was said before the deadline counts, also where it is read after it.
            self.listen();
            self.strike_if_due();
            if self.is_superfluous() {
                return Ok(());
            }
        }
    }

    fn next_look(&self) -> Duration {
        let soon = boottime().since_origin() + LOOK_AROUND;
        self.armed.map_or(soon, |armed| soon.min(armed.deadline.since_origin()))
    }

    fn listen(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.lines.len() < LINES_MAX && stream.set_nonblocking(true).is_ok() {
                self.lines.push(Line { stream, heard: Vec::new() });
            }
        }
        for mut line in std::mem::take(&mut self.lines) {
            if self.attend(&mut line).is_ok() {
                self.lines.push(line);
            }
        }
    }

    /// Takes every order that has arrived. An error means that the line is of no more use.
    fn attend(&mut self, line: &mut Line) -> io::Result<()> {
        let mut buffer = [0; ORDER_MAX];
        loop {
            match line.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => line.heard.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while let Some(end) = line.heard.iter().position(|byte| *byte == b'\n') {
            let order: Vec<u8> = line.heard.drain(..=end).collect();
            let order = String::from_utf8_lossy(&order[..end]).into_owned();
            let answer = self.obey(order.parse().map_err(io::Error::other)?);
            line.stream.write_all(format!("{answer}\n").as_bytes())?;
        }
        if line.heard.len() > ORDER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Answer {
        match order {
            Order::Arm(wanted) => {
                // Orders may be repeated or late: a deadline never moves back within an epoch.
                let later = self.armed.is_none_or(|held| {
                    held.epoch < wanted.epoch
                        || held.epoch == wanted.epoch && held.deadline < wanted.deadline
                });
                if later {
                    self.armed = Some(wanted);
                }
                Answer::Heard
            }
            Order::Disarm(epoch) => {
                self.armed = self.armed.filter(|armed| armed.epoch != epoch);
                Answer::Heard
            }
            Order::Ask => self.armed.map_or(Answer::Idle, Answer::Armed),
            Order::Retire => {
                // Nobody is believed who says that Postgres has ended.
                end_postgres(&self.plan.data);
                self.armed = None;
                self.retired = true;
                Answer::Heard
            }
        }
    }

    fn strike_if_due(&mut self) {
        let now = boottime();
        if let Some(armed) = self.armed.filter(|armed| armed.deadline <= now) {
            self.armed = None;
            let ended = end_postgres(&self.plan.data);
            eprintln!(
                "guard: the lease of {} ended; {ended} processes of Postgres were ended",
                armed.epoch
            );
        }
        if let Some(watchdog) = &mut self.watchdog {
            // A watchdog that is not patted resets the machine, which is what it is there for.
            let _ = watchdog.write_all(b"1");
        }
    }

    /// Whether nobody can need this guard: it holds nothing, and no manager is there.
    fn is_superfluous(&mut self) -> bool {
        let now = boottime().since_origin();
        if self.retired {
            self.retire_watchdog();
            return true;
        }
        if !self.lines.is_empty() {
            self.alone_since = now;
            return false;
        }
        let alone = now.saturating_sub(self.alone_since);
        if self.plan.with_manager && alone > LOOK_AROUND * 2 {
            end_postgres(&self.plan.data);
            self.retire_watchdog();
            return true;
        }
        let done = self.armed.is_none() && alone > ALONE_MAX;
        if done {
            self.retire_watchdog();
        }
        done
    }

    /// The magic word after which the kernel lets the device be closed.
    fn retire_watchdog(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            let _ = watchdog.write_all(b"V");
        }
        // The last answer may still be on its way.
        thread::yield_now();
    }
}
