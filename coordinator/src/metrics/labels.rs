//! Labels of series, and their values.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

/// Which rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RankLabel {
    pub(super) rank: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum EndReason {
    Stop,
    StopString,
    Length,
    Cancelled,
    Failed,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCause {
    /// A field is not what it should be.
    Invalid,
    /// The chat template refuses the conversation.
    Template,
    /// Prompt and answer are longer than the context.
    TooLong,
    /// A queue is full.
    Busy,
    /// The server is starting or shutting down.
    Unavailable,
    /// A defect.
    Failed,
}

/// Why a sequence got no more out of the prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MissCause {
    TooShort,
    Evicted,
    Different,
    Salt,
}

/// The label of a series of misses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MissLabel {
    pub(super) cause: MissCause,
}

/// The label of a series of ended requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    reason: EndReason,
}

/// The label of a series of refused requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CauseLabel {
    cause: RefusalCause,
}

impl From<EndReason> for ReasonLabel {
    fn from(reason: EndReason) -> Self {
        Self { reason }
    }
}

impl From<RefusalCause> for CauseLabel {
    fn from(cause: RefusalCause) -> Self {
        Self { cause }
    }
}

/// The values of a label as they are written.
macro_rules! values {
    ($type:ty, $($variant:ident = $text:literal),+ $(,)?) => {
        impl EncodeLabelValue for $type {
            fn encode(
                &self,
                encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> Result<(), std::fmt::Error> {
                let text = match self {
                    $(Self::$variant => $text,)+
                };
                EncodeLabelValue::encode(&text, encoder)
            }
        }
    };
}

values!(
    EndReason,
    Stop = "stop",
    StopString = "stop_string",
    Length = "length",
    Cancelled = "cancelled",
    Failed = "failed",
);
values!(
    MissCause,
    TooShort = "too_short",
    Evicted = "evicted",
    Different = "different",
    Salt = "salt",
);
values!(
    RefusalCause,
    Invalid = "invalid",
    Template = "template",
    TooLong = "too_long",
    Busy = "busy",
    Unavailable = "unavailable",
    Failed = "failed",
);

/// The model's name, as vLLM has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ModelLabel {
    pub(super) model_name: String,
}

/// What vLLM says of its cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CacheLabel {
    pub(super) block_size: u64,
    pub(super) num_gpu_blocks: u64,
}

/// What vLLM says of adapters, of which there are none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LoraLabel {
    pub(super) max_lora: u64,
    pub(super) running_lora_adapters: String,
    pub(super) waiting_lora_adapters: String,
}

/// Which binfer this is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabel {
    pub(super) version: String,
    pub(super) model: String,
}
