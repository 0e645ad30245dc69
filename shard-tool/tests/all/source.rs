//! Opening and reading: slices arrive in the engine's order, and changed files are noticed.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use binfer_shard::spec::RowOrder;
use binfer_shard::{Checkpoint, DType, ErrorKind, LocalPart, layouts, local_tensors};

use crate::gguf_writer::{Llama, SMOLLM2, TINY, byte_of};
use crate::scratch;

/// What the slice should hold, byte by byte, from the definition of the data.
fn expected(part: &LocalPart) -> Vec<u8> {
    let bytes = part.ranges.iter().flat_map(Clone::clone);
    bytes.map(|index| byte_of(&part.source, index)).collect()
}

#[test]
fn every_slice_of_every_rank_is_read_whole_and_in_order() {
    let path = scratch("source-slices.gguf");
    let llama = Llama { hidden: 256, heads: 8, kv_heads: 2, inner: 320, layers: 2, ..TINY };
    llama.writer().write(&path);
    let source = Checkpoint::open(&path).unwrap();
    for world in 1..=4 {
        for layout in layouts(source.spec(), world).unwrap() {
            for tensor in local_tensors(source.spec(), &layout).unwrap() {
                for part in &tensor.parts {
                    let mut out = vec![0; part.bytes() as usize];
                    source.read_into(part, &mut out).unwrap();
                    assert!(out == expected(part), "{world} {} {}", layout.rank, part.source);
                }
            }
        }
    }
}

#[test]
fn ranges_in_any_order_over_more_than_one_gathering_read() {
    let path = scratch("source-gather.gguf");
    Llama { vocab: 40_000, ..TINY }.writer().write(&path);
    let source = Checkpoint::open(&path).unwrap();
    // Backwards, a page and more between some: near and far pieces, 2.7 MB in all.
    let rows = (0..40_000_u64).rev().filter(|row| row % 3 > 0 && row % 1000 > 90);
    let ranges: Vec<_> = rows.map(|row| row * 68..row * 68 + 68).collect();
    let part = LocalPart {
        source: "token_embd.weight".into(),
        dtype: DType::Q8_0,
        rows: ranges.len() as u32,
        cols: 64,
        inputs: 0..64,
        ranges,
    };
    let mut out = vec![0; part.bytes() as usize];
    source.read_into(&part, &mut out).unwrap();
    assert!(out == expected(&part));
}

#[test]
fn query_rows_come_in_half_split_order() {
    let path = scratch("source-order.gguf");
    TINY.writer().write(&path);
    let source = Checkpoint::open(&path).unwrap();
    let layout = &layouts(source.spec(), 1).unwrap()[0];
    let tensors = local_tensors(source.spec(), layout).unwrap();
    let q = &tensors.iter().find(|tensor| tensor.name == "layers.0.attn.qkv").unwrap().parts[0];
    let mut out = vec![0; q.bytes() as usize];
    source.read_into(q, &mut out).unwrap();
    // Head 1 (rows 16..32), second half, second pair: the checkpoint has it as 2 * 1 + 1.
    let row_bytes = q.row_bytes() as usize;
    let (here, there) = (16 + 8 + 1, 16 + 3);
    let row = (0..row_bytes).map(|byte| byte_of(&q.source, (there * row_bytes + byte) as u64));
    assert!(out[here * row_bytes..][..row_bytes].iter().copied().eq(row));
    assert_eq!(RowOrder::LlamaCppInterleaved { head_dim: 16 }.source_row(25), 19);
}

#[test]
fn truncated_files_fail_at_open_and_say_what_is_missing() {
    let path = scratch("source-truncated.gguf");
    SMOLLM2.writer().write_sparse(&path);
    let whole = std::fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(whole - 12).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert_eq!(error.tensor_name(), Some("output_norm.weight"));
    assert_eq!(error.offset(), Some(whole - 576 * 4));
    assert!(error.to_string().contains("output_norm.weight: 12 bytes short"), "{error}");
}

#[test]
fn a_file_that_shrinks_while_it_is_read() {
    let path = scratch("source-shrinks.gguf");
    TINY.writer().write(&path);
    let source = Checkpoint::open(&path).unwrap();
    let layout = &layouts(source.spec(), 1).unwrap()[0];
    let tensors = local_tensors(source.spec(), layout).unwrap();
    let part = &tensors.last().unwrap().parts[0];
    let mut out = vec![0; part.bytes() as usize];
    let short = &mut out[1..];
    assert_eq!(source.read_into(part, short).unwrap_err().kind(), ErrorKind::Mismatch);

    let bytes = std::fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes - 1).unwrap();
    let error = source.read_into(part, &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert_eq!(error.tensor_name(), Some("output_norm.weight"));
}

#[test]
fn slices_of_another_checkpoint_are_refused() {
    let (one, other) = (scratch("source-one.gguf"), scratch("source-other.gguf"));
    TINY.writer().write(&one);
    Llama { vocab: 260, ..TINY }.writer().write(&other);
    let (one, other) = (Checkpoint::open(one).unwrap(), Checkpoint::open(other).unwrap());
    let layout = &layouts(other.spec(), 1).unwrap()[0];
    let mut part = local_tensors(other.spec(), layout).unwrap().remove(0).parts.remove(0);
    let mut out = vec![0; part.bytes() as usize];
    let message = one.read_into(&part, &mut out).unwrap_err().to_string();
    assert!(message.contains("token_embd.weight: the slice was made for another checkpoint"));
    part.source = "nothing".into();
    assert!(one.read_into(&part, &mut out).unwrap_err().to_string().contains("no such tensor"));
}

#[test]
fn digests_tell_checkpoints_apart() {
    let path = scratch("source-digest.gguf");
    TINY.writer().write(&path);
    let digest = || Checkpoint::open(&path).unwrap().digest();
    let first = digest();
    assert_eq!(digest(), first);

    // A training that leaves all tensors but one as they were.
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let source = Checkpoint::open(&path).unwrap();
    for tensor in source.gguf().unwrap().tensors() {
        let middle = tensor.bytes / 2;
        let byte = byte_of(&tensor.name, middle);
        file.write_all_at(&[byte ^ 1], tensor.offset + middle).unwrap();
        assert_ne!(digest(), first, "{}", tensor.name);
        file.write_all_at(&[byte], tensor.offset + middle).unwrap();
    }
    assert_eq!(digest(), first);
    let bytes = std::fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes + 1).unwrap();
    assert_ne!(digest(), first, "the length");
}

#[test]
fn what_is_no_checkpoint() {
    let folder = scratch("source-folder");
    std::fs::create_dir_all(&folder).unwrap();
    for (path, kind, says) in [
        (scratch("source-absent.gguf"), ErrorKind::Io, "cannot open: No such file"),
        (folder, ErrorKind::Format, "it has no config.json; give a folder"),
        ("/dev/zero".into(), ErrorKind::Unsupported, "not a regular file"),
    ] {
        let error = Checkpoint::open(&path).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(says), "{error}");
    }
}
