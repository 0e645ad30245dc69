//! Pure: what each rank holds, whether or not the numbers divide.
//!
//! Heads go first, because they are few: with no more ranks than KV heads a rank has contiguous KV
//! heads and all their query heads; with more, a rank has one KV head, and ranks that share it
//! divide its query heads. FFN columns, whole experts and vocabulary rows are then dealt so that
//! the *bytes* of all ranks come out even. Layers of one shape are divided alike, layers of another
//! shape by the same rules on their own numbers. Integers only: every rank computes the same
//! layouts by itself.
//! Deliberately absent: KV memory and devices of different sizes, which are for [`crate::fit`].

use std::ops::Range;

use crate::deal::{deal, even_share, level, share_of};
pub use crate::rank_layout::{FfnLayout, HeadLayout, LayerLayout, RankLayout};
use crate::slice::local_bytes;
use crate::spec::{Ffn, LayerSpec, Mixer, TensorCut, TensorSpec};
use crate::{Error, ErrorKind, ModelSpec};

/// Vocabulary rows are dealt in units of so many (the last unit may be short).
const VOCAB_UNIT_ROWS: u32 = 32;
/// FFN columns are dealt in units of so many, or of a quantisation block where that is longer.
const FFN_UNIT_COLS_MIN: u32 = 32;
/// The least unit of FFN columns in models with experts.
const SMALL_UNIT_COLS: u32 = 4;

/// The layouts of all ranks, rank 0 first.
///
/// # Errors
/// [`ErrorKind::Layout`] when there are no layers, or more ranks than query heads, FFN blocks,
/// experts or vocabulary blocks.
pub fn layouts(spec: &ModelSpec, world: u32) -> Result<Vec<RankLayout>, Error> {
    let shapes = LayerShapes::of(spec, world)?;
    let vocab_units = spec.vocab.div_ceil(VOCAB_UNIT_ROWS);
    shapes.check(world)?;
    check_world(world, vocab_units, "blocks of vocabulary rows")?;

    let mut layouts: Vec<RankLayout> =
        (0..world).map(|rank| shapes.without_ffn(rank, world)).collect();
    let mut held: Vec<u64> =
        layouts.iter().map(|layout| head_bytes(spec, layout)).collect::<Result<_, _>>()?;
    let vocab_bytes = bytes_where(spec, |tensor| tensor.cut == TensorCut::VocabRows);
    let columns_bytes = |shape| bytes_where(spec, |tensor| shapes.is_columns_of(tensor, shape));
    let experts_bytes = |shape| bytes_where(spec, |tensor| shapes.is_experts_of(tensor, shape));
    let of_shape = |shape| columns_bytes(shape) + experts_bytes(shape);
    let mut pool = vocab_bytes + (0..shapes.distinct.len()).map(of_shape).sum::<u64>();
    for (index, shape) in shapes.distinct.iter().enumerate() {
        if shape.experts > 0 {
            let (bytes, dealt) = (experts_bytes(index), deal(shape.experts, &level(&held, pool)));
            for ((layout, held), experts) in layouts.iter_mut().zip(&mut held).zip(dealt) {
                *held += share_of(bytes, &experts, shape.experts);
                layout.shares[index].ffn.experts = experts;
            }
            pool -= bytes;
        }
        if shape.inner > 0 {
            let (bytes, dealt) =
                (columns_bytes(index), deal(shape.ffn_units(), &level(&held, pool)));
            for ((layout, held), units) in layouts.iter_mut().zip(&mut held).zip(dealt) {
                let columns = scaled(&units, shape.ffn_unit_cols, shape.inner);
                *held += share_of(bytes, &columns, shape.inner);
                layout.shares[index].ffn.columns = columns;
            }
            pool -= bytes;
        }
    }
    for (layout, units) in layouts.iter_mut().zip(deal(vocab_units, &level(&held, vocab_bytes))) {
        layout.vocab = scaled(&units, VOCAB_UNIT_ROWS, spec.vocab);
    }
    Ok(layouts)
}

/// Bytes of weights that a rank of this layout holds.
///
/// # Errors
/// As [`crate::local_tensor`].
pub fn weight_bytes(spec: &ModelSpec, layout: &RankLayout) -> Result<u64, Error> {
    spec.tensors.iter().map(|tensor| local_bytes(tensor, layout)).sum()
}

/// The numbers of a layer that its cut depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LayerShape {
    heads: u32,
    kv_heads: u32,
    /// Width of a head of attention's output.
    head_dim: u32,
    /// Columns of the feed-forward, or of the shared expert; 0 where there is none.
    inner: u32,
    /// FFN columns that stay together.
    ffn_unit_cols: u32,
    /// Experts; 0 where the layer is no mixture.
    experts: u32,
}

impl LayerShape {
    fn of(layer: &LayerSpec) -> Result<Self, Error> {
        let (heads, kv_heads, head_dim) = match layer.mixer {
            Mixer::Gqa(gqa) => (gqa.heads, gqa.kv_heads, gqa.head_dim),
            Mixer::Mla(mla) => (mla.heads, mla.heads, mla.dims.value),
        };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(refuse("the number of query heads is no multiple of that of KV heads"));
        }
        let (inner, experts) = match layer.ffn {
            Ffn::Glu { inner, .. } => (inner, 0),
            Ffn::Moe(moe) => (moe.shared_inner.unwrap_or(0), moe.experts),
        };
        let ffn_unit_cols = FFN_UNIT_COLS_MIN;
        Ok(Self { heads, kv_heads, head_dim, inner, ffn_unit_cols, experts })
    }

    /// Makes units smaller where there are fewer than ranks. Then ranks may share a quantisation
    /// block, as they do where the border of a head falls inside one.
    fn shrink_units(&mut self, world: u32) {
        while self.ffn_unit_cols > SMALL_UNIT_COLS && self.inner / self.ffn_unit_cols < world {
            self.ffn_unit_cols /= 2;
        }
    }

    fn ffn_units(&self) -> u32 {
        self.inner.div_ceil(self.ffn_unit_cols)
    }

    fn heads_of(&self, rank: u32, world: u32) -> HeadLayout {
        let gqa_group = self.heads / self.kv_heads;
        let (kv_heads, q_heads) = if world <= self.kv_heads {
            let kv = even_share(self.kv_heads, rank, world);
            (kv.clone(), kv.start * gqa_group..kv.end * gqa_group)
        } else {
            let kv = (0..self.kv_heads)
                .find(|kv| even_share(world, *kv, self.kv_heads).contains(&rank))
                .unwrap_or_default();
            let sharers = even_share(world, kv, self.kv_heads);
            let q = even_share(gqa_group, rank - sharers.start, sharers.end - sharers.start);
            (kv..kv + 1, kv * gqa_group + q.start..kv * gqa_group + q.end)
        };
        let q_per_kv = (q_heads.end - q_heads.start) / (kv_heads.end - kv_heads.start);
        HeadLayout { q_heads, kv_heads, q_per_kv, head_dim: self.head_dim }
    }
}

/// The shapes of a model's layers.
struct LayerShapes {
    /// In the order of the first layer of each.
    distinct: Vec<LayerShape>,
    /// Index into `distinct`, one for each layer.
    of_layer: Vec<usize>,
}

impl LayerShapes {
    fn of(spec: &ModelSpec, world: u32) -> Result<Self, Error> {
        let (mut distinct, mut of_layer) = (Vec::<LayerShape>::new(), Vec::new());
        for layer in &spec.layers {
            let shape = LayerShape::of(layer)?;
            let found = distinct.iter().position(|other| *other == shape);
            of_layer.push(found.unwrap_or(distinct.len()));
            if found.is_none() {
                distinct.push(shape);
            }
        }
        if distinct.is_empty() {
            return Err(refuse("a model without layers cannot be cut"));
        }
        let mut shapes = Self { distinct, of_layer };
        for tensor in spec.tensors.iter().filter(|tensor| tensor.cut == TensorCut::FfnColumns) {
            if let Some(shape) = shapes.of_tensor(tensor) {
                let blocks = tensor.parts.iter().map(|part| part.dtype.block_elems());
                let unit = &mut shapes.distinct[shape].ffn_unit_cols;
                *unit = blocks.fold(*unit, u32::max);
            }
        }
        // Beside experts, dense layers and shared experts are small: no reason to refuse ranks.
        if shapes.distinct.iter().any(|shape| shape.experts > 0) {
            shapes.distinct.iter_mut().for_each(|shape| shape.shrink_units(world));
        }
        Ok(shapes)
    }

    /// The shape of the layer that a tensor belongs to.
    fn of_tensor(&self, tensor: &TensorSpec) -> Option<usize> {
        self.of_layer.get(tensor.layer?).copied()
    }

    /// Refuses more ranks than there are things to share.
    fn check(&self, world: u32) -> Result<(), Error> {
        for shape in &self.distinct {
            check_world(world, shape.heads, "query heads")?;
            if shape.inner > 0 {
                check_world(world, shape.ffn_units(), "FFN blocks")?;
            }
            if shape.experts > 0 {
                check_world(world, shape.experts, "experts")?;
            }
        }
        Ok(())
    }

    fn is_columns_of(&self, tensor: &TensorSpec, shape: usize) -> bool {
        matches!(tensor.cut, TensorCut::FfnRows | TensorCut::FfnColumns)
            && self.of_tensor(tensor) == Some(shape)
    }

    fn is_experts_of(&self, tensor: &TensorSpec, shape: usize) -> bool {
        matches!(tensor.cut, TensorCut::Experts(_)) && self.of_tensor(tensor) == Some(shape)
    }

    /// A rank's layout with its heads; feed-forward and vocabulary are dealt later.
    fn without_ffn(&self, rank: u32, world: u32) -> RankLayout {
        let share = |shape: &LayerShape| LayerLayout {
            heads: shape.heads_of(rank, world),
            ffn: FfnLayout { columns: 0..0, experts: 0..0 },
        };
        RankLayout {
            rank,
            world,
            vocab: 0..0,
            shares: self.distinct.iter().map(share).collect(),
            share_of_layer: self.of_layer.clone(),
        }
    }
}

fn refuse(cause: &str) -> Error {
    Error::new(ErrorKind::Layout, cause)
}

fn check_world(world: u32, things: u32, what: &str) -> Result<(), Error> {
    if world == 0 {
        return Err(refuse("a model needs at least one rank"));
    }
    if world > things {
        let cause = format!("{world} ranks, but the model has only {things} {what} to share");
        let way_out = format!("use --tp {things} or less");
        return Err(Error::new(ErrorKind::Layout, cause).way_out(way_out));
    }
    Ok(())
}

/// Units as elements, of which there are `whole`; the last unit may be short.
fn scaled(units: &Range<u32>, unit: u32, whole: u32) -> Range<u32> {
    units.start * unit..units.end.saturating_mul(unit).min(whole)
}

fn bytes_where(spec: &ModelSpec, wanted: impl Fn(&TensorSpec) -> bool) -> u64 {
    spec.tensors.iter().filter(|tensor| wanted(tensor)).map(TensorSpec::bytes).sum()
}

/// Bytes of what follows the heads; replicated tensors weigh the same everywhere and are left out.
fn head_bytes(spec: &ModelSpec, layout: &RankLayout) -> Result<u64, Error> {
    let of_heads =
        |cut| matches!(cut, TensorCut::QkvHeads | TensorCut::HeadRows(_) | TensorCut::HeadColumns);
    spec.tensors
        .iter()
        .filter(|tensor| of_heads(tensor.cut))
        .map(|tensor| local_bytes(tensor, layout))
        .sum()
}
