//! One request to a node's API, and its answer.

use std::time::Duration;

use axum::http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use openraft_rt::AsyncRuntime;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::super::sockets::{Sockets, Tcp, within};

/// How long a connection may be made for.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const ANSWER_MAX: usize = 4 << 20;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// It may have been carried out.
    #[error("{0}")]
    NoAnswer(String),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct HttpRequest<'a> {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: &'a str,
    /// The bearer token.
    pub token: Option<&'a str>,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpRequest<'_> {
    /// Asks the node at `address`, at most for so long; over TLS where a connector is given.
    pub async fn send(
        self,
        address: &str,
        tls: Option<&TlsConnector>,
        deadline: Duration,
    ) -> Result<HttpAnswer, HttpError> {
        self.send_over(&Tcp, address, tls, deadline).await
    }

    /// The same over any kind of connections.
    pub async fn send_over<S: Sockets>(
        self,
        sockets: &S,
        address: &str,
        tls: Option<&TlsConnector>,
        deadline: Duration,
    ) -> Result<HttpAnswer, HttpError> {
        let unsent = |why: String| HttpError::NotSent(format!("{address}: {why}"));
        let stream = match within::<S::Rt, _>(CONNECT_DEADLINE, sockets.connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unsent(error.to_string())),
            Err(_) => return Err(unsent("it does not answer".into())),
        };
        let request = self.build(address).map_err(unsent)?;
        match tls {
            None => ask::<S::Rt>(stream, request, address, deadline).await,
            Some(connector) => {
                // Whoever is of the authority is believed; the name is asked for by nobody.
                let name =
                    ServerName::try_from("node").map_err(|error| unsent(error.to_string()))?;
                let shaken = connector.connect(name, stream);
                let stream = match within::<S::Rt, _>(CONNECT_DEADLINE, shaken).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return Err(unsent(format!("TLS: {error}"))),
                    Err(_) => return Err(unsent("it does not greet".into())),
                };
                ask::<S::Rt>(stream, request, address, deadline).await
            }
        }
    }

    fn build(self, address: &str) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(header::HOST, address)
            .header(header::CONNECTION, "close");
        if let Some(token) = self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request.body(Full::from(self.body)).map_err(|error| error.to_string())
    }
}

async fn ask<Rt: AsyncRuntime>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    address: &str,
    deadline: Duration,
) -> Result<HttpAnswer, HttpError> {
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) =
        shaken.map_err(|error| HttpError::NotSent(format!("{address}: {error}")))?;
    drop(Rt::spawn(async move {
        // Its errors reach whoever waits for the answer.
        let _ = connection.await;
    }));
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes().to_vec();
        Ok::<_, String>(HttpAnswer { status, body })
    };
    match within::<Rt, _>(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(HttpError::NoAnswer(format!("{address}: {why}"))),
        Err(_) => Err(HttpError::NoAnswer(format!("{address} did not answer in time"))),
    }
}
