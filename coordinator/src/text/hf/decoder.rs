//! How a tokenizer.json spells bytes, which its decoder tells. A decoder that would do something
//! else is refused by name.

use super::error::TokenizerFileError;
use crate::text::vocab::Spelling;
use binfer_proto::Token;
use serde::Deserialize;
use serde_json::Value;

/// The parts of tokenizer.json that are checked before the file is given to tokenizers.
#[derive(Deserialize)]
pub(super) struct TokenizerHeader {
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    decoder: Option<Value>,
    model: ModelHeader,
}

#[derive(Deserialize)]
struct ModelHeader {
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
struct AddedEntry {
    id: Token,
    content: String,
}

impl TokenizerHeader {
    /// The added tokens with the ids that they should have.
    pub(super) fn added(&self) -> impl Iterator<Item = (Token, &str)> {
        self.added_tokens.iter().map(|added| (added.id, added.content.as_str()))
    }

    /// The spelling.
    ///
    /// # Errors
    /// What is not supported.
    pub(super) fn spelling(&self) -> Result<Spelling, TokenizerFileError> {
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        for (key, unsupported) in [
            ("dropout", self.model.dropout.is_some_and(|dropout| dropout != 0.0)),
            ("continuing_subword_prefix", filled(&self.model.continuing_subword_prefix)),
            ("end_of_word_suffix", filled(&self.model.end_of_word_suffix)),
        ] {
            if unsupported {
                return Err(TokenizerFileError::ModelField(key));
            }
        }
        let steps: Vec<&Value> = match &self.decoder {
            None => return Err(TokenizerFileError::NoDecoder),
            Some(one) if kind(one) == "Sequence" => {
                let steps = one.get("decoders").and_then(Value::as_array);
                steps.map(|steps| steps.iter().collect()).unwrap_or_default()
            }
            Some(one) => vec![one],
        };
        let kinds: Vec<&str> = steps.iter().map(|step| kind(step)).collect();
        match kinds.as_slice() {
            ["ByteLevel"] => return Ok(Spelling::ByteLevel),
            ["Replace", "ByteFallback", "Fuse"] if is_space(steps[0]) => {
                return Ok(Spelling::SentencePiece { drops_first_space: false });
            }
            ["Replace", "ByteFallback", "Fuse", "Strip"]
                if is_space(steps[0]) && is_first_space(steps[3]) =>
            {
                return Ok(Spelling::SentencePiece { drops_first_space: true });
            }
            _ => {}
        }
        let found: Vec<String> = steps.iter().map(|step| step.to_string()).collect();
        Err(TokenizerFileError::Decoder(found.join(", ")))
    }
}

fn kind(decoder: &Value) -> &str {
    decoder.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn is_space(replace: &Value) -> bool {
    let pattern = replace.get("pattern").and_then(|pattern| pattern.get("String"));
    pattern == Some(&"\u{2581}".into()) && replace.get("content") == Some(&" ".into())
}

fn is_first_space(strip: &Value) -> bool {
    let field = |key: &str| strip.get(key);
    let counts = (field("start"), field("stop")) == (Some(&1.into()), Some(&0.into()));
    field("content") == Some(&" ".into()) && counts
}
