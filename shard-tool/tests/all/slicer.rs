//! The slicer over random shapes, types and rank counts: put together, the slices are the tensor.

use std::ops::Range;

use binfer_shard::spec::{Cut, Part, RowOrder, TensorSpec};
use binfer_shard::{DType, LocalPart, RankLayout, layouts, local_tensor, local_tensors};
use proptest::prelude::*;

use crate::model::{Model, models};

/// Rows and real columns of a part that a rank should have, in the engine's numbering.
fn wanted(tensor: &TensorSpec, index: usize, layout: &RankLayout) -> (Range<u32>, Range<u32>) {
    let part = &tensor.parts[index];
    let heads = |heads: &Range<u32>| heads.start * layout.head_dim..heads.end * layout.head_dim;
    match (tensor.cut, index) {
        (Cut::Replicated, _) => (0..part.rows, 0..part.cols),
        (Cut::QkvHeads, 0) => (heads(&layout.q_heads), 0..part.cols),
        (Cut::QkvHeads, _) => (heads(&layout.kv_heads), 0..part.cols),
        (Cut::HeadColumns, _) => (0..part.rows, heads(&layout.q_heads)),
        (Cut::FfnRows, _) => (layout.ffn.clone(), 0..part.cols),
        (Cut::FfnColumns, _) => (0..part.rows, layout.ffn.clone()),
        (Cut::VocabRows, _) => (layout.vocab.clone(), 0..part.cols),
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
fn check_slice(part: &Part, local: &LocalPart, want: (Range<u32>, Range<u32>), used: &mut [u32]) {
    let (rows, own) = want;
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

    let order = match part.row_order {
        RowOrder::AsIs => (0..part.rows).collect(),
        RowOrder::LlamaCppInterleaved { head_dim } => converted(part.rows, head_dim),
    };
    let mut offsets = blocks(local).into_iter();
    for row in rows {
        let source = order.iter().position(|held| *held == row).unwrap() as u64;
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

/// How many ranks should hold a block: those whose rows and columns meet it.
fn holders(part: &Part, index: u32, wants: &[(Range<u32>, Range<u32>)]) -> u32 {
    let block = part.dtype.block_elems();
    let per_row = part.cols / block;
    let (source, first) = (index / per_row, index % per_row * block);
    let row = match part.row_order {
        RowOrder::AsIs => source,
        RowOrder::LlamaCppInterleaved { head_dim } => {
            converted(part.rows, head_dim)[source as usize]
        }
    };
    let meets = |(rows, own): &&(Range<u32>, Range<u32>)| {
        rows.contains(&row) && own.start < first + block && first < own.end
    };
    wants.iter().filter(meets).count() as u32
}

/// Whether the cut declares that blocks of this part may be held by several ranks.
fn may_repeat(tensor: &TensorSpec, index: usize, model: &Model, world: u32) -> bool {
    match tensor.cut {
        Cut::Replicated => true,
        Cut::QkvHeads => index > 0 && world > model.kv_heads,
        Cut::HeadColumns => !model.head_dim.is_multiple_of(tensor.parts[0].dtype.block_elems()),
        Cut::FfnRows | Cut::FfnColumns | Cut::VocabRows => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn slices_of_all_ranks_are_the_tensor(model in models(), wish in 0_u32..9) {
        let world = wish % model.heads + 1;
        let spec = model.spec();
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
                    check_slice(part, &local.parts[index], want.clone(), &mut used);
                }
                for (block, used) in (0..).zip(used) {
                    prop_assert!(used >= 1);
                    prop_assert!(used == 1 || may_repeat(tensor, index, &model, world));
                    prop_assert_eq!(used, holders(part, block, &wants));
                }
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
        let down = &spec.tensor("down").unwrap().parts[0];
        let ffn_unit = unit("gate_up") + down.bytes() * 32 / u64::from(model.inner) + 1;
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
