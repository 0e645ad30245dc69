//! Attention: cosines and sines once a step, then norms, rope and cache, then the sum over it.

use binfer_kernels::list::{self, PLAIN_HEAD_DIM_MAX};
use binfer_kernels::params::{AttendParams, ROPE_PAIRS_MAX, RopeParams};
use binfer_shard::spec::Rope;

use super::CudaBackend;
use super::product::word;
use super::weights::Placed;
use crate::backend::BackendError;
use crate::backend::args::AttendArgs;
use crate::backend::rope::{attention_factor, frequencies};

fn refuse(cause: String) -> BackendError {
    BackendError::Args { operation: "attend", cause }
}

impl CudaBackend {
    /// Enqueues attention; `vectors`: norms of query and key heads, sinks. The arguments were checked.
    pub(super) fn mix(
        &mut self,
        args: &AttendArgs,
        vectors: [Option<Placed>; 3],
    ) -> Result<(), BackendError> {
        if args.head_dim > PLAIN_HEAD_DIM_MAX {
            return Err(refuse(format!("heads of {} elements, 256 at most", args.head_dim)));
        }
        self.prepare_rope(args.rope)?;
        let params = self.attend_params(args, vectors)?;
        let cache_blocks = self.memory.layers[args.layer].shape.blocks;
        if self.mix_fast(args.kv_group, cache_blocks, &params)? {
            return Ok(());
        }
        let whose = if self.step.shape.is_decode { "" } else { "prompts' " };
        self.note_general(|| format!("{whose}attention with heads of {} elements", args.head_dim));
        let heads = params.heads + 2 * params.kv_heads;
        self.device.launch(list::QKV_PREPARE, [params.tokens, heads, 1], &params)?;
        self.device.launch(list::ATTEND, [params.tokens, params.heads, 1], &params)
    }

    fn attend_params(
        &self,
        args: &AttendArgs,
        vectors: [Option<Placed>; 3],
    ) -> Result<AttendParams, BackendError> {
        let layer = self.memory.layers.get(args.layer);
        let layer = layer.ok_or_else(|| refuse(format!("layer {} has no cache", args.layer)))?;
        let (heads, head_dim) = (layer.shape.kv_heads, layer.shape.head_dim);
        if (heads, head_dim) != (args.kv_heads, args.head_dim) {
            return Err(refuse(format!(
                "{:?} where layer {} was planned",
                layer.shape, args.layer
            )));
        }
        let tables = self.memory.groups.get(args.kv_group);
        let tables = tables.ok_or_else(|| refuse(format!("no KV group {}", args.kv_group)))?;
        let [q_norm, k_norm, sinks] =
            vectors.map(|vector| vector.map_or(0, |vector| vector.address));
        Ok(AttendParams {
            step: self.memory.at.tables,
            qkv: self.inner("attend", &args.qkv)?,
            out: self.inner("attend", &args.out)?,
            q_norm,
            k_norm,
            sinks,
            rope: self.memory.at.rope,
            keys: layer.keys,
            values: layer.values,
            table: tables.address,
            table_stride: word(tables.blocks_per_slot),
            block_tokens: word(layer.shape.block_tokens),
            heads: word(args.heads),
            kv_heads: word(args.kv_heads),
            head_dim: word(args.head_dim),
            pairs: args.rope.dims / 2,
            window: args.window.unwrap_or(0),
            eps: args.norm_eps,
            scale: 1.0 / (args.head_dim as f32).sqrt(),
            tokens: self.step.shape.tokens,
        })
    }

    /// Makes the step's cosines and sines, unless a layer before this one did.
    fn prepare_rope(&mut self, rope: Rope) -> Result<(), BackendError> {
        if self.step.rope == Some(rope) {
            return Ok(());
        }
        let mut params = RopeParams {
            step: self.memory.at.tables,
            table: self.memory.at.rope,
            pairs: rope.dims / 2,
            factor: attention_factor(rope.scaling),
            frequencies: [0.0; ROPE_PAIRS_MAX],
        };
        for (to, frequency) in params.frequencies.iter_mut().zip(frequencies(rope)) {
            *to = frequency;
        }
        self.device.launch(list::ROPE_TABLE, [self.step.shape.tokens, 1, 1], &params)?;
        self.step.rope = Some(rope);
        Ok(())
    }
}
