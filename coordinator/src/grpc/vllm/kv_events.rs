//! Loads by subscription. Events of the KV cache are not published, so a subscriber that does not
//! take loads without events is told so at once: a silent stream would make a gateway wait.

use super::info;
use crate::front::FrontContext;
use crate::grpc::date::since_1970;
use binfer_proto::client::smg::grpc::common::{KvEventBatch, SubscribeKvEventsRequest};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How often the load is told.
const INTERVAL: Duration = Duration::from_secs(1);

/// The loads from now on, until the server or the subscriber ends.
pub(super) fn subscribe(
    request: &SubscribeKvEventsRequest,
    context: &FrontContext,
) -> Result<ReceiverStream<Result<KvEventBatch, Status>>, Status> {
    if !request.load_records_before_first_batch {
        let message = "events of the KV cache are not published, only loads, for subscribers that \
                       set load_records_before_first_batch";
        return Err(Status::unimplemented(message));
    }
    let (batches, stream) = mpsc::channel(1);
    let FrontContext { core, mut closing, .. } = context.clone();
    tokio::spawn(async move {
        let telling = async {
            let mut ticks = tokio::time::interval(INTERVAL);
            for sample in 1.. {
                ticks.tick().await;
                let batch = KvEventBatch {
                    sequence_number: 0,
                    timestamp: since_1970().as_secs_f64(),
                    dp_rank: Some(0),
                    load: Some(info::engine_load(&core.load(), sample)),
                };
                if batches.send(Ok(batch)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = telling => {}
            _ = closing.wait_for(|closing| *closing) => {}
            () = batches.closed() => {}
        }
    });
    Ok(ReceiverStream::new(stream))
}
