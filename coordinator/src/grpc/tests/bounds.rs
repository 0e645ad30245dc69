//! What a client can take: bytes, time and memory of messages, time of calls.

use super::super::GrpcConfig;
use super::server::{Server, server, server_with};
use crate::transport::BodyLimits;
use binfer_proto::client::grpc::health::v1::HealthCheckRequest;
use binfer_proto::client::grpc::health::v1::health_client::HealthClient;
use std::time::{Duration, Instant};
use tonic::Code;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

async fn check(server: &Server, service_bytes: usize) -> Result<(), tonic::Status> {
    let mut client = HealthClient::new(server.channel().await);
    let service = "x".repeat(service_bytes);
    client.check(HealthCheckRequest { service }).await.map(drop)
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_and_harms_nobody() {
    let message = BodyLimits { bytes_max: 1000, timeout: Duration::from_secs(30) };
    let server = server_with(Vec::new(), GrpcConfig { message, ..GrpcConfig::default() });
    // Three bytes stand in front of the name.
    assert_eq!(check(&server, 997).await.unwrap_err().code(), Code::NotFound);
    let status = check(&server, 998).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("1000 bytes"), "{status:?}");
    check(&server, 0).await.unwrap();
}

#[tokio::test]
async fn messages_together_take_bounded_memory() {
    let config = GrpcConfig { message_memory_bytes: 8 << 10, ..GrpcConfig::default() };
    let server = server_with(Vec::new(), config);
    assert_eq!(check(&server, 5000).await.unwrap_err().code(), Code::NotFound);
    let status = check(&server, 9000).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("too many"), "{status:?}");
    check(&server, 0).await.unwrap();
}

#[tokio::test]
async fn messages_that_never_end_are_given_up() {
    let message = BodyLimits { bytes_max: 1000, timeout: Duration::from_millis(50) };
    let server = server_with(Vec::new(), GrpcConfig { message, ..GrpcConfig::default() });
    let mut client = ServerReflectionClient::new(server.channel().await);
    let never = tokio_stream::pending::<ServerReflectionRequest>();
    let began = Instant::now();
    let mut replies = client.server_reflection_info(never).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap(), None);
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_has_begun_to_answer() {
    let server = server(Vec::new());
    let mut client = HealthClient::new(server.channel().await);
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("grpc-timeout", "80m".parse().unwrap());
    let mut watch = client.watch(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let ended = watch.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(client.check(request).await.unwrap_err().code(), Code::InvalidArgument);
}
