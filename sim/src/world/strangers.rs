//! Strangers who connect to a member and mean no good.

use std::sync::Arc;
use std::time::Duration;

use pg_replica::ids::NodeId;
use pg_replica::os::sockets::Sockets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock::sleep;
use crate::place::Place;
use crate::scenario::SocketFlaw;
use crate::sockets::{Service, SimSockets, SimStream, address};
use crate::streams::{Concern, Stream};

use super::cluster::World;

/// How many connections a flood holds at a time, half of them at each of the two ports: more than a
/// member lets in.
const FLOOD: usize = 600;
/// How soon one that was ended is made anew.
const AGAIN: Duration = Duration::from_millis(100);
/// How often somebody sends nonsense.
const NONSENSE_EVERY: Duration = Duration::from_millis(50);
/// The longest nonsense.
const NONSENSE_MAX: u64 = 4_096;
/// How long whoever has sent some waits to be shown out.
const NONSENSE_PATIENCE: Duration = Duration::from_millis(500);

impl World {
    /// Strangers begin, and go on for as long as the flaw is there.
    pub(super) fn send_strangers(&self, node: NodeId, flaw: SocketFlaw) {
        let world = self.itself();
        match flaw {
            SocketFlaw::Flood => {
                for number in 0..FLOOD {
                    let world = world.clone();
                    drop(madsim::task::spawn(world.hold_a_place(node, service(number))));
                }
            }
            SocketFlaw::Garbage => drop(madsim::task::spawn(world.send_nonsense(node))),
            SocketFlaw::HalfOpen | SocketFlaw::CutFrames | SocketFlaw::SlowReaders => {}
        }
    }

    fn is_troubled(&self, node: NodeId, flaw: SocketFlaw) -> bool {
        self.wires.as_ref().is_some_and(|wires| wires.has_flaw(node, flaw))
    }

    fn strangers(&self) -> SimSockets {
        let wires = self.wires.as_ref().expect("there are strangers in the sockets world alone");
        wires.at(Place::Operator)
    }

    /// Holds one connection, silently, for as long as it lasts; and then the next.
    async fn hold_a_place(self: Arc<Self>, node: NodeId, service: Service) {
        let address = address(node, service);
        while self.is_troubled(node, SocketFlaw::Flood) {
            if let Ok(mut stream) = self.strangers().connect(&address).await {
                while_open(&mut stream).await;
            }
            sleep(AGAIN).await;
        }
    }

    async fn send_nonsense(self: Arc<Self>, node: NodeId) {
        let stream = self.streams.stream(Concern::Strangers);
        let mut number = 0;
        while self.is_troubled(node, SocketFlaw::Garbage) {
            let (words, address) = (nonsense(&stream), address(node, service(number)));
            number += 1;
            let sockets = self.strangers();
            drop(madsim::task::spawn(async move {
                let Ok(mut stream) = sockets.connect(&address).await else { return };
                // Whether all of it is taken is nobody's concern.
                let _ = stream.write_all(&words).await;
                sleep(NONSENSE_PATIENCE).await;
            }));
            sleep(NONSENSE_EVERY).await;
        }
    }
}

/// Members and pages in turn.
fn service(number: usize) -> Service {
    if number.is_multiple_of(2) { Service::Peers } else { Service::Pages }
}

async fn while_open(stream: &mut SimStream) {
    let mut heard = [0; 64];
    while let Ok(1..) = stream.read(&mut heard).await {}
}

/// Bytes of any kind, of which some look like a beginning of something.
fn nonsense(stream: &Stream) -> Vec<u8> {
    const BEGINNINGS: [&[u8]; 5] = [
        b"",
        b"GET /primary HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\xff\xff\xff\xff{",
        b"\x00\x00\x00\x10{\"protocol\":1}",
    ];
    let mut words = stream.pick(&BEGINNINGS).to_vec();
    for _ in 0..stream.below(NONSENSE_MAX / 8) {
        words.extend(stream.next_u64().to_le_bytes());
    }
    words
}
