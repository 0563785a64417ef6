//! The way to the cluster: any of the nodes that were named, one after the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_rustls::TlsConnector;

use super::terminal::{say, say_json};
use crate::api::NOTHING_ORDERED;
use crate::env::{Clock, Entropy};
use crate::ids::CommandId;
use crate::os::http::{HttpAnswer, HttpError, HttpRequest, read_token};
use crate::os::net::believing_any_member;
use crate::os::{OsClock, OsEntropy};

/// How long a node may take to show something.
const SHOW_DEADLINE: Duration = Duration::from_secs(5);
/// How long a node may take to say that it lives, where there are others to ask.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);
/// How long an order may take: longer than a node follows one up.
const ORDER_DEADLINE: Duration = Duration::from_secs(65);

/// What every verb understands.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Where the API of a node listens, with `https://` before it for TLS. Several, separated by
    /// commas, are asked in turn.
    #[arg(
        long,
        global = true,
        value_name = "[https://]HOST:PORT",
        env = "PG_REPLICA_API",
        default_value = "127.0.0.1:8008",
        value_delimiter = ','
    )]
    pub api: Vec<String>,
    /// A file of mode 0600 with the token that changes need, unless they come from a node's own
    /// machine and none is configured.
    #[arg(long, global = true, value_name = "FILE", env = "PG_REPLICA_API_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The cluster's authority, for TLS.
    #[arg(long, global = true, value_name = "FILE", env = "PG_REPLICA_API_CA")]
    pub ca: Option<PathBuf>,
    /// A certificate of that authority, which changes need where no token is shown.
    #[arg(long, global = true, value_name = "FILE", env = "PG_REPLICA_API_CERT")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, global = true, value_name = "FILE", env = "PG_REPLICA_API_KEY")]
    pub key: Option<PathBuf>,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Why a verb did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The cluster, or the person, said no.
    #[error("{0}")]
    Refused(String),
    /// What was typed makes no sense.
    #[error("{0}")]
    Usage(String),
    /// An order was given and its end is not known.
    #[error("{0}")]
    Unknown(String),
    /// Nobody answers.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    /// The exit code of the program.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unknown(_) => 3,
            Self::Unreachable(_) => 4,
        }
    }
}

/// Asks the nodes.
#[derive(Clone, Debug)]
pub struct Client {
    places: Vec<Place>,
    common: Common,
}

/// Where an API listens, and whether it is spoken to over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    address: String,
    encrypted: bool,
}

impl Client {
    /// A client for what was typed.
    #[must_use]
    pub fn new(common: &Common) -> Self {
        let places = common.api.iter().map(|address| place(address)).collect();
        Self { places, common: common.clone() }
    }

    /// Whether JSON is wanted.
    #[must_use]
    pub fn json(&self) -> bool {
        self.common.json
    }

    /// Tells how an order ended.
    pub(super) fn tell(&self, answer: &Value) {
        if self.common.json {
            say_json(answer);
        } else {
            say(answer["message"].as_str().filter(|text| !text.is_empty()).unwrap_or("done"));
        }
    }

    /// Reads a page as it is.
    pub async fn page(&self, path: &str) -> Result<Value, Failure> {
        self.get(path).await
    }

    /// Reads a page.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let tls = self.tls()?;
        let (mut silent, mut alone) = (Vec::new(), None);
        for place in &self.places {
            let address = &place.address;
            let request = question(path);
            match self.ask(place, tls.as_ref(), request, SHOW_DEADLINE).await {
                Ok(answer) if answer.status == 200 => {
                    let page: Value = understood(address, serde_json::from_slice(&answer.body))?;
                    if !is_cut_off(&page) {
                        return understood(address, serde_json::from_value(page));
                    }
                    alone = alone.or(Some((address, page)));
                }
                Ok(answer) if alone.is_none() => {
                    return Err(refusal(address, answer.status, &answer.body));
                }
                Ok(_) => {}
                Err(HttpError::NotSent(why) | HttpError::NoAnswer(why)) => silent.push(why),
            }
        }
        let (address, page) = alone.ok_or_else(|| nobody(&silent))?;
        understood(address, serde_json::from_value(page))
    }

    /// Gives an order under a name of its own, to one node after the other until one knows how it
    /// ended. The name makes it one order, however many nodes hear it.
    pub async fn order(
        &self,
        method: Method,
        path: &str,
        body: Map<String, Value>,
    ) -> Result<Value, Failure> {
        self.give(method, path, body, true).await
    }

    /// Asks a member to do something to its own Postgres. Nobody agrees on that, so where it may
    /// have been done nobody is asked again.
    pub(super) async fn chore(
        &self,
        path: &str,
        body: Map<String, Value>,
    ) -> Result<Value, Failure> {
        self.give(Method::POST, path, body, false).await
    }

    async fn give(
        &self,
        method: Method,
        path: &str,
        mut body: Map<String, Value>,
        agreed_on: bool,
    ) -> Result<Value, Failure> {
        let (token, tls) = (self.token()?, self.tls()?);
        let id = CommandId::fresh(OsClock.wall_ms(), OsEntropy.next_u64());
        body.insert("id".into(), id.0.into());
        let body = Value::Object(body).to_string().into_bytes();
        let mut silent = Vec::new();
        let (mut perhaps, mut not_taken) = (None, None);
        for place in &self.places {
            let address = &place.address;
            let (method, body) = (method.clone(), body.clone());
            let request = HttpRequest { method, path, token: token.as_deref(), body };
            match self.ask(place, tls.as_ref(), request, ORDER_DEADLINE).await {
                Ok(answer) if answer.status == 200 => {
                    return Ok(serde_json::from_slice(&answer.body).unwrap_or_default());
                }
                Ok(answer) if answer.status == 504 => {
                    perhaps = Some(refusal(address, answer.status, &answer.body));
                }
                Ok(answer) => match refusal(address, answer.status, &answer.body) {
                    // Another one may reach whoever leads.
                    Failure::Refused(why) if why.starts_with(NOTHING_ORDERED) => {
                        let why = format!("{address}: {why}");
                        not_taken = not_taken.or(Some(Failure::Refused(why)));
                    }
                    other @ (Failure::Refused(_)
                    | Failure::Usage(_)
                    | Failure::Unknown(_)
                    | Failure::Unreachable(_)) => return Err(other),
                },
                Err(HttpError::NotSent(why)) => silent.push(why),
                Err(HttpError::NoAnswer(why)) => {
                    let why = format!("{why}; whether the order was carried out is unknown");
                    perhaps = Some(Failure::Unknown(why));
                }
            }
            if perhaps.is_some() && !agreed_on {
                break;
            }
        }
        Err(perhaps.or(not_taken).unwrap_or_else(|| nobody(&silent)))
    }

    /// Asks one of them, if it lives: where there are others to ask, one that is frozen, which
    /// accepts a connection and says nothing, is not waited for.
    async fn ask(
        &self,
        place: &Place,
        tls: Option<&TlsConnector>,
        request: HttpRequest<'_>,
        deadline: Duration,
    ) -> Result<HttpAnswer, HttpError> {
        let tls = tls.filter(|_| place.encrypted);
        if self.places.len() > 1 {
            let alive = question("/liveness").send(&place.address, tls, ALIVE_WITHIN).await;
            alive.map_err(|why| HttpError::NotSent(why.to_string()))?;
        }
        request.send(&place.address, tls, deadline).await
    }

    /// The way to those that are spoken to over TLS, where there are any.
    fn tls(&self) -> Result<Option<TlsConnector>, Failure> {
        let Common { ca, cert, key, .. } = &self.common;
        if cert.is_some() != key.is_some() {
            let why = "--cert and --key go together: a certificate is shown with its key";
            return Err(Failure::Usage(why.into()));
        }
        let Some(place) = self.places.iter().find(|place| place.encrypted) else {
            return Ok(None);
        };
        let Some(ca) = ca else {
            return Err(Failure::Usage(format!(
                "https://{}: whose certificate is believed? Name the cluster's authority with --ca",
                place.address
            )));
        };
        let own = cert.as_deref().zip(key.as_deref());
        let config =
            believing_any_member(ca, own).map_err(|why| Failure::Usage(why.to_string()))?;
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        let read = |path: &PathBuf| read_token(path).map_err(|e| Failure::Usage(e.to_string()));
        self.common.token_file.as_ref().map(read).transpose()
    }
}

fn question(path: &str) -> HttpRequest<'_> {
    HttpRequest { method: Method::GET, path, token: None, body: Vec::new() }
}

/// `http://host:8008/` is what people paste.
fn place(address: &str) -> Place {
    let address = address.trim().trim_end_matches('/');
    match address.strip_prefix("https://") {
        Some(address) => Place { address: address.to_owned(), encrypted: true },
        None => {
            let address = address.strip_prefix("http://").unwrap_or(address).to_owned();
            Place { address, encrypted: false }
        }
    }
}

fn understood<T>(address: &str, read: serde_json::Result<T>) -> Result<T, Failure> {
    read.map_err(|why| Failure::Refused(format!("{address} answers what is not understood: {why}")))
}

/// Whether a page of the cluster comes from a member that reaches nobody who leads.
fn is_cut_off(page: &Value) -> bool {
    page["blind"].is_string() || page.get("leader").is_some_and(Value::is_null)
}

fn nobody(silent: &[String]) -> Failure {
    let why = silent.join("; ");
    Failure::Unreachable(format!("no node answers ({why}); name one that runs with --api"))
}

fn refusal(address: &str, status: u16, body: &[u8]) -> Failure {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let why = match said.get("error").and_then(Value::as_str) {
        Some(why) => why.to_owned(),
        None => format!("{address} answers with code {status} and no reason: is it a node's API?"),
    };
    match status {
        504 => Failure::Unknown(why),
        401 => Failure::Refused(format!("{why}; name its file with --token-file")),
        _ => Failure::Refused(why),
    }
}
