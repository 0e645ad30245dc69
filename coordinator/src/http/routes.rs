//! The routes: each is a function from a request to a response or an [`ApiError`].

use super::answer::AnswerHeader;
use super::app_state::AppState;
use super::chunk_writer::ChunkWriter;
use super::endpoint::{Endpoint, FieldNames};
use super::error::ApiError;
use super::full_response::{self, ChoiceReader};
use super::keys;
use super::logprobs::LogprobsWriter;
use super::request::{self, ParsedRequest};
use super::request_body;
use super::request_id::HttpRequestId;
use super::server_routes;
use super::sse::{SseBody, StreamedChoice};
use crate::front::{AnswerStream, ApiKeys, Core};
use crate::transport::ClientState;
use axum::Extension;
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::{Value, json};
use std::sync::Arc;

/// Longer bodies are parsed on the core's pool, so that no stream waits for them.
const PARSE_HERE_BYTES_MAX: usize = 16 << 10;

/// A path, and who answers on it.
pub(super) struct Route {
    pub(super) path: &'static str,
    methods: MethodRouter<Arc<AppState>>,
    /// Answers without a key too.
    pub(super) is_open: bool,
}

impl Route {
    fn new(path: &'static str, methods: MethodRouter<Arc<AppState>>) -> Self {
        Self { path, methods, is_open: false }
    }

    /// A route for those who look after the server, and know no key.
    fn open(path: &'static str, methods: MethodRouter<Arc<AppState>>) -> Self {
        Self { is_open: true, ..Self::new(path, methods) }
    }
}

/// All routes.
pub(super) fn table() -> Vec<Route> {
    vec![
        Route::new("/v1/completions", post(completions)),
        Route::new("/v1/chat/completions", post(chat_completions)),
        Route::new("/v1/models", get(models)),
        Route::new("/v1/models/{*name}", get(model)),
        Route::new("/metrics", get(server_routes::metrics)),
        Route::new("/version", get(server_routes::version)),
        Route::new("/server_info", get(server_routes::server_info)),
        Route::new("/model_info", get(server_routes::model_info)),
        Route::new("/v1/loads", get(server_routes::loads)),
        Route::open("/health", get(server_routes::health)),
        Route::open("/health/ready", get(server_routes::health)),
        Route::open("/readyz", get(server_routes::health)),
        Route::open("/ping", get(server_routes::health)),
        Route::open("/livez", get(server_routes::live)),
    ]
}

/// The routes. Whatever is not open, the answer to a path that is none included, wants one of
/// `keys` if there are any.
pub(super) fn router(app: Arc<AppState>, keys: Arc<ApiKeys>) -> Router {
    let (open, closed): (Vec<Route>, Vec<Route>) =
        table().into_iter().partition(|route| route.is_open);
    let routed = |routes: Vec<Route>| {
        let router = routes
            .into_iter()
            .fold(Router::new(), |router, route| router.route(route.path, route.methods));
        router.method_not_allowed_fallback(no_method)
    };
    let closed = routed(closed).fallback(no_route).layer(from_fn_with_state(keys, keys::admit));
    closed.merge(routed(open)).with_state(app)
}

async fn completions(
    State(app): State<Arc<AppState>>,
    Extension(client): Extension<Arc<ClientState>>,
    Extension(id): Extension<HttpRequestId>,
    request: Request,
) -> Response {
    let answer = answer(Endpoint::Completion, &app, client, id, request).await;
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn chat_completions(
    State(app): State<Arc<AppState>>,
    Extension(client): Extension<Arc<ClientState>>,
    Extension(id): Extension<HttpRequestId>,
    request: Request,
) -> Response {
    let answer = answer(Endpoint::Chat, &app, client, id, request).await;
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(
    endpoint: Endpoint,
    app: &AppState,
    client: Arc<ClientState>,
    id: HttpRequestId,
    request: Request,
) -> Result<Response, ApiError> {
    let received = request_body::read(request, &app.config, &app.body_memory).await?;
    let parsed = parse(endpoint, app, received.bytes).await?;
    app.unknown_fields.tell(&parsed.unknown_fields);
    let ParsedRequest { generate, choices, stream, extras, names, .. } = parsed;
    let answers = app.core.generate_choices(generate, choices).await;
    let answers = answers.map_err(|error| ApiError::of_submit(error, names))?;
    // Only the request's tokens are kept from here on, and the queue counts them.
    drop(received.memory);
    let header = AnswerHeader::new(endpoint, answers[0].id(), app.core.model());
    let logprobs = |answer: &AnswerStream| LogprobsWriter::of(answer, endpoint, &app.core);
    if !stream {
        let readers = answers.into_iter().map(|answer| {
            let logprobs = logprobs(&answer);
            ChoiceReader::new(answer, logprobs, extras.token_ids)
        });
        let answer = full_response::answer(header, readers.collect());
        return full_response::respond(answer, &client).await;
    }
    let choices = answers.into_iter().enumerate().map(|(index, stream)| {
        let header = AnswerHeader { index, ..header.clone() };
        let chunks = ChunkWriter::new(header, extras, &stream, logprobs(&stream));
        StreamedChoice { stream, chunks, ended: None }
    });
    let body = SseBody::new(choices.collect(), id, client, app.config.comment_interval);
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

async fn parse(
    endpoint: Endpoint,
    app: &AppState,
    bytes: Vec<u8>,
) -> Result<ParsedRequest, ApiError> {
    let core = app.core.clone();
    let parse = move |bytes: &[u8]| request::parse(endpoint, bytes, core.model());
    if bytes.len() <= PARSE_HERE_BYTES_MAX {
        return parse(&bytes);
    }
    let names = FieldNames { endpoint, max_tokens: "max_tokens" };
    let parsed = app.core.on_pool(move || parse(&bytes)).await;
    parsed.map_err(|error| ApiError::of_submit(error, names))?
}

async fn models(State(app): State<Arc<AppState>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [model_json(&app.core)] }))
}

async fn model(
    State(app): State<Arc<AppState>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if name != app.core.model().name {
        return Err(request::unknown_model(app.core.model()));
    }
    Ok(Json(model_json(&app.core)))
}

fn model_json(core: &Core) -> Value {
    let model = core.model();
    json!({
        "id": model.name, "object": "model", "created": model.created, "owned_by": "binfer",
        "max_model_len": core.context_max(),
    })
}

async fn no_route() -> ApiError {
    let message = "no such path; there are /v1/completions, /v1/chat/completions, /v1/models, \
                   /health and those of docs/api.md";
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
