//! What one rank holds, layer by layer. A part of [`crate::layout`], which works it out.

use std::ops::Range;

/// One rank's share of a model. All ranges count in the whole model's numbering, are not empty
/// where the model has such a thing, and in the order of ranks they cover the model; only KV heads
/// may be shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankLayout {
    /// This rank, below `world`.
    pub rank: u32,
    /// How many ranks there are.
    pub world: u32,
    /// Rows of the embedding and of the head.
    pub vocab: Range<u32>,
    /// The rank's share of a layer, one for each shape of layer that the model has.
    pub(crate) shares: Vec<LayerLayout>,
    /// Index into `shares`, one for each layer.
    pub(crate) share_of_layer: Vec<usize>,
}

impl RankLayout {
    /// The rank's share of each layer, first to last.
    pub fn layers(&self) -> impl Iterator<Item = &LayerLayout> {
        self.share_of_layer.iter().map(|share| &self.shares[*share])
    }

    /// The rank's share of one layer; `None` where the model has fewer layers.
    #[must_use]
    pub fn layer(&self, layer: usize) -> Option<&LayerLayout> {
        self.share_of_layer.get(layer).map(|share| &self.shares[*share])
    }
}

/// One rank's share of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerLayout {
    /// Heads of attention.
    pub heads: HeadLayout,
    /// The share of the feed-forward.
    pub ffn: FfnLayout,
}

/// One rank's heads in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads.
    pub q_heads: Range<u32>,
    /// KV heads that they read; query head `i` of this rank reads its KV head `i / q_per_kv`.
    pub kv_heads: Range<u32>,
    /// Query heads for each KV head *on this rank*.
    pub q_per_kv: u32,
    /// Width of a head, in elements.
    pub head_dim: u32,
}

impl HeadLayout {
    /// Rows of Q, or columns of attention's output, in the whole model's numbering.
    #[must_use]
    pub fn q_elements(&self) -> Range<u32> {
        self.elements(&self.q_heads)
    }

    /// Rows of K and of V, in the whole model's numbering.
    #[must_use]
    pub fn kv_elements(&self) -> Range<u32> {
        self.elements(&self.kv_heads)
    }

    fn elements(&self, heads: &Range<u32>) -> Range<u32> {
        heads.start * self.head_dim..heads.end * self.head_dim
    }
}

/// One rank's share of a feed-forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FfnLayout {
    /// Columns between the gemms, in elements: rows of gate and up, columns of down. Those of the
    /// shared expert where the layer is a mixture; empty where it has none.
    pub columns: Range<u32>,
    /// Experts, whole; empty where the layer is no mixture.
    pub experts: Range<u32>,
}

impl FfnLayout {
    /// How many experts the rank holds.
    #[must_use]
    pub fn experts_held(&self) -> u32 {
        self.experts.end - self.experts.start
    }
}
