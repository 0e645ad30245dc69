//! Health and reflection.

use super::server::{Server, server};
use crate::front::Readiness;
use binfer_proto::client::grpc::health::v1::health_check_response::ServingStatus;
use binfer_proto::client::grpc::health::v1::health_client::HealthClient;
use binfer_proto::client::grpc::health::v1::{HealthCheckRequest, HealthListRequest};
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

const SOON: Duration = Duration::from_secs(10);

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn client(server: &Server) -> HealthClient<Channel> {
    HealthClient::new(server.channel().await)
}

#[tokio::test]
async fn health_is_readiness_for_the_server_and_each_service() {
    let server = server(Vec::new());
    let mut client = client(&server).await;
    for (readiness, status) in [
        (Readiness::Ready, ServingStatus::Serving),
        (Readiness::Starting("weights".into()), ServingStatus::NotServing),
        (Readiness::Draining, ServingStatus::NotServing),
        (Readiness::Lost("rank 1".into()), ServingStatus::NotServing),
    ] {
        server.scripted.readiness.send_replace(readiness);
        let listed = client.list(HealthListRequest {}).await.unwrap().into_inner().statuses;
        assert!(listed.contains_key("") && listed.contains_key("grpc.health.v1.Health"));
        for (service, listed) in listed {
            let checked = client.check(of(&service)).await.unwrap().into_inner();
            assert_eq!((checked.status(), listed.status()), (status, status), "{service}");
        }
    }
    let unknown = client.check(of("no.such.Service")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn a_watch_stays_open_tells_every_change_and_ends_with_the_server() {
    let server = server(Vec::new());
    let mut client = client(&server).await;
    let mut watch = client.watch(of("")).await.unwrap().into_inner();
    let mut unknown = client.watch(of("no.such.Service")).await.unwrap().into_inner();
    let next = async |watch: &mut Streaming<_>| {
        let next = timeout(SOON, watch.message()).await.expect("a status is told");
        next.unwrap()
            .map(|told: binfer_proto::client::grpc::health::v1::HealthCheckResponse| told.status())
    };
    assert_eq!(next(&mut watch).await, Some(ServingStatus::Serving));
    assert_eq!(next(&mut unknown).await, Some(ServingStatus::ServiceUnknown));
    server.scripted.readiness.send_replace(Readiness::Lost("rank 1".into()));
    assert_eq!(next(&mut watch).await, Some(ServingStatus::NotServing));
    server.scripted.readiness.send_replace(Readiness::Draining);
    let silent = timeout(Duration::from_millis(50), watch.message()).await;
    assert!(silent.is_err(), "nothing has changed, and the stream is open");
    server.scripted.readiness.send_replace(Readiness::Ready);
    assert_eq!(next(&mut watch).await, Some(ServingStatus::Serving));
    server.close.send_replace(true);
    assert_eq!((next(&mut watch).await, next(&mut unknown).await), (None, None));
    timeout(SOON, server.served).await.unwrap().unwrap().unwrap();
}

async fn reflected(server: &Server, request: MessageRequest) -> MessageResponse {
    let host = String::new();
    let request = ServerReflectionRequest { host, message_request: Some(request) };
    let mut client = ServerReflectionClient::new(server.channel().await);
    let replies = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let reply: Option<ServerReflectionResponse> = replies.into_inner().message().await.unwrap();
    reply.unwrap().message_response.unwrap()
}

#[tokio::test]
async fn reflection_lists_the_services_that_health_knows_and_describes_them() {
    let server = server(Vec::new());
    let reply = reflected(&server, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(list) = reply else { panic!("{reply:?}") };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in &names {
        let symbol = MessageRequest::FileContainingSymbol(name.clone());
        let reply = reflected(&server, symbol).await;
        assert!(matches!(reply, MessageResponse::FileDescriptorResponse(_)), "{name}: {reply:?}");
    }
    names.retain(|name| name != "grpc.reflection.v1.ServerReflection");
    let mut health = client(&server).await;
    let known = health.list(HealthListRequest {}).await.unwrap().into_inner().statuses;
    names.push(String::new());
    names.sort();
    assert_eq!(names, known.into_keys().collect::<Vec<_>>());
}
