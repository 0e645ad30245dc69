//! Embedding, gemms with norm and gate, gemms with residual, logits.

use binfer_shard::spec::ActivationFn;
use binfer_shard::{DType, quant};

use super::{Known, KvDtype, Level, Random, Rig, assert_near, oracle, place};
use crate::backend::args::{
    EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor,
};
use crate::backend::{Backend, Weight};

const EPS: f32 = 1e-5;
/// Roundings of one gemm, relative to the sum of its terms' magnitudes.
const TOLERANCE: f64 = 3e-6;

/// Random parts of a matrix: up to three of any types, rows of any number.
fn parts(random: &mut Random, cols: usize) -> Vec<(DType, usize)> {
    let part = |random: &mut Random| (random.dtype(cols), 1 + random.below(70));
    (0..1 + random.below(3)).map(|_| part(random)).chain([(DType::Q4_1, 33)]).collect()
}

/// A bias, where a gemm has one.
struct Bias {
    weight: Option<Weight>,
    /// `[outputs]`.
    values: Vec<f64>,
}

impl Bias {
    /// None in half of the cases, else of two parts.
    fn random(rig: &mut Rig, outs: usize) -> Self {
        if rig.random.below(2) == 0 {
            return Self { weight: None, values: vec![0.0; outs] };
        }
        let first = 1 + rig.random.below(outs - 1);
        let known = rig.weight(&[(DType::F32, first), (DType::F16, outs - first)], 1, 0..1);
        Self { weight: Some(known.weight), values: known.rows.concat() }
    }

    fn add_to(&self, sums: Vec<oracle::Sum>) -> Vec<oracle::Sum> {
        let add = |(sum, bias): (oracle::Sum, &f64)| oracle::Sum {
            value: sum.value + bias,
            size: sum.size + bias.abs(),
        };
        sums.into_iter().zip(&self.values).map(add).collect()
    }
}

/// Calls `test` with backends of all instruction sets and several shapes.
fn for_random_shapes(test: impl Fn(&mut Rig, usize)) {
    for level in Level::available() {
        for round in 0..6 {
            let threads = 1 + round % 2;
            let mut rig = Rig::new(level, threads, KvDtype::F32);
            rig.random = Random(round as u64 + 1);
            let tokens = [1, 2, 3, 7, 41, 150][round];
            test(&mut rig, tokens);
        }
    }
}

#[test]
fn norm_linear_equals_its_oracle() {
    for_random_shapes(|rig, tokens| {
        let cols = [32, 64, 160, 256, 512][rig.random.below(5)];
        let parts = parts(&mut rig.random, cols);
        let (norm, weight) = (rig.norm(cols), rig.weight(&parts, cols, 0..cols));
        let outs = weight.rows.len();
        let bias = Bias::random(rig, outs);
        let (at, arena) = place(&[(tokens, cols), (tokens, outs)]);
        rig.allocate(arena, 0, Vec::new());
        let x = rig.random.floats(tokens * cols);
        rig.write(at[0], &x);
        rig.upload_tokens(&vec![0; tokens], &[]);
        let args = NormLinearArgs {
            x: at[0],
            norm: norm.weight,
            eps: EPS,
            weight: weight.weight,
            bias: bias.weight,
            glu: None,
            out: at[1],
        };
        rig.backend.norm_linear(&args).unwrap();
        let want: Vec<_> = x
            .chunks(cols)
            .map(|x| oracle::gemm(&oracle::rms_norm(x, &norm.rows[0], EPS), &weight.rows))
            .flat_map(|sums| bias.add_to(sums))
            .collect();
        assert_near(&rig.read(at[1]), &want, TOLERANCE, &format!("{tokens} x {parts:?}"));
    });
}

#[test]
fn gated_norm_linear_equals_its_oracle() {
    for_random_shapes(|rig, tokens| {
        let cols = 64;
        let inner = 5 + rig.random.below(60);
        // One part for both halves at times: then a band lies on the border.
        let parts =
            [vec![(DType::Q4_1, inner), (DType::Q8_0, inner)], vec![(DType::F16, 2 * inner)]];
        let parts = &parts[rig.random.below(2)];
        let (norm, weight) = (rig.norm(cols), rig.weight(parts, cols, 0..cols));
        let bias = Bias::random(rig, 2 * inner);
        let (at, arena) = place(&[(tokens, cols), (tokens, inner)]);
        rig.allocate(arena, 0, Vec::new());
        let x = rig.random.floats(tokens * cols);
        rig.write(at[0], &x);
        rig.upload_tokens(&vec![0; tokens], &[]);
        let args = NormLinearArgs {
            x: at[0],
            norm: norm.weight,
            eps: EPS,
            weight: weight.weight,
            bias: bias.weight,
            glu: Some(ActivationFn::Silu),
            out: at[1],
        };
        rig.backend.norm_linear(&args).unwrap();
        let gated = |x: &[f32]| {
            let normed = oracle::rms_norm(x, &norm.rows[0], EPS);
            oracle::glu(ActivationFn::Silu, &bias.add_to(oracle::gemm(&normed, &weight.rows)))
        };
        let want: Vec<_> = x.chunks(cols).flat_map(gated).collect();
        assert_near(&rig.read(at[1]), &want, TOLERANCE, &format!("{tokens} x {parts:?}"));
    });
}

#[test]
fn linear_out_adds_to_the_residual_and_feeds_foreign_columns_nothing() {
    for_random_shapes(|rig, tokens| {
        let dtype = DType::ALL[rig.random.below(DType::ALL.len())];
        let block = dtype.block_elems().max(32) as usize;
        let (outs, cols) = (40 + rig.random.below(50), 3 * block);
        let inputs = rig.random.below(block)..cols - rig.random.below(block);
        let fed = inputs.len();
        let weight = rig.weight(&[(dtype, outs)], cols, inputs);
        let bias = Bias::random(rig, outs);
        let (at, arena) = place(&[(tokens, fed), (tokens, outs), (tokens, outs)]);
        rig.allocate(arena, 0, Vec::new());
        let (x, residual) = (rig.random.floats(tokens * fed), rig.random.floats(tokens * outs));
        rig.write(at[0], &x);
        rig.write(at[1], &residual);
        rig.upload_tokens(&vec![0; tokens], &[]);
        let gemm = |x| bias.add_to(oracle::gemm(&oracle::wide(x), &weight.rows));
        let sums = x.chunks(fed).flat_map(gemm);
        let add = |(sum, residual): (oracle::Sum, &f32)| {
            let residual = f64::from(*residual);
            oracle::Sum { value: sum.value + residual, size: sum.size + residual.abs() }
        };
        let want: Vec<_> = sums.zip(&residual).map(add).collect();
        // Into another tensor first, then in place.
        for out in [at[2], at[1]] {
            let (weight, bias) = (weight.weight, bias.weight);
            let args = LinearOutArgs { x: at[0], weight, bias, residual: at[1], out, next: None };
            rig.backend.linear_out(&args).unwrap();
            assert_near(&rig.read(out), &want, TOLERANCE, &format!("{tokens} x {dtype:?}"));
        }
    });
}

#[test]
fn every_type_equals_its_oracle_and_no_token_notices_its_company() {
    const COLS: usize = 512;
    const ROWS: usize = 37;
    const TOKENS: usize = 15;
    for (level, dtype) in
        Level::available().into_iter().flat_map(|level| DType::ALL.map(|dtype| (level, dtype)))
    {
        let mut rig = Rig::new(level, 1, KvDtype::F32);
        let weight = rig.weight(&[(dtype, ROWS)], COLS, 0..COLS);
        let (at, arena) = place(&[(TOKENS, COLS), (TOKENS, ROWS), (1, COLS), (1, ROWS)]);
        rig.allocate(arena, 0, Vec::new());
        let x = rig.random.floats(TOKENS * COLS);
        let mut gemm = |x: &[f32], from: Tensor, to: Tensor| {
            rig.write(from, x);
            rig.write(to, &vec![0.0; to.len()]);
            rig.upload_tokens(&vec![0; from.rows], &[]);
            let weight = weight.weight;
            let args =
                LinearOutArgs { x: from, weight, bias: None, residual: to, out: to, next: None };
            rig.backend.linear_out(&args).unwrap();
            rig.read(to)
        };
        let together = gemm(&x, at[0], at[1]);
        let want: Vec<_> =
            x.chunks(COLS).flat_map(|x| oracle::gemm(&oracle::wide(x), &weight.rows)).collect();
        assert_near(&together, &want, TOLERANCE, &format!("{level:?} {dtype:?}"));
        for (x, together) in x.chunks(COLS).zip(together.chunks(ROWS)) {
            assert_eq!(gemm(x, at[2], at[3]), together, "{level:?} {dtype:?}");
        }
    }
}

/// Weights of 32 inputs, one by one: tokens of which one input is 1.
fn weights_of(level: Level, dtype: DType, packed: Vec<u8>, cols: usize) -> Vec<Vec<f32>> {
    let rows = packed.len() / (cols / dtype.block_elems() as usize * dtype.block_bytes() as usize);
    let mut rig = Rig::new(level, 1, KvDtype::F32);
    let weight = rig.weight_of(&[(dtype, rows)], cols, 0..cols, &[packed]).weight;
    let (at, arena) = place(&[(cols, cols), (cols, rows)]);
    rig.allocate(arena, 0, Vec::new());
    let mut x = vec![0.0; cols * cols];
    x.iter_mut().step_by(cols + 1).for_each(|x| *x = 1.0);
    rig.write(at[0], &x);
    rig.write(at[1], &vec![0.0; cols * rows]);
    rig.upload_tokens(&vec![0; cols], &[]);
    let (residual, out) = (at[1], at[1]);
    let args = LinearOutArgs { x: at[0], weight, bias: None, residual, out, next: None };
    rig.backend.linear_out(&args).unwrap();
    rig.read(at[1]).chunks(rows).map(<[f32]>::to_vec).collect()
}

#[test]
fn every_code_and_scale_of_small_floats_is_exact() {
    for level in Level::available() {
        // All scales but NaN; 32 columns hold every code twice.
        let block = |scale: u8| {
            let pairs = (0..16).map(|low| low | (15 - low) << 4);
            std::iter::once(scale).chain(pairs).collect::<Vec<_>>()
        };
        let packed = (0..255).flat_map(block).collect();
        let got = weights_of(level, DType::MXFP4, packed, 32);
        for (k, got) in got.iter().enumerate() {
            let code = if k < 16 { k } else { 31 - k };
            for (scale, got) in (0..=254).zip(got) {
                let want = quant::e8m0(scale) * quant::E2M1[code];
                assert_eq!(got, &want, "{level:?} code {code} of scale {scale}");
            }
        }
        // Two rows hold every code; NaN is left out.
        let scales = [0.37_f32, 3e-5];
        let code = |row: usize, k: usize| if k == 127 { 0 } else { (128 * row + k) as u8 };
        let row = |row: usize| {
            let codes = (0..128).map(move |k| code(row, k));
            scales[row].to_le_bytes().into_iter().chain(codes)
        };
        let packed = [0, 1].into_iter().flat_map(row).collect();
        for (k, got) in weights_of(level, DType::FP8_BLOCK, packed, 128).iter().enumerate() {
            let want = [0, 1].map(|row| scales[row] * quant::e4m3(code(row, k)));
            assert_eq!(got[..], want, "{level:?} code {k}");
        }
    }
}

#[test]
fn a_small_float_that_is_none_makes_its_row_none() {
    let mut block = 1_f32.to_le_bytes().to_vec();
    block.extend([0x38; 128]);
    let mut dead = block.clone();
    dead[50] = 0xff;
    let got = weights_of(Level::best(), DType::FP8_BLOCK, [block, dead].concat(), 128);
    assert!(got.iter().all(|got| got[0] == 1.0 && got[1].is_nan()), "{got:?}");
}

#[test]
fn plain_types_take_any_number_of_columns() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
        let weight = rig.weight(&[(dtype, 21)], 77, 0..77);
        let (at, arena) = place(&[(3, 77), (3, 21)]);
        rig.allocate(arena, 0, Vec::new());
        let x = rig.random.floats(3 * 77);
        rig.write(at[0], &x);
        rig.write(at[1], &[0.0; 63]);
        rig.upload_tokens(&[0; 3], &[]);
        let (residual, out) = (at[1], at[1]);
        let args = LinearOutArgs {
            x: at[0],
            weight: weight.weight,
            bias: None,
            residual,
            out,
            next: None,
        };
        rig.backend.linear_out(&args).unwrap();
        let want: Vec<_> =
            x.chunks(77).flat_map(|x| oracle::gemm(&oracle::wide(x), &weight.rows)).collect();
        assert_near(&rig.read(at[1]), &want, TOLERANCE, "77 columns");
    }
}

#[test]
fn embedding_is_a_row_of_the_table_or_zero() {
    for dtype in DType::ALL {
        let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
        let table = rig.weight(&[(dtype, 50)], 256, 0..256);
        let (at, arena) = place(&[(4, 256)]);
        rig.allocate(arena, 200, Vec::new());
        rig.upload_tokens(&[100, 149, 99, 150], &[]);
        let args = EmbedArgs { table: table.weight, first_token: 100, out: at[0] };
        rig.backend.embed(&args).unwrap();
        let zero = vec![0.0; 256];
        let want =
            [&table.rows[0], &table.rows[49], &zero, &zero].map(|row| row.as_slice()).concat();
        assert_eq!(oracle::wide(&rig.read(at[0])), want, "{dtype:?}");
    }
}

/// Tensors and weights of a head's test.
fn head(rig: &mut Rig, outputs: usize) -> (Known, Known, Tensor, Tensor) {
    let (norm, weight) = (rig.norm(64), rig.weight(&[(DType::Q8_0, 300)], 64, 0..64));
    let (at, arena) = place(&[(20, 64), (outputs, 300)]);
    rig.allocate(arena, 300, Vec::new());
    (norm, weight, at[0], at[1])
}

#[test]
fn the_head_makes_logits_of_output_rows_only() {
    for_random_shapes(|rig, tokens| {
        let outputs: Vec<usize> = (0..tokens.min(19)).map(|output| (7 * output + 3) % 20).collect();
        let (norm, weight, x, logits) = head(rig, outputs.len());
        let hidden = rig.random.floats(20 * 64);
        rig.write(x, &hidden);
        rig.upload_tokens(&[0; 20], &outputs);
        let (norm_weight, eps) = (norm.weight, EPS);
        let args =
            HeadArgs { x, norm: norm_weight, eps, weight: weight.weight, first_token: 0, logits };
        rig.backend.head(&args).unwrap();
        let row = |token: &usize| oracle::rms_norm(&hidden[token * 64..][..64], &norm.rows[0], EPS);
        let want: Vec<_> =
            outputs.iter().flat_map(|token| oracle::gemm(&row(token), &weight.rows)).collect();
        assert_near(&rig.read(logits), &want, TOLERANCE, &format!("{outputs:?}"));
    });
}

#[test]
fn a_row_that_is_not_finite_says_so_and_the_others_do_not_notice() {
    let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
    let (norm, weight, x, logits) = head(&mut rig, 3);
    let mut hidden = rig.random.floats(20 * 64);
    let mut step = |hidden: &[f32]| {
        rig.write(x, hidden);
        rig.upload_tokens(&[0; 20], &[0, 1, 2]);
        let (norm, weight) = (norm.weight, weight.weight);
        let head = HeadArgs { x, norm, eps: EPS, weight, first_token: 0, logits };
        rig.backend.head(&head).unwrap();
        rig.backend.sample(&SampleArgs { logits }).unwrap();
        rig.outcome()
    };
    let clean = step(&hidden);
    hidden[64] = f32::INFINITY;
    let dirty = step(&hidden);
    assert_eq!(dirty.sampled.iter().map(|s| s.finite).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!((clean.sampled[0], clean.sampled[2]), (dirty.sampled[0], dirty.sampled[2]));
    assert_ne!(clean.digest, dirty.digest);
}
