//! Bodies of requests, as the HTTP front reads them.

use std::sync::LazyLock;

use binfer_coordinator::front::{GenerateRequest, ModelInfo, Prompt};
use binfer_coordinator::http::read_body;
use binfer_coordinator::text::ReasoningFormat;
use binfer_proto::Sampling;

static SERVED: LazyLock<ModelInfo> = LazyLock::new(|| ModelInfo {
    name: "tiny".into(),
    context_max: 256,
    vocab: 300,
    end_ids: vec![2],
    sampling: Sampling { temperature: 1.0, ..Sampling::GREEDY },
    reasoning: ReasoningFormat::Off,
    weights: 0,
    created: 0,
});

/// A body, read as that of a completion and as that of a chat.
pub(crate) fn request(bytes: &[u8]) {
    for chat in [false, true] {
        let Some(GenerateRequest { prompt, .. }) = read_body(chat, bytes, &SERVED) else {
            continue;
        };
        // Each kind is asked by its own words.
        assert_eq!(matches!(prompt, Prompt::Chat(_)), chat);
    }
}
