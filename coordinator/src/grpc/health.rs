//! `grpc.health.v1`: the health of the server and of each service, which is whether requests are
//! taken.

use crate::front::{FrontContext, Readiness};
use binfer_proto::client::grpc::health::v1::health_check_response::ServingStatus;
use binfer_proto::client::grpc::health::v1::health_server::{Health, HealthServer};
use binfer_proto::client::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

/// The health service.
#[derive(Clone, Debug)]
pub(super) struct HealthService {
    readiness: watch::Receiver<Readiness>,
    closing: watch::Receiver<bool>,
    /// Names that clients may ask for. The empty one is the server as a whole.
    names: Arc<[&'static str]>,
}

impl HealthService {
    /// The health of the server and of `services`.
    pub(super) fn new(context: &FrontContext, services: &[&'static str]) -> Self {
        let own = HealthServer::<Self>::NAME;
        Self {
            readiness: context.readiness.clone(),
            closing: context.closing.clone(),
            names: ["", own].iter().chain(services).copied().collect(),
        }
    }

    fn knows(&self, service: &str) -> bool {
        self.names.contains(&service)
    }

    fn status(&self) -> ServingStatus {
        serving(&self.readiness.borrow())
    }
}

fn serving(readiness: &Readiness) -> ServingStatus {
    match readiness {
        Readiness::Ready => ServingStatus::Serving,
        Readiness::Starting(_) | Readiness::Draining | Readiness::Lost(_) => {
            ServingStatus::NotServing
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.knows(&request.get_ref().service) {
            true => Ok(Response::new(response(self.status()))),
            false => Err(Status::not_found("this server has no such service")),
        }
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let status = response(self.status());
        let statuses = self.names.iter().map(|name| ((*name).to_owned(), status));
        let statuses: BTreeMap<_, _> = statuses.collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    /// The stream ends with the cluster, or with its client.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (statuses, stream) = mpsc::channel(1);
        let is_known = self.knows(&request.get_ref().service);
        let Self { mut readiness, mut closing, .. } = self.clone();
        tokio::spawn(async move {
            let told = tell(&mut readiness, is_known, &statuses);
            tokio::select! {
                () = told => {}
                _ = closing.wait_for(|closing| *closing) => {}
                () = statuses.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Sends the status now and after every change, while somebody listens.
async fn tell(
    readiness: &mut watch::Receiver<Readiness>,
    is_known: bool,
    statuses: &mpsc::Sender<Result<HealthCheckResponse, Status>>,
) {
    let mut told = None;
    loop {
        let status = match is_known {
            true => serving(&readiness.borrow_and_update()),
            false => ServingStatus::ServiceUnknown,
        };
        if told.replace(status) != Some(status)
            && statuses.send(Ok(response(status))).await.is_err()
        {
            return;
        }
        if readiness.changed().await.is_err() {
            // Nobody is left who could change it.
            std::future::pending::<()>().await;
        }
    }
}
