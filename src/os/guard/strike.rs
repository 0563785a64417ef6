//! Ending every process of one Postgres, or of one of its tools.
//!
//! Every process of a server works in its data directory, which is how they are found, whoever
//! their parent is by now. The postmaster is stopped in its tracks first, so that it neither starts
//! new children nor lets one answer while the others go; then its children are killed, then itself.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// What the processes of a server are called.
const SERVER: &[&str] = &["postgres", "postmaster"];

/// What those are called that fill a directory: a base backup, of which there are two, and the one
/// that gets the log outlives the other where that one is killed; a rewind; what makes a new one.
const FILLING: &[&str] = &["pg_basebackup", "pg_rewind", "initdb"];

/// How soon it is looked again for processes that are still there.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// One process of the server.
struct Found {
    pid: Pid,
    parent: i32,
}

/// Ends every process that works as Postgres in `data`, and returns how many there were. When it
/// returns, none is left. It does not give up: one that cannot be killed is waiting for a disk, and
/// acknowledges nothing while it does. Nor does it take for granted what it cannot see: a machine
/// that is short of memory or of open files may hide a server, and lets it write.
pub fn end_postgres(data: &Path) -> usize {
    end_all(data, SERVER)
}

/// The same for what fills a directory and works in `folder`: whoever began it may have been
/// killed, and it goes on writing to the paths that it was told, whatever is there by then.
pub fn end_filling(folder: &Path) -> usize {
    end_all(folder, FILLING)
}

fn end_all(folder: &Path, names: &[&str]) -> usize {
    let mut ended = std::collections::BTreeSet::new();
    loop {
        let Ok(found) = look_for(folder, names) else {
            thread::sleep(LOOK_AGAIN);
            continue;
        };
        if found.is_empty() {
            return ended.len();
        }
        let (children, parents): (Vec<&Found>, Vec<&Found>) = found.iter().partition(|one| {
            found.iter().any(|other| other.pid.as_raw_nonzero().get() == one.parent)
        });
        for parent in &parents {
            // Nothing is wrong with a process that is gone already.
            let _ = kill_process(parent.pid, Signal::STOP);
        }
        let doomed = if children.is_empty() { parents } else { children };
        for process in doomed {
            let _ = kill_process(process.pid, Signal::KILL);
            ended.insert(process.pid.as_raw_nonzero());
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Every process that works as Postgres in `data`, whoever started it.
pub fn server_processes(data: &Path) -> io::Result<Vec<Pid>> {
    Ok(look_for(data, SERVER)?.into_iter().map(|process| process.pid).collect())
}

/// The processes of these names in a folder; none where there is no folder.
fn look_for(folder: &Path, names: &[&str]) -> io::Result<Vec<Found>> {
    match fs::canonicalize(folder) {
        Ok(folder) => processes_in(&folder, names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The beginning of a process's command line, by one reading: of a process that ends between two
/// readings there would be its first words, as if it had no more.
#[must_use]
pub fn command_line(process: Pid) -> Vec<u8> {
    let mut line = vec![0; 4096];
    let file = File::open(format!("/proc/{}/cmdline", process.as_raw_nonzero()));
    let length = file.and_then(|mut file| file.read(&mut line)).unwrap_or_default();
    line.truncate(length);
    line
}

/// Whether this process is one of them. Looking at one is far cheaper than looking at all.
#[must_use]
pub fn is_server_process(pid: Pid, data: &Path) -> bool {
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    fs::canonicalize(data).is_ok_and(|data| serves(&process, &data, SERVER).unwrap_or_default())
}

/// The processes of these names in `folder`, which is a path without links.
fn processes_in(folder: &Path, names: &[&str]) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        let process = entry.path();
        if serves(&process, folder, names)?
            && let Some(parent) = parent_of(&process)?
        {
            found.push(Found { pid, parent });
        }
    }
    Ok(found)
}

/// Other programs may stand in the directory, an operator's shell among them.
fn serves(process: &Path, folder: &Path, names: &[&str]) -> io::Result<bool> {
    let works_in = of_the_living(fs::read_link(process.join("cwd")))?;
    Ok(works_in.is_some_and(|cwd| cwd == folder) && is_one_of(process, names)?)
}

fn is_one_of(process: &Path, names: &[&str]) -> io::Result<bool> {
    let name = of_the_living(fs::read_to_string(process.join("comm")))?;
    Ok(name.is_some_and(|name| names.contains(&name.trim_end())))
}

fn parent_of(process: &Path) -> io::Result<Option<i32>> {
    let stat = of_the_living(fs::read_to_string(process.join("stat")))?;
    // The name in brackets may hold anything; the numbers come after its end.
    let after_name = stat.as_deref().and_then(|stat| stat.rsplit_once(')'));
    Ok(after_name.and_then(|(_, after)| after.split_whitespace().nth(1)?.parse().ok()))
}

/// What was read of a process; `None` where it has ended, or is somebody else's.
fn of_the_living<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) => match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied, _) => Ok(None),
            (_, Some(number)) if number == Errno::SRCH.raw_os_error() => Ok(None),
            (_, _) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    /// A process that sleeps and calls itself `name`, in `folder`.
    fn sleeper(folder: &Path, name: &str) -> Child {
        let program = folder.join(name);
        if !program.exists() {
            fs::copy("/bin/sleep", &program).unwrap();
        }
        Command::new(&program).arg0(name).arg("600").current_dir(folder).spawn().unwrap()
    }

    #[test]
    fn what_cannot_be_seen_is_not_taken_for_gone() {
        let read = |error: Errno| of_the_living::<()>(Err(error.into()));
        for gone in [Errno::NOENT, Errno::SRCH, Errno::ACCESS] {
            assert_eq!(read(gone).unwrap(), None);
        }
        for hidden in [Errno::NOMEM, Errno::MFILE, Errno::NFILE] {
            assert!(read(hidden).is_err());
        }
        // A folder that is not there has nobody in it; one that cannot be entered may.
        assert!(look_for(Path::new("/no/such/folder"), SERVER).unwrap().is_empty());
        assert!(look_for(Path::new("/proc/version/data"), SERVER).is_err());
    }

    #[test]
    fn every_server_process_of_the_directory_ends_and_nobody_else() {
        let folder = std::env::temp_dir().join(format!("guard-strike-{}", std::process::id()));
        let other = folder.join("other");
        fs::create_dir_all(&other).unwrap();
        let mut doomed = [sleeper(&folder, "postgres"), sleeper(&folder, "postgres")];
        let mut copying = [sleeper(&folder, "pg_basebackup"), sleeper(&folder, "pg_rewind")];
        let mut bystanders = [sleeper(&folder, "vim"), sleeper(&other, "postgres")];
        // A process has the name of its program only once it has become that program.
        while look_for(&folder, SERVER).unwrap().len() < 2 {
            thread::sleep(LOOK_AGAIN);
        }
        kill_process(Pid::from_child(&doomed[0]), Signal::STOP).unwrap();
        // A killed child stays a name until its parent looks; this one looks on.
        let reaper = thread::scope(|scope| {
            let reaped = scope.spawn(|| doomed.iter_mut().all(|one| one.wait().is_ok()));
            assert_eq!(end_postgres(&folder), 2);
            reaped.join().unwrap()
        });
        assert!(reaper);
        for one in &mut copying {
            assert!(one.try_wait().unwrap().is_none(), "a server copies nothing");
        }
        thread::scope(|scope| {
            let reaped = scope.spawn(|| copying.iter_mut().all(|one| one.wait().is_ok()));
            assert_eq!(end_filling(&folder), 2);
            assert!(reaped.join().unwrap());
        });
        for bystander in &mut bystanders {
            assert!(bystander.try_wait().unwrap().is_none(), "a bystander was ended");
            bystander.kill().unwrap();
            bystander.wait().unwrap();
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
