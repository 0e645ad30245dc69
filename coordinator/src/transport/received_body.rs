//! The whole body of a request, read within limits of size, time and memory, or refused and
//! dropped. Each front gives a refusal its protocol's status.

use axum::body::Body;
use axum::http::{Request, Version};
use http_body::Body as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Bodies over HTTP/1.1 up to this size are always taken: connections bound them.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// The bytes that a permit of [`BodyMemory`] stands for.
const UNIT_BYTES: usize = 4 << 10;

/// Memory for bodies, shared by all connections of a front.
#[derive(Debug)]
pub struct BodyMemory(Semaphore);

impl BodyMemory {
    /// Memory of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Semaphore::new((bytes / UNIT_BYTES).min(Semaphore::MAX_PERMITS)))
    }
}

/// Bounds of one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Its bytes.
    pub bytes_max: usize,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyRefusal {
    /// It is too long.
    #[error("the body may have {bytes_max} bytes at most")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// The bodies of all requests together take too much memory.
    #[error("too many long requests arrive at once; try again later")]
    TooMany,
    /// It broke off.
    #[error("the body ended before it was complete")]
    Cut,
    /// It took too long.
    #[error("the body did not arrive within {} s", .timeout.as_secs())]
    Late {
        /// The bound.
        timeout: Duration,
    },
}

/// A body that was read, and its permits for the memory that it takes.
#[derive(Debug)]
pub struct ReceivedBody<'a> {
    /// All of it.
    pub bytes: Vec<u8>,
    /// To be kept as long as the bytes are.
    pub memory: Option<SemaphorePermit<'a>>,
    /// A body up to this size needs none.
    uncounted: usize,
}

impl<'a> ReceivedBody<'a> {
    /// Reads all of the body of a request.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn read(
        request: Request<Body>,
        limits: BodyLimits,
        memory: &'a BodyMemory,
    ) -> Result<Self, BodyRefusal> {
        let uncounted = if request.version() == Version::HTTP_2 { 0 } else { SMALL_BYTES_MAX };
        let received = Self { bytes: Vec::new(), memory: None, uncounted };
        let reading = received.read_all(request.into_body(), limits.bytes_max, memory);
        let BodyLimits { timeout: limit, .. } = limits;
        timeout(limit, reading).await.unwrap_or(Err(BodyRefusal::Late { timeout: limit }))
    }

    async fn read_all(
        mut self,
        mut body: Body,
        bytes_max: usize,
        memory: &'a BodyMemory,
    ) -> Result<Self, BodyRefusal> {
        let promised = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if promised > bytes_max {
            return Err(BodyRefusal::TooLarge { bytes_max });
        }
        self.reserve(promised, memory)?;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let Ok(frame) = frame else {
                return Err(BodyRefusal::Cut);
            };
            let Ok(data) = frame.into_data() else { continue };
            let len = self.bytes.len().saturating_add(data.len());
            if len > bytes_max {
                return Err(BodyRefusal::TooLarge { bytes_max });
            }
            self.reserve(len, memory)?;
            self.bytes.extend_from_slice(&data);
        }
        Ok(self)
    }

    /// Takes permits for `len` bytes in all.
    fn reserve(&mut self, len: usize, memory: &'a BodyMemory) -> Result<(), BodyRefusal> {
        if len <= self.uncounted {
            return Ok(());
        }
        let held = self.memory.as_ref().map_or(0, SemaphorePermit::num_permits);
        let missing = len.div_ceil(UNIT_BYTES).saturating_sub(held);
        let missing = u32::try_from(missing).map_err(|_| BodyRefusal::TooMany)?;
        let more = memory.0.try_acquire_many(missing).map_err(|_| BodyRefusal::TooMany)?;
        match &mut self.memory {
            Some(memory) => memory.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}
