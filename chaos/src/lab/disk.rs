//! Disks that can fill and stall: a machine has two of its own where its scenario breaks one.
//!
//! A disk is a file in the folder of the laboratory, with a file system that is mounted by way of a
//! loop device. It is full while another file takes all the space that is left, and it stalls while
//! the file system is frozen: whoever writes to it waits in the kernel, and cannot even be killed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use sim::scenario::{DiskFlaw, Fault, Plan, PostgresFlaw};

use super::{Attempt, Cables, Lab, Name, run};

/// Where a manager keeps what it knows.
const STORE_BYTES: u64 = 512 << 20;
/// Where a server keeps its data, beside which its manager makes copies.
const DATA_BYTES: u64 = 1 << 30;
/// What fills a disk.
const BALLAST: &str = "ballast";

/// The disks of one machine.
#[derive(Debug)]
pub struct Disks {
    /// What the manager knows is on it.
    pub store: Disk,
    /// The server's data.
    pub data: Disk,
}

impl Disks {
    /// Whether machines have disks of their own in this plan.
    #[must_use]
    pub fn are_for(plan: &Plan) -> bool {
        plan.events.iter().any(|event| {
            let full_data = PostgresFlaw::DiskFull;
            matches!(&event.fault, Fault::Disk { flaw: DiskFlaw::Full | DiskFlaw::Stall, .. })
                || matches!(&event.fault, Fault::Postgres { flaw, .. } if *flaw == full_data)
        })
    }

    /// Makes both and mounts them here.
    pub fn make(store: &Path, data: &Path) -> io::Result<Self> {
        Ok(Self { store: Disk::make(store, STORE_BYTES)?, data: Disk::make(data, DATA_BYTES)? })
    }

    /// Nothing is wrong with them any more.
    pub fn heal(&mut self) -> io::Result<()> {
        for disk in [&mut self.store, &mut self.data] {
            disk.set_stalled(false)?;
            disk.set_full(false)?;
        }
        Ok(())
    }
}

/// One disk.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    stalled: bool,
    full: bool,
}

impl Disk {
    fn make(at: &Path, bytes: u64) -> io::Result<Self> {
        let image = at.with_extension("disk");
        File::create_new(&image)?.set_len(bytes)?;
        // Whole at once, and nothing of it set apart for anybody.
        let format = "-qFm0 -O ^has_journal -E lazy_itable_init=0";
        let image = image.display().to_string();
        let format: Vec<&str> = format.split(' ').chain([image.as_str()]).collect();
        run("mkfs.ext4", &format)?;
        fs::create_dir(at)?;
        run("mount", &["-o", "loop", &image, &at.display().to_string()])?;
        Ok(Self { at: at.to_owned(), stalled: false, full: false })
    }

    /// Begins or ends a time in which whoever writes to it waits.
    pub fn set_stalled(&mut self, stalled: bool) -> io::Result<()> {
        if self.stalled != stalled {
            freeze(&self.at, stalled)?;
            self.stalled = stalled;
        }
        Ok(())
    }

    /// Whether whoever writes to it waits.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Whether nothing more fits onto it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Begins or ends a time in which nothing more fits onto it.
    pub fn set_full(&mut self, full: bool) -> io::Result<()> {
        if self.full == full {
            return Ok(());
        }
        // On one that stalls, this would wait as well.
        let stalled = self.stalled;
        self.set_stalled(false)?;
        if full {
            fill(&self.at)?
        } else {
            fs::remove_file(self.at.join(BALLAST))?
        }
        self.full = full;
        self.set_stalled(stalled)
    }

    /// Does what would wait for ever on a disk that stalls, such as the end of a process.
    pub fn spared<T>(&mut self, act: impl FnOnce() -> T) -> io::Result<T> {
        let stalled = self.stalled;
        self.set_stalled(false)?;
        let done = act();
        self.set_stalled(stalled)?;
        Ok(done)
    }
}

/// Takes all the space that is left; what is written to what is there already still fits.
fn fill(at: &Path) -> io::Result<()> {
    let ballast = File::create(at.join(BALLAST))?;
    let space = statvfs(at)?;
    let block = space.f_frsize;
    let (mut end, mut piece) = (0, space.f_bavail * block);
    while piece >= block {
        match fallocate(&ballast, FallocateFlags::empty(), end, piece) {
            Ok(()) => end += piece,
            // The file system needs some of it to say where the rest is.
            Err(rustix::io::Errno::NOSPC) => piece = piece / 2 / block * block,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn freeze(at: &Path, frozen: bool) -> io::Result<()> {
    run("fsfreeze", &[if frozen { "-f" } else { "-u" }, &at.display().to_string()])
}

/// Makes disks, breaks one in both ways and takes them away: whether this machine can.
pub fn attempt_disks() -> io::Result<()> {
    let lab = Lab::build(Name::of_an_attempt(Attempt::Disks), 0, Cables::Plain, false)?;
    let mut disks = Disks::make(&lab.folder().join("store"), &lab.folder().join("data"))?;
    disks.store.set_full(true)?;
    disks.store.set_stalled(true)?;
    disks.heal()
}
