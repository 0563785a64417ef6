//! The HTTP interface: what a load balancer, a dashboard and a person ask, and what they may order.
//!
//! Patroni's conventions, so that what was written for it goes on working; `docs/api.md` lists them
//! with the differences. Three things meet here and nothing is decided:
//!
//! * the [`StatusBoard`] watches the node's loop and keeps the newest of everything;
//! * the pages (`health`, `status`, `patroni`, `metrics`) are pure functions of it and an instant;
//! * an order goes through the [`Desk`], and so through the consensus, like everybody's.
//!
//! No socket is opened here: `os::http` serves the [`router`].

mod access;
mod answer;
mod board;
mod counters;
mod explain;
mod health;
mod metrics;
mod operator;
mod orders;
mod patroni;
mod picture;
mod settings;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, patch, post};

pub use access::{Access, Caller, TokenCheck};
pub use board::{BY_SNAPSHOT, RoleChange, Snapshot, StatusBoard};
pub use counters::Counters;
pub use operator::{Desk, NOTHING_ORDERED, Operator, OrderEnd, Reported, Vet};
pub use status::{MemberStatus, Status};

use crate::ha::Chore;

use answer::{Refusal, plain, with_json};
use health::{Check, Conditions, LagOf};
use metrics::Page;
use picture::{Painter, Sources};

/// What every handler shares.
#[derive(Clone)]
struct Shared(Arc<Inner>);

struct Inner {
    sources: Sources,
    access: Access,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// The health checks by their paths. Patroni's older word for the primary is among them.
const CHECKS: [(&str, Check); 19] = [
    ("/", Check::Primary),
    ("/primary", Check::Primary),
    (concat!("/mas", "ter"), Check::Primary),
    ("/read-write", Check::Primary),
    ("/leader", Check::Leader),
    ("/standby-leader", Check::StandbyLeader),
    ("/standby_leader", Check::StandbyLeader),
    ("/replica", Check::Replica),
    ("/read-only", Check::ReadOnly),
    ("/synchronous", Check::Sync),
    ("/sync", Check::Sync),
    ("/read-only-sync", Check::ReadOnlySync),
    ("/quorum", Check::Quorum),
    ("/read-only-quorum", Check::ReadOnlyQuorum),
    ("/asynchronous", Check::Async),
    ("/async", Check::Async),
    ("/health", Check::Health),
    ("/liveness", Check::Liveness),
    ("/readiness", Check::Readiness),
];

/// The whole interface. The transport adds a [`Caller`] to every request.
pub fn router(board: Arc<StatusBoard>, desk: Arc<dyn Desk>, access: Access) -> Router {
    let sources = Sources { board, desk, painter: Painter::default() };
    let shared = Shared(Arc::new(Inner { sources, access }));
    let mut router = Router::new();
    for (path, check) in CHECKS {
        router = router.route(path, health_route(check));
    }
    router
        .route("/patroni", get(patroni_page))
        .route("/cluster", get(cluster_page))
        .route("/history", get(history_page))
        .route("/events", get(events_page))
        .route("/config", get(config_page))
        .route("/metrics", get(metrics_page))
        .route("/status", get(status_page))
        .merge(orders_router(&shared))
        .fallback(nothing_there)
        .method_not_allowed_fallback(not_like_this)
        .with_state(shared)
}

fn orders_router(shared: &Shared) -> Router<Shared> {
    Router::new()
        .route("/config", patch(patch_config))
        .route("/switchover", post(post_switchover))
        .route("/failover", post(post_failover))
        .route("/members", post(post_member))
        .route("/members/{node}", patch(patch_member).delete(delete_member))
        .route("/restart", post(post_restart))
        .route("/reload", post(post_reload))
        .route("/reinitialize", post(post_reinitialize))
        .route_layer(middleware::from_fn_with_state(shared.clone(), only_the_entitled))
}

async fn only_the_entitled(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    match shared.0.access.may_change(request.headers(), caller) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::warn!("{} {}: {}", request.method(), request.uri().path(), refusal.why);
            refusal.into_response()
        }
    }
}

async fn nothing_there(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}

async fn not_like_this(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    let why = format!("{path} does not answer {method}");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, why)
}

/// `HEAD` is answered by whatever answers `GET`, without the body, and so is `OPTIONS`.
fn health_route(check: Check) -> MethodRouter<Shared> {
    let answer = move |State(shared): State<Shared>, uri: Uri| async move {
        health_check(&shared, check, &uri).await
    };
    let head = move |State(shared): State<Shared>, uri: Uri| async move {
        let (parts, _) = health_check(&shared, check, &uri).await.into_parts();
        let mut response = StatusCode::OK.into_response();
        *response.status_mut() = parts.status;
        response
    };
    get(answer).options(head)
}

async fn health_check(shared: &Shared, check: Check, uri: &Uri) -> Response {
    let conditions = match conditions(uri.query().unwrap_or_default()) {
        Ok(conditions) => conditions,
        Err(why) => return Refusal::bad(why).into_response(),
    };
    let sources = &shared.0.sources;
    let picture = if check.needs_picture(&conditions) {
        sources.picture().await
    } else {
        picture::Picture::default()
    };
    // Only now, after everything that takes time: what is said is true when it is said.
    let snapshot = sources.board.snapshot();
    let now = sources.desk.now();
    let verdict = check.judge(&conditions, &snapshot, &picture, now);
    let mut body = patroni::member(&snapshot, &picture, now, sources.desk.wall_ms());
    match verdict {
        Ok(()) => with_json(StatusCode::OK, &body),
        Err(why) => {
            body["error"] = why.into();
            with_json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// `lag=10MB`, `mode=apply|write`, `replication_state=streaming`. Whatever else narrows a check is
/// refused: a filter that is believed to hold and does not would be worse.
fn conditions(query: &str) -> Result<Conditions, String> {
    let mut conditions = Conditions::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("lag", text) => {
                let bytes = settings::bytes(text);
                let why = || format!("lag is a number of bytes, such as 1048576 or 10MB: {text:?}");
                conditions.lag_max = Some(bytes.ok_or_else(why)?);
            }
            ("mode", "apply") => conditions.lag_of = LagOf::Apply,
            ("mode", "write") => conditions.lag_of = LagOf::Write,
            ("replication_state", "streaming") => conditions.streaming = true,
            (key, value) => return Err(format!("{key}={value} is not understood here")),
        }
    }
    Ok(conditions)
}

async fn patroni_page(State(shared): State<Shared>) -> Response {
    let sources = &shared.0.sources;
    let picture = sources.picture().await;
    let (snapshot, desk) = (sources.board.snapshot(), &sources.desk);
    let body = patroni::member(&snapshot, &picture, desk.now(), desk.wall_ms());
    with_json(StatusCode::OK, &body)
}

async fn cluster_page(State(shared): State<Shared>) -> Response {
    let sources = &shared.0.sources;
    let picture = sources.picture().await;
    let body = patroni::cluster(&sources.board.snapshot(), &picture, sources.desk.now());
    with_json(StatusCode::OK, &body)
}

async fn history_page(State(shared): State<Shared>) -> Response {
    let control = shared.0.sources.board.snapshot().control.clone();
    with_json(StatusCode::OK, &patroni::history(&control))
}

async fn events_page(State(shared): State<Shared>) -> Response {
    let control = shared.0.sources.board.snapshot().control.clone();
    with_json(StatusCode::OK, &patroni::events(&control))
}

async fn config_page(State(shared): State<Shared>) -> Response {
    let control = shared.0.sources.board.snapshot().control.clone();
    with_json(StatusCode::OK, &settings::show(&control.settings))
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    let sources = &shared.0.sources;
    let picture = sources.picture().await;
    let page = Page {
        snapshot: &sources.board.snapshot(),
        counters: &sources.board.counters(),
        picture: &picture,
        now: sources.desk.now(),
        wall_ms: sources.desk.wall_ms(),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    plain(StatusCode::OK, kind, page.text().into_bytes())
}

async fn status_page(State(shared): State<Shared>) -> Response {
    let sources = &shared.0.sources;
    let picture = sources.picture().await;
    let status = status::status(&sources.board.snapshot(), &picture, sources.desk.now());
    with_json(StatusCode::OK, &status)
}

async fn post_switchover(State(shared): State<Shared>, body: Body) -> Result<Response, Refusal> {
    orders::switchover(&shared.0.sources, body).await
}

async fn post_failover(State(shared): State<Shared>, body: Body) -> Result<Response, Refusal> {
    orders::failover(&shared.0.sources, body).await
}

async fn patch_config(State(shared): State<Shared>, body: Body) -> Result<Response, Refusal> {
    orders::configure(&shared.0.sources, body).await
}

async fn post_member(State(shared): State<Shared>, body: Body) -> Result<Response, Refusal> {
    orders::add_member(&shared.0.sources, body).await
}

async fn patch_member(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Refusal> {
    orders::tag_member(&shared.0.sources, &name, body).await
}

async fn delete_member(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Refusal> {
    orders::remove_member(&shared.0.sources, &name, body).await
}

async fn post_restart(State(shared): State<Shared>, body: Body) -> Result<Response, Refusal> {
    orders::chore(&shared.0.sources, Chore::Restart, body).await
}

async fn post_reload(State(shared): State<Shared>, body: Body) -> Result<Response, Refusal> {
    orders::chore(&shared.0.sources, Chore::Reload, body).await
}

async fn post_reinitialize(State(shared): State<Shared>, body: Body) -> Result<Response, Refusal> {
    orders::chore(&shared.0.sources, Chore::Reinitialise, body).await
}
