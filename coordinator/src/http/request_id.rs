//! The id of a request, by which clients, gateways and logs speak of the same one: `x-request-id`
//! as it came, or a new one. Every response carries it, and every error says it.

use super::error::ApiError;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use std::hash::{BuildHasher, RandomState};

/// The header, in both directions.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that a client may choose.
const ID_BYTES_MAX: usize = 128;

/// The id of one request over HTTP. Handlers find it among the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpRequestId(HeaderValue);

impl HttpRequestId {
    /// The id that a client gave, if it gave one of visible ASCII characters that is not too long.
    /// A new one otherwise.
    fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(X_REQUEST_ID).iter();
        match (given.next(), given.next()) {
            (Some(id), None) if is_fit(id.as_bytes()) => Self(id.clone()),
            _ => Self::new(),
        }
    }

    /// An id that nobody can foresee, out of the process's hash keys.
    fn new() -> Self {
        let [high, low] = [0_u8, 1].map(|half| RandomState::new().hash_one(half));
        let id = HeaderValue::try_from(format!("req_{high:016x}{low:016x}"));
        Self(id.unwrap_or(HeaderValue::from_static("req_0")))
    }

    pub(super) fn text(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

fn is_fit(id: &[u8]) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Gives a request its id, and the response of it. An [`ApiError`] becomes JSON here.
pub(super) async fn carry(mut request: Request, next: Next) -> Response {
    let id = HttpRequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        *response.body_mut() = Body::from(error.json(id.text()).to_string());
    }
    response.headers_mut().insert(X_REQUEST_ID, id.0);
    response
}
