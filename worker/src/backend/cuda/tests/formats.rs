//! Packed weights: every code with every scale, and what is refused.

use binfer_shard::DType;
use binfer_shard::dequant::dequantize_row;
use binfer_shard::spec::TensorCut;
use binfer_shard::{LocalPart, LocalTensor};

use super::gemms::check_packed;
use super::weights::load_of;
use super::{Half, Rig, for_halves, layout, oracle, same_bits};
use crate::backend::args::{LinearOutArgs, TensorKind};
use crate::backend::{Backend, BackendError, Weight};

/// Scales of MXFP4 that are exact: `kScaleMin` to `kScaleMax` in `cuda/packed_weights.cuh`.
const SCALES: std::ops::RangeInclusive<u8> = 18..=144;

/// All products of `weight` with a one at each column: its elements, by column.
fn elements(rig: &mut Rig, weight: Weight, (rows, cols): (usize, usize)) -> Vec<f32> {
    let (at, arena) =
        rig.place(&[(cols, cols, TensorKind::Inner), (cols, rows, TensorKind::Sum)], true);
    rig.allocate(&layout(arena));
    let ones: Vec<f32> =
        (0..cols * cols).map(|i| if i / cols == i % cols { 1.0 } else { 0.0 }).collect();
    rig.write(at[0], &ones);
    rig.write(at[1], &vec![0.0; cols * rows]);
    rig.upload(cols, false);
    let (x, out) = (at[0], at[1]);
    let args = LinearOutArgs { x, weight, bias: None, residual: out, out, next: None };
    rig.backend.linear_out(&args).unwrap();
    let got = rig.read(out);
    rig.outcome();
    got
}

/// The device has the elements of `packed` exactly.
fn check_exact(rig: &mut Rig, dtype: DType, (rows, cols): (usize, usize), packed: &[u8]) {
    let weight = rig.load(dtype, (rows, cols), packed);
    let got = elements(rig, weight, (rows, cols));
    let mut known = vec![0.0; cols];
    for (row, packed) in packed.chunks(packed.len() / rows).enumerate() {
        dequantize_row(dtype, packed, &mut known).unwrap();
        let got: Vec<f32> = (0..cols).map(|column| got[column * rows + row]).collect();
        // A zero's sign is lost in a sum.
        let known: Vec<f32> = known.iter().map(|x| x + 0.0).collect();
        same_bits(&got, &known, &format!("{dtype:?}, row {row}"));
    }
}

#[test]
fn every_code_of_mxfp4_with_every_scale_is_exact() {
    for_halves(|rig| {
        let row = |scale: u8| {
            let codes = (0..16_u8).map(|code| code | ((15 - code) << 4));
            let other = (0..16_u8).map(|code| ((code * 7 + 3) % 16) | (code << 4));
            let blocks = [codes.collect::<Vec<_>>(), other.collect()];
            blocks.into_iter().flat_map(move |codes| std::iter::once(scale).chain(codes))
        };
        let packed: Vec<u8> = SCALES.flat_map(row).collect();
        check_exact(rig, DType::MXFP4, (SCALES.len(), 64), &packed);
    });
}

#[test]
fn every_code_of_fp8_is_exact() {
    for_halves(|rig| {
        // All codes but the two that are no numbers.
        let row = |(row, scale): (u8, f32)| {
            let code = move |at: u8| (row * 128).wrapping_add(at);
            let codes = (0..128).map(move |at| if code(at) & 127 == 127 { 0x40 } else { code(at) });
            scale.to_le_bytes().into_iter().chain(codes)
        };
        let scales = [1.0, 0.0009765625, 3.1e-5, 17.25];
        let rows: Vec<u8> =
            scales.into_iter().flat_map(|scale| [(0, scale), (1, -scale)]).flat_map(row).collect();
        check_exact(rig, DType::FP8_BLOCK, (8, 128), &rows);
    });
}

/// Columns from some block on: the others are a neighbour's.
#[test]
fn a_part_of_the_blocks_of_a_row_is_kept() {
    for_halves(|rig| {
        for (dtype, first, cols) in [(DType::MXFP4, 64, 224), (DType::FP8_BLOCK, 128, 512)] {
            rig.begin(1);
            let (rows, kept) = (19, cols - first - 1);
            let packed = rig.random.packed(dtype, rows, cols);
            let part = LocalPart {
                source: String::new(),
                dtype,
                rows: rows as u32,
                cols: cols as u32,
                inputs: first as u32..cols as u32 - 1,
                ranges: Vec::new(),
            };
            let cut = TensorCut::Replicated;
            let tensor = LocalTensor { name: "part".into(), cut, parts: vec![part] };
            let weight = load_of(&mut rig.backend, &tensor, &packed).unwrap();
            let got = elements(rig, weight, (rows, kept));
            let mut known = vec![0.0; cols];
            for (row, packed) in packed.chunks(packed.len() / rows).enumerate() {
                dequantize_row(dtype, packed, &mut known).unwrap();
                let got: Vec<f32> = (0..kept).map(|column| got[column * rows + row]).collect();
                let known: Vec<f32> = known[first..cols - 1].iter().map(|x| x + 0.0).collect();
                same_bits(&got, &known, &format!("{dtype:?}, row {row}"));
            }
        }
    });
}

fn refusal(rig: &mut Rig, dtype: DType, packed: &[u8]) -> String {
    let cols = dtype.block_elems();
    let part = LocalPart {
        source: String::new(),
        dtype,
        rows: 2,
        cols,
        inputs: 0..cols,
        ranges: Vec::new(),
    };
    let tensor = LocalTensor {
        name: "layers.3.experts".into(),
        cut: TensorCut::Replicated,
        parts: vec![part],
    };
    match load_of(&mut rig.backend, &tensor, packed) {
        Err(error @ BackendError::NoKernel { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_kept_exactly_is_refused_by_name() {
    for_halves(|rig| {
        let mxfp4 = |scale: u8, codes: u8| {
            let row = |scale| std::iter::once(scale).chain([codes; 16]).collect::<Vec<u8>>();
            [row(127), row(scale)].concat()
        };
        for (scale, power) in [(17_u8, -110), (145, 18), (255, 128), (0, -127)] {
            let words = refusal(rig, DType::MXFP4, &mxfp4(scale, 0x10));
            assert!(
                words.contains("layers.3.experts") && words.contains(&format!("2^{power} ")),
                "{words}"
            );
        }
        // Zeros are zeros at any scale, and minus zeros too.
        for codes in [0x00, 0x88] {
            check_zeros(rig, &mxfp4(0, codes));
        }
        let mut fp8: Vec<u8> = [1.0_f32.to_le_bytes().as_slice(), &[0x21; 128]].concat().repeat(2);
        fp8[132 + 4 + 77] = 0xff;
        assert!(refusal(rig, DType::FP8_BLOCK, &fp8).contains("layers.3.experts: FP8"));
        fp8[132 + 4 + 77] = 0x10;
        fp8[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert!(refusal(rig, DType::FP8_BLOCK, &fp8).contains("no numbers"));
    });
}

fn check_zeros(rig: &mut Rig, packed: &[u8]) {
    let weight = rig.load(DType::MXFP4, (2, 32), packed);
    assert!(elements(rig, weight, (2, 32)).iter().all(|x| *x == 0.0));
}

/// Random packed weights are numbers of a usual size, for measurements.
#[test]
fn made_up_packed_weights_are_of_usual_size() {
    for_halves(|rig| {
        for dtype in [DType::MXFP4, DType::FP8_BLOCK] {
            let part = LocalPart {
                source: String::new(),
                dtype,
                rows: 40,
                cols: 256,
                inputs: 0..256,
                ranges: Vec::new(),
            };
            let tensor =
                LocalTensor { name: "x".into(), cut: TensorCut::Replicated, parts: vec![part] };
            let weights = crate::backend::RankDevice::random_weights(
                &mut rig.backend,
                &[tensor],
                &mut |_| (),
            );
            let got = elements(rig, weights.unwrap()[0], (40, 256));
            let largest = got.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let mean = got.iter().sum::<f32>() / got.len() as f32;
            let zeros = got.iter().filter(|x| **x == 0.0).count();
            assert!((0.02..0.06).contains(&largest), "{dtype:?}: {largest}");
            assert!(mean.abs() < 1e-3 && 4 * zeros < got.len(), "{dtype:?}: {mean}, {zeros} zeros");
        }
    });
}

/// Packed weights go the way of any other through all that a gemm may end in.
#[test]
fn gemms_of_every_epilogue_take_packed_weights() {
    for_halves(|rig| {
        for dtype in [DType::MXFP4, DType::FP8_BLOCK] {
            for (tokens, is_glu) in [(1, false), (9, true), (70, false), (300, true)] {
                rig.begin(10 * tokens as u64);
                check_packed(rig, dtype, tokens, is_glu);
            }
        }
    });
}

#[test]
fn weights_of_every_type_are_multiplied_by() {
    let Some(mut rig) = Rig::new(Half::Bf16, 5) else { return };
    for dtype in DType::ALL {
        let weight = rig.weight(dtype, 33, 256);
        let (at, arena) = rig.place(&[(3, 256, TensorKind::Inner), (3, 33, TensorKind::Sum)], true);
        rig.allocate(&layout(arena));
        let x = rig.random.floats(3 * 256);
        let x = rig.write(at[0], &x);
        rig.write(at[1], &[0.0; 99]);
        rig.upload(3, false);
        let (x_at, weight_at, out) = (at[0], weight.weight, at[1]);
        let args = LinearOutArgs {
            x: x_at,
            weight: weight_at,
            bias: None,
            residual: out,
            out,
            next: None,
        };
        rig.backend.linear_out(&args).unwrap();
        let gemm = |x| oracle::gemm(&oracle::wide(x), &weight.rows);
        let want: Vec<_> = x.chunks(256).flat_map(gemm).collect();
        crate::backend::tests::assert_near(&rig.read(out), &want, 1e-5, &format!("{dtype:?}"));
        rig.outcome();
    }
}
