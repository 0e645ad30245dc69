//! One client's connection: its socket options, hyper over it, and its end.

use super::client_state::ClientState;
use super::config::HttpConfig;
use super::request_body;
use super::socket::ClientSocket;
use axum::Router;
use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How long a client may be silent until TCP asks whether it is there, and how often TCP asks.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Serves one connection until its end. Once `stop` is true, its current answer is the last.
pub(super) async fn serve(
    socket: TcpStream,
    client: Arc<ClientState>,
    router: Router,
    config: Arc<HttpConfig>,
    mut stop: watch::Receiver<bool>,
) {
    set_options(&socket, config.write_timeout);
    let socket = Arc::new(socket);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        client.head_arrived();
        let mut request = request_body::of_request(request, &client, &config);
        request.extensions_mut().insert(Arc::clone(&client));
        let (answering, client) = (router.call(request), Arc::clone(&client));
        async move { answering.await.map(|answer| answer.map(|body| AnswerBody { body, client })) }
    });
    let io = ClientSocket::new(Arc::clone(&socket), Arc::clone(&client), config.write_timeout);
    let connection = http1::Builder::new()
        // A client that has shut down its writing side gets its answer. `ClientState::closed` finds
        // those that have left.
        .half_close(true)
        .header_read_timeout(None)
        .max_headers(config.headers_max)
        .max_buf_size(config.head_bytes_max)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut closed = pin!(client.closed(&socket));
    let stopping = async {
        tokio::select! {
            () = client.last_answer() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    };
    // An error of a connection is the client's affair.
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = closed.as_mut() => return,
        () = stopping => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = connection.as_mut() => {}
        () = closed.as_mut() => {}
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

/// The body of an answer. With its end the client is without a request again.
struct AnswerBody {
    body: Body,
    client: Arc<ClientState>,
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.client.answered();
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
