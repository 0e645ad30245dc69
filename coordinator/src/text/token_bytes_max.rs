//! How many bytes of text one token can stand for.
//!
//! A text with more bytes per token of a context than that is refused before it is tokenised.

use super::error::TextError;
use super::model::TextModel;
use serde_json::Value;
use tokenizers::models::ModelWrapper;

/// The most bytes of text that a token stands for; `None` where a tokenizer may drop text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenBytesMax(Option<usize>);

impl TokenBytesMax {
    /// The bound of a model's tokenizer.
    pub(super) fn of(model: &TextModel) -> Self {
        Self(bytes_max(model))
    }

    /// Refuses a text of `bytes` bytes if it must become more than `tokens_max` tokens.
    pub(super) fn check(self, bytes: usize, tokens_max: u32) -> Result<(), TextError> {
        let Some(token_bytes) = self.0 else { return Ok(()) };
        let bytes_max =
            usize::try_from(tokens_max).unwrap_or(usize::MAX).saturating_mul(token_bytes);
        if bytes <= bytes_max {
            return Ok(());
        }
        let cause = format!("{bytes} bytes, and so many tokens stand for {bytes_max} at most");
        Err(TextError::TooLong(cause))
    }
}

fn bytes_max(model: &TextModel) -> Option<usize> {
    let tokenizer = &model.tokenizer;
    // Such a token swallows any amount of white space around it.
    let added = tokenizer.get_added_tokens_decoder();
    if added.values().any(|token| token.lstrip || token.rstrip) {
        return None;
    }
    let steps = [
        serde_json::to_value(tokenizer.get_normalizer()).ok()?,
        serde_json::to_value(tokenizer.get_pre_tokenizer()).ok()?,
    ];
    let mut steps: Vec<&Value> = steps.iter().filter(|step| !step.is_null()).collect();
    let (mut shrinks, mut has_bytes) = (1_usize, falls_back(tokenizer.get_model()));
    while let Some(step) = steps.pop() {
        match inner(step) {
            Some(inner) => steps.extend(inner),
            None => shrinks = shrinks.checked_mul(shrinking(step)?)?,
        }
        has_bytes |= kind(step) == "ByteLevel";
    }
    let vocab = &model.facts.vocab;
    let ids = tokenizer.get_vocab(true).into_values().max()?.checked_add(1)?;
    let mut single = [false; 256];
    let mut longest = 0;
    for id in 0..ids {
        let bytes = vocab.bytes(id);
        if let [byte] = bytes {
            single[usize::from(*byte)] = true;
        }
        longest = longest.max(bytes.len()).max(vocab.name(id).len());
    }
    // A byte that no token spells would be dropped.
    let is_whole = has_bytes && !single.contains(&false);
    longest.checked_mul(shrinks).filter(|_| is_whole)
}

/// Whether text that no piece spells becomes bytes, rather than nothing or one token for all of it.
fn falls_back(model: &ModelWrapper) -> bool {
    matches!(model, ModelWrapper::BPE(bpe) if bpe.byte_fallback)
}

/// The steps inside a sequence of steps.
fn inner(step: &Value) -> Option<&Vec<Value>> {
    ["normalizers", "pretokenizers"].into_iter().find_map(|key| step.get(key)?.as_array())
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// By which factor a step shortens a text at most; `None` where the factor has no bound or is
/// unknown.
pub(super) fn shrinking(step: &Value) -> Option<usize> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::len);
    match kind(step) {
        "ByteLevel" | "Prepend" | "Metaspace" | "Digits" => Some(1),
        // A Kelvin sign becomes a K, three letters of Hangul a syllable.
        "NFC" | "NFD" => Some(3),
        // A bold mathematical letter becomes a plain one.
        "NFKC" | "NFKD" => Some(4),
        "Split" | "Punctuation" => {
            let behavior = step.get("behavior").and_then(Value::as_str)?;
            (behavior != "Removed").then_some(1)
        }
        "Replace" => {
            let pattern = step.get("pattern").and_then(|pattern| pattern.get("String"));
            (text(pattern)? <= text(step.get("content"))?).then_some(1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{TokenBytesMax, shrinking};
    use crate::text::TextModel;
    use crate::text::testing::{data, model};
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::LazyLock;
    use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, normalizers};

    static MODEL: LazyLock<TextModel> = LazyLock::new(model);

    #[test]
    fn no_text_that_fits_is_refused_and_hopeless_ones_are() {
        let bytes_max = TokenBytesMax::of(&MODEL);
        // The longest token of the model.
        bytes_max.check(9 * "<|endoftext|>".len(), 9).unwrap();
        assert!(bytes_max.check(200, 9).is_err());
        let mut holey = data();
        holey.tokens[3 + usize::from(b'z')] = "zz".to_owned();
        assert_eq!(
            TokenBytesMax::of(&TextModel::new(&holey).unwrap()),
            TokenBytesMax(None),
            "every z is dropped"
        );
    }

    proptest! {
        #[test]
        fn a_text_passes_with_as_many_tokens_as_it_has(text in "(\\PC|hello|<.im_end.>){0,40}") {
            let tokens = MODEL.encode_prompt(&text).unwrap().len();
            TokenBytesMax::of(&MODEL).check(text.len(), u32::try_from(tokens).unwrap()).unwrap();
        }
    }

    #[test]
    fn no_character_shrinks_more_than_is_said() {
        let steps: [NormalizerWrapper; 4] = [
            normalizers::NFC.into(),
            normalizers::NFD.into(),
            normalizers::NFKC.into(),
            normalizers::NFKD.into(),
        ];
        for step in steps {
            let kind = serde_json::to_value(&step).unwrap();
            let most = shrinking(&kind).unwrap();
            let shrinks = |written: String| {
                let mut text = NormalizedString::from(written.as_str());
                step.normalize(&mut text).unwrap();
                assert!(written.len() <= most * text.get().len(), "{kind} of {written:?}");
            };
            ('\0'..=char::MAX).map(String::from).for_each(shrinks);
            for syllable in ["\u{1112}\u{1161}\u{11AB}", "\u{2126}\u{0313}\u{0300}\u{0345}"] {
                shrinks(syllable.to_owned());
            }
        }
    }

    #[test]
    fn steps_that_may_drop_text_have_no_bound() {
        for step in [
            json!({ "type": "Strip" }),
            json!({ "type": "Split", "behavior": "Removed" }),
            json!({ "type": "Replace", "pattern": { "String": "ab" }, "content": "a" }),
            json!({ "type": "Replace", "pattern": { "Regex": "a*" }, "content": "a" }),
            json!({ "type": "BertNormalizer" }),
            json!({}),
        ] {
            assert_eq!(shrinking(&step), None, "{step}");
        }
    }
}
