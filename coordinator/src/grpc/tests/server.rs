//! A server for the tests, and channels to it.

use super::super::{GrpcConfig, serve};
use crate::front::FrontContext;
use crate::front::testing::{Act, Scripted, scripted};
use std::net::SocketAddr;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// A server on a socket, in front of a scripted serve loop.
pub(super) struct Server {
    pub(super) scripted: Scripted,
    pub(super) address: SocketAddr,
    pub(super) close: watch::Sender<bool>,
    pub(super) served: JoinHandle<std::io::Result<()>>,
}

pub(super) fn server(scripts: Vec<Vec<Act>>) -> Server {
    server_with(scripts, GrpcConfig::default())
}

pub(super) fn server_with(scripts: Vec<Vec<Act>>, config: GrpcConfig) -> Server {
    let scripted = scripted(scripts, u64::MAX);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (close, closing) = watch::channel(false);
    let readiness = scripted.readiness.subscribe();
    let context = FrontContext { core: scripted.core.clone(), readiness, closing };
    let served = tokio::spawn(serve(listener, context, config));
    Server { scripted, address, close, served }
}

impl Server {
    pub(super) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }
}
