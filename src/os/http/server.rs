//! The listener. It knows who asks, bounds how many may ask at once and for how long, and nothing
//! of what is asked.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use openraft_rt::AsyncRuntime;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::api::Caller;

use super::super::places::{Place, Places};
use super::super::sockets::{Socket, Sockets, within};
use super::timer::Timer;

/// How many connections there may be: a few load balancers, dashboards and people.
const CONNECTIONS_MAX: usize = 256;
/// A request's head has to arrive within this time, and the next one on the same connection too.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a request may take in all: longer than an order is followed up.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// How long a connection may last. Whoever wants to go on makes a new one.
const CONNECTION_MAX: Duration = Duration::from_secs(900);
/// The longest head.
const HEAD_MAX: usize = 16 << 10;
/// The first byte of a TLS connection; no method of HTTP begins with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// The pause after the system refused to accept: it is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
///
/// With an acceptor it speaks TLS to whoever begins with it, and clear text to the others: a load
/// balancer's checks need no secret.
pub async fn serve<S: Sockets>(listener: S::Listener, router: Router, tls: Option<TlsAcceptor>) {
    let places = Places::new(CONNECTIONS_MAX);
    loop {
        let (stream, from) = match S::accept(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("no connection to the API can be accepted: {error}");
                S::Rt::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(mut place) = places.take() else {
            tracing::warn!("{from} is turned away: {CONNECTIONS_MAX} connections are open");
            continue;
        };
        let (router, tls) = (router.clone(), tls.clone());
        drop(S::Rt::spawn(async move {
            let has_to_leave = place.has_to_leave();
            let greeted = greet::<S>(stream, from, router, tls, &place);
            tokio::select! {
                biased;
                () = has_to_leave => tracing::debug!("{from} has asked nothing, and makes room"),
                ended = within::<S::Rt, _>(CONNECTION_MAX, greeted) => if let Ok(Err(why)) = ended {
                    tracing::debug!("the API's connection from {from} ended: {why}");
                },
            }
        }));
    }
}

async fn greet<S: Sockets>(
    stream: S::Stream,
    from: IpAddr,
    router: Router,
    tls: Option<TlsAcceptor>,
    place: &Place,
) -> io::Result<()> {
    // Nobody but this machine reaches one of its addresses from that same address.
    let own = stream.own_address()?.to_canonical();
    let from = from.to_canonical();
    let loopback = from.is_loopback() || from == own;
    let mut first = [0];
    let peeked = match &tls {
        Some(_) => within::<S::Rt, _>(HEAD_DEADLINE, stream.peek(&mut first)).await??,
        None => 0,
    };
    match tls.filter(|_| peeked > 0 && first[0] == TLS_HANDSHAKE) {
        Some(acceptor) => {
            let stream = within::<S::Rt, _>(HEAD_DEADLINE, acceptor.accept(stream)).await??;
            let certificate = named_by(stream.get_ref().1.peer_certificates());
            let caller = Caller { loopback, encrypted: true, certificate };
            attend::<S::Rt>(stream, caller, router, place).await
        }
        None => {
            attend::<S::Rt>(stream, Caller { loopback, ..Caller::default() }, router, place).await
        }
    }
}

/// The name in the certificate that was shown; the handshake has verified whose it is.
fn named_by(shown: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let shown = webpki::EndEntityCert::try_from(shown?.first()?).ok()?;
    let name = shown.valid_dns_names().next().unwrap_or("without a name").to_owned();
    Some(name)
}

async fn attend<Rt: AsyncRuntime>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    caller: Caller,
    router: Router,
    place: &Place,
) -> io::Result<()> {
    let service = TowerToHyperService::new(router);
    let attended = service_fn(move |mut request: axum::http::Request<Incoming>| {
        place.is_known();
        request.extensions_mut().insert(caller.clone());
        let answer = service.call(request);
        async move {
            match within::<Rt, _>(REQUEST_MAX, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok::<_, Infallible>(too_slow()),
            }
        }
    });
    http1::Builder::new()
        .timer(Timer::<Rt>::default())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), attended)
        .await
        .map_err(io::Error::other)
}

fn too_slow() -> Response<Body> {
    let body = Body::from(r#"{"error":"the request took too long; its outcome is unknown"}"#);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    response
}
