//! Targets that read checkpoints. The bytes are one file of a model that is otherwise whole.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use binfer_coordinator::text::TextModel;
use binfer_shard::{Checkpoint, layouts, shards};

use crate::scratch;

/// The longest slice that is read. A sparse file may claim a longer one.
const READ_BYTES_MAX: u64 = 1 << 20;
/// The bytes of data behind a header, so that seeds need no weights.
const DATA_BYTES: u64 = 512 << 10;

/// Reads `config.json`, beside good weights and then alone.
pub(crate) fn config(bytes: &[u8]) {
    static WHOLE: LazyLock<PathBuf> = LazyLock::new(|| scratch::copy("llama31", "config"));
    static ALONE: LazyLock<PathBuf> = LazyLock::new(|| scratch::folder("config-alone"));
    for folder in [&*WHOLE, &*ALONE] {
        scratch::write(&folder.join("config.json"), bytes);
    }
    open(&WHOLE);
    let _ = binfer_shard::describe(&ALONE);
}

/// Reads `model.safetensors.index.json`, beside good weights.
pub(crate) fn index(bytes: &[u8]) {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| scratch::copy("llama31", "index"));
    scratch::write(&FOLDER.join("model.safetensors.index.json"), bytes);
    open(&FOLDER);
}

/// Reads a safetensors file. The bytes are its header if they begin with a brace, else the file.
pub(crate) fn safetensors(bytes: &[u8]) {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| scratch::copy("qwen3", "safetensors"));
    static DATA: LazyLock<u64> = LazyLock::new(|| {
        let file = std::fs::read(scratch::fixture("qwen3").join("model.safetensors"));
        let file = file.expect("the fixture");
        let header = u64::from_le_bytes(file[..8].try_into().expect("eight bytes"));
        file.len() as u64 - 8 - header
    });
    let path = FOLDER.join("model.safetensors");
    if bytes.first() == Some(&b'{') {
        let header = [&(bytes.len() as u64).to_le_bytes(), bytes].concat();
        scratch::write(&path, &header);
        lengthen(&path, header.len() as u64 + *DATA);
    } else {
        scratch::write(&path, bytes);
    }
    open(&FOLDER);
}

/// Reads a GGUF file: header, tensor infos, tokenizer. A file of an even length gets data behind
/// it.
pub(crate) fn gguf(bytes: &[u8]) {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| scratch::folder("gguf"));
    let path = FOLDER.join("model.gguf");
    scratch::write(&path, bytes);
    if bytes.len().is_multiple_of(2) {
        lengthen(&path, bytes.len() as u64 + DATA_BYTES);
    }
    open(&path);
    if let Ok(source) = Checkpoint::open(&path) {
        let _ = TextModel::from_source(&source);
    }
}

/// Reads `manifest.json`, beside good shards.
pub(crate) fn manifest(bytes: &[u8]) {
    static SHARDS: LazyLock<PathBuf> = LazyLock::new(|| {
        let source = Checkpoint::open(scratch::fixture("llama31")).expect("the fixture");
        let path = scratch::folder("manifest").join("shards");
        shards::write(&source, 2, &path, |_| true).expect("shards of the fixture");
        path
    });
    scratch::write(&SHARDS.join("manifest.json"), bytes);
    open(&SHARDS);
}

/// Adds a hole to the end of a file.
fn lengthen(path: &Path, bytes: u64) {
    let file = File::options().write(true).open(path).expect("a file in the scratch folder");
    file.set_len(bytes).expect("a sparse file");
}

/// Opens and cuts a checkpoint, and reads a slice of each tensor.
fn open(path: &Path) {
    let Ok(source) = Checkpoint::open(path) else { return };
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
