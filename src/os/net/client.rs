//! Calling another member.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::Framed;

use crate::env::{NetworkError, Peer};
use crate::ids::{Incarnation, NodeId};

use super::frame::{Frames, decode, encode};
use super::tls::Certificates;
use super::{
    Complaints, GREETING_DEADLINE, Greeting, Identity, Numbered, PROTOCOL, Request, Response,
    Welcome,
};

/// How many calls may wait for a connection. More are refused at once: a peer that is that far
/// behind stands still.
const WAITING_MAX: usize = 64;
/// How long a connection may be made for.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// A connection on which something is awaited and nothing came for this long is given up: the other
/// side may be gone without a word.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// A connection that nobody used for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

type Answer = Result<Response, NetworkError>;

/// One request under way.
struct Call {
    id: u64,
    frame: Bytes,
    answer: oneshot::Sender<Answer>,
}

/// A connection to one peer for one purpose, or the readiness to make one.
#[derive(Clone, Debug)]
pub(super) struct Line {
    calls: mpsc::Sender<Call>,
    numbers: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Line {
    pub(super) fn open(identity: Identity, tls: Option<Certificates>, peer: Peer) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING_MAX);
        let caller = Caller { identity, tls, peer, waiting, complaints: Complaints::default() };
        drop(tokio::spawn(caller.run()));
        Self { calls, numbers: std::sync::Arc::default() }
    }

    /// Whether nobody serves it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }

    pub(super) async fn call(&self, to: NodeId, request: &Request, deadline: Duration) -> Answer {
        let id = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let Ok(frame) = encode(&Numbered { id, body: request }) else {
            return Err(NetworkError::Unreachable(to));
        };
        let (answer, answered) = oneshot::channel();
        if self.calls.try_send(Call { id, frame, answer }).is_err() {
            return Err(NetworkError::Unreachable(to));
        }
        match timeout(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            // The connection ended with the request on it.
            Ok(Err(_)) | Err(_) => Err(NetworkError::TimedOut(to)),
        }
    }
}

/// The task behind a line.
struct Caller {
    identity: Identity,
    tls: Option<Certificates>,
    peer: Peer,
    waiting: mpsc::Receiver<Call>,
    complaints: Complaints,
}

impl Caller {
    async fn run(mut self) {
        while let Ok(Some(call)) = timeout(IDLE_MAX, self.waiting.recv()).await {
            if call.answer.is_closed() {
                continue;
            }
            match timeout(CONNECT_DEADLINE, self.connect()).await {
                Ok(Ok(stream)) => self.converse(stream, call).await,
                Ok(Err(error)) => self.refuse(call, error),
                Err(_) => self.refuse(call, NetworkError::Unreachable(self.peer.node)),
            }
        }
    }

    /// Whoever waited for the connection is told; nothing was sent.
    fn refuse(&mut self, call: Call, error: NetworkError) {
        let _ = call.answer.send(Err(error.clone()));
        while let Ok(call) = self.waiting.try_recv() {
            let _ = call.answer.send(Err(error.clone()));
        }
    }

    fn other_side(&self) -> String {
        format!("{} at {}", self.peer.node, self.peer.address)
    }

    async fn connect(&self) -> Result<Framed<Box<dyn Duplex>, Frames>, NetworkError> {
        let unreachable = |why: io::Error| {
            tracing::debug!("{} at {}: {why}", self.peer.node, self.peer.address);
            NetworkError::Unreachable(self.peer.node)
        };
        let stream = TcpStream::connect(&self.peer.address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let stream: Box<dyn Duplex> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let connecting = tls.connect(stream, self.peer.node, &self.identity.cluster);
                let told = connecting.await.inspect_err(|why| {
                    self.complaints.say(&self.other_side(), &format!("does not speak TLS: {why}"));
                });
                Box::new(told.map_err(unreachable)?)
            }
        };
        let mut framed = Framed::new(stream, Frames::new());
        let greeting = Greeting {
            protocol: PROTOCOL,
            cluster: self.identity.cluster.clone(),
            from: self.identity.node,
            incarnation: self.peer.incarnation,
        };
        let frame = encode(&greeting).map_err(unreachable)?;
        framed.send(frame).await.map_err(unreachable)?;
        let welcome = match timeout(GREETING_DEADLINE, framed.next()).await {
            Ok(Some(frame)) => decode(&frame.map_err(unreachable)?).map_err(unreachable)?,
            Ok(None) | Err(_) => return Err(NetworkError::Unreachable(self.peer.node)),
        };
        match welcome {
            Welcome::In(other) => {
                let expected = self.peer.incarnation;
                let same = expected == Incarnation::default() || other.incarnation == expected;
                if other.from != self.peer.node || !same {
                    return Err(NetworkError::WrongIncarnation(self.peer.node));
                }
                self.complaints.is_over(&self.other_side());
                Ok(framed)
            }
            Welcome::WrongIncarnation(_) => Err(NetworkError::WrongIncarnation(self.peer.node)),
            Welcome::Refused(why) => {
                self.complaints.say(&self.other_side(), &format!("refuses: {why}"));
                Err(NetworkError::Unreachable(self.peer.node))
            }
        }
    }

    /// Calls and answers, until the connection breaks, falls silent or is not needed.
    async fn converse(&mut self, mut stream: Framed<Box<dyn Duplex>, Frames>, first: Call) {
        let mut under_way: BTreeMap<u64, oneshot::Sender<Answer>> = BTreeMap::new();
        let mut next = Some(first);
        let mut heard = Instant::now();
        loop {
            if let Some(Call { id, frame, answer }) = next.take() {
                if under_way.is_empty() {
                    heard = Instant::now();
                }
                under_way.insert(id, answer);
                let sent = timeout(SILENCE_MAX, stream.send(frame)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            under_way.retain(|_, answer| !answer.is_closed());
            let limit = heard + if under_way.is_empty() { IDLE_MAX } else { SILENCE_MAX };
            tokio::select! {
                biased;
                frame = timeout_at(limit, stream.next()) => {
                    let Ok(Some(Ok(frame))) = frame else { return };
                    let Ok(Numbered { id, body }) = decode(&frame) else { return };
                    heard = Instant::now();
                    if let Some(answer) = under_way.remove(&id) {
                        let _ = answer.send(Ok(body));
                    }
                }
                call = self.waiting.recv() => match call {
                    Some(call) => next = Some(call),
                    None => return,
                },
            }
        }
    }
}

/// A stream in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
