//! Calling another member.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use openraft_rt::{AsyncRuntime, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::Framed;

use crate::env::{NetworkError, Peer};
use crate::ids::{Incarnation, NodeId};

use super::super::sockets::{Sockets, within};
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

type Answer<Rt> = Result<Response<Rt>, NetworkError>;
type Instants<S> = <<S as Sockets>::Rt as AsyncRuntime>::Instant;

/// One request under way.
struct Call<Rt: AsyncRuntime + Send + Sync> {
    id: u64,
    frame: Bytes,
    answer: oneshot::Sender<Answer<Rt>>,
}

/// A connection to one peer for one purpose, or the readiness to make one.
pub(super) struct Line<Rt: AsyncRuntime + Send + Sync> {
    calls: mpsc::Sender<Call<Rt>>,
    numbers: Arc<AtomicU64>,
}

impl<Rt: AsyncRuntime + Send + Sync> Line<Rt> {
    pub(super) fn open<S: Sockets<Rt = Rt>>(
        sockets: S,
        identity: Identity,
        tls: Option<Certificates>,
        peer: Peer,
    ) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING_MAX);
        let complaints = Complaints::default();
        let caller = Caller { sockets, identity, tls, peer, waiting, complaints };
        drop(Rt::spawn(caller.run()));
        Self { calls, numbers: Arc::default() }
    }

    /// Whether nobody serves it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }

    pub(super) async fn call(
        &self,
        to: NodeId,
        request: &Request<Rt>,
        deadline: Duration,
    ) -> Answer<Rt> {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let Ok(frame) = encode(&Numbered { id, body: request }) else {
            return Err(NetworkError::Unreachable(to));
        };
        let (answer, answered) = oneshot::channel();
        if self.calls.try_send(Call { id, frame, answer }).is_err() {
            return Err(NetworkError::Unreachable(to));
        }
        match Rt::timeout(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            // The connection ended with the request on it.
            Ok(Err(_)) | Err(_) => Err(NetworkError::TimedOut(to)),
        }
    }
}

// Written out, because a derived `Clone` would ask for `Rt: Clone`, which no task runtime is.
impl<Rt: AsyncRuntime + Send + Sync> Clone for Line<Rt> {
    fn clone(&self) -> Self {
        Self { calls: self.calls.clone(), numbers: self.numbers.clone() }
    }
}

/// The task behind a line.
struct Caller<S: Sockets> {
    sockets: S,
    identity: Identity,
    tls: Option<Certificates>,
    peer: Peer,
    waiting: mpsc::Receiver<Call<S::Rt>>,
    complaints: Complaints<Instants<S>>,
}

impl<S: Sockets> Caller<S> {
    async fn run(mut self) {
        while let Ok(Some(call)) = within::<S::Rt, _>(IDLE_MAX, self.waiting.recv()).await {
            if call.answer.is_closed() {
                continue;
            }
            match within::<S::Rt, _>(CONNECT_DEADLINE, self.connect()).await {
                Ok(Ok(stream)) => self.converse(stream, call).await,
                Ok(Err(error)) => self.refuse(call, error),
                Err(_) => self.refuse(call, NetworkError::Unreachable(self.peer.node)),
            }
        }
    }

    /// Whoever waited for the connection is told; nothing was sent.
    fn refuse(&mut self, call: Call<S::Rt>, error: NetworkError) {
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
        let stream = self.sockets.connect(&self.peer.address).await.map_err(unreachable)?;
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
        let welcome = match within::<S::Rt, _>(GREETING_DEADLINE, framed.next()).await {
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
    async fn converse(&mut self, mut stream: Framed<Box<dyn Duplex>, Frames>, first: Call<S::Rt>) {
        let mut under_way: BTreeMap<u64, oneshot::Sender<Answer<S::Rt>>> = BTreeMap::new();
        let mut next = Some(first);
        let mut heard = Instants::<S>::now();
        loop {
            if let Some(Call { id, frame, answer }) = next.take() {
                if under_way.is_empty() {
                    heard = Instants::<S>::now();
                }
                under_way.insert(id, answer);
                let sent = within::<S::Rt, _>(SILENCE_MAX, stream.send(frame)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            under_way.retain(|_, answer| !answer.is_closed());
            let limit = heard + if under_way.is_empty() { IDLE_MAX } else { SILENCE_MAX };
            tokio::select! {
                biased;
                frame = S::Rt::timeout_at(limit, stream.next()) => {
                    let Ok(Some(Ok(frame))) = frame else { return };
                    let Ok(Numbered { id, body }) = decode(&frame) else { return };
                    heard = Instants::<S>::now();
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
