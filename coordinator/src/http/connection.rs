//! One client's connection: socket options, time limits, and its orderly end.

use super::config::Config;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Sleep, sleep};

/// Asks a connection to end when its current answer is complete.
#[derive(Clone, Debug, Default)]
pub(super) struct Closing(Arc<Notify>);

impl Closing {
    pub(super) fn close_after_answer(&self) {
        self.0.notify_one();
    }
}

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

    let closing = Closing::default();
    let handle = closing.clone();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(handle.clone());
        router.call(request)
    });
    let io = TokioIo::new(Guarded::new(socket, config.write_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_headers(config.headers_max)
        .max_buf_size(config.head_bytes_max)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut ending = pin!(async {
        tokio::select! {
            () = closing.0.notified() => {}
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

/// A socket on which a write that makes no progress in time fails. Hyper itself would wait for
/// ever, and the request behind it with it.
struct Guarded {
    socket: TcpStream,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn new(socket: TcpStream, write_timeout: Duration) -> Self {
        Self { socket, write_timeout, stalled: None }
    }

    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = poll(Pin::new(&mut self.socket), cx) {
            self.stalled = None;
            return Poll::Ready(result);
        }
        let write_timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        if stalled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watched(cx, |socket, cx| socket.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
