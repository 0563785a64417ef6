//! Answers: JSON for everything, and a sentence for every refusal.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::json;

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: String,
    /// The order's name, where one was given: with it the order can be asked for again.
    pub(super) id: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), id: None }
    }

    /// The request makes no sense.
    pub(super) fn bad(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        let body = match self.id {
            Some(id) => json!({ "error": self.why, "id": id }),
            None => json!({ "error": self.why }),
        };
        let mut response = with_json(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            let value = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

/// An answer in JSON. Nobody may keep it: it is true for an instant.
pub(super) fn with_json(status: StatusCode, body: &impl Serialize) -> axum::response::Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => plain(status, "application/json", bytes),
        // Nothing here has keys that JSON cannot hold; a reader is told all the same.
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "application/json", b"{}".to_vec()),
    }
}

pub(super) fn plain(
    status: StatusCode,
    kind: &'static str,
    bytes: Vec<u8>,
) -> axum::response::Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
