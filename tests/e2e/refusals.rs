//! Settings and files that cannot be served: refused within a second, with the way out in the
//! message, before a worker is started.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crate::gguf_writer::{F32, GgufWriter, TINY};
use crate::harness::{Permit, Run, Scratch, model_path, repository};

const LIMIT: Duration = Duration::from_secs(1);
/// Status for settings and files, and the argument parser's.
const SETTINGS: i32 = 78;
const USAGE: i32 = 2;

/// Runs `binfer serve ARGS --port 0` and checks how it refuses.
fn refused(args: &[&str], status: i32, words: &[&str]) {
    let run = Run::of(&[&["serve", "--port", "0"], args].concat());
    assert_eq!(run.status.code(), Some(status), "{args:?}: {}", run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "{args:?}: no {word:?} in: {}", run.stderr);
    }
    assert!(run.took < LIMIT, "{args:?} took {:?}", run.took);
    assert_eq!(run.stdout, "", "{args:?}");
    assert!(!run.stderr.contains("panicked"), "{args:?}: {}", run.stderr);
}

#[test]
fn flags_out_of_range_are_refused_by_name() {
    let _permit = Permit::alone();
    let beyond = ["demo", "--kv-cache-tokens", "33000000", "--max-num-seqs", "4096"];
    let settings: [(&[&str], &[&str]); 11] = [
        (&beyond, &["--kv-cache-tokens 33000000: ", " fit; ", "give fewer"]),
        (&["demo", "--tp", "10"], &["--tp 10", "9"]),
        (&["demo", "--device", "cuda"], &["--device cuda", "--device cpu"]),
        (&["demo", "--max-model-len", "0"], &["--max-model-len", "1 to 8192"]),
        (&["demo", "--max-model-len", "9000"], &["--max-model-len", "1 to 8192"]),
        (&["demo", "--max-num-seqs", "0"], &["--max-num-seqs", "1 to 4096"]),
        (&["demo", "--max-num-batched-tokens", "8"], &["--max-num-batched-tokens", "64"]),
        (&["demo", "--step-deadline", "0"], &["--step-deadline", "0.5 to 3600"]),
        (&["demo", "--threads", "0"], &["--threads", "1 to 1024"]),
        (&["demo", "--kv-cache-tokens", "0"], &["--kv-cache-tokens"]),
        (&["demo", "--host", "256.0.0.1"], &["--host 256.0.0.1"]),
    ];
    for (args, words) in settings {
        refused(args, SETTINGS, words);
    }
    let usage: [(&[&str], &[&str]); 5] = [
        (&["demo", "--no-such-flag"], &["--no-such-flag"]),
        (&["demo", "--dtype", "int4"], &["int4", "f32", "bf16", "f16"]),
        (&["demo", "--device", "tpu"], &["tpu", "cpu", "cuda"]),
        (&["demo", "--tp", "0"], &["--tp", "1 to 64", "auto"]),
        (&[], &["MODEL"]),
    ];
    for (args, words) in usage {
        refused(args, USAGE, words);
    }
    for (args, words) in [
        (["serve", "demo", "--port", "70000"], "70000"),
        (["run", "demo", "--max-tokens", "0"], "--max-tokens"),
        (["run", "demo", "--temperature", "-1"], "temperature"),
        (["run", "demo", "--top-p", "1.5"], "top_p"),
    ] {
        let run = Run::of(&args);
        let code = run.status.code();
        assert!(code == Some(SETTINGS) || code == Some(USAGE), "{args:?}: {run:?}");
        assert!(run.stderr.contains(words) && run.took < LIMIT, "{run:?}");
    }
}

#[test]
fn a_port_in_use_is_refused_before_anything_is_read() {
    let _permit = Permit::alone();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = Run::of(&["serve", "demo", "--port", &port]);
    assert_eq!(run.status.code(), Some(SETTINGS), "{run:?}");
    assert!(
        run.stderr.contains(&port) && run.stderr.contains("choose another with --port"),
        "{run:?}"
    );
    assert!(run.took < LIMIT, "{run:?}");
}

#[test]
fn a_model_that_is_not_there_is_refused_with_what_to_do() {
    let _permit = Permit::alone();
    let folder = Scratch::new("missing");
    let path = folder.file("nothing.gguf");
    refused(&[path.to_str().unwrap()], SETTINGS, &["nothing.gguf", "no such file", "`demo`"]);
    refused(&[folder.path().to_str().unwrap()], SETTINGS, &["no config.json", "GGUF"]);
    // As in a folder that may not be looked into, which stops no test that runs as root.
    std::os::unix::fs::symlink("config.json", folder.file("config.json")).unwrap();
    let loops = "config.json in it: Too many levels of symbolic links";
    refused(&[folder.path().to_str().unwrap()], SETTINGS, &[loops]);
    // A cache without the demo model.
    let empty = crate::harness::binfer()
        .env("BINFER_CACHE", folder.path())
        .args(["run", "demo", "Once"])
        .output()
        .unwrap();
    assert_eq!(empty.status.code(), Some(SETTINGS));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("run `make demo` once"));
}

/// The demo model's first `keep` bytes, then (with `bytes`) a hole up to that length.
fn cut(to: &Path, keep: u64, bytes: u64) {
    let mut head = Vec::new();
    File::open(model_path()).unwrap().take(keep).read_to_end(&mut head).unwrap();
    let mut file = File::create(to).unwrap();
    file.write_all(&head).unwrap();
    file.set_len(bytes).unwrap();
}

#[test]
fn a_truncated_model_is_refused_wherever_it_ends() {
    let _permit = Permit::alone();
    let folder = Scratch::new("truncated");
    let path = folder.file("cut.gguf");
    let whole = fs::metadata(model_path()).unwrap().len();
    // In the magic, the counts, a key, the vocabulary, the merges, the tensor table.
    for keep in [0, 3, 10, 23, 200, 100_000, 1_000_000] {
        cut(&path, keep, keep);
        refused(&[path.to_str().unwrap()], SETTINGS, &["cut.gguf"]);
    }
    // In the weights: the header is whole, the data are not.
    for bytes in [whole / 2, whole - 1] {
        cut(&path, 4 << 20, bytes);
        refused(&[path.to_str().unwrap()], SETTINGS, &["cut.gguf", "truncated"]);
    }
}

/// It is read while workers start, and what they say of a coordinator that ends is not the cause.
#[test]
fn a_tokenizer_that_cannot_be_read_is_the_only_thing_that_is_said() {
    let _permit = Permit::alone();
    let folder = Scratch::new("tokenizer");
    for entry in fs::read_dir(repository("tests/fixtures/tiny/qwen3")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.file(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let model = folder.path().to_str().unwrap();
    let said = |words: &str| {
        let run = Run::of(&["run", model, "Hi", "--tp", "4", "--quiet"]);
        assert_eq!((run.status.code(), run.stderr.lines().count()), (Some(SETTINGS), 1), "{run:?}");
        assert!(run.stderr.contains(words), "{run:?}");
    };
    fs::write(folder.file("tokenizer.json"), "{}").unwrap();
    (0..5).for_each(|_| said("tokenizer.json: missing field `model`"));
    fs::remove_file(folder.file("tokenizer.json")).unwrap();
    (0..5).for_each(|_| said("tokenizer.json: there is no such file, and nothing else"));
}

#[test]
fn a_model_of_another_sort_is_refused_by_name() {
    let _permit = Permit::alone();
    let folder = Scratch::new("sorts");
    let write = |name: &str, change: &dyn Fn(&mut GgufWriter)| {
        let mut writer = TINY.writer();
        change(&mut writer);
        let path = folder.file(name);
        writer.write(&path);
        path.to_str().unwrap().to_owned()
    };
    let magic = folder.file("magic.gguf");
    fs::write(&magic, b"PK\x03\x04 this is another sort of file altogether").unwrap();
    refused(&[magic.to_str().unwrap()], SETTINGS, &["magic.gguf", "GGUF"]);
    let version = write("version.gguf", &|writer| writer.version = 9);
    refused(&[&version], SETTINGS, &["version.gguf", "version 9"]);
    let family = write("family.gguf", &|writer| {
        writer.string("general.architecture", "mamba");
    });
    refused(&[&family], SETTINGS, &["family.gguf", "mamba", "llama"]);
    const Q2_K: u32 = 10;
    let quantised = write("type.gguf", &|writer| {
        writer.tensor_mut("blk.0.attn_q.weight").type_id = Q2_K;
    });
    refused(&[&quantised], SETTINGS, &["blk.0.attn_q.weight", "Q2_K", "Q8_0", "Q4_1"]);
    let missing = write("tensor.gguf", &|writer| {
        writer.tensors.retain(|tensor| tensor.name != "output_norm.weight");
    });
    refused(&[&missing], SETTINGS, &["output_norm.weight"]);
    let shape = write("shape.gguf", &|writer| {
        writer.tensors.retain(|tensor| tensor.name != "output_norm.weight");
        writer.tensor("output_norm.weight", &[65], F32);
    });
    refused(&[&shape], SETTINGS, &["output_norm.weight", "65"]);
    let tokenizer = write("tokenizer.gguf", &|writer| {
        writer.string("tokenizer.ggml.model", "bert");
    });
    refused(&[&tokenizer], SETTINGS, &["tokenizer.ggml.model", "bert", "gpt2, llama"]);
}
