//! A laboratory: network namespaces on one machine, and the switch between them.
//!
//! Every run has a laboratory of its own under a name of its own, with the same addresses in each:
//! its switch is in a namespace as well, and nothing of it can be reached from outside. Where a
//! scenario breaks disks or delays packets, machines have disks (`disk`) and cables (`cable`) that
//! allow it. Whatever ends the program, the reaper (`leftovers`) takes the laboratory away.

mod cable;
mod disk;
mod leftovers;
mod space;
mod switch;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pg_replica::ids::NodeId;
use sim::place::Place;

pub use cable::{Cables, attempt_cables};
pub use disk::{Disks, attempt_disks};
pub(crate) use leftovers::kill_all;
pub use leftovers::{Reaper, reap, sweep};
pub use space::Space;
pub use switch::{Cut, Loss, Switch};

/// What the names of all laboratories begin with.
const PREFIX: &str = "pgc";
/// The namespace of the switch.
const SWITCH: &str = "sw";
/// The namespace of clients and operators.
const OUTSIDE: &str = "out";

/// What is tried to find out whether a machine can do it.
#[derive(Clone, Copy, Debug)]
enum Attempt {
    Network,
    Disks,
    Cables,
}

/// A laboratory's name: the process that made it, and its number there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    process: u32,
    number: u32,
}

impl Name {
    /// The laboratory of this number, of this process.
    #[must_use]
    pub fn of_this_process(number: u32) -> Self {
        Self { process: std::process::id(), number }
    }

    /// That of an attempt of this process. Each has a name of its own, because several may be under
    /// way at a time.
    fn of_an_attempt(attempt: Attempt) -> Self {
        Self::of_this_process(u32::MAX - attempt as u32)
    }

    /// The namespace that is called `part` in it.
    fn space(&self, part: &str) -> String {
        format!("{}-{part}", self.stem())
    }

    fn stem(&self) -> String {
        format!("{PREFIX}-{}-{}", self.process, self.number)
    }

    fn folder(&self) -> PathBuf {
        std::env::temp_dir().join(self.stem())
    }

    /// The laboratory that a namespace or a folder of this name belongs to.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
        let process = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        Some(Self { process, number })
    }
}

/// Where a place is on the network of every laboratory.
#[must_use]
pub fn address(place: Place) -> Ipv4Addr {
    match place {
        Place::Host(node) => {
            Ipv4Addr::new(10, 77, 0, u8::try_from(node.0).expect("members have small numbers"))
        }
        Place::Client(number) => {
            Ipv4Addr::new(10, 77, 1, u8::try_from(number + 1).expect("there are few clients"))
        }
        Place::Operator => Ipv4Addr::new(10, 77, 2, 1),
    }
}

/// One direction, from the first to the second.
pub type Way = (Ipv4Addr, Ipv4Addr);

/// Namespaces for these members, clients and an operator, and a folder.
#[derive(Debug)]
pub struct Lab {
    /// The switch between all of them.
    pub switch: Switch,
    /// Where clients and operators are. Each has an address of its own, by which it is cut off.
    pub outside: Space,
    name: Name,
    /// Ends with the laboratory, and sees to its end if that comes without a word.
    _reaper: Reaper,
    /// Shows others that this program lives, and not one of its number.
    _alive: File,
    kept: bool,
}

impl Lab {
    /// Builds it, with cables of this kind.
    pub fn build(name: Name, clients: u32, cables: Cables, keep: bool) -> io::Result<Self> {
        let reaper = Reaper::start(&name, keep)?;
        // The servers run under an account of their own and have to get through.
        DirBuilder::new().mode(0o711).create(name.folder())?;
        let alive = leftovers::show_alive(&name)?;
        let switch = Switch::build(name.space(SWITCH), cables)?;
        let places: Vec<Place> =
            [Place::Operator].into_iter().chain((0..clients).map(Place::Client)).collect();
        let addresses: Vec<Ipv4Addr> = places.into_iter().map(address).collect();
        let outside = switch.plug(&name.space(OUTSIDE), OUTSIDE, &addresses)?;
        Ok(Self { switch, outside, name, _reaper: reaper, _alive: alive, kept: keep })
    }

    /// A namespace for one member.
    pub fn machine(&self, node: NodeId) -> io::Result<Space> {
        let part = node.to_string();
        self.switch.plug(&self.name.space(&part), &part, &[address(Place::Host(node))])
    }

    /// The folder in which everything of it lies.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.name.folder()
    }

    /// Takes it away. What still runs in it ends.
    pub fn clear(&self) {
        self.outside.leave();
        self.switch.unplug();
        leftovers::remove(&self.name, self.kept);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Builds the smallest laboratory and takes it away again: whether this machine can.
pub fn attempt() -> io::Result<()> {
    let lab = Lab::build(Name::of_an_attempt(Attempt::Network), 0, Cables::Plain, false)?;
    lab.switch.cut(&Cut { silent: [address(Place::Operator)].into(), ..Cut::default() })
}

/// Runs a program of the system and wants it to succeed.
fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).output();
    succeeded(program, arguments, output)
}

fn succeeded(program: &str, arguments: &[&str], output: io::Result<Output>) -> io::Result<()> {
    let what = format!("{program} {}", arguments.join(" "));
    let output = output.map_err(|error| io::Error::other(format!("{what}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{what}: {}", said.trim())))
}

/// Every process whose network is the namespace of this inode.
#[must_use]
pub fn processes_in(inode: u64) -> Vec<i32> {
    let link = format!("net:[{inode}]");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let network = fs::read_link(entry.path().join("ns/net")).ok()?;
        (network == Path::new(&link)).then_some(pid)
    });
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_laboratory() {
        let name = Name { process: 17, number: 3 };
        assert_eq!(Name::parse(&name.space("n1")), Some(name.clone()));
        assert_eq!(Name::parse(&name.stem()), Some(name));
        assert_eq!(Name::parse("pgc-x-1"), None);
        assert_eq!(Name::parse("other"), None);
    }
}
