//! The KV cache of a layer, in blocks, in single or half precision.
//!
//! Keys lie `[block][kv_head][element][token]`, so that sixteen tokens are the lanes of a register
//! and a score needs no sum across lanes; values lie `[block][kv_head][token][element]`. Blocks are
//! never assumed clean. A latent cache has values alone, `[block][token][element]`: its vectors are
//! the keys too.

use binfer_proto::KvDtype;
use binfer_shard::spec::KvShape;
use half::{bf16, f16};

use super::simd::{Isa, LANES};
use crate::backend::{KvHeadsLayout, KvLayerLayout};

/// One layer's cache.
pub(super) struct CpuLayerCache {
    /// A latent cache is one of a single head as wide as its vectors.
    pub(super) shape: KvHeadsLayout,
    /// Whether keys lie apart from values.
    pub(super) has_keys: bool,
    pub(super) data: CacheData,
}

/// Keys and values by type.
pub(super) enum CacheData {
    F32(KvPair<f32>),
    BF16(KvPair<Bf16Bits>),
    F16(KvPair<F16Bits>),
}

/// Keys and values.
pub(super) struct KvPair<E> {
    pub(super) keys: Vec<E>,
    pub(super) values: Vec<E>,
}

/// A bfloat16.
#[derive(Clone, Copy)]
pub(super) struct Bf16Bits(u16);
/// A half.
#[derive(Clone, Copy)]
pub(super) struct F16Bits(u16);

/// An element of a cache.
pub(super) trait KvElement: Copy + Send + Sync {
    fn encode(x: f32) -> Self;
    fn decode<I: Isa>(stored: &[Self; LANES]) -> I::Vector;
}

impl KvElement for f32 {
    #[inline(always)]
    fn encode(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn decode<I: Isa>(stored: &[Self; LANES]) -> I::Vector {
        I::load(stored)
    }
}

impl KvElement for Bf16Bits {
    #[inline(always)]
    fn encode(x: f32) -> Self {
        Self(bf16::from_f32(x).to_bits())
    }
    #[inline(always)]
    fn decode<I: Isa>(stored: &[Self; LANES]) -> I::Vector {
        I::bfloats(&stored.map(|stored| stored.0))
    }
}

impl KvElement for F16Bits {
    #[inline(always)]
    fn encode(x: f32) -> Self {
        Self(f16::from_f32(x).to_bits())
    }
    #[inline(always)]
    fn decode<I: Isa>(stored: &[Self; LANES]) -> I::Vector {
        I::halves(&stored.map(|stored| stored.0))
    }
}

impl CpuLayerCache {
    /// Takes memory for a layer.
    pub(super) fn new(layout: &KvLayerLayout, dtype: KvDtype) -> Self {
        let KvLayerLayout { blocks, block_tokens, .. } = *layout;
        let (kv_heads, head_dim, has_keys) = match layout.shape {
            KvShape::Heads { kv_heads, head_dim } => (kv_heads as usize, head_dim as usize, true),
            KvShape::Latent { width } => (1, width as usize, false),
        };
        let shape = KvHeadsLayout { blocks, kv_heads, block_tokens, head_dim };
        let values = blocks * kv_heads * block_tokens * head_dim;
        let keys = if has_keys { values } else { 0 };
        let data = match dtype {
            KvDtype::F32 => CacheData::F32(KvPair::new(keys, values)),
            KvDtype::BF16 => CacheData::BF16(KvPair::new(keys, values)),
            KvDtype::F16 => CacheData::F16(KvPair::new(keys, values)),
        };
        Self { shape, has_keys, data }
    }

    /// Writes one token's vector of a latent cache.
    pub(super) fn write_latent(&mut self, block: usize, token: usize, vector: &[f32]) {
        let at = (block * self.shape.block_tokens + token) * self.shape.head_dim;
        match &mut self.data {
            CacheData::F32(pair) => pair.write_value(at, vector),
            CacheData::BF16(pair) => pair.write_value(at, vector),
            CacheData::F16(pair) => pair.write_value(at, vector),
        }
    }

    /// Writes one token's key and value of one head.
    pub(super) fn write(&mut self, block: usize, head: usize, token: usize, kv: (&[f32], &[f32])) {
        let at =
            (block * self.shape.kv_heads + head) * self.shape.block_tokens * self.shape.head_dim;
        let place = TokenPlace { at, token, block_tokens: self.shape.block_tokens };
        match &mut self.data {
            CacheData::F32(pair) => pair.write(place, kv),
            CacheData::BF16(pair) => pair.write(place, kv),
            CacheData::F16(pair) => pair.write(place, kv),
        }
    }
}

/// Where a token's key and value go.
#[derive(Clone, Copy)]
struct TokenPlace {
    /// First element of the head in the block.
    at: usize,
    token: usize,
    block_tokens: usize,
}

impl<E: KvElement> KvPair<E> {
    fn new(keys: usize, values: usize) -> Self {
        let zeros = |elements| vec![E::encode(0.0); elements];
        Self { keys: zeros(keys), values: zeros(values) }
    }

    fn write(&mut self, place: TokenPlace, (key, value): (&[f32], &[f32])) {
        let keys = self.keys[place.at + place.token..].iter_mut().step_by(place.block_tokens);
        keys.zip(key).for_each(|(to, from)| *to = E::encode(*from));
        self.write_value(place.at + place.token * value.len(), value);
    }

    fn write_value(&mut self, at: usize, value: &[f32]) {
        let values = &mut self.values[at..][..value.len()];
        values.iter_mut().zip(value).for_each(|(to, from)| *to = E::encode(*from));
    }
}
