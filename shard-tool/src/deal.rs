//! Integers divided among ranks: evenly, or in proportion to what each may still take.

use std::ops::Range;

/// Share `index` when `things` are divided among `sharers`: the first ones get one more.
pub(crate) fn even_share(things: u32, index: u32, sharers: u32) -> Range<u32> {
    let (each, more) = (things / sharers, things % sharers);
    let start = index * each + index.min(more);
    start..start + each + u32::from(index < more)
}

/// How much of `pool` each rank should get so that all stand at one level, like water poured over
/// steps of these heights: a rank that already stands higher gets nothing.
pub(crate) fn level(heights: &[u64], pool: u64) -> Vec<u64> {
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

/// Divides `units` in proportion to `weights`, at least one each, each border within half a unit of
/// its exact place where that allows.
pub(crate) fn deal(units: u32, weights: &[u64]) -> Vec<Range<u32>> {
    let total = weights.iter().map(|weight| u128::from(*weight)).sum::<u128>().max(1);
    let mut after = u32::try_from(weights.len()).unwrap_or(u32::MAX);
    let (mut sum, mut start) = (0_u128, 0);
    let mut dealt = Vec::with_capacity(weights.len());
    for weight in weights {
        sum += u128::from(*weight);
        after -= 1;
        let exact = (sum * u128::from(units) * 2 + total) / (total * 2);
        let end = u32::try_from(exact).unwrap_or(units).clamp(start + 1, units - after);
        dealt.push(start..end);
        start = end;
    }
    dealt
}

/// The part of `bytes` that `range` of `whole` stands for.
pub(crate) fn share_of(bytes: u64, range: &Range<u32>, whole: u32) -> u64 {
    let exact = u128::from(bytes) * u128::from(range.end - range.start) / u128::from(whole.max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}
