//! Stream-K gemms, on images that have them: tiles that blocks share, rings that run on from tile
//! to tile, and tokens that do not see each other. All their ways out are in `gemms.rs`, too.

use binfer_kernels::Target;
use binfer_shard::DType;

use super::{HALVES, Half, Known, Rig, is_sanitized, layout, numbers_of_tokens, oracle, same_bits};
use crate::backend::args::{LinearOutArgs, Tensor, TensorKind};
use crate::backend::{Backend, DeviceClock};

/// Inputs and rows: a short row; tiles of many chunks, each block's first; more tiles than blocks.
const SHAPES: [(usize, usize); 3] = [(8, 3), (2056, 77), (328, 20_001)];

/// A rig with these gemms; none where the image has others, which is said.
fn rig(half: Half, seed: u64) -> Option<Rig> {
    let rig = Rig::new(half, seed)?;
    let target = rig.backend.device.target;
    if target == Target::Sm90a {
        eprintln!("skipped: {} has no stream-K gemms", target.name());
        return None;
    }
    Some(rig)
}

/// `x` times the weight, added to zeros, by a stream-K gemm.
fn multiply(rig: &mut Rig, (x, weight, out): (Tensor, &Known, Tensor)) -> Vec<f32> {
    rig.write(out, &vec![0.0; out.len()]);
    rig.upload(x.rows, true);
    rig.backend.device.keep_names(true);
    let (weight, residual) = (weight.weight, out);
    let args = LinearOutArgs { x, weight, bias: None, residual, out, next: None };
    rig.backend.linear_out(&args).unwrap();
    let names = rig.backend.launched();
    assert!(names.iter().any(|name| name.starts_with("stream_k_gemm")), "{names:?}");
    let got = rig.read(out);
    rig.outcome();
    got
}

#[test]
fn tokens_do_not_see_each_other_and_gemms_equal_their_oracle() {
    let shapes = if is_sanitized() { &SHAPES[..2] } else { &SHAPES[..] };
    for (half, (cols, rows)) in HALVES.into_iter().flat_map(|h| shapes.iter().map(move |s| (h, *s)))
    {
        let Some(mut rig) = rig(half, 7) else { return };
        let weight = rig.weight(DType::BF16, rows, cols);
        let few = if rows > 10_000 { 16 } else { 256 };
        for tokens in numbers_of_tokens().filter(|tokens| *tokens <= few) {
            let what = format!("{half:?} {tokens} x {cols} x {rows}");
            let shapes = [(tokens, cols, TensorKind::Inner), (tokens, rows, TensorKind::Sum)];
            let (at, arena) = rig.place(&shapes, true);
            rig.allocate(&layout(arena));
            let mut x = rig.random.floats(tokens * cols);
            let stored = rig.write(at[0], &x);
            let got = multiply(&mut rig, (at[0], &weight, at[1]));
            let again = multiply(&mut rig, (at[0], &weight, at[1]));
            same_bits(&got, &again, &what);
            let token = rig.random.below(tokens);
            let wide = oracle::wide(&stored[token * cols..][..cols]);
            let want = oracle::gemm(&wide, &weight.rows);
            let of_token = |sums: &[f32]| sums[token * rows..][..rows].to_vec();
            crate::backend::tests::assert_near(&of_token(&got), &want, 1e-5, &what);
            // The others are not even numbers.
            for (other, row) in x.chunks_mut(cols).enumerate().filter(|(other, _)| *other != token)
            {
                row.fill(if other % 2 == 0 { f32::NAN } else { f32::INFINITY });
            }
            rig.write(at[0], &x);
            let alone = multiply(&mut rig, (at[0], &weight, at[1]));
            same_bits(&of_token(&got), &of_token(&alone), &what);
        }
    }
}
