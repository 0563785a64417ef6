//! Cables that delay: where a scenario asks for it, what a machine sends goes through this program,
//! which holds each packet for as long as its direction says, so that some overtake others, and
//! sends some twice. What is cut and what is lost is the switch's business, behind the cable.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::pending;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pg_replica::env::Entropy;
use pg_replica::os::OsEntropy;
use sim::fabric::LinkFault;
use sim::scenario::{Fault, LinkFlaw, Plan};
use sim::streams::{Stream, lock};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_tun::Tun;

use super::space::inside;
use super::{Attempt, Lab, Name, Way};

/// More than any packet has.
const PACKET_MAX: usize = 1 << 16;
/// What is wrong with each direction at the moment.
pub(super) type Faults = Arc<Mutex<BTreeMap<Way, LinkFault>>>;

/// What machines hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cables {
    /// Links of the kernel's own, which lose packets at most.
    Plain,
    /// Links that this process carries, which also delay, double and reorder.
    Carried,
}

impl Cables {
    /// Those that a plan asks for.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let loses = |flaw: &LinkFlaw| matches!(flaw, LinkFlaw::Loss { .. });
        let carried = plan
            .events
            .iter()
            .any(|event| matches!(&event.fault, Fault::Link { flaw, .. } if !loses(flaw)));
        if carried { Self::Carried } else { Self::Plain }
    }
}

/// Lays one and takes it away: whether this machine can.
pub fn attempt_cables() -> io::Result<()> {
    Lab::build(Name::of_an_attempt(Attempt::Cables), 0, Cables::Carried, false).map(drop)
}

/// One cable.
#[derive(Debug)]
pub(super) struct Cable {
    /// It is carried for as long as this is there.
    stay: Option<oneshot::Sender<()>>,
    carrier: Option<JoinHandle<()>>,
}

impl Cable {
    /// Between two namespaces, with these names for its ends.
    pub(super) fn lay(
        machine: (&str, &str),
        switch: (&str, &str),
        faults: Faults,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut carrier = Carrier {
            machine: end_in(machine, runtime.handle())?,
            switch: end_in(switch, runtime.handle())?,
            faults,
            chance: Stream::of(OsEntropy.next_u64(), 0),
            held: BinaryHeap::new(),
            number: 0,
        };
        let (stay, over) = oneshot::channel::<()>();
        let carrying = thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    _ = over => {}
                    // Its ends went away with their namespaces.
                    _ = carrier.carry() => {}
                }
            });
        });
        Ok(Self { stay: Some(stay), carrier: Some(carrying) })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        drop(self.stay.take());
        let _ = self.carrier.take().map(JoinHandle::join);
    }
}

fn end_in((space, name): (&str, &str), runtime: &Handle) -> io::Result<Tun> {
    let (name, runtime) = (name.to_owned(), runtime.clone());
    inside(space, move || {
        let _here = runtime.enter();
        // No program of a machine may hold on to it.
        let ends = Tun::builder().name(&name).tap().close_on_exec().build();
        let mut ends = ends.map_err(io::Error::other)?;
        ends.pop().ok_or_else(|| io::Error::other("a cable without an end"))
    })
}

/// A packet, after those that are due before it.
type Held = Reverse<(Instant, u64, Vec<u8>)>;

/// Whoever carries packets from one end to the other.
struct Carrier {
    machine: Tun,
    switch: Tun,
    faults: Faults,
    chance: Stream,
    held: BinaryHeap<Held>,
    number: u64,
}

impl Carrier {
    async fn carry(&mut self) -> io::Result<()> {
        let (mut sent, mut received) = (vec![0; PACKET_MAX], vec![0; PACKET_MAX]);
        loop {
            let due = self.held.peek().map(|Reverse((due, ..))| *due);
            tokio::select! {
                length = self.machine.recv(&mut sent) => self.hold(&sent[..length?]),
                // A packet that finds no room is lost, here and below, as on any cable.
                length = self.switch.recv(&mut received) => {
                    let _ = self.machine.try_send(&received[..length?]);
                }
                () = until(due) => {
                    if let Some(Reverse((_, _, packet))) = self.held.pop() {
                        let _ = self.switch.try_send(&packet);
                    }
                }
            }
        }
    }

    fn hold(&mut self, packet: &[u8]) {
        let fault = way_of(packet).and_then(|way| lock(&self.faults).get(&way).copied());
        let fault = fault.unwrap_or_default();
        let times = if self.chance.chance(fault.duplicate) { 2 } else { 1 };
        for _ in 0..times {
            let more = self.chance.between(Duration::ZERO, fault.jitter);
            let due = Instant::now() + fault.extra + more;
            self.number += 1;
            self.held.push(Reverse((due, self.number, packet.to_vec())));
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// From where to where a packet goes; those by which machines look for each other go nowhere.
fn way_of(packet: &[u8]) -> Option<Way> {
    const IPV4: [u8; 2] = [0x08, 0x00];
    let address = |at: usize| -> Option<Ipv4Addr> {
        let four: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(four.into())
    };
    (packet.get(12..14)? == IPV4).then_some((address(26)?, address(30)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_tells_its_way() {
        let mut packet = vec![0; 54];
        assert_eq!(way_of(&packet), None);
        packet[12..14].copy_from_slice(&[0x08, 0x00]);
        packet[26..34].copy_from_slice(&[10, 77, 0, 1, 10, 77, 0, 2]);
        let (from, to) = (Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!(way_of(&packet), Some((from, to)));
        assert_eq!(way_of(&packet[..30]), None);
    }
}
