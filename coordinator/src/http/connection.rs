//! One client's connection: socket options, time limits, and its orderly end.

use super::config::Config;
use super::socket::{ClientSocket, HyperSide, Outlet};
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

/// Serves one connection until its end. `stop` true lets its current answer be the last.
pub(super) async fn serve(
    socket: TcpStream,
    router: Router,
    config: Arc<Config>,
    mut stop: watch::Receiver<bool>,
) {
    // Without these options a client is served worse, but served.
    let _ = socket.set_nodelay(true);
    let timeout_ms = u32::try_from(config.write_timeout.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&socket, timeout_ms);

    let socket = ClientSocket::new(socket);
    let closing = Arc::new(Notify::new());
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let outlet = Outlet::new(Arc::clone(&socket), Arc::clone(&closing), request.version());
        request.extensions_mut().insert(outlet);
        router.call(request)
    });
    let io = TokioIo::new(HyperSide::new(Arc::clone(&socket), config.write_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_headers(config.headers_max)
        .max_buf_size(config.head_bytes_max)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut ending = pin!(async {
        tokio::select! {
            () = closing.notified() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
    tokio::select! {
        biased;
        // How a connection ends is the client's affair.
        _ = connection.as_mut() => return,
        () = ending.as_mut() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
