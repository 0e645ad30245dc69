//! One client's connection: its socket options, hyper over it, and its end.

use super::answer_body::AnswerBody;
use super::client_state::{ClientState, Exchange};
use super::config::TransportConfig;
use super::held_body::HeldAnswers;
use super::protocol::{self, Protocol};
use super::request_body;
use super::socket::ClientSocket;
use super::tls;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use std::convert::Infallible;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client may be silent until TCP asks whether it is there, and how often TCP asks.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// One connection, and what serves it.
pub(super) struct Connection {
    pub(super) client: Arc<ClientState>,
    pub(super) answers: Arc<HeldAnswers>,
    pub(super) router: Router,
    pub(super) config: Arc<TransportConfig>,
}

impl Connection {
    /// Serves a client until the end of its connection.
    pub(super) async fn serve(self, socket: TcpStream) {
        let Self { client, config, .. } = &self;
        set_options(&socket, config.write_timeout);
        let socket = Arc::new(socket);
        let io = ClientSocket::new(Arc::clone(&socket), Arc::clone(client), config.write_timeout);
        let Some(tls) = &config.tls else {
            return match protocol::spoken(&socket, client).await {
                Ok(Protocol::Http1) => self.serve_http1(io, &socket).await,
                Ok(Protocol::Http2) => self.serve_http2(io).await,
                Err(_) => {}
            };
        };
        // A failed handshake is the client's affair.
        let handshake = timeout(config.head_timeout, tls.acceptor().accept(io));
        let Ok(Ok(io)) = handshake.await else { return };
        client.handshaken();
        match io.get_ref().1.alpn_protocol() {
            Some(tls::HTTP2) => self.serve_http2(io).await,
            _ => self.serve_http1(io, &socket).await,
        }
    }

    async fn serve_http1(self, io: impl AsyncRead + AsyncWrite + Unpin, socket: &TcpStream) {
        let connection = http1::Builder::new()
            // A client that has shut down its writing side gets its answer. `ClientState::closed`
            // finds those that have left.
            .half_close(true)
            .header_read_timeout(None)
            .max_headers(self.config.headers_max)
            .max_buf_size(self.config.head_bytes_max)
            .serve_connection(
                TokioIo::new(io),
                self.service(|_, body, exchange| AnswerBody::new(body, exchange)),
            );
        let client = Arc::clone(&self.client);
        let closed = client.closed(socket);
        self.until_end(connection, http1::Connection::graceful_shutdown, closed).await;
    }

    /// Over HTTP/2 hyper reads all the time and notices clients that leave.
    async fn serve_http2(self, io: impl AsyncRead + AsyncWrite + Unpin) {
        self.client.speaks_http2();
        let config = &self.config;
        let head_bytes_max = u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX);
        let connection = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(config.streams_max)
            .max_pending_accept_reset_streams(config.resets_max)
            .max_header_list_size(head_bytes_max)
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .serve_connection(TokioIo::new(io), self.service(HeldAnswers::hold));
        self.until_end(connection, http2::Connection::graceful_shutdown, pending()).await;
    }

    /// The router for one client. `wrap` makes what hyper sends out of the body of an answer.
    fn service<B: http_body::Body + 'static>(
        &self,
        wrap: fn(&HeldAnswers, Body, Arc<Exchange>) -> B,
    ) -> impl HttpService<Incoming, ResBody = B, Error = Infallible, Future: Send + 'static> + use<B>
    {
        let headers_max = self.config.headers_max;
        let router = TowerToHyperService::new(self.router.clone());
        let (client, answers) = (Arc::clone(&self.client), Arc::clone(&self.answers));
        let config = Arc::clone(&self.config);
        service_fn(move |request: Request<Incoming>| {
            let exchange = client.exchange();
            let mut request = request_body::of_request(request, &exchange, &config);
            request.extensions_mut().insert(Arc::clone(&client));
            // Over HTTP/1.1 hyper has refused them.
            let is_too_large = request.headers().len() > headers_max;
            let (router, answers) = (router.clone(), Arc::clone(&answers));
            async move {
                let answer = match is_too_large {
                    true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into_response(),
                    false => router.call(request).await?,
                };
                Ok::<Response<B>, Infallible>(answer.map(|body| wrap(&answers, body, exchange)))
            }
        })
    }

    /// Drives `connection` until it ends or its client has `closed` it. Once its answers are to be
    /// the last, it hears so through `end`.
    async fn until_end<C: Future>(
        self,
        connection: C,
        end: fn(Pin<&mut C>),
        closed: impl Future<Output = ()>,
    ) {
        let (mut connection, mut closed) = (pin!(connection), pin!(closed));
        // An error of a connection is the client's affair.
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = closed.as_mut() => return,
            () = self.client.last_answer() => {}
        }
        end(connection.as_mut());
        tokio::select! {
            biased;
            _ = connection.as_mut() => {}
            () = closed.as_mut() => {}
        }
    }
}

/// Sets the options of a socket. A client is served, if less well, where one of them is refused.
fn set_options(socket: &TcpStream, write_timeout: Duration) {
    let _ = socket.set_nodelay(true);
    let timeout_ms = u32::try_from(write_timeout.as_millis()).unwrap_or(u32::MAX);
    let _ = sockopt::set_tcp_user_timeout(socket, timeout_ms);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(socket, KEEPALIVE);
    let _ = sockopt::set_socket_keepalive(socket, true);
}
