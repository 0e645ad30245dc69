//! Who may ask.

use super::super::GrpcConfig;
use super::server::{Server, server, server_with};
use crate::front::ApiKeys;
use crate::transport::{Access, AllowedHost};
use binfer_proto::client::grpc::health::v1::HealthCheckRequest;
use binfer_proto::client::grpc::health::v1::health_client::HealthClient;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

async fn addressed_to(server: &Server, host: &str) -> Channel {
    let origin = format!("http://{host}").parse().unwrap();
    let endpoint = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    endpoint.origin(origin).connect().await.unwrap()
}

async fn health_of(channel: Channel, origin: Option<&str>) -> Result<(), Code> {
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    if let Some(origin) = origin {
        request.metadata_mut().insert("origin", origin.parse().unwrap());
    }
    let checked = HealthClient::new(channel).check(request).await;
    checked.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn hosts_and_origins_are_checked_as_over_http() {
    let access =
        Access { hosts: vec![AllowedHost::Name("good.example".into())], ..Access::default() };
    let server = server_with(Vec::new(), GrpcConfig { access, ..GrpcConfig::default() });
    for host in ["localhost:1", "127.0.0.1", "good.example:443"] {
        assert_eq!(health_of(addressed_to(&server, host).await, None).await, Ok(()), "{host}");
    }
    let rebound = health_of(addressed_to(&server, "evil.example").await, None).await;
    assert_eq!(rebound, Err(Code::PermissionDenied));
    let page = health_of(server.channel().await, Some("https://evil.example")).await;
    assert_eq!(page, Err(Code::PermissionDenied));
}

async fn reflect(server: &Server, key: Option<&str>) -> Result<(), Status> {
    let asked = ServerReflectionRequest::default();
    let mut request = tonic::Request::new(tokio_stream::once(asked));
    if let Some(key) = key {
        request.metadata_mut().insert("authorization", key.parse().unwrap());
    }
    let mut client = ServerReflectionClient::new(server.channel().await);
    client.server_reflection_info(request).await.map(drop)
}

#[tokio::test]
async fn every_call_but_those_for_health_needs_a_key() {
    let keys = Arc::new(ApiKeys::new(["secret"]).unwrap());
    let server = server_with(Vec::new(), GrpcConfig { keys, ..GrpcConfig::default() });
    assert_eq!(health_of(server.channel().await, None).await, Ok(()));
    reflect(&server, Some("Bearer secret")).await.unwrap();
    for key in [None, Some("Bearer other"), Some("secret")] {
        let status = reflect(&server, key).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{key:?}");
        assert!(status.message().contains("key"), "{status:?}");
    }
    let mut unnamed = tonic::client::Grpc::new(server.channel().await);
    unnamed.ready().await.unwrap();
    for path in [
        "/",
        "/x",
        "//grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health",
        "/a/grpc.health.v1.Health/Check",
    ] {
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
        let request = tonic::Request::new(HealthCheckRequest::default());
        let status = unnamed.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{path}");
        unnamed.ready().await.unwrap();
    }
}

#[tokio::test]
async fn who_speaks_http1_is_told_what_this_port_is() {
    let server = server(Vec::new());
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let request = b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: localhost\r\n\
        Content-Type: text/plain\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("--port"), "{answer}");
}
