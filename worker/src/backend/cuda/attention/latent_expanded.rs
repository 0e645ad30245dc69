//! Launches of latent attention of chunks over expanded keys and values.
//!
//! The workspace holds keys and values of some heads at all positions of the chunks' sequences, and
//! heads take turns. So each head's attention is one pass, and no sums of parts of a sequence are
//! ever merged.

use binfer_kernels::attention_params::{
    AttentionParams, ExpandedAttentionParams, LatentAttentionParams, LatentExpandParams,
    PrefillAttentionParams,
};
use binfer_kernels::gemm_params::TensorMap;
use binfer_kernels::latent_attention::EXPANDED_HEAD_DIM;
use binfer_kernels::list;

use super::cache::{AttentionPlaces, CudaLatentCache, GroupTables};
use super::config::{PAGE_TOKENS, TILE_ROWS};
use super::latent_config::{EXPANDED_HEAD_BYTES, ExpandedConfig};
use super::paged::BOX_ELEMENTS;
use crate::backend::BackendError;
use crate::backend::cuda::ffi::tensor_map::{Dimension, describe};
use crate::backend::cuda::formats::half::Half;
use crate::backend::cuda::launch::{Launcher, to_u32};
use crate::backend::cuda::weights::DeviceMatrix;

/// A layer's expanded attention, and where it works.
pub(super) struct ExpandedLayer<'a> {
    pub(super) config: ExpandedConfig,
    /// `k_b` and `v_b`.
    pub(super) weights: [DeviceMatrix; 2],
    /// Address of the output.
    pub(super) out: u64,
    pub(super) places: &'a AttentionPlaces,
    pub(super) cache: &'a CudaLatentCache,
    pub(super) tables: &'a GroupTables,
}

impl ExpandedLayer<'_> {
    /// Enqueues attention of the tokens from `first_token` on: all chunks of the step.
    pub(super) fn launch(
        &self,
        on: &Launcher<'_>,
        params: &LatentAttentionParams,
        first_token: u32,
    ) -> Result<(), BackendError> {
        let tokens = on.shape.tokens - first_token;
        let latent = LatentAttentionParams { first_token, tokens, ..*params };
        on.device.launch(list::LATENT_PREPARE_IN_PLACE, [tokens, 1, 1], &latent)?;
        for first_head in (0..latent.heads).step_by(self.config.heads as usize) {
            let heads = self.config.heads.min(latent.heads - first_head);
            let expand = self.expand_params(on, &latent, first_head, heads);
            on.device.launch(list::LATENT_EXPAND, [self.config.pages, heads, 2], &expand)?;
            let attention = self.attention_params(on, &expand, heads)?;
            let blocks = [self.config.blocks, 1, 1];
            on.device.launch(list::PREFILL_ATTENTION_EXPANDED, blocks, &attention)?;
        }
        Ok(())
    }

    fn expand_params(
        &self,
        on: &Launcher<'_>,
        latent: &LatentAttentionParams,
        first_head: u32,
        heads: u32,
    ) -> LatentExpandParams {
        let positions = (self.config.pages * PAGE_TOKENS) as usize;
        let key_bytes = positions * heads as usize * EXPANDED_HEAD_BYTES / 2;
        let [k_b, v_b] = &self.weights;
        LatentExpandParams {
            latent: *latent,
            k_b: k_b.address,
            v_b: v_b.address,
            keys: self.places.latent,
            values: self.places.latent + key_bytes as u64,
            first_pages: self.places.first_pages,
            k_b_stride: to_u32(k_b.stride),
            v_b_stride: to_u32(v_b.stride),
            first_head,
            rows: on.shape.rows,
        }
    }

    fn attention_params(
        &self,
        on: &Launcher<'_>,
        expand: &LatentExpandParams,
        heads: u32,
    ) -> Result<ExpandedAttentionParams, BackendError> {
        let map = |address, dimensions: &[Dimension]| -> Result<TensorMap, BackendError> {
            describe(on.device.half, address, dimensions)
        };
        let latent = &expand.latent;
        let elements = |size: usize| Dimension { size, stride: 1, in_box: BOX_ELEMENTS };
        let page = |width: usize| Dimension {
            size: PAGE_TOKENS as usize,
            stride: width,
            in_box: PAGE_TOKENS,
        };
        let one = |size: u32, stride: usize| Dimension { size: size as usize, stride, in_box: 1 };
        let (head_dim, entry) = (EXPANDED_HEAD_DIM as usize, self.cache.width);
        let query_dim = (latent.nope + 2 * latent.pairs) as usize;
        let page_elements = PAGE_TOKENS as usize * head_dim;
        let queries = [
            elements(query_dim),
            one(latent.heads, query_dim),
            Dimension {
                size: on.shape.tokens as usize,
                stride: latent.heads as usize * query_dim,
                in_box: TILE_ROWS,
            },
        ];
        let expanded = [
            elements(head_dim),
            page(head_dim),
            one(heads, page_elements),
            one(self.config.pages, page_elements * heads as usize),
        ];
        let rotated = [
            elements(2 * latent.pairs as usize),
            page(entry),
            one(to_u32(self.cache.blocks), PAGE_TOKENS as usize * entry),
        ];
        let rotated_at = latent.entries + (latent.latent_dim as usize * Half::BYTES) as u64;
        let prefill = PrefillAttentionParams {
            queries: map(latent.queries, &queries)?,
            keys: map(expand.keys, &expanded)?,
            values: map(expand.values, &expanded)?,
            attention: AttentionParams {
                step: latent.step,
                out: self.out,
                table: latent.table,
                table_stride: latent.table_stride,
                heads: latent.heads,
                kv_heads: latent.heads,
                scale: latent.scale,
                ..AttentionParams::default()
            },
            tiles: self.tables.tiles,
            tile_count: self.config.tiles,
            first_head: expand.first_head,
            head_count: heads,
            reserved: 0,
        };
        let rotated = map(rotated_at, &rotated)?;
        Ok(ExpandedAttentionParams { prefill, rotated, first_pages: expand.first_pages })
    }
}
