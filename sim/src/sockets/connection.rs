//! One connection: two ends, and a lane from each to the other.
//!
//! What is acknowledged, and how far a window is open, travels without packets: an end knows at
//! once what the other has read. Everything else goes the way that a packet goes.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pg_replica::os::sockets::{IpAddr, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{TrueSleep, sleep};
use crate::fabric::Lane;
use crate::place::Place;
use crate::streams::lock;

use super::Wires;

/// How much one end may have sent that the other has not read.
const WINDOW: usize = 64 << 10;
/// The most that travels in one piece.
const SEGMENT_MAX: usize = 16 << 10;
/// A slow reader takes what has arrived in one piece in so many bites. It is no number of bytes: a
/// signature has one more or one less by a chance that no seed determines.
const SLOW_BITES: usize = 3;
/// Before each bite it rests.
const SLOW_PAUSE: Duration = Duration::from_millis(20);

/// A connection, as both ends share it.
pub(super) struct Connection {
    wires: Wires,
    /// From the caller, and from whoever was called.
    lanes: [Lane; 2],
    ends: Mutex<[End; 2]>,
}

/// What one machine knows of the connection.
struct End {
    place: Place,
    /// Arrived and not read.
    inbox: VecDeque<Piece>,
    /// Sent by the other end and not read here: in the inbox, or on the way.
    unread: usize,
    state: State,
    /// Nothing more will be sent from here.
    finished: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a machine holds of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The other end has said that it sends no more.
    Ended,
    /// The other end knows nothing of the connection.
    Reset,
    /// The process has let go of it: what arrives is answered with a reset.
    Closed,
    /// Something on the way has forgotten the connection: nothing arrives, and nobody is told.
    Forgotten,
}

/// What has arrived at once.
struct Piece {
    /// What is left of it.
    bytes: Vec<u8>,
    /// In how many bites a slow reader takes that.
    bites: usize,
}

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    Data(Vec<u8>),
    Finish,
    Reset,
}

/// One end, in the hands of a process. Dropped, it is closed.
pub struct SimStream {
    connection: Arc<Connection>,
    side: usize,
    rest: Option<TrueSleep>,
}

impl Connection {
    /// A connection on which nothing has been sent yet: the caller's end, and the other.
    pub(super) fn open(wires: &Wires, from: Place, to: Place) -> (SimStream, SimStream) {
        let lanes = [wires.lane(from, to), wires.lane(to, from)];
        let ends = Mutex::new([End::at(from), End::at(to)]);
        let connection = Arc::new(Self { wires: wires.clone(), lanes, ends });
        wires.remember(from, &connection);
        wires.remember(to, &connection);
        let end = |side| SimStream { connection: connection.clone(), side, rest: None };
        (end(0), end(1))
    }

    /// The lane on which this side sends.
    pub(super) fn lane(&self, side: usize) -> &Lane {
        &self.lanes[side]
    }

    fn place(&self, side: usize) -> Place {
        lock(&self.ends)[side].place
    }

    fn send(self: &Arc<Self>, from: usize, segment: Segment) {
        let connection = self.clone();
        self.lanes[from].send(move || connection.arrive(1 - from, segment));
    }

    /// A segment has come to the machine of this side.
    fn arrive(self: Arc<Self>, side: usize, segment: Segment) {
        let place = self.place(side);
        let wires = self.wires.clone();
        wires.when_awake(place, move || self.take_in(side, segment));
    }

    fn take_in(self: Arc<Self>, side: usize, segment: Segment) {
        let mut ends = lock(&self.ends);
        let end = &mut ends[side];
        match (end.state, segment) {
            (State::Forgotten | State::Reset, _)
            | (State::Closed, Segment::Finish | Segment::Reset) => return,
            (State::Closed, Segment::Data(_)) => {
                drop(ends);
                self.send(side, Segment::Reset);
                return;
            }
            (_, Segment::Data(mut bytes)) => {
                let places = [end.place, ends[1 - side].place];
                let end = &mut ends[side];
                let cut = self.wires.cuts_frame(places, bytes.len());
                if let Some(kept) = cut {
                    end.unread -= bytes.len() - kept;
                    bytes.truncate(kept);
                }
                // Of one that is cut to nothing only the reset arrives. To be read as a segment
                // without bytes it would have to be the end.
                if !bytes.is_empty() {
                    end.inbox.push_back(Piece { bytes, bites: SLOW_BITES });
                }
                if cut.is_some() {
                    ends.iter_mut().for_each(End::is_reset);
                }
            }
            (_, Segment::Finish) => end.state = State::Ended,
            (_, Segment::Reset) => end.is_reset(),
        }
        ends.iter_mut().for_each(End::wake);
    }

    /// The machine of this place has died and knows nothing of the connection any more. It tells
    /// nobody; whoever goes on sending is told once the machine is back.
    pub(super) fn is_lost_at(&self, place: Place) {
        for end in lock(&self.ends).iter_mut().filter(|end| end.place == place) {
            end.inbox.clear();
            end.finished = true;
            end.state = State::Closed;
        }
    }

    /// Whoever called has given up, and says so to an answer that comes too late.
    pub(super) fn is_given_up(&self) {
        let end = &mut lock(&self.ends)[1];
        end.is_reset();
        end.wake();
    }

    /// Something on the way has forgotten it.
    pub(super) fn is_forgotten(&self) {
        for end in &mut *lock(&self.ends) {
            end.state = State::Forgotten;
        }
    }

    /// A process lets go of its end: it goes on to say so, but where it had not read everything,
    /// the other end learns that too.
    fn close(self: &Arc<Self>, side: usize) {
        let last = {
            let mut ends = lock(&self.ends);
            let end = &mut ends[side];
            let unread = !end.inbox.is_empty();
            end.inbox.clear();
            let known = matches!(end.state, State::Open | State::Ended);
            if known {
                end.state = State::Closed;
            }
            match (known && !self.wires.are_down(), unread, end.finished) {
                (false, _, _) | (true, false, true) => None,
                (true, true, _) => Some(Segment::Reset),
                (true, false, false) => Some(Segment::Finish),
            }
        };
        if let Some(last) = last {
            self.send(side, last);
        }
    }
}

impl End {
    fn at(place: Place) -> Self {
        Self {
            place,
            inbox: VecDeque::new(),
            unread: 0,
            state: State::Open,
            finished: false,
            reader: None,
            writer: None,
        }
    }

    fn is_reset(&mut self) {
        if self.state != State::Closed {
            self.state = State::Reset;
        }
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// How a read ends where nothing is left to be read.
    fn end_of_stream(&self) -> Option<io::Result<()>> {
        match self.state {
            State::Open | State::Forgotten => None,
            State::Ended | State::Closed => Some(Ok(())),
            State::Reset => Some(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl SimStream {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Where this end is.
    fn place(&self) -> Place {
        self.connection.place(self.side)
    }

    fn look<T>(
        &self,
        context: &Context<'_>,
        look: impl FnOnce(&mut End) -> Option<io::Result<T>>,
        nothing: T,
    ) -> Poll<io::Result<T>> {
        let end = &mut lock(&self.connection.ends)[self.side];
        if let Some(seen) = look(end) {
            return Poll::Ready(seen);
        }
        match end.end_of_stream() {
            Some(ended) => Poll::Ready(ended.map(|()| nothing)),
            None => {
                end.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether to read slowly; a slow reader rests before.
    fn pace(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        if !self.connection.wires.reads_slowly(self.place()) {
            self.rest = None;
            return Poll::Ready(false);
        }
        let rest = self.rest.get_or_insert_with(|| sleep(SLOW_PAUSE));
        std::task::ready!(Future::poll(Pin::new(rest), context));
        Poll::Ready(true)
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let slowly = std::task::ready!(self.pace(context));
        let read = self.look(
            context,
            |end| {
                let Piece { mut bytes, bites } = end.inbox.pop_front()?;
                let bite = if slowly { bytes.len().div_ceil(bites) } else { bytes.len() };
                let n = bite.min(into.remaining());
                into.put_slice(&bytes[..n]);
                end.unread -= n;
                if n < bytes.len() {
                    let (bytes, bites) = (bytes.split_off(n), bites.saturating_sub(1).max(1));
                    end.inbox.push_front(Piece { bytes, bites });
                }
                Some(Ok(()))
            },
            (),
        );
        if read.is_ready() {
            self.rest = None;
            // There is room again.
            let writer = lock(&self.connection.ends)[1 - self.side].writer.take();
            writer.into_iter().for_each(Waker::wake);
        }
        read
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let side = self.side;
        let n = {
            let mut ends = lock(&self.connection.ends);
            match ends[side].state {
                State::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                State::Closed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                State::Open | State::Ended | State::Forgotten => {}
            }
            if ends[side].finished {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let room = WINDOW.saturating_sub(ends[1 - side].unread);
            let n = bytes.len().min(room).min(SEGMENT_MAX);
            if n == 0 && !bytes.is_empty() {
                ends[side].writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            ends[1 - side].unread += n;
            n
        };
        if n > 0 {
            self.connection.send(side, Segment::Data(bytes[..n].to_vec()));
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let first = !std::mem::replace(&mut lock(&self.connection.ends)[self.side].finished, true);
        if first {
            self.connection.send(self.side, Segment::Finish);
        }
        Poll::Ready(Ok(()))
    }
}

impl Socket for SimStream {
    fn own_address(&self) -> io::Result<IpAddr> {
        Ok(address_of(self.place()))
    }

    fn other_address(&self) -> io::Result<IpAddr> {
        Ok(address_of(self.connection.place(1 - self.side)))
    }

    async fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| {
            self.look(
                context,
                |end| {
                    let bytes = &end.inbox.front()?.bytes;
                    let n = bytes.len().min(into.len());
                    into[..n].copy_from_slice(&bytes[..n]);
                    Some(Ok(n))
                },
                0,
            )
        })
        .await
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.connection.close(self.side);
    }
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStream({})", self.place())
    }
}

/// A number for each place, for whoever asks for one.
pub(super) fn address_of(place: Place) -> IpAddr {
    let (net, number) = match place {
        Place::Host(node) => (1, node.0),
        Place::Client(number) => (2, u64::from(number)),
        Place::Operator => (3, 1),
    };
    let [.., high, low] = number.to_be_bytes();
    IpAddr::from([10, net, high, low])
}
