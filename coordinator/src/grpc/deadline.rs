//! The deadline of a call (`grpc-timeout`). When it has passed, the answer ends with its status,
//! and with the answer the request in the scheduler.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;

const GRPC_TIMEOUT: &str = "grpc-timeout";
/// A deadline that is further away is none.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Ends a call at its deadline.
pub(super) async fn limited(request: Request, next: Next) -> Response {
    let timeout = match timeout_of(request.headers()) {
        Ok(Some(timeout)) if timeout <= TIMEOUT_MAX => timeout,
        Ok(_) => return next.run(request).await,
        Err(status) => return status.into_http(),
    };
    let deadline = Instant::now() + timeout;
    match timeout_at(deadline, next.run(request)).await {
        Ok(answer) => answer.map(|body| {
            Body::new(DeadlineBody { body: Some(body), deadline: Box::pin(sleep_until(deadline)) })
        }),
        Err(_) => passed().into_http(),
    }
}

fn passed() -> Status {
    Status::deadline_exceeded("the deadline of the call has passed")
}

/// The time that the client gives, at most eight digits and a unit.
fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(text) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let wrong = || Status::invalid_argument("grpc-timeout is not up to eight digits and a unit");
    let text = text.to_str().map_err(|_| wrong())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|d| d.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| is_number).ok_or_else(wrong)?;
    let timeout = match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(wrong()),
    };
    Ok(Some(timeout))
}

/// The body of an answer, which ends at the deadline.
struct DeadlineBody {
    /// `None` once the deadline has passed.
    body: Option<Body>,
    deadline: Pin<Box<Sleep>>,
}

impl http_body::Body for DeadlineBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if this.deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // With the body its request ends.
        this.body = None;
        let mut trailers = HeaderMap::new();
        match passed().add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(status) => Poll::Ready(Some(Err(axum::Error::new(status)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // Trailers may come instead of what is left.
        SizeHint::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Option<Duration>> {
        let headers = [(GRPC_TIMEOUT.parse().unwrap(), text.parse().unwrap())];
        timeout_of(&headers.into_iter().collect()).ok()
    }

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (text, timeout) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("05m", Duration::from_millis(5)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(parsed(text), Some(Some(timeout)), "{text}");
        }
        for wrong in ["", "S", "5", "5s", "-5S", "+5S", "1.5S", "123456789S", "5 S", "5é"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
        assert_eq!(timeout_of(&HeaderMap::new()).ok(), Some(None));
    }
}
