//! Which rank holds what, as `manifest.json` has it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::RankLayout;
use crate::layout::LayerLayout;

/// What each rank holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayoutRecord {
    pub(super) tensor_parallel: u32,
    /// Whether each rank's experts are whole, which they are.
    experts: String,
    ranks: Vec<HeldRanges>,
}

/// What a rank holds, see [`RankLayout`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HeldRanges {
    /// Those of the first layer.
    #[serde(flatten)]
    layer: LayerRanges,
    vocab: [u32; 2],
    /// Layers of which the rank holds other ranges than of the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    other_layers: Vec<OtherLayer>,
}

/// What a rank holds of a layer, see [`LayerLayout`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LayerRanges {
    q_heads: [u32; 2],
    kv_heads: [u32; 2],
    ffn: [u32; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    experts: Option<[u32; 2]>,
}

/// A layer that is not held as the first one is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OtherLayer {
    layer: usize,
    #[serde(flatten)]
    ranges: LayerRanges,
}

impl LayoutRecord {
    pub(super) fn new(layouts: &[RankLayout]) -> Self {
        Self {
            tensor_parallel: u32::try_from(layouts.len()).unwrap_or(u32::MAX),
            experts: "whole".into(),
            ranks: layouts.iter().filter_map(HeldRanges::of).collect(),
        }
    }
}

impl HeldRanges {
    /// `None` without layers, which no layout is.
    fn of(layout: &RankLayout) -> Option<Self> {
        let mut layers = layout.layers().map(LayerRanges::of).enumerate();
        let (_, first) = layers.next()?;
        let others = layers.filter(|(_, ranges)| *ranges != first);
        let other_layers = others.map(|(layer, ranges)| OtherLayer { layer, ranges }).collect();
        Some(Self { layer: first, vocab: ends(&layout.vocab), other_layers })
    }
}

impl LayerRanges {
    fn of(layer: &LayerLayout) -> Self {
        Self {
            q_heads: ends(&layer.heads.q_heads),
            kv_heads: ends(&layer.heads.kv_heads),
            ffn: ends(&layer.ffn.columns),
            experts: (!layer.ffn.experts.is_empty()).then(|| ends(&layer.ffn.experts)),
        }
    }
}

fn ends(range: &Range<u32>) -> [u32; 2] {
    [range.start, range.end]
}
