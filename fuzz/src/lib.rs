//! What a fuzzer does with its bytes: each target hands them to one reader of what comes from
//! outside, and uses what it gives.
//!
//! Whatever the bytes are, there must be a result or an error: no panic, no hang, no large
//! allocation, and where a target compares, no difference. `make fuzz` lets libFuzzer look for
//! bytes that break it, ten minutes a target (`FUZZ_SECONDS`), guided by coverage, with the stable
//! compiler: `rustc.sh` has LLVM instrument our code, so neither nightly nor cargo-fuzz is needed. The
//! tests replay `seeds/TARGET/` and simple changes of them with every `cargo test`. What a fuzzer
//! finds goes into `seeds/` with the fix.

mod checkpoint;
mod requests;
mod scratch;
mod text;
mod wire;

/// A reader and what is done with it.
#[derive(Debug)]
pub struct FuzzTarget {
    /// Its name, and that of its seeds' folder.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&[u8]),
    /// The longest input that is worth a fuzzer's time.
    pub bytes_max: usize,
}

/// All targets.
pub const TARGETS: &[FuzzTarget] = &[
    FuzzTarget { name: "config", run: checkpoint::config, bytes_max: 4096 },
    FuzzTarget { name: "encode", run: text::encode, bytes_max: 1024 },
    FuzzTarget { name: "generation_config", run: text::generation_config, bytes_max: 1024 },
    FuzzTarget { name: "gguf", run: checkpoint::gguf, bytes_max: 8192 },
    FuzzTarget { name: "index", run: checkpoint::index, bytes_max: 4096 },
    FuzzTarget { name: "manifest", run: checkpoint::manifest, bytes_max: 16384 },
    FuzzTarget { name: "masks", run: wire::masks, bytes_max: 512 },
    FuzzTarget { name: "request", run: requests::request, bytes_max: 2048 },
    FuzzTarget { name: "safetensors", run: checkpoint::safetensors, bytes_max: 4096 },
    FuzzTarget { name: "template", run: text::template, bytes_max: 4096 },
    FuzzTarget { name: "tokenizer", run: text::tokenizer, bytes_max: 16384 },
    FuzzTarget { name: "tokenizer_config", run: text::tokenizer_config, bytes_max: 4096 },
    FuzzTarget { name: "wire", run: wire::messages, bytes_max: 2048 },
];
