//! A namespace, and a thread that lives in it: whatever the thread opens or starts, is there. What
//! servers share in memory is the machine's own as well, and ends with the last of its processes.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, mpsc};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use sim::streams::lock;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Where `ip` keeps what holds namespaces.
pub(super) const SPACES: &str = "/run/netns";

/// A network namespace of a laboratory.
#[derive(Debug)]
pub struct Space {
    /// What `/proc` calls it.
    pub inode: u64,
    tasks: Handle,
    /// The thread ends when this is dropped.
    stay: Mutex<Option<oneshot::Sender<()>>>,
}

/// Does something in the namespace of this name, and comes back.
pub(super) fn inside<T: Send + 'static>(
    name: &str,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let door = File::open(Path::new(SPACES).join(name))?;
    let visitor = thread::spawn(move || {
        move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))?;
        act()
    });
    visitor.join().map_err(|_| io::Error::other("whoever went in did not come back"))?
}

impl Space {
    /// Enters the namespace of this name.
    pub(super) fn enter(name: &str) -> io::Result<Self> {
        let door = File::open(Path::new(SPACES).join(name))?;
        let inode = door.metadata()?.ino();
        let (stay, leave) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let entered = move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))
                .and_then(|()| memory_of_its_own())
                .map_err(io::Error::from)
                .and_then(|()| Builder::new_current_thread().enable_all().build());
            match entered {
                Ok(runtime) => {
                    let _ = tell.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(leave);
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        });
        let tasks = told.recv().map_err(|_| io::Error::other("a thread ended at once"))??;
        Ok(Self { inode, tasks, stay: Mutex::new(Some(stay)) })
    }

    /// Runs a task there.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Ends the thread, and every task on it.
    pub fn leave(&self) {
        drop(lock(&self.stay).take());
    }

    /// Starts a program there.
    pub fn start(&self, mut program: Command) -> io::Result<Child> {
        let (tell, told) = mpsc::channel();
        // Its network is that of the thread which starts it.
        drop(self.tasks.spawn(async move { tell.send(program.spawn()) }));
        told.recv().map_err(|_| io::Error::other("the namespace is gone"))?
    }
}

/// A server that is killed leaves its shared memory behind, for ever if nobody starts it again.
#[allow(deprecated, reason = "it shares out no open files, which is what is unsafe about it")]
fn memory_of_its_own() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWIPC)
}
