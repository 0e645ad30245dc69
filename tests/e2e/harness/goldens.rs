//! The right answers, from transformers in float32 (`tests/goldens/make_goldens.py`).

use serde_json::{Value, json};

use binfer_coordinator::text::{Message, TextModel};

use super::{model_path, repository};

/// Tokens of each golden answer.
pub(crate) const TOKENS: usize = 64;
/// Below this gap between the two best logits another order of summation may choose otherwise.
const GAP: f64 = 0.002;

/// One prompt and its continuation.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    pub(crate) name: String,
    /// Of a plain prompt.
    pub(crate) text: Option<String>,
    /// Of a chat.
    pub(crate) messages: Option<Value>,
    pub(crate) prompt_ids: Vec<u32>,
    /// The greedy tokens, end ids not minded.
    pub(crate) ids: Vec<u32>,
    /// At each of them, how far the second best logit lay behind.
    pub(crate) gaps: Vec<f64>,
    /// Text up to the first end id.
    pub(crate) generated: String,
    /// How many tokens come before it.
    pub(crate) text_tokens: usize,
    /// Text of all of `ids`, control tokens left out.
    pub(crate) whole: String,
    /// The 20 best tokens at the last position of the prompt, and their logits.
    pub(crate) top: Vec<(usize, f32)>,
}

/// All goldens. No step of any is so close that another order of summation may decide it.
pub(crate) fn goldens() -> Vec<Golden> {
    goldens_in("tests/goldens/smollm2.json")
}

/// Those of the model whose weights were rounded to bfloat16.
pub(crate) fn bf16_goldens() -> Vec<Golden> {
    goldens_in("tests/goldens/smollm2_bf16.json")
}

fn goldens_in(path: &str) -> Vec<Golden> {
    let source = binfer_shard::Checkpoint::open(model_path()).unwrap();
    let text = TextModel::from_source(&source).unwrap();
    let all = read(path);
    all["prompts"].as_array().unwrap().iter().map(|golden| parse(golden, &text)).collect()
}

/// Lines with their tokens: text, tokens with control tokens parsed, without, text of the latter.
pub(crate) fn tokenizer_lines() -> Vec<(String, Vec<u32>, Vec<u32>, String)> {
    let all = read("tests/goldens/smollm2_tokens.json");
    let line = |line: &Value| {
        let text = line["text"].as_str().unwrap().to_owned();
        let decoded = line["decoded"].as_str().map_or_else(|| text.clone(), str::to_owned);
        (text, ids(&line["special"]), ids(&line["plain"]), decoded)
    };
    all["lines"].as_array().unwrap().iter().map(line).collect()
}

fn read(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(repository(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| u32::try_from(id.as_u64().unwrap()).unwrap();
    value.as_array().unwrap().iter().map(id).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "ids are small, logits were f32")]
fn parse(golden: &Value, text: &TextModel) -> Golden {
    let name = golden["name"].as_str().unwrap().to_owned();
    let gaps = golden["gaps"].as_array().unwrap();
    let gaps: Vec<f64> = gaps.iter().map(|gap| gap.as_f64().unwrap()).collect();
    assert!(gaps.iter().all(|gap| *gap >= GAP), "{name}: a step is too close");
    let all = ids(&golden["ids"]);
    assert_eq!((all.len(), gaps.len()), (TOKENS, TOKENS), "{name}");
    let top = golden["top"].as_array().unwrap().iter();
    let top =
        top.map(|pair| (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap() as f32));
    Golden {
        text: golden["text"].as_str().map(str::to_owned),
        messages: golden.get("messages").cloned(),
        prompt_ids: ids(&golden["prompt_ids"]),
        whole: text.facts().decode(&all),
        generated: golden["generated"].as_str().unwrap().to_owned(),
        text_tokens: usize::try_from(golden["text_tokens"].as_u64().unwrap()).unwrap(),
        ids: all,
        gaps,
        top: top.collect(),
        name,
    }
}

impl Golden {
    /// The path to ask and a body that asks for this answer, as text or conversation.
    pub(crate) fn ask(&self) -> (&'static str, Value) {
        match (&self.text, &self.messages) {
            (Some(text), _) => ("/v1/completions", Self::body("prompt", text.as_str().into())),
            (None, Some(chat)) => ("/v1/chat/completions", Self::body("messages", chat.clone())),
            (None, None) => panic!("{}: neither text nor messages", self.name),
        }
    }

    /// The same prompt as tokens.
    pub(crate) fn ask_with_tokens(&self) -> (&'static str, Value) {
        ("/v1/completions", Self::body("prompt", json!(self.prompt_ids)))
    }

    /// The conversation, if it is one.
    pub(crate) fn chat(&self) -> Vec<Message> {
        let messages = self.messages.iter().filter_map(Value::as_array).flatten();
        let field = |message: &Value, name: &str| message[name].as_str().unwrap().to_owned();
        messages
            .map(|message| Message::new(field(message, "role"), field(message, "content")))
            .collect()
    }

    fn body(field: &str, prompt: Value) -> Value {
        json!({ field: prompt, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": true })
    }
}
