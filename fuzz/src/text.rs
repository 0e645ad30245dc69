//! Readers of a model's text files. The product runs them in a process of their own, under limits
//! of memory and time; here they run as they are, so what a library does with them shows.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use binfer_coordinator::text::{ChatTemplate, Message, TextModel};

use crate::scratch;

/// Words, digits, a control token, and scripts that are split in other ways.
const PROMPT: &str = "How many 12 ships<|im_end|>\n  été 山";

/// What a template may write: more than its budget of work pays for.
const RENDERED_BYTES_MAX: usize = 64 << 20;

/// `tokenizer.json`, beside good settings.
pub(crate) fn tokenizer(bytes: &[u8]) {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| scratch::copy("qwen3", "tokenizer"));
    open(&FOLDER, "tokenizer.json", bytes);
}

/// `tokenizer_config.json`, beside a good tokenizer.
pub(crate) fn tokenizer_config(bytes: &[u8]) {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| scratch::copy("qwen3", "tokenizer-config"));
    open(&FOLDER, "tokenizer_config.json", bytes);
}

/// `generation_config.json`, beside a good tokenizer: it never keeps a model from being opened.
pub(crate) fn generation_config(bytes: &[u8]) {
    static FOLDER: LazyLock<PathBuf> =
        LazyLock::new(|| scratch::copy("qwen3", "generation-config"));
    let model = open(&FOLDER, "generation_config.json", bytes);
    let model = model.expect("a model whatever its generation settings are");
    let sampling = model.facts().sampling();
    assert!(sampling.checked().is_ok(), "{sampling:?}");
}

/// Opens the folder with `bytes` as one of its files, and uses what it gives.
fn open(folder: &Path, file: &str, bytes: &[u8]) -> Option<TextModel> {
    scratch::write(&folder.join(file), bytes);
    on_its_stack(|| {
        let model = TextModel::from_folder(folder).ok()?;
        let _ = model.encode_prompt(PROMPT);
        model.facts().decode(&[0, 108, 60, 242, 349, 350, 351, 400, u32::MAX]);
        Some(model)
    })
}

/// A chat template, rendered over a conversation: its work and its output are bounded.
pub(crate) fn template(bytes: &[u8]) {
    let says = |role: &str, content: &str| Message::new(role, content);
    let conversation = [
        says("system", "You are <b>terse</b> & \"kind\"."),
        says("user", "  How many ships?\r\n"),
        says("assistant", "<think>\nhm\n</think>\n\n12"),
        says("developer", "\tété \u{1f600} <|im_end|>"),
        says("user", ""),
    ];
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let special = special.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
    let source = String::from_utf8_lossy(bytes);
    on_its_stack(|| {
        if let Ok(text) = ChatTemplate::new(&source, special).render(&conversation) {
            assert!(text.len() <= RENDERED_BYTES_MAX, "{} bytes", text.len());
        }
    });
}

/// Runs `job` on a stack as the product gives it.
fn on_its_stack<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(ChatTemplate::STACK_BYTES);
        thread.spawn_scoped(scope, job).expect("a thread").join().expect("no panic")
    })
}

/// A prompt, to tokens and back.
pub(crate) fn encode(bytes: &[u8]) {
    static MODEL: LazyLock<TextModel> =
        LazyLock::new(|| TextModel::from_folder(&scratch::fixture("qwen3")).expect("the fixture"));
    let text = String::from_utf8_lossy(bytes);
    let tokens = MODEL.encode_prompt(&text).expect("a text has tokens");
    // A byte takes a token at most, and composing a character (NFC) may double its bytes.
    assert!(tokens.len() <= text.len() * 2, "{} tokens", tokens.len());
    let facts = MODEL.facts();
    assert!(tokens.iter().all(|token| !facts.token_bytes(*token).is_empty()));
    facts.decode(&tokens);
}
