//! Who may ask, over HTTP: refusals as errors of the API, and what browsers are told of other
//! origins (CORS).

use super::error::ApiError;
use super::request_id::X_REQUEST_ID;
use crate::transport::{Access, AccessDenied, AccessGuard, AllowedOrigin};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, AllowPrivateNetwork, CorsLayer};

/// How long a browser may remember what a preflight allowed.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// Lets `router` answer only those who may ask; `is_local` if only this machine reaches it.
pub(super) fn guarded(router: Router, access: Access, is_local: bool) -> Router {
    let origins = access.origins.iter();
    let pages: Vec<HeaderValue> = origins
        .filter_map(|origin| match origin {
            AllowedOrigin::Any => None,
            AllowedOrigin::Page(page) => Some(page.clone()),
        })
        .collect();
    let allowed = match (access.origins.contains(&AllowedOrigin::Any), pages.is_empty()) {
        (true, _) => Some(AllowOrigin::any()),
        (false, true) => None,
        (false, false) => Some(AllowOrigin::list(pages)),
    };
    let router = match allowed {
        None => router,
        Some(allowed) => router.layer(
            CorsLayer::new()
                .allow_origin(allowed)
                .allow_methods([Method::GET, Method::POST])
                .allow_headers(AllowHeaders::mirror_request())
                .allow_private_network(AllowPrivateNetwork::yes())
                .expose_headers([header::RETRY_AFTER, X_REQUEST_ID])
                .max_age(PREFLIGHT_AGE),
        ),
    };
    let guard = AccessGuard::new(access, is_local);
    router.layer(from_fn_with_state(Arc::new(guard), admit))
}

async fn admit(State(guard): State<Arc<AccessGuard>>, request: Request, next: Next) -> Response {
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            let status = match denied {
                AccessDenied::Malformed(_) => StatusCode::BAD_REQUEST,
                AccessDenied::Forbidden(_) => StatusCode::FORBIDDEN,
            };
            ApiError::new(status, denied.to_string()).into_response()
        }
    }
}
