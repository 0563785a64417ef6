//! Answering other members.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use openraft_rt::AsyncRuntime;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::codec::Framed;

use crate::env::{Incoming, ReplyTo};
use crate::ids::{Incarnation, NodeId};
use crate::runtime::wire::{Request, Response};

use super::super::places::{Place, Places};
use super::super::sockets::{Socket, Sockets, within};
use super::client::Duplex;
use super::frame::{Frames, decode, encode};
use super::tls::{proves, shown_by};
use super::{Arrived, GREETING_DEADLINE, Greeting, Inner, Numbered, PROTOCOL, Spoken, Welcome};

/// How many connections there may be. A cluster of fifteen needs sixty.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// How many requests of one connection may be under way: more are read later.
const UNDER_WAY_MAX: usize = 64;
/// A connection that says nothing for this long is closed: its caller closes idle ones earlier.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// The pause after the system refused to accept: it is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Inbox<Rt> = mpsc::Sender<Arrived<Rt>>;
type Stream = Framed<Box<dyn Duplex>, Frames>;

/// Accepts connections for as long as the network exists.
pub(super) async fn listen<S: Sockets>(
    listener: S::Listener,
    network: Weak<Inner<S>>,
    inbox: Inbox<S::Rt>,
) {
    let places = Places::new(CONNECTIONS_MAX);
    loop {
        let accepted = tokio::select! {
            biased;
            () = inbox.closed() => return,
            accepted = S::accept(&listener) => accepted,
        };
        if network.strong_count() == 0 {
            return;
        }
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("no connection can be accepted: {error}");
                S::Rt::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(mut place) = places.take() else {
            tracing::warn!("{from} is turned away: {CONNECTIONS_MAX} connections are open");
            continue;
        };
        let (network, inbox) = (network.clone(), inbox.clone());
        drop(S::Rt::spawn(async move {
            let has_to_leave = place.has_to_leave();
            tokio::select! {
                biased;
                () = has_to_leave => tracing::debug!("{from} has said nothing, and makes room"),
                ended = attend(stream, &network, inbox, &place) => if let Err(why) = ended {
                    tracing::debug!("the connection from {from} ended: {why}");
                },
            }
        }));
    }
}

async fn attend<S: Sockets>(
    stream: S::Stream,
    network: &Weak<Inner<S>>,
    inbox: Inbox<S::Rt>,
    place: &Place,
) -> io::Result<()> {
    let admitted = within::<S::Rt, _>(GREETING_DEADLINE, admit(stream, network)).await??;
    let Some((stream, from)) = admitted else { return Ok(()) };
    place.is_known();
    converse::<S::Rt>(stream, from, inbox).await
}

/// Who is there? A stranger gets a sentence and no more.
async fn admit<S: Sockets>(
    stream: S::Stream,
    network: &Weak<Inner<S>>,
) -> io::Result<Option<(Stream, NodeId)>> {
    let Some(network) = network.upgrade() else { return Ok(None) };
    let cluster = &network.identity.cluster;
    let mut proven: Box<dyn Fn(NodeId) -> bool + Send> = Box::new(|_| true);
    let stream: Box<dyn Duplex> = match &network.tls {
        None => Box::new(stream),
        Some(tls) => {
            let from = stream.other_address()?.to_string();
            let stream = tls.accept(stream).await.inspect_err(|why| {
                network.complaints.say(&from, &format!("does not begin TLS as members do: {why}"));
            })?;
            let (shown, own) = (shown_by(&stream), cluster.clone());
            proven = Box::new(move |node| shown.as_ref().is_some_and(|c| proves(c, node, &own)));
            Box::new(stream)
        }
    };
    let mut stream = Framed::new(stream, Frames::new());
    let Some(frame) = stream.next().await else { return Ok(None) };
    let (from, answer) = judge(&frame?, &network, &*proven)?;
    let welcome = matches!(answer, Welcome::In(_));
    let who = from.map_or("a member of another version".to_owned(), |node| node.to_string());
    match &answer {
        Welcome::Refused(why) => network.complaints.say(&who, &format!("is turned away: {why}")),
        Welcome::In(_) => network.complaints.is_over(&who),
        Welcome::WrongIncarnation(_) => {}
    }
    stream.send(encode(&answer)?).await?;
    Ok(from.filter(|_| welcome).map(|from| (stream, from)))
}

/// Who greets, as far as it is understood, and how it is answered.
fn judge<S: Sockets>(
    frame: &[u8],
    network: &Inner<S>,
    proven: &dyn Fn(NodeId) -> bool,
) -> io::Result<(Option<NodeId>, Welcome)> {
    let identity = &network.identity;
    let Spoken { protocol } = decode(frame)?;
    if protocol != PROTOCOL {
        let why = format!(
            "it speaks protocol {protocol}, and {} speaks {PROTOCOL}: run the same version on all \
             members",
            identity.node
        );
        return Ok((None, Welcome::Refused(why)));
    }
    let greeting: Greeting = decode(frame)?;
    let answer = match network.incarnation.get() {
        _ if greeting.cluster != identity.cluster => Welcome::Refused(format!(
            "it belongs to the cluster {}, and {} to {}",
            greeting.cluster, identity.node, identity.cluster
        )),
        _ if !proven(greeting.from) => {
            Welcome::Refused(format!("its certificate is not that of {}", greeting.from))
        }
        None => Welcome::Refused(format!("{} is still starting", identity.node)),
        Some(own) if ![Incarnation::default(), *own].contains(&greeting.incarnation) => {
            Welcome::WrongIncarnation(*own)
        }
        Some(own) => Welcome::In(Greeting {
            protocol: PROTOCOL,
            cluster: identity.cluster.clone(),
            from: identity.node,
            incarnation: *own,
        }),
    };
    Ok((Some(greeting.from), answer))
}

/// Requests in, answers out, each when it is ready.
async fn converse<Rt: AsyncRuntime + Send + Sync>(
    stream: Stream,
    from: NodeId,
    inbox: Inbox<Rt>,
) -> io::Result<()> {
    let (mut sink, mut source) = stream.split();
    let (answers, mut ready) = mpsc::channel::<Bytes>(UNDER_WAY_MAX);
    let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    loop {
        tokio::select! {
            biased;
            Some(answer) = ready.recv() => {
                within::<Rt, _>(GREETING_DEADLINE, sink.send(answer)).await??;
            }
            frame = within::<Rt, _>(SILENCE_MAX, source.next()),
                if room.available_permits() > 0 =>
            {
                let Some(frame) = frame? else { return Ok(()) };
                let Numbered { id, body } = decode::<Numbered<Request<Rt>>>(&frame?)?;
                let place = room.clone().try_acquire_owned().map_err(io::Error::other)?;
                let answers = answers.clone();
                let reply = ReplyTo::new(move |body: Response<Rt>| {
                    if let Ok(frame) = encode(&Numbered { id, body }) {
                        // As many answers fit as requests are let in.
                        let _ = answers.try_send(frame);
                    }
                    drop(place);
                });
                // A full inbox drops the request, and its caller sees no answer.
                let _ = inbox.try_send(Incoming { from, request: body, reply });
            }
        }
    }
}
