//! The slicer over random shapes, types and rank counts: put together, the slices are the tensor.

use std::ops::Range;

use binfer_shard::dequant::dequantize_row;
use binfer_shard::spec::{PartSpec, RowOrder, TensorCut, TensorSpec};
use binfer_shard::{DType, LocalPart, RankLayout, layouts, local_tensor, local_tensors};
use proptest::prelude::*;

use crate::gguf_writer::byte_of;
use crate::model::{Model, models, stack, stacks};

/// Rows and real columns of a part that a rank should have, in the engine's numbering.
fn wanted(tensor: &TensorSpec, index: usize, layout: &RankLayout) -> (Range<u32>, Range<u32>) {
    let part = &tensor.parts[index];
    let layer = layout.layer(tensor.layer.unwrap_or(0)).unwrap();
    let dim = layer.heads.head_dim;
    let heads = |heads: &Range<u32>| heads.start * dim..heads.end * dim;
    let ffn = &layer.ffn.columns;
    match (tensor.cut, index) {
        (TensorCut::Replicated, _) => (0..part.rows, 0..part.cols),
        (TensorCut::QkvHeads, 0) => (heads(&layer.heads.q_heads), 0..part.cols),
        (TensorCut::QkvHeads, _) => (heads(&layer.heads.kv_heads), 0..part.cols),
        (TensorCut::HeadRows(each), _) => {
            let heads = &layer.heads.q_heads;
            (heads.start * each..heads.end * each, 0..part.cols)
        }
        (TensorCut::Experts(each), _) => {
            let held = layer.ffn.experts.contains(&(index as u32 / each));
            (0..if held { part.rows } else { 0 }, 0..part.cols)
        }
        (TensorCut::HeadColumns, _) => (0..part.rows, heads(&layer.heads.q_heads)),
        (TensorCut::FfnRows, _) => (ffn.clone(), 0..part.cols),
        (TensorCut::FfnColumns, _) => (0..part.rows, ffn.clone()),
        (TensorCut::VocabRows, _) => (layout.vocab.clone(), 0..part.cols),
    }
}

/// llama.cpp's converter, forwards: `reshape(heads, 2, dim / 2).swapaxes(1, 2)`. Gives, for each
/// row of the checkpoint, the engine's row that it holds.
fn converted(rows: u32, head_dim: u32) -> Vec<u32> {
    let mut order = Vec::new();
    for head in 0..rows / head_dim {
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                order.push(head * head_dim + half * (head_dim / 2) + pair);
            }
        }
    }
    order
}

/// The checkpoint's order of a part's rows.
fn order(part: &PartSpec) -> Vec<u32> {
    match part.row_order {
        RowOrder::AsIs => (0..part.rows).collect(),
        RowOrder::LlamaCppInterleaved { head_dim } => converted(part.rows, head_dim),
        RowOrder::InterleavedTail { head_dim, tail } => {
            let plain = head_dim - tail;
            let heads = 0..part.rows / head_dim;
            let of_head = |head: u32| {
                let first = head * head_dim;
                let rotated = converted(tail, tail).into_iter().map(move |row| first + plain + row);
                (first..first + plain).chain(rotated)
            };
            heads.flat_map(of_head).collect()
        }
    }
}

/// Source offset of each block of the slice, in order.
fn blocks(part: &LocalPart) -> Vec<u64> {
    let block = u64::from(part.dtype.block_bytes());
    let mut offsets = Vec::new();
    for range in &part.ranges {
        assert!(range.start < range.end && range.start % block == 0 && range.end % block == 0);
        offsets.extend((range.start..range.end).step_by(block as usize));
    }
    offsets
}

/// Checks one rank's slice block by block, and counts the blocks that it used.
fn check_slice(
    part: &PartSpec,
    local: &LocalPart,
    want: &(Range<u32>, Range<u32>),
    used: &mut [u32],
) {
    let (rows, own) = want.clone();
    let block = part.dtype.block_elems();
    let cover = own.start / block..own.end.div_ceil(block);
    assert_eq!((local.dtype, &local.source), (part.dtype, &part.source));
    assert_eq!(
        (local.rows, local.cols),
        (rows.end - rows.start, (cover.end - cover.start) * block)
    );
    assert_eq!(local.inputs.start + cover.start * block, own.start);
    assert_eq!(local.inputs.end - local.inputs.start, own.end - own.start);
    assert!(local.inputs.start < block && local.cols - local.inputs.end < block);

    let mut sources = vec![0; part.rows as usize];
    for (source, held) in (0..).zip(order(part)) {
        sources[held as usize] = source;
    }
    let mut offsets = blocks(local).into_iter();
    for row in rows {
        let source: u64 = sources[row as usize];
        for column in cover.clone() {
            let index = source * u64::from(part.cols / block) + u64::from(column);
            assert_eq!(offsets.next(), Some(index * u64::from(part.dtype.block_bytes())));
            used[index as usize] += 1;
        }
    }
    assert_eq!(offsets.next(), None);
    let bytes: u64 = local.ranges.iter().map(|range| range.end - range.start).sum();
    assert_eq!(bytes, local.bytes());
}

/// How many ranks should hold each block: those whose rows and columns meet it.
fn holders(part: &PartSpec, wants: &[(Range<u32>, Range<u32>)]) -> Vec<u32> {
    let block = part.dtype.block_elems();
    let mut counts = Vec::new();
    for row in order(part) {
        for first in (0..part.cols).step_by(block as usize) {
            let meets = |(rows, own): &&(Range<u32>, Range<u32>)| {
                rows.contains(&row) && own.start < first + block && first < own.end
            };
            counts.push(wants.iter().filter(meets).count() as u32);
        }
    }
    counts
}

/// Whether the cut declares that blocks of this part may be held by several ranks.
fn may_repeat(tensor: &TensorSpec, index: usize, model: &Model, world: u32) -> bool {
    match tensor.cut {
        TensorCut::Replicated => true,
        TensorCut::QkvHeads => index > 0 && world > model.kv_heads,
        TensorCut::HeadColumns => {
            !model.head_dim.is_multiple_of(tensor.parts[0].dtype.block_elems())
        }
        TensorCut::FfnRows | TensorCut::FfnColumns | TensorCut::VocabRows => false,
        TensorCut::HeadRows(_) | TensorCut::Experts(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn slices_of_all_ranks_are_the_tensor(layers in stacks(), wish in 0_u32..9) {
        let heads_min = layers.iter().map(|model| model.heads).min().unwrap();
        let world = wish % heads_min + 1;
        let spec = stack(&layers);
        let layouts = layouts(&spec, world).unwrap();
        for tensor in &spec.tensors {
            let locals: Vec<_> =
                layouts.iter().map(|layout| local_tensor(tensor, layout).unwrap()).collect();
            for (index, part) in tensor.parts.iter().enumerate() {
                let wants: Vec<_> =
                    layouts.iter().map(|layout| wanted(tensor, index, layout)).collect();
                let count = part.bytes() / u64::from(part.dtype.block_bytes());
                let mut used = vec![0; count as usize];
                for (local, want) in locals.iter().zip(&wants) {
                    check_slice(part, &local.parts[index], want, &mut used);
                }
                let model = &layers[tensor.layer.unwrap_or(0)];
                let once = !may_repeat(tensor, index, model, world);
                prop_assert!(used.iter().all(|used| *used == 1 || !once && *used > 1));
                prop_assert_eq!(used, holders(part, &wants));
            }
        }
    }

    #[test]
    fn bytes_come_out_even(model in models(), wish in 0_u32..9) {
        let world = wish % model.heads + 1;
        let spec = model.spec();
        let bytes: Vec<u64> = layouts(&spec, world)
            .unwrap()
            .iter()
            .map(|layout| local_tensors(&spec, layout).unwrap().iter().map(|t| t.bytes()).sum())
            .collect();
        let mean = bytes.iter().sum::<u64>() / u64::from(world);
        // A border is within half a unit of its exact place; FFN borders that vocabulary rows
        // cannot make good, heads heavier than the rest of a rank, are bounded by their own size.
        let unit = |name: &str| {
            let tensor = spec.tensor(name).unwrap();
            tensor.parts.iter().map(|part| part.row_bytes() * 32).sum::<u64>()
        };
        // Columns of `down` are cut between blocks, so rows of gate and up go with them.
        let down = &spec.tensor("down").unwrap().parts[0];
        let cols = u64::from(down.dtype.block_elems().max(32));
        let ffn_unit =
            unit("gate_up") * cols / 32 + down.bytes() * cols / u64::from(model.inner) + 1;
        let head = (spec.tensor("qkv").unwrap().bytes() + spec.tensor("out").unwrap().bytes())
            / u64::from(model.kv_heads);
        let bound = unit("embed") + ffn_unit + head;
        prop_assert!(bytes.iter().all(|bytes| bytes.abs_diff(mean) <= bound), "{:?}", bytes);
    }
}

#[test]
fn a_head_border_inside_a_block() {
    let mut model = Model {
        heads: 2,
        kv_heads: 2,
        head_dim: 48,
        inner: 64,
        hidden: 32,
        vocab: 64,
        qkv: [DType::F32; 3],
        out: DType::Q8_0,
        ffn: [DType::F32; 3],
        embed: DType::F32,
    };
    let spec = model.spec();
    let out = spec.tensor("out").unwrap();
    let slices: Vec<LocalPart> = layouts(&spec, 2)
        .unwrap()
        .iter()
        .map(|layout| local_tensor(out, layout).unwrap().parts.remove(0))
        .collect();
    assert_eq!((slices[0].cols, slices[0].inputs.clone()), (64, 0..48));
    assert_eq!((slices[1].cols, slices[1].inputs.clone()), (64, 16..64));
    assert_eq!((&slices[0].ranges[0], &slices[1].ranges[0]), (&(0..68), &(34..102)));

    model.out = DType::F16;
    let spec = model.spec();
    let layout = &layouts(&spec, 2).unwrap()[1];
    let part = local_tensor(spec.tensor("out").unwrap(), layout).unwrap().parts.remove(0);
    assert_eq!((part.cols, part.inputs), (48, 0..48));
}

#[test]
fn a_head_border_inside_a_super_block() {
    let model = Model {
        heads: 6,
        kv_heads: 3,
        head_dim: 128,
        inner: 1024,
        hidden: 256,
        vocab: 128,
        qkv: [DType::Q4_K, DType::Q4_K, DType::Q6_K],
        out: DType::Q4_K,
        ffn: [DType::Q4_K, DType::Q4_K, DType::Q6_K],
        embed: DType::Q6_K,
    };
    let spec = model.spec();
    let out = &spec.tensor("out").unwrap().parts[0];
    let checkpoint: Vec<u8> = (0..out.bytes()).map(|at| byte_of("out", at) & 0x3f).collect();
    let whole = dequantized(DType::Q4_K, &checkpoint, out.rows, out.cols);
    for world in 1..=4 {
        let mut columns = vec![Vec::<f32>::new(); out.rows as usize];
        let mut blocks_of_a_row = 0;
        for layout in layouts(&spec, world).unwrap() {
            let part = local_tensor(spec.tensor("out").unwrap(), &layout).unwrap().parts.remove(0);
            let bytes = |range: &Range<u64>| &checkpoint[range.start as usize..range.end as usize];
            let packed: Vec<u8> = part.ranges.iter().flat_map(bytes).copied().collect();
            let rows = dequantized(part.dtype, &packed, part.rows, part.cols);
            for (columns, row) in columns.iter_mut().zip(rows) {
                columns.extend(&row[part.inputs.start as usize..part.inputs.end as usize]);
            }
            blocks_of_a_row += part.cols / 256;
        }
        // What the ranks feed is the tensor, each column once.
        assert_eq!(columns, whole, "{world} ranks");
        // Two heads are a super-block; four ranks divide one of the three pairs.
        assert_eq!(blocks_of_a_row, [3, 3, 3, 4][world as usize - 1], "{world} ranks");
    }
}

/// Rows of numbers.
fn dequantized(dtype: DType, packed: &[u8], rows: u32, cols: u32) -> Vec<Vec<f32>> {
    let row = |packed: &[u8]| {
        let mut row = vec![0.0; cols as usize];
        dequantize_row(dtype, packed, &mut row).unwrap();
        row
    };
    packed.chunks(packed.len() / rows as usize).map(row).collect()
}

#[test]
fn contiguous_ranges_are_one_and_foreign_layouts_are_refused() {
    let model = Model {
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        inner: 128,
        hidden: 64,
        vocab: 128,
        qkv: [DType::Q4_1; 3],
        out: DType::Q4_1,
        ffn: [DType::Q4_1; 3],
        embed: DType::Q8_0,
    };
    let spec = model.spec();
    let layouts = layouts(&spec, 2).unwrap();
    for (name, ranges) in [("embed", 1), ("gate_up", 1), ("down", 64)] {
        let local = local_tensor(spec.tensor(name).unwrap(), &layouts[1]).unwrap();
        assert_eq!(local.parts[0].ranges.len(), ranges, "{name}");
    }
    let small = Model { vocab: 64, ..model }.spec();
    let error = local_tensor(small.tensor("embed").unwrap(), &layouts[1]).unwrap_err();
    assert!(error.to_string().starts_with("e: rank 1 of 2 wants rows"), "{error}");
}
