//! Pure: what each rank holds, whether or not the numbers divide.
//!
//! Heads go first, because they are few: with no more ranks than KV heads a rank has contiguous KV
//! heads and all their query heads; with more, a rank has one KV head, and ranks that share it
//! divide its query heads. FFN columns and vocabulary rows are then dealt so that the *bytes* of
//! all ranks come out even. Integers only: every rank computes the same layouts by itself.
//! Deliberately absent: KV memory and devices of different sizes (the fit planner's affair).

use std::ops::Range;

use crate::slice::local_bytes;
use crate::spec::{Cut, Ffn, Mixer, TensorSpec};
use crate::{Error, ErrorKind, ModelSpec};

/// Vocabulary rows are dealt in units of so many (the last unit may be short).
const VOCAB_UNIT_ROWS: u32 = 32;
/// FFN columns are dealt in units of so many, or of a quantisation block where that is longer.
const FFN_UNIT_COLS_MIN: u32 = 32;

/// One rank's share, the same in every layer. All ranges count in the whole model's numbering, are
/// never empty, and in the order of ranks they cover the model; only `kv_heads` may be shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankLayout {
    /// This rank, below `world`.
    pub rank: u32,
    /// How many ranks there are.
    pub world: u32,
    /// Query heads.
    pub q_heads: Range<u32>,
    /// KV heads that they read; query head `i` of this rank reads its KV head `i / q_per_kv`.
    pub kv_heads: Range<u32>,
    /// Query heads for each KV head *on this rank*.
    pub q_per_kv: u32,
    /// Width of a head, in elements.
    pub head_dim: u32,
    /// FFN columns (rows of gate and up, columns of down), in elements.
    pub ffn: Range<u32>,
    /// Rows of the embedding and of the head.
    pub vocab: Range<u32>,
}

/// The layouts of all ranks, rank 0 first.
///
/// # Errors
/// [`ErrorKind::Layout`] when there are more ranks than query heads, FFN blocks or vocabulary
/// blocks, or when layers differ in shape.
pub fn layouts(spec: &ModelSpec, world: u32) -> Result<Vec<RankLayout>, Error> {
    let shape = Shape::of(spec)?;
    let unit = ffn_unit(spec);
    let ffn_units = shape.inner.div_ceil(unit);
    let vocab_units = spec.vocab.div_ceil(VOCAB_UNIT_ROWS);
    check_world(world, shape.heads, "query heads")?;
    check_world(world, ffn_units, "FFN blocks")?;
    check_world(world, vocab_units, "blocks of vocabulary rows")?;

    let mut layouts: Vec<RankLayout> = (0..world).map(|rank| shape.heads_of(rank, world)).collect();
    let mut held: Vec<u64> =
        layouts.iter().map(|layout| head_bytes(spec, layout)).collect::<Result<_, _>>()?;

    let ffn_bytes = cut_bytes(spec, |cut| matches!(cut, Cut::FfnRows | Cut::FfnColumns));
    let vocab_bytes = cut_bytes(spec, |cut| cut == Cut::VocabRows);
    let even = level(&held, ffn_bytes + vocab_bytes);
    for (layout, dealt) in layouts.iter_mut().zip(deal(ffn_units, &even)) {
        layout.ffn = dealt.start * unit..dealt.end.saturating_mul(unit).min(shape.inner);
        held[layout.rank as usize] += share(ffn_bytes, &layout.ffn, shape.inner);
    }
    for (layout, dealt) in layouts.iter_mut().zip(deal(vocab_units, &level(&held, vocab_bytes))) {
        let end = dealt.end.saturating_mul(VOCAB_UNIT_ROWS).min(spec.vocab);
        layout.vocab = dealt.start * VOCAB_UNIT_ROWS..end;
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

/// The numbers that a cut depends on; one set for all layers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    inner: u32,
}

impl Shape {
    fn of(spec: &ModelSpec) -> Result<Self, Error> {
        let mut shapes = spec.layers.iter().map(|layer| {
            let Mixer::Gqa(gqa) = layer.mixer;
            let Ffn::Glu { inner, .. } = layer.ffn;
            Self { heads: gqa.heads, kv_heads: gqa.kv_heads, head_dim: gqa.head_dim, inner }
        });
        let refuse = |cause: &str| Error::new(ErrorKind::Layout, cause);
        let first = shapes.next().ok_or_else(|| refuse("a model without layers cannot be cut"))?;
        if shapes.any(|shape| shape != first) {
            return Err(refuse("layers of different shapes cannot be cut yet"));
        }
        if first.kv_heads == 0 || !first.heads.is_multiple_of(first.kv_heads) {
            return Err(refuse("the number of query heads is no multiple of that of KV heads"));
        }
        Ok(first)
    }

    /// The heads of a rank; FFN and vocabulary are left for later.
    fn heads_of(self, rank: u32, world: u32) -> RankLayout {
        let group = self.heads / self.kv_heads;
        let (kv_heads, q_heads) = if world <= self.kv_heads {
            let kv = part(self.kv_heads, rank, world);
            (kv.clone(), kv.start * group..kv.end * group)
        } else {
            let kv = (0..self.kv_heads)
                .find(|kv| part(world, *kv, self.kv_heads).contains(&rank))
                .unwrap_or_default();
            let sharers = part(world, kv, self.kv_heads);
            let q = part(group, rank - sharers.start, sharers.end - sharers.start);
            (kv..kv + 1, kv * group + q.start..kv * group + q.end)
        };
        let q_per_kv = (q_heads.end - q_heads.start) / (kv_heads.end - kv_heads.start);
        let head_dim = self.head_dim;
        RankLayout { rank, world, q_heads, kv_heads, q_per_kv, head_dim, ffn: 0..0, vocab: 0..0 }
    }
}

fn check_world(world: u32, things: u32, what: &str) -> Result<(), Error> {
    if world == 0 {
        return Err(Error::new(ErrorKind::Layout, "a model needs at least one rank"));
    }
    if world > things {
        let cause = format!("{world} ranks, but the model has only {things} {what} to share");
        let way_out = format!("use --tp {things} or less");
        return Err(Error::new(ErrorKind::Layout, cause).way_out(way_out));
    }
    Ok(())
}

/// Share `index` when `things` are divided among `sharers`: the first ones get one more.
fn part(things: u32, index: u32, sharers: u32) -> Range<u32> {
    let (each, more) = (things / sharers, things % sharers);
    let start = index * each + index.min(more);
    start..start + each + u32::from(index < more)
}

fn ffn_unit(spec: &ModelSpec) -> u32 {
    let down = spec.tensors.iter().filter(|tensor| tensor.cut == Cut::FfnColumns);
    let blocks = down.flat_map(|tensor| &tensor.parts).map(|part| part.dtype.block_elems());
    blocks.fold(FFN_UNIT_COLS_MIN, u32::max)
}

fn cut_bytes(spec: &ModelSpec, wanted: impl Fn(Cut) -> bool) -> u64 {
    spec.tensors.iter().filter(|tensor| wanted(tensor.cut)).map(TensorSpec::bytes).sum()
}

/// Bytes of what follows the heads; replicated tensors weigh the same everywhere and are left out.
fn head_bytes(spec: &ModelSpec, layout: &RankLayout) -> Result<u64, Error> {
    let of_heads = |cut| matches!(cut, Cut::QkvHeads | Cut::HeadColumns);
    spec.tensors
        .iter()
        .filter(|tensor| of_heads(tensor.cut))
        .map(|tensor| local_bytes(tensor, layout))
        .sum()
}

/// How much of `pool` each rank should get so that all stand at one level, like water poured over
/// steps of these heights: who already stands higher gets nothing.
fn level(heights: &[u64], pool: u64) -> Vec<u64> {
    let mut order: Vec<u64> = heights.to_vec();
    order.sort_unstable();
    let (mut below, mut surface) = (0_u64, 0);
    for (count, height) in (1_u64..).zip(&order) {
        if count > 1 && surface <= *height {
            break;
        }
        below += height;
        surface = (below + pool).div_ceil(count);
    }
    heights.iter().map(|height| surface.saturating_sub(*height)).collect()
}

/// Divides `units` in proportion to `wishes`, at least one each, each border within half a unit of
/// its exact place where that allows.
fn deal(units: u32, wishes: &[u64]) -> Vec<Range<u32>> {
    let total = wishes.iter().map(|wish| u128::from(*wish)).sum::<u128>().max(1);
    let mut after = u32::try_from(wishes.len()).unwrap_or(u32::MAX);
    let (mut sum, mut start) = (0_u128, 0);
    let mut dealt = Vec::with_capacity(wishes.len());
    for wish in wishes {
        sum += u128::from(*wish);
        after -= 1;
        let exact = (sum * u128::from(units) * 2 + total) / (total * 2);
        let end = u32::try_from(exact).unwrap_or(units).clamp(start + 1, units - after);
        dealt.push(start..end);
        start = end;
    }
    dealt
}

/// The part of `bytes` that `range` of `whole` stands for.
fn share(bytes: u64, range: &Range<u32>, whole: u32) -> u64 {
    let exact = u128::from(bytes) * u128::from(range.end - range.start) / u128::from(whole.max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}
