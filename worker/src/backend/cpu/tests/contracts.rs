//! Broken contracts are refused by name, before anything is touched.

use std::sync::Arc;

use binfer_proto::{BlockId, Mask, SlotId};
use binfer_shard::DType;
use binfer_shard::spec::{KvShape, Rope, RopeScaling};

use super::{KvDtype, Level, Piece, Rig, batch, output, place};
use crate::backend::args::{
    AttendArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor, TensorKind,
};
use crate::backend::{Backend, BackendError, KvLayerLayout, Weight};
use crate::batch::{Batch, BatchBlocks, TokenInput};

fn cause<T: std::fmt::Debug>(result: Result<T, BackendError>) -> String {
    result.unwrap_err().to_string()
}

fn rig() -> (Rig, Weight, Weight, Vec<Tensor>) {
    let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
    let norm = rig.norm(32).weight;
    let weight = rig.weight(&[(DType::Q8_0, 48)], 32, 0..32).weight;
    let (at, arena) = place(&[(2, 32), (2, 48)]);
    let shape = KvShape::Heads { kv_heads: 1, head_dim: 16 };
    let kv = KvLayerLayout { kv_group: 0, blocks: 4, block_tokens: 16, shape };
    rig.allocate(arena, 10, vec![kv]);
    rig.upload_tokens(&[0, 0], &[]);
    (rig, norm, weight, at)
}

#[test]
fn shapes_places_and_overlaps_are_checked() {
    let (mut rig, norm, weight, at) = rig();
    let (x, eps, bias, glu) = (at[0], 1e-5, None, None);
    let good = NormLinearArgs { x, norm, eps, weight, bias, glu, out: at[1] };
    let mut refused = |args: NormLinearArgs| cause(rig.backend.norm_linear(&args));
    let wide = Tensor { cols: 49, ..at[1] };
    assert!(refused(NormLinearArgs { out: wide, ..good }).contains("weight is [48, 32]"));
    let outside = Tensor { offset: 100, ..at[1] };
    assert!(refused(NormLinearArgs { out: outside, ..good }).contains("arena"));
    let over = Tensor { offset: 60, ..at[1] };
    assert!(refused(NormLinearArgs { out: over, ..good }).contains("overlap"));
    assert!(refused(NormLinearArgs { norm: weight, ..good }).contains("not a vector"));
    assert!(refused(NormLinearArgs { weight: norm, ..good }).contains("not a matrix"));
    assert!(refused(NormLinearArgs { bias: Some(norm), ..good }).contains("bias is [1, 32]"));
    assert!(refused(NormLinearArgs { bias: Some(weight), ..good }).contains("not a vector"));
    assert!(refused(NormLinearArgs { weight: Weight(9), ..good }).contains("never loaded"));
    let one_row = NormLinearArgs { x: at[0].with_rows(1), out: at[1].with_rows(1), ..good };
    assert!(refused(one_row).contains("not [2, 32]"));
    rig.backend.norm_linear(&good).unwrap();
    let half = Tensor { offset: at[1].offset - 1, ..at[1] };
    let args = LinearOutArgs { x, weight, bias, residual: half, out: at[1], next: None };
    assert!(cause(rig.backend.linear_out(&args)).contains("overlap"));
    let args = LinearOutArgs { bias: Some(norm), residual: at[1], ..args };
    assert!(cause(rig.backend.linear_out(&args)).contains("bias is [1, 32], not [1, 48]"));
}

#[test]
fn masks_come_once_before_what_they_are_for() {
    let (mut rig, _, _, at) = rig();
    let logits = Tensor { cols: 10, rows: 1, ..at[0] };
    let (sample, mask) = (SampleArgs { logits }, vec![Mask::of(0, 10, [7])]);
    let step = |masked| {
        let piece = Piece { slot: 0, start: 0, tokens: &[0], table: &[] };
        Arc::new(Batch { outputs: vec![output(0, 0, 1)], masked, ..batch(&[piece]) })
    };
    rig.write(logits, &[1.0; 10]);
    rig.backend.upload(step(false)).unwrap();
    assert!(cause(rig.backend.masks(mask.clone())).contains("the step is not masked"));
    rig.backend.upload(step(true)).unwrap();
    assert!(cause(rig.backend.sample(&sample)).contains("masks have not come"));
    assert!(
        cause(rig.backend.masks(vec![Mask::of(1, 10, [7])])).contains("output 1 is not below 1")
    );
    rig.backend.masks(mask.clone()).unwrap();
    assert!(cause(rig.backend.masks(mask)).contains("its masks already"));
    rig.backend.sample(&sample).unwrap();
    let ticket = rig.backend.commit().unwrap();
    assert_eq!(rig.backend.collect(ticket).unwrap().sampled[0].token, 7);
}

#[test]
fn block_tables_are_checked() {
    let (mut rig, norm, ..) = rig();
    let rope = Rope { theta: 1e4, dims: 16, scaling: RopeScaling::None };
    let qkv = Tensor { offset: 0, rows: 2, cols: 48, kind: TensorKind::Inner };
    let out = Tensor { offset: 96, rows: 2, cols: 16, kind: TensorKind::Inner };
    let (heads, kv_heads, head_dim, window) = (1, 1, 16, None);
    let (layer, kv_group) = (0, 0);
    let (q_norm, k_norm, norm_eps) = (None, None, 1e-5);
    let args = AttendArgs {
        qkv,
        heads,
        kv_heads,
        head_dim,
        q_norm,
        k_norm,
        norm_eps,
        rope,
        layer,
        kv_group,
        window,
        sinks: None,
        out,
    };
    for table in [&[][..], &[BlockId(0)], &[BlockId(0), BlockId(4)]] {
        let piece = Piece { slot: 0, start: 15, tokens: &[0, 0], table };
        rig.backend.upload(Arc::new(batch(&[piece]))).unwrap();
        assert!(cause(rig.backend.attend(&args)).contains("table of KV group 0"), "{table:?}");
    }
    assert!(cause(rig.backend.attend(&AttendArgs { layer: 1, ..args })).contains("no cache"));
    let odd = AttendArgs { rope: Rope { dims: 17, ..rope }, ..args };
    assert!(cause(rig.backend.attend(&odd)).contains("17"));
    let wide = AttendArgs { k_norm: Some(norm), ..args };
    assert!(cause(rig.backend.attend(&wide)).contains("k_norm is [1, 32], not [1, 16]"));
}

#[test]
fn batches_are_checked() {
    let (mut rig, ..) = rig();
    let good = batch(&[Piece { slot: 0, start: 0, tokens: &[1, 2], table: &[] }]);
    let mut refused = |change: &dyn Fn(&mut Batch)| {
        let mut batch = good.clone();
        change(&mut batch);
        cause(rig.backend.upload(Arc::new(batch)))
    };
    assert!(refused(&|batch| batch.positions[1] = 5).contains("row of slot 0"));
    assert!(refused(&|batch| batch.positions.truncate(1)).contains("positions"));
    assert!(refused(&|batch| batch.rows.clear()).contains("rows cover 0"));
    assert!(refused(&|batch| batch.outputs.push(output(0, 2, 0))).contains("outputs"));
    assert!(refused(&|batch| batch.outputs.push(output(16, 1, 0))).contains("slot"));
    let slot = TokenInput::LastSample(SlotId(99));
    assert!(refused(&|batch| batch.tokens[0] = slot).contains("slot"));
    let blocks = |slot, kv_group, first| BatchBlocks {
        slot: SlotId(slot),
        kv_group,
        first,
        ids: vec![BlockId(0)],
    };
    for new in [blocks(16, 0, 0), blocks(0, 1, 0), blocks(0, 0, 64), blocks(0, 0, usize::MAX)] {
        let cause = refused(&|batch| batch.new_blocks.push(new.clone()));
        assert!(cause.contains("1 blocks from"), "{cause}");
    }
    // A table has no gaps.
    assert!(refused(&|batch| batch.new_blocks.push(blocks(0, 0, 1))).contains("behind 0"));
}
