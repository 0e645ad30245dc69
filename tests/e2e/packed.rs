//! Packed weights through the whole of a rank: a file of mixed types, as llama.cpp's Q4_K_M is one,
//! computes what its numbers in f32 compute, at every rank count.
//!
//! Heads are half as wide as a super-block, so that at four ranks a border falls inside of one.

use std::path::PathBuf;

use binfer_proto::Token;
use binfer_shard::DType;
use binfer_shard::dequant::dequantize_row;

use crate::blocks::block;
use crate::gguf_writer::{F32, Llama};
use crate::harness::{Permit, Prng};
use crate::rig::{TOKENS_PER_STEP, on_ranks_of};

/// Largest difference of a logit, relative to the largest logit. Measured: 4.8e-7.
const BOUND: f32 = 1e-5;
const TOKENS: u32 = 70;
const VOCAB: u32 = 200;

/// The type of a tensor: q, k and v differ, and so do layers.
fn dtype(tensor: &str) -> DType {
    match tensor {
        name if name.contains("norm") => DType::F32,
        "token_embd.weight" | "blk.0.ffn_down.weight" => DType::Q6_K,
        "blk.0.attn_v.weight" => DType::Q6_K,
        "blk.1.attn_v.weight" | "blk.1.ffn_up.weight" => DType::Q5_K,
        "blk.1.attn_k.weight" => DType::Q5_0,
        "blk.2.attn_q.weight" => DType::Q5_1,
        "blk.2.ffn_gate.weight" | "blk.2.attn_output.weight" => DType::Q4_0,
        "blk.2.ffn_down.weight" => DType::Q4_1,
        "blk.2.attn_v.weight" => DType::Q8_0,
        _ => DType::Q4_K,
    }
}

/// The same model, packed and in f32.
fn files() -> [PathBuf; 2] {
    let shape = Llama {
        layers: 3,
        hidden: 512,
        heads: 4,
        kv_heads: 2,
        inner: 1024,
        vocab: VOCAB,
        type_id: F32,
    };
    let mut random = Prng::new(11);
    let (mut packed, mut plain) = (shape.writer(), shape.writer());
    for (packed, plain) in packed.tensors.iter_mut().zip(&mut plain.tensors) {
        let dtype = dtype(&packed.name);
        let elems = packed.shape.iter().product::<u64>();
        let blocks = elems / u64::from(dtype.block_elems());
        let size = 2.0 / (packed.shape[0] as f32).sqrt();
        let data: Vec<u8> =
            (0..blocks).flat_map(|_| block(dtype, size, &mut || random.next())).collect();
        let mut numbers = vec![0.0; usize::try_from(elems).unwrap()];
        dequantize_row(dtype, &data, &mut numbers).unwrap();
        packed.set(dtype, data);
        plain.set(DType::F32, numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
    }
    [("mixed", packed), ("plain", plain)].map(|(name, writer)| {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("packed-{name}.gguf"));
        writer.write(&path);
        path
    })
}

#[test]
fn mixed_types_compute_what_their_numbers_do_at_every_rank_count() {
    let _permit = Permit::one();
    let [mixed, plain] = files();
    let prompt: Vec<Token> = (0..TOKENS).map(|index| (index * 37 + 5) % VOCAB).collect();
    let logits =
        |path, world| on_ranks_of(path, world, |rig| rig.feed(0, &prompt, TOKENS_PER_STEP).0);
    let want = logits(&plain, 1);
    let largest =
        |numbers: &mut dyn Iterator<Item = f32>| numbers.map(f32::abs).fold(0.0, f32::max);
    for world in 1..=4 {
        let got = logits(&mixed, world);
        assert_eq!(got.len(), want.len());
        let difference = largest(&mut got.iter().zip(&want).map(|(one, other)| one - other));
        let relative = difference / largest(&mut want.iter().copied());
        // Not `>`: a NaN must fail.
        assert!(relative <= BOUND, "TP {world}: logits off by {relative}");
    }
}
