//! Folders against their goldens, against the tokenizers library, and broken in every way.

mod control;
mod special;

use crate::text::{Detokenizer, Message, TextError, TextModel};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const NAMES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"];

static QWEN3: LazyLock<TextModel> = LazyLock::new(|| TextModel::from_folder(&qwen3()).unwrap());
static PIECES: LazyLock<TextModel> = LazyLock::new(|| {
    FolderCopy::of(&[(NAMES[0], pieces().to_string()), special()]).open().unwrap()
});

fn qwen3() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/qwen3")
}

/// A folder for one test, removed with it.
struct FolderCopy(PathBuf);

impl FolderCopy {
    fn of<C: AsRef<[u8]>>(files: &[(&str, C)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let copy = Self(PathBuf::from(format!("/tmp/binfer-text-{}-{count}", std::process::id())));
        std::fs::create_dir(&copy.0).unwrap();
        files.iter().for_each(|(name, content)| copy.write(name, content.as_ref()));
        copy
    }

    fn qwen3() -> Self {
        Self::of(&NAMES.map(|name| (name, std::fs::read(qwen3().join(name)).unwrap())))
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.0.join(name), content).unwrap();
    }

    /// Writes a JSON file after a change.
    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&std::fs::read(self.0.join(name)).unwrap()).unwrap();
        change(&mut value);
        self.write(name, value.to_string().as_bytes());
    }

    fn open(&self) -> Result<TextModel, TextError> {
        TextModel::from_folder(&self.0)
    }

    fn error(&self) -> String {
        self.open().unwrap_err().to_string()
    }
}

impl Drop for FolderCopy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn special() -> (&'static str, String) {
    let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let config = json!({ "bos_token": { "content": "<s>" }, "eos_token": "</s>",
                         "chat_template": template });
    (NAMES[1], config.to_string())
}

/// A tokenizer as Llama 2 has it: ids 0 to 2 are special, byte `b` is token `3 + b`.
fn pieces() -> Value {
    let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    vocab.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend(["▁", "h", "e", "l", "o", "é", "he", "ll", "▁he", "llo", "▁▁"].map(str::to_owned));
    let added = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false })
    };
    let vocab: serde_json::Map<String, Value> =
        vocab.into_iter().zip(0..).map(|(word, id): (String, u32)| (word, id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst",
                        "stride": 0 },
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } },
                       { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } },
                     { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                   "vocab": vocab,
                   "merges": ["h e", "l l", "▁ he", "ll o", "▁ ▁"] },
    })
}

fn streamed(model: &TextModel, ids: &[u32]) -> String {
    let (mut text, mut detokenizer) = (String::new(), Detokenizer::default());
    for id in ids {
        let mut piece = String::new();
        detokenizer.push(&model.facts.vocab, *id, &mut piece);
        text.push_str(&piece);
    }
    detokenizer.finish(&mut text);
    text
}

#[test]
fn a_chat_is_that_of_the_golden() {
    let golden = std::fs::read(qwen3().join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let chat = &golden["chat"];
    let messages: Vec<Message> = chat["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| message(one["role"].as_str().unwrap(), one["content"].as_str().unwrap()))
        .collect();
    let ids = |key: &str| serde_json::from_value::<Vec<u32>>(chat[key].clone()).unwrap();
    assert_eq!(QWEN3.render_chat(&messages).unwrap(), chat["rendered"].as_str().unwrap());
    assert_eq!(QWEN3.encode_chat(&messages).unwrap(), ids("prompt_ids"));
    assert_eq!(QWEN3.facts.decode(&ids("ids")), chat["generated"].as_str().unwrap());
    assert_eq!(QWEN3.facts.end_ids(), [349, 351]);
    let sampling = QWEN3.facts.sampling();
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.6, 20, 0.95));
}

proptest! {
    #[test]
    fn byte_level_text_is_that_of_the_library(ids in prop::collection::vec(0_u32..356, 0..40)) {
        let at_once = QWEN3.tokenizer.decode(&ids, true).unwrap();
        prop_assert_eq!(streamed(&QWEN3, &ids), at_once.clone());
        prop_assert_eq!(QWEN3.facts.decode(&ids), at_once);
    }

    #[test]
    fn sentence_piece_text_is_that_of_the_library(ids in prop::collection::vec(0_u32..272, 0..40)) {
        let at_once = PIECES.tokenizer.decode(&ids, true).unwrap();
        prop_assert_eq!(streamed(&PIECES, &ids), PIECES.facts.decode(&ids));
        // The library replaces each byte of a run that is broken anywhere.
        if !at_once.contains(char::REPLACEMENT_CHARACTER) {
            prop_assert_eq!(PIECES.facts.decode(&ids), at_once);
        }
    }

    #[test]
    fn text_survives_the_way_there_and_back(text in "[hello é<>▁☃\\n]{0,24}") {
        let ids = PIECES.encode_prompt(&text).unwrap();
        prop_assert_eq!(ids[0], 1);
        prop_assert_eq!(streamed(&PIECES, &ids), text.replace('▁', " "));
    }
}

#[test]
fn a_prompt_begins_with_bos_once() {
    assert_eq!(PIECES.encode_prompt("hello").unwrap(), [1, 267, 268]);
    let chat = PIECES.encode_chat(&[message("user", "hello")]).unwrap();
    assert_eq!(chat, [1, 267, 268], "written by the template");
}

#[test]
fn templates_stand_in_several_places() {
    let copy = FolderCopy::qwen3();
    let rendered =
        |copy: &FolderCopy| copy.open().unwrap().render_chat(&[message("user", "x")]).unwrap();
    copy.edit(NAMES[1], |config| config["chat_template"] = Value::Null);
    assert!(!copy.open().unwrap().facts.has_template());
    copy.write("chat_template.json", br#"{"chat_template": "of json"}"#);
    assert_eq!(rendered(&copy), "of json");
    let named = |name: &str| json!([{ "name": name, "template": "named {{ eos_token }}" }]);
    copy.edit(NAMES[1], |config| config["chat_template"] = named("default"));
    assert_eq!(rendered(&copy), "named <|im_end|>");
    copy.edit(NAMES[1], |config| config["chat_template"] = named("tool_use"));
    assert_eq!(rendered(&copy), "named <|im_end|>");
    std::fs::create_dir(copy.0.join("additional_chat_templates")).unwrap();
    copy.write("additional_chat_templates/default.jinja", b"an additional one");
    assert_eq!(rendered(&copy), "an additional one");
    copy.write("chat_template.jinja", b"a file of its own");
    assert_eq!(rendered(&copy), "a file of its own");
}

#[test]
fn a_template_that_cannot_be_had_fails_chats_and_nothing_else() {
    let copy = FolderCopy::qwen3();
    let fails = |copy: &FolderCopy| {
        let model = copy.open().unwrap();
        assert!(model.facts.has_template() && model.encode_prompt("x").is_ok());
        model.render_chat(&[message("user", "x")]).unwrap_err().to_string()
    };
    let two = json!([{ "name": "rag", "template": "" }, { "name": "tool_use", "template": "" }]);
    copy.edit(NAMES[1], |config| config["chat_template"] = two);
    let error = fails(&copy);
    assert!(
        error.ends_with("chat_template has none named \"default\", but rag, tool_use"),
        "{error}"
    );
    copy.edit(NAMES[1], |config| config["chat_template"] = 7.into());
    let error = fails(&copy);
    assert!(error.ends_with("chat_template is not a string or named templates"), "{error}");
    copy.edit(NAMES[1], |config| config["chat_template"] = "{% for %}".into());
    assert!(fails(&copy).starts_with("chat_template line 1: "));
    copy.write("chat_template.jinja", b"\xff");
    assert!(fails(&copy).ends_with("chat_template.jinja: not UTF-8 at byte 0"));
}

#[test]
fn templates_know_special_tokens_by_their_names() {
    let copy = FolderCopy::qwen3();
    copy.edit(NAMES[1], |config| {
        config["chat_template"] =
            "{{ pad_token }}{{ image_token }}{{ own }}{{ unk_token is defined }}\
            {{ sep_token is defined }}{{ add_bos_token is defined }}"
                .into();
        config["added_tokens_decoder"] = Value::Null;
        config["pad_token"] = json!({ "content": "<pad>" });
        config["image_token"] = "<image>".into();
        config["unk_token"] = Value::Null;
        config["add_bos_token"] = false.into();
        config["extra_special_tokens"] = json!({ "own": "<own>" });
    });
    copy.write("special_tokens_map.json", br#"{"sep_token": "<sep>", "pad_token": "<old>"}"#);
    let rendered = || copy.open().unwrap().render_chat(&[message("user", "x")]).unwrap();
    assert_eq!(rendered(), "<pad><image><own>FalseTrueFalse");
}

#[test]
fn end_tokens_come_from_the_first_file_that_has_them() {
    let copy = FolderCopy::qwen3();
    copy.edit(NAMES[2], |config| config["eos_token_id"] = 7.into());
    assert_eq!(copy.open().unwrap().facts.end_ids(), [7, 349, 351]);
    copy.edit(NAMES[2], |config| {
        *config = json!({ "repetition_penalty": 1.05, "top_k": -1, "min_p": 0.02 });
    });
    let model = copy.open().unwrap();
    assert_eq!(model.facts.end_ids(), [349, 351]);
    assert_eq!((model.facts.sampling().temperature, model.facts.sampling().top_k), (1.0, 0));
    assert_eq!(
        (model.facts.sampling().min_p, model.facts.sampling().repetition_penalty),
        (0.02, 1.05)
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let refused = |name: &str, change: &dyn Fn(&mut Value), expected: &str| {
        let copy = FolderCopy::qwen3();
        copy.edit(name, change);
        let error = copy.error();
        let place = copy.0.join(name).display().to_string();
        assert!(error.starts_with(&place) && error.contains(expected), "{error}");
    };
    refused(NAMES[0], &|file| file["decoder"] = json!({ "type": "WordPiece" }), "WordPiece");
    refused(NAMES[0], &|file| file["decoder"] = Value::Null, "without a decoder");
    refused(NAMES[0], &|file| file["model"]["dropout"] = 0.5.into(), "model.dropout");
    refused(NAMES[0], &|file| file["model"]["vocab"]["!"] = 9_999_999.into(), "9999999");
    refused(NAMES[0], &|file| file["added_tokens"][0]["id"] = 7.into(), "has id 349 here, and 7");
    refused(NAMES[1], &|file| file["eos_token"] = 7.into(), "eos_token is not a token");
    refused(
        NAMES[1],
        &|file| file["added_tokens_decoder"] = 7.into(),
        "added_tokens_decoder is not",
    );
    refused(
        NAMES[1],
        &|file| file["extra_special_tokens"] = 7.into(),
        "extra_special_tokens is not",
    );
    let copy = FolderCopy::qwen3();
    copy.edit(NAMES[1], |file| file["added_tokens_decoder"]["7"] = json!({ "content": "<x>" }));
    assert!(copy.error().contains("\"<x>\" has id 352 here, and 7 where it is added"));
    std::fs::remove_file(copy.0.join(NAMES[0])).unwrap();
    assert!(copy.error().contains("tokenizer.json: there is no such file"));
}

#[test]
fn a_file_that_is_a_link_out_of_the_folder_is_refused() {
    let (copy, other) = (FolderCopy::qwen3(), FolderCopy::qwen3());
    std::fs::remove_file(copy.0.join(NAMES[0])).unwrap();
    std::os::unix::fs::symlink(other.0.join(NAMES[0]), copy.0.join(NAMES[0])).unwrap();
    let error = copy.error();
    let target = std::fs::canonicalize(other.0.join(NAMES[0])).unwrap();
    let says = format!("a link out of the model's folder, to {}", target.display());
    assert!(error.contains("tokenizer.json: ") && error.contains(&says), "{error}");
    std::fs::rename(&target, copy.0.join("itself.json")).unwrap();
    std::fs::remove_file(copy.0.join(NAMES[0])).unwrap();
    std::os::unix::fs::symlink("itself.json", copy.0.join(NAMES[0])).unwrap();
    copy.open().unwrap();
}

/// Opens a folder and uses what it gives: nothing may panic.
fn exercise(copy: &FolderCopy) {
    if let Ok(model) = copy.open() {
        let _ = model.encode_prompt("How many 12 ships<|im_end|>\n");
        let _ = model.encode_chat(&[message("user", "x")]);
        model.facts.decode(&[0, 108, 60, 242, 349, 350, 351, 400]);
    }
}

#[test]
fn broken_files_are_errors() {
    for name in [NAMES[0], NAMES[1]] {
        let copy = FolderCopy::qwen3();
        let whole = std::fs::read(copy.0.join(name)).unwrap();
        for at in 0..whole.len() {
            copy.write(name, &whole[..at]);
            // A file that ends in a line break is whole without it.
            assert!(copy.open().is_err() || whole[at..].trim_ascii().is_empty(), "{name} {at}");
        }
        // A sample: each one that is still JSON costs a whole tokenizer.
        for at in (0..whole.len()).step_by(whole.len().div_ceil(300)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            copy.write(name, &flipped);
            exercise(&copy);
        }
    }
}
