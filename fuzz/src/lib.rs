//! The targets of the fuzzer. Each hands its bytes to one reader of data from outside, and uses the
//! result.
//!
//! Whatever the bytes are, there must be a result or an error: no panic, no hang, no large
//! allocation, and in targets that compare, no difference. `make fuzz` lets libFuzzer search for
//! bytes that break this, for ten minutes a target (`FUZZ_SECONDS`). It works with the stable
//! compiler, since `rustc.sh` lets LLVM instrument our code. The tests replay `seeds/TARGET/` and
//! simple changes of them with every `cargo test`. What a fuzzer finds goes into `seeds/` with the
//! fix.

mod checkpoint;
mod requests;
mod scratch;
mod text;
mod wire;

/// A reader of data from outside, and what uses its result.
#[derive(Debug)]
pub struct FuzzTarget {
    /// The target's name, which is also that of the folder of its seeds.
    pub name: &'static str,
    /// Runs the target on some bytes.
    pub run: fn(&[u8]),
    /// The longest input that is worth a fuzzer's time.
    pub bytes_max: usize,
}

/// All targets, by name.
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
