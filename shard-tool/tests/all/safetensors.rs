//! The safetensors reader: good files, wrong files, every byte flipped, every length cut.

use std::time::Instant;

use binfer_shard::{Checkpoint, ErrorKind};
use proptest::prelude::*;

use crate::folder_writer::{Folder, safetensors, with_header};
use crate::scratch;

fn folder() -> Folder {
    Folder::new("LlamaForCausalLM", "llama")
}

/// What opening says of a folder with these weights.
fn refused(name: &str, bytes: &[u8]) -> binfer_shard::Error {
    let path = scratch(&format!("safetensors-{name}"));
    folder().write(&path);
    std::fs::write(path.join("model.safetensors"), bytes).unwrap();
    Checkpoint::open(&path).expect_err(name)
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!("{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}")
    };
    let two = |b: &str| {
        format!(
            "{{\"a\":{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}},\"b\":{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":{b}}}}}"
        )
    };
    let twice = "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    let cases = [
        (
            "type",
            entry("F8_E5M2", "[8]", "[0,8]"),
            "a: F8_E5M2 is not supported yet; supported: F32, F16, BF16",
        ),
        ("size", entry("F32", "[3]", "[0,8]"), "shape [3] of F32 is 12 bytes, not 0..8"),
        ("backwards", entry("F32", "[2]", "[8,0]"), "not 8..0"),
        ("product", entry("F32", "[4294967296,4294967296]", "[0,8]"), "absurdly large"),
        (
            "far",
            entry("F32", "[2]", "[18446744073709551607,18446744073709551615]"),
            "absurdly large",
        ),
        ("negative", entry("F32", "[-2]", "[0,8]"), "its header is damaged"),
        ("field", "{\"a\":{\"dtype\":\"F32\"}}".to_owned(), "missing field `shape`"),
        (
            "more",
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}".to_owned(),
            "unknown field `x`",
        ),
        (
            "hole",
            entry("F32", "[1]", "[4,8]"),
            "a: its data leave a hole after those of the header",
        ),
        ("overlap", two("[4,12]"), "b: its data overlap those of a"),
        ("after", entry("F32", "[1]", "[0,4]"), "4 bytes after the last tensor"),
        ("short", two("[8,16]"), "b: 8 bytes short: the file has"),
        ("twice", twice.to_owned(), "a tensor of this name too"),
        (
            "dims",
            entry("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"),
            "invalid length 9, expected at most 8 dimensions",
        ),
        ("array", "[]".to_owned(), "expected an object of tensors"),
        ("two", "{} {}".to_owned(), "trailing characters"),
    ];
    for (name, header, says) in cases {
        let message = refused(name, &with_header(&header, &[0; 8])).to_string();
        assert!(message.contains("model.safetensors: ") && message.contains(says), "{message}");
    }
}

#[test]
fn lengths_of_headers_are_checked_before_memory_is_taken() {
    for (name, length, kind) in [
        ("long", 100_000_001, ErrorKind::Format),
        ("max", u64::MAX, ErrorKind::Format),
        ("within", 1 << 20, ErrorKind::Truncated),
    ] {
        let error = refused(name, &[&u64::to_le_bytes(length)[..], b"{}"].concat());
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn every_length_is_an_error() {
    let path = scratch("safetensors-cut");
    folder().write(&path);
    let file = path.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let cuts = (0..header + 4).chain([bytes.len() - 1]);
    for length in cuts {
        std::fs::write(&file, &bytes[..length]).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{length}: {error}");
    }
}

#[test]
fn every_flipped_byte_is_an_error_or_a_model() {
    let path = scratch("safetensors-flip");
    folder().write(&path);
    let file = path.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let begun = Instant::now();
    for index in 0..header {
        for mask in [1, 0x80] {
            let mut flipped = bytes.clone();
            flipped[index] ^= mask;
            std::fs::write(&file, flipped).unwrap();
            // A name or the metadata may change without harm to the container.
            if let Err(error) = Checkpoint::open(&path) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(begun.elapsed().as_secs() < 60, "no flip may cost time");
}

#[test]
fn every_flipped_byte_of_the_settings() {
    let path = scratch("config-flip");
    folder().write_split(&path);
    for name in ["config.json", "model.safetensors.index.json"] {
        let bytes = std::fs::read(path.join(name)).unwrap();
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1;
            std::fs::write(path.join(name), &flipped).unwrap();
            let _ = Checkpoint::open(&path);
            std::fs::write(path.join(name), &bytes[..index]).unwrap();
            assert!(Checkpoint::open(&path).is_err(), "{name} of {index} bytes");
        }
        std::fs::write(path.join(name), bytes).unwrap();
    }
    Checkpoint::open(&path).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_headers_never_panic(
        changes in prop::collection::vec((0_usize..4000, any::<u8>()), 1..8),
    ) {
        let path = scratch("safetensors-random");
        folder().write(&path);
        let mut bytes = safetensors(&folder().tensors);
        for (index, byte) in changes {
            let length = bytes.len();
            bytes[index % length] = byte;
        }
        std::fs::write(path.join("model.safetensors"), bytes).unwrap();
        let _ = Checkpoint::open(&path);
    }
}
