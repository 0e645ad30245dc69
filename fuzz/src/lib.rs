//! What the fuzz targets do with their bytes: they are a file of a model that is otherwise whole.
//!
//! ```sh
//! cargo install cargo-fuzz
//! cargo +nightly fuzz run gguf        # or safetensors, config, index, manifest, tokenizer, template
//! ```
//!
//! Whatever the bytes are, opening must give a model or an error: no panic, no hang, no large
//! allocation. `cargo test` asks the same of every byte of small files, cut and flipped, and needs
//! none of this. Deliberately absent: corpora; a good file of `tests/fixtures/tiny`, put into
//! `fuzz/corpus/TARGET/`, is a good seed; of `template` it is a file of `tests/fixtures/templates`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use binfer_coordinator::text::{ChatTemplate, Message, TextModel};
use binfer_shard::{Source, layouts, shards};

/// Most bytes of a slice that are read: bytes that the file has are no proof of harmlessness.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Opens the checkpoint `model` of the fixtures with `bytes` in place of one of its files.
pub fn weights(model: &str, file: &str, bytes: &[u8]) {
    let folder = folder(model);
    std::fs::write(folder.join(file), bytes).expect("a file in the scratch folder");
    open(folder);
}

/// Opens a GGUF file of these bytes.
pub fn gguf(bytes: &[u8]) {
    let path = scratch().join("model.gguf");
    std::fs::write(&path, bytes).expect("a file in the scratch folder");
    open(&path);
    if let Ok(source) = Source::open(&path) {
        let _ = TextModel::from_source(&source);
    }
}

/// Opens shards whose manifest is these bytes.
pub fn manifest(bytes: &[u8]) {
    static SHARDS: OnceLock<PathBuf> = OnceLock::new();
    let folder = SHARDS.get_or_init(|| {
        let source = Source::open(folder("llama31")).expect("the fixture");
        let path = scratch().join("shards");
        shards::write(&source, 2, &path, |_| true).expect("shards of the fixture");
        path
    });
    std::fs::write(folder.join("manifest.json"), bytes).expect("a file in the scratch folder");
    open(folder);
}

/// Opens a tokenizer of these bytes, and uses it.
pub fn tokenizer(bytes: &[u8]) {
    let folder = folder("qwen3");
    std::fs::write(folder.join("tokenizer.json"), bytes).expect("a file in the scratch folder");
    if let Ok(model) = TextModel::from_folder(folder) {
        let _ = model.encode_prompt("How many 12 ships<|im_end|>\n  été 山");
        model.decode(&[0, 108, 60, 242, 349, 350, 351, 400, u32::MAX]);
    }
}

/// Parses a chat template of these bytes, and renders a conversation with it.
pub fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let says = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let messages = [
        says("system", "Be brief & \"kind\"."),
        says("user", "  12 ships\r\n\tété 山 <|im_end|>"),
        says("assistant", "<think>\nx\n</think>\n\n4"),
        says("user", ""),
    ];
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let special = special.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
    let render = || {
        let _ = ChatTemplate::new(source, special).render(&messages);
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(ChatTemplate::STACK_BYTES);
        thread.spawn_scoped(scope, render).expect("a thread").join().expect("no panic");
    });
}

/// Opens and cuts a checkpoint, and reads a slice of each tensor.
fn open(path: &Path) {
    let Ok(source) = Source::open(path) else { return };
    for world in 1..=4 {
        for layout in layouts(source.spec(), world).into_iter().flatten() {
            // Shards are for one number of ranks.
            let Ok(tensors) = source.local_tensors(&layout) else { continue };
            for part in tensors.iter().flat_map(|tensor| &tensor.parts) {
                if part.bytes() <= READ_BYTES_MAX {
                    let mut out = vec![0; usize::try_from(part.bytes()).expect("a small slice")];
                    let _ = source.read_into(part, &mut out);
                }
            }
        }
    }
}

/// A copy of a checkpoint of the fixtures, made once.
fn folder(model: &str) -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny").join(model);
        let to = scratch();
        for entry in from.read_dir().expect("the fixture").flatten() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy of a fixture");
        }
        to
    })
}

/// A folder of this process.
fn scratch() -> PathBuf {
    let path = std::env::temp_dir().join(format!("binfer-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a scratch folder");
    path
}
