//! Who takes a laboratory away when the program cannot.
//!
//! Beside every laboratory runs a process that holds the reading end of a pipe and nothing else.
//! The pipe ends with the program, however that comes about; then everything in the namespaces of
//! the laboratory is killed, and they and its folder are removed. Whatever a killed program had
//! just started goes on without it, so the reaper looks again for a second. Should the
//! reaper die as well, the next start finds what is left by its name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::space::SPACES;
use super::{Name, disk, processes_in, run};

/// How often what does not want to end is killed again.
const KILLS_MAX: u32 = 40;
const KILL_AGAIN: Duration = Duration::from_millis(25);

/// Written into the pipe by a program that is done: nothing of it is under way any more.
const DONE: u8 = b'.';

/// How often is looked again after a program that was killed, for what it had just started.
const LOOKS_AGAIN: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// The process that waits for the end of this one.
#[derive(Debug)]
pub struct Reaper {
    process: Child,
    /// Closed last of all.
    line: Option<ChildStdin>,
}

impl Reaper {
    pub(super) fn start(name: &Name, keep: bool) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("reap").arg(name.process.to_string()).arg(name.number.to_string());
        if keep {
            command.arg("--keep");
        }
        // Ctrl-C at the terminal is for the program, not for whoever clears up after it.
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut process = command.spawn()?;
        let line = process.stdin.take();
        Ok(Self { process, line })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut line) = self.line.take() {
            let _ = line.write_all(&[DONE]);
        }
        let _ = self.process.wait();
    }
}

/// What the reaper does: waits, and clears up.
pub fn reap(process: u32, number: u32, keep: bool) {
    let mut said = Vec::new();
    let _ = io::stdin().read_to_end(&mut said);
    let name = Name { process, number };
    remove(&name, keep);
    if said.is_empty() {
        for _ in 0..LOOKS_AGAIN {
            sleep(LOOK_AGAIN);
            remove(&name, keep);
        }
    }
}

/// In the folder of a laboratory, and locked for as long as its program lives.
const ALIVE: &str = "alive";

/// Shows that the program of this laboratory lives, for as long as the file is held.
pub(super) fn show_alive(name: &Name) -> io::Result<File> {
    let folder = name.folder();
    // Under its name it is never seen without the lock.
    let new = folder.join(format!("{ALIVE}.new"));
    let file = File::create(&new)?;
    file.lock()?;
    fs::rename(new, folder.join(ALIVE))?;
    Ok(file)
}

/// Whether the program of a laboratory is gone. Its number may be another's by now.
fn is_gone(name: &Name) -> bool {
    let numbered = Path::new("/proc").join(name.process.to_string()).exists();
    let alive = File::open(name.folder().join(ALIVE));
    !numbered || alive.is_ok_and(|file| file.try_lock().is_ok())
}

/// Removes the laboratories of programs that are gone.
pub fn sweep() {
    let names_in = |folder: &Path| -> Vec<Name> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Name::parse(entry.file_name().to_str()?)).collect()
    };
    let mut found = names_in(Path::new(SPACES));
    found.extend(names_in(&std::env::temp_dir()));
    found.retain(is_gone);
    let mut seen = BTreeSet::new();
    for name in found {
        if seen.insert(name.stem()) {
            remove(&name, false);
        }
    }
}

/// Removes a laboratory; what is gone already is no trouble.
pub(super) fn remove(name: &Name, keep_folder: bool) {
    let folder = name.folder();
    let mounted = mounted_below(&folder);
    // Whoever waits for a disk that stalls cannot be killed. Most do not, and say so.
    for place in &mounted {
        let _ = disk::freeze(Path::new(place), false);
    }
    for (space, inode) in spaces(name) {
        if kill_all(inode) {
            let _ = run("ip", &["netns", "delete", &space]);
        } else {
            // By its name it is found again.
            eprintln!("processes in the namespace {space} do not end; it is left where it is");
        }
    }
    for place in mounted {
        let _ = unmount(Path::new(&place), UnmountFlags::DETACH);
    }
    if keep_folder {
        // Under another name, so that nobody takes it for a leftover.
        let kept = folder.with_file_name(format!("kept-{}", name.stem()));
        let _ = fs::rename(folder, kept);
    } else {
        let _ = fs::remove_dir_all(folder);
    }
}

/// The namespaces of a laboratory, with their inodes.
fn spaces(name: &Name) -> Vec<(String, u64)> {
    let prefix = format!("{}-", name.stem());
    let entries = fs::read_dir(SPACES).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            let inode = fs::metadata(entry.path()).ok()?.ino();
            name.starts_with(&prefix).then_some((name, inode))
        })
        .collect()
}

/// Ends whatever runs in a namespace; whether nothing is left.
pub(crate) fn kill_all(inode: u64) -> bool {
    for _ in 0..KILLS_MAX {
        let processes = processes_in(inode);
        if processes.is_empty() {
            return true;
        }
        for pid in processes.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(KILL_AGAIN);
    }
    processes_in(inode).is_empty()
}

fn mounted_below(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(1));
    places.filter(|place| Path::new(place).starts_with(folder)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_another_program_has_by_now_keeps_no_laboratory_alive() {
        let name = Name { process: std::process::id(), number: 4_000_000 };
        let there = fs::create_dir(name.folder());
        let unknown = is_gone(&name);
        let alive = show_alive(&name);
        let held = is_gone(&name);
        drop(alive.unwrap());
        let let_go = is_gone(&name);
        fs::remove_dir_all(name.folder()).unwrap();
        there.unwrap();
        assert_eq!((unknown, held, let_go), (false, false, true));
        assert!(is_gone(&Name { process: u32::MAX, number: 0 }));
    }
}
