//! Writes small GGUF files, right and wrong, for tests of this crate and of the whole program.
//!
//! Tensor data are pseudo-random bytes ([`byte_of`]) unless given; the writer checks nothing, so
//! that tests can say what no honest writer would. Other packages include this file by `#[path]`.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user takes what it needs")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a panic is a failed test"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use binfer_shard::DType;

pub const F32: u32 = 0;
pub const F16: u32 = 1;
pub const Q4_1: u32 = 3;
pub const Q8_0: u32 = 8;

/// A tensor as the table will have it.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    /// Fastest first: `[cols, rows]`.
    pub shape: Vec<u64>,
    pub type_id: u32,
    pub bytes: u64,
    /// `None`: after the last one, aligned.
    pub offset: Option<u64>,
    /// `None`: those of [`byte_of`].
    pub data: Option<Vec<u8>>,
}

impl Tensor {
    /// Other data, of that type.
    pub fn set(&mut self, dtype: DType, data: Vec<u8>) {
        (self.type_id, self.bytes) = (dtype.gguf_id().unwrap(), data.len() as u64);
        self.data = Some(data);
    }
}

/// A GGUF file in the making.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    pub version: u32,
    /// Aligns the data; to be declared with [`Self::u32`] when it is not 32.
    pub alignment: u64,
    /// Encoded values with their types before them.
    pub pairs: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new() }
    }
}

impl GgufWriter {
    /// Sets a key to an encoded value; replaces an earlier one.
    pub fn raw(&mut self, key: &str, type_id: u32, value: &[u8]) -> &mut Self {
        self.remove(key);
        let encoded = [&type_id.to_le_bytes(), value].concat();
        self.pairs.push((key.to_owned(), encoded));
        self
    }

    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.pairs.retain(|(other, _)| other != key);
        self
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key, 7, &[value.into()])
    }

    pub fn string(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, 8, &text(value))
    }

    pub fn strings(&mut self, key: &str, values: &[&str]) -> &mut Self {
        let mut array = [&8_u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|value| array.extend(text(value)));
        self.raw(key, 9, &array)
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let mut array = [&5_u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|value| array.extend(value.to_le_bytes()));
        self.raw(key, 9, &array)
    }

    pub fn tensor(&mut self, name: &str, shape: &[u64], type_id: u32) -> &mut Self {
        let dtype = DType::from_gguf(type_id).unwrap();
        let bytes = dtype.bytes_of(shape.iter().product()).unwrap();
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push(Tensor { name, shape, type_id, bytes, offset: None, data: None });
        self
    }

    /// The same model in `count` files, dealt tensor by tensor.
    pub fn split(&self, count: usize) -> Vec<Self> {
        let mut parts =
            vec![Self { pairs: Vec::new(), tensors: Vec::new(), ..self.clone() }; count];
        parts[0].pairs = self.pairs.clone();
        for (index, tensor) in self.tensors.iter().enumerate() {
            parts[index % count].tensors.push(tensor.clone());
        }
        for (number, part) in parts.iter_mut().enumerate() {
            part.raw("split.no", 2, &(number as u16).to_le_bytes());
            part.raw("split.count", 2, &(count as u16).to_le_bytes());
            part.raw("split.tensors.count", 5, &(self.tensors.len() as i32).to_le_bytes());
        }
        parts
    }

    pub fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Offsets of the tensors, counted from the start of the data, and the end of the last.
    fn places(&self) -> (Vec<u64>, u64) {
        let mut end: u64 = 0;
        let place = |tensor: &Tensor| {
            let offset = tensor.offset.unwrap_or(end.next_multiple_of(self.alignment));
            end = end.max(offset.saturating_add(tensor.bytes));
            offset
        };
        (self.tensors.iter().map(place).collect(), end)
    }

    /// The file up to the first tensor's data.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(text(key));
            out.extend(value);
        }
        for (tensor, offset) in self.tensors.iter().zip(self.places().0) {
            out.extend(text(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        let data_start = (out.len() as u64).next_multiple_of(self.alignment);
        out.resize(data_start as usize, 0);
        out
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        let data_start = out.len();
        let (places, end) = self.places();
        out.resize(data_start + end as usize, 0);
        for (tensor, offset) in self.tensors.iter().zip(places) {
            if let Some(data) = &tensor.data {
                out[data_start + offset as usize..][..data.len()].copy_from_slice(data);
                continue;
            }
            for (index, byte) in
                out[data_start + offset as usize..][..tensor.bytes as usize].iter_mut().enumerate()
            {
                *byte = byte_of(&tensor.name, index as u64);
            }
        }
        out
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }

    /// The header, then a hole: as long as the real file, with no data.
    pub fn write_sparse(&self, path: &Path) {
        let header = self.header();
        let mut file = File::create(path).unwrap();
        file.write_all(&header).unwrap();
        file.set_len(header.len() as u64 + self.places().1).unwrap();
    }
}

/// Byte `index` of the data of tensor `name`.
pub fn byte_of(name: &str, index: u64) -> u8 {
    let seed = name.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31) + u64::from(byte));
    let mixed =
        (seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> 56) as u8
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

/// Sizes of a llama-like model.
#[derive(Clone, Copy, Debug)]
pub struct Llama {
    pub layers: u32,
    pub hidden: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub inner: u32,
    pub vocab: u32,
    /// Type of everything but embedding (`Q8_0`) and norms (`F32`).
    pub type_id: u32,
}

/// The demo model's.
pub const SMOLLM2: Llama = Llama {
    layers: 30,
    hidden: 576,
    heads: 9,
    kv_heads: 3,
    inner: 1536,
    vocab: 49152,
    type_id: Q4_1,
};

/// Small enough to write thousands of times, large enough for four ranks.
pub const TINY: Llama =
    Llama { layers: 1, hidden: 64, heads: 4, kv_heads: 2, inner: 128, vocab: 130, type_id: Q4_1 };

impl Llama {
    /// A file that is right; tests then spoil it.
    pub fn writer(self) -> GgufWriter {
        let (hidden, inner) = (u64::from(self.hidden), u64::from(self.inner));
        let kv_rows = hidden / u64::from(self.heads) * u64::from(self.kv_heads);
        let mut out = GgufWriter::default();
        out.string("general.architecture", "llama")
            .u32("llama.block_count", self.layers)
            .u32("llama.context_length", 8192)
            .u32("llama.embedding_length", self.hidden)
            .u32("llama.feed_forward_length", self.inner)
            .u32("llama.attention.head_count", self.heads)
            .u32("llama.attention.head_count_kv", self.kv_heads)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .f32("llama.rope.freq_base", 100_000.0)
            .strings("tokenizer.ggml.tokens", &["a", "b", "ab", "é"])
            .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1]);
        out.tensor("token_embd.weight", &[hidden, self.vocab.into()], Q8_0);
        for layer in 0..self.layers {
            let name = |of: &str| format!("blk.{layer}.{of}.weight");
            out.tensor(&name("attn_norm"), &[hidden], F32)
                .tensor(&name("ffn_down"), &[inner, hidden], self.type_id)
                .tensor(&name("ffn_gate"), &[hidden, inner], self.type_id)
                .tensor(&name("ffn_up"), &[hidden, inner], self.type_id)
                .tensor(&name("ffn_norm"), &[hidden], F32)
                .tensor(&name("attn_k"), &[hidden, kv_rows], self.type_id)
                .tensor(&name("attn_output"), &[hidden, hidden], self.type_id)
                .tensor(&name("attn_q"), &[hidden, hidden], self.type_id)
                .tensor(&name("attn_v"), &[hidden, kv_rows], self.type_id);
        }
        out.tensor("output_norm.weight", &[hidden], F32);
        out
    }
}
