//! The GGUF container: what is read, and what is refused in which words.

use std::path::Path;

use binfer_shard::gguf::MetadataValue;
use binfer_shard::{DType, Error, ErrorKind, Gguf};

use crate::gguf_writer::{F32, GgufWriter, Q4_1, TINY};
use crate::scratch;

fn read(name: &str, bytes: &[u8]) -> Result<Gguf, Error> {
    let path = scratch(name);
    std::fs::write(&path, bytes).unwrap();
    Gguf::read(&std::fs::File::open(&path).unwrap(), Path::new("m.gguf"), bytes.len() as u64)
}

/// Writes the file and returns the message that refuses it.
fn refused(name: &str, writer: &GgufWriter) -> String {
    read(&format!("reader-{name}.gguf"), &writer.bytes()).expect_err(name).to_string()
}

#[test]
fn metadata_and_tensors_of_versions_2_and_3() {
    for version in [2, 3] {
        let mut writer = TINY.writer();
        writer.version = version;
        let gguf = read(&format!("reader-v{version}.gguf"), &writer.bytes()).unwrap();
        let metadata = &gguf.metadata;
        assert_eq!(metadata.string("general.architecture").unwrap(), Some("llama"));
        assert_eq!(metadata.u32("llama.embedding_length").unwrap(), Some(64));
        assert_eq!(metadata.float("llama.rope.freq_base").unwrap(), Some(100_000.0));
        assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap()[3], "é");
        assert_eq!(metadata.integers("tokenizer.ggml.token_type").unwrap().unwrap(), [3, 1, 1, 1]);
        assert_eq!(metadata.u32("absent").unwrap(), None);

        let down = gguf.tensor("blk.0.ffn_down.weight").unwrap();
        assert_eq!((down.dtype, down.cols(), down.rows()), (DType::Q4_1, 128, 64));
        assert_eq!(down.bytes, 128 * 64 / 32 * 20);
        assert_eq!(gguf.tensors().len(), writer.tensors.len());
    }
}

#[test]
fn every_value_type_is_read() {
    let mut writer = GgufWriter::default();
    writer
        .raw("u8", 0, &[200])
        .raw("i8", 1, &(-2_i8).to_le_bytes())
        .raw("u16", 2, &60_000_u16.to_le_bytes())
        .raw("i16", 3, &(-300_i16).to_le_bytes())
        .raw("i32", 5, &(-70_000_i32).to_le_bytes())
        .raw("u64", 10, &u64::MAX.to_le_bytes())
        .raw("i64", 11, &i64::MIN.to_le_bytes())
        .raw("f64", 12, &0.1_f64.to_le_bytes())
        .bool("bool", true)
        .raw("u8s", 9, &[0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 9]);
    let metadata = read("reader-types.gguf", &writer.bytes()).unwrap().metadata;
    assert_eq!(metadata.get("u8"), Some(&MetadataValue::Unsigned(200)));
    assert_eq!(metadata.get("i8"), Some(&MetadataValue::Signed(-2)));
    assert_eq!(metadata.get("u16"), Some(&MetadataValue::Unsigned(60_000)));
    assert_eq!(metadata.get("i16"), Some(&MetadataValue::Signed(-300)));
    assert_eq!(metadata.get("i32"), Some(&MetadataValue::Signed(-70_000)));
    assert_eq!(metadata.get("u64"), Some(&MetadataValue::Unsigned(u64::MAX)));
    assert_eq!(metadata.get("i64"), Some(&MetadataValue::Signed(i64::MIN)));
    assert_eq!(metadata.get("f64"), Some(&MetadataValue::Float(0.1)));
    assert_eq!(metadata.bool("bool").unwrap(), Some(true));
    assert_eq!(metadata.integers("u8s").unwrap(), Some(vec![7, 9]));
}

#[test]
fn getters_name_key_wish_and_value() {
    let metadata = read("reader-getters.gguf", &TINY.writer().bytes()).unwrap().metadata;
    let message = metadata.u32("general.architecture").unwrap_err().to_string();
    assert_eq!(
        message,
        "m.gguf: metadata key general.architecture should be an integer from 0 to 2^32 - 1, but is \"llama\""
    );
    let message = metadata.string("tokenizer.ggml.tokens").unwrap_err().to_string();
    assert!(message.ends_with("should be a string, but is an array of 4 strings"), "{message}");
    let key = "tokenizer.ggml.pre";
    let message = metadata.required(key, metadata.string(key)).unwrap_err().to_string();
    assert!(message.contains("metadata key tokenizer.ggml.pre is missing"), "{message}");
}

#[test]
fn alignment_is_honoured() {
    let mut writer = TINY.writer();
    writer.alignment = 256;
    writer.u32("general.alignment", 256);
    let gguf = read("reader-aligned.gguf", &writer.bytes()).unwrap();
    assert!(gguf.tensors().all(|tensor| tensor.offset % 256 == 0));

    for wrong in [0, 4, 48, 1 << 30] {
        let mut writer = TINY.writer();
        writer.u32("general.alignment", wrong);
        let message = refused(&format!("alignment-{wrong}"), &writer);
        assert!(message.contains(&format!("general.alignment is {wrong};")), "{message}");
    }
}

#[test]
fn other_types_are_refused_by_name() {
    for (id, says) in [
        (10, "Q2_K is not supported yet; supported: F32, F16, BF16, Q4_0, Q4_1,"),
        (11, "Q3_K is not supported yet; "),
        (20, "IQ4_NL is not supported yet; "),
        (77, "element type 77 is unknown; supported: F32, F16, BF16, Q4_0, Q4_1,"),
    ] {
        let mut writer = TINY.writer();
        writer.tensor_mut("blk.0.attn_q.weight").type_id = id;
        let path = format!("reader-type-{id}.gguf");
        let error = read(&path, &writer.bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.tensor_name(), Some("blk.0.attn_q.weight"));
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// What a spoiler does to a good file, and what the reader must say.
type Case = (&'static str, fn(&mut GgufWriter), &'static str);

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let cases: &[Case] = &[
        ("version-1", |w| w.version = 1, "GGUF version 1 is not supported; supported: 2, 3"),
        ("big-endian", |w| w.version = 3 << 24, "big-endian GGUF is not supported"),
        (
            "twice",
            |w| w.pairs.push(w.pairs[0].clone()),
            "metadata key general.architecture occurs twice",
        ),
        ("value-type", |w| _ = w.raw("x", 13, &[0; 8]), "x has the unknown value type 13"),
        ("nested", |w| _ = w.raw("x", 9, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "array of arrays"),
        ("bool", |w| _ = w.raw("x", 7, &[2]), "metadata key x has a boolean of value 2"),
        ("utf8", |w| _ = w.raw("x", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 255]), "x is not UTF-8"),
        ("long", |w| _ = w.raw("x", 8, &[255; 8]), "x has 18446744073709551615 bytes"),
        ("count", |w| _ = w.raw("x", 9, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), "room for"),
        ("dims-0", |w| w.tensors[0].shape.clear(), "0 dimensions; 1 to 4 are allowed"),
        ("dims-5", |w| w.tensors[0].shape = vec![1; 5], "5 dimensions; 1 to 4 are allowed"),
        ("empty", |w| w.tensors[0].shape = vec![64, 0], "has no elements"),
        ("large", |w| w.tensors[1].shape = vec![1 << 32, 1 << 32], "is absurdly large"),
        ("far", |w| w.tensors[10].shape = vec![1 << 40], "bytes short: the file has"),
        ("block", |w| w.tensors[0].shape = vec![48, 130], "are not whole Q8_0 blocks of 32"),
        ("same", |w| w.tensors[1].name = w.tensors[0].name.clone(), "two tensors of this name"),
        ("odd", |w| w.tensors[1].offset = Some(16), "offset 16 is not aligned to 32"),
        (
            "overlap",
            |w| w.tensors[1].offset = Some(32),
            "its data overlap those of blk.0.attn_norm",
        ),
    ];
    for (name, spoil, says) in cases {
        let mut writer = TINY.writer();
        spoil(&mut writer);
        let message = if *name == "large" {
            // No file is that long: the header alone will do.
            read("reader-large.gguf", &writer.header()).unwrap_err().to_string()
        } else {
            refused(name, &writer)
        };
        assert!(message.starts_with("m.gguf: ") && message.contains(says), "{name}: {message}");
        assert!(message.contains("(byte "), "{name}: {message}");
    }
}

#[test]
fn a_file_without_tensors_or_of_another_kind() {
    assert_eq!(
        read("reader-none.gguf", &GgufWriter::default().bytes()).unwrap().tensors().len(),
        0
    );
    for other in [&b""[..], b"GGU", b"version https://git-lfs.github.com/spec/v1"] {
        let message = read("reader-other.gguf", other).unwrap_err().to_string();
        assert!(message.contains("it does not begin with GGUF"), "{message}");
    }
}

#[test]
fn bytes_of_elements() {
    assert_eq!(DType::Q4_1.bytes_of(64), Some(40));
    assert_eq!(DType::Q4_1.bytes_of(33), None);
    assert_eq!(DType::F32.bytes_of(u64::MAX), None);
    let mut writer = GgufWriter::default();
    writer.tensor("f", &[3, 5], F32).tensor("q", &[32, 2, 3], Q4_1);
    let gguf = read("reader-bytes.gguf", &writer.bytes()).unwrap();
    assert_eq!(gguf.tensor("f").unwrap().bytes, 60);
    assert_eq!((gguf.tensor("q").unwrap().bytes, gguf.tensor("q").unwrap().rows()), (120, 6));
}
