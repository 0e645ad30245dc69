//! Gemms with norm and gate, gemms with residual, and norms between them: on kernels of all kinds.

use binfer_kernels::Target;
use binfer_kernels::gemm::{Epilogue, GemmShape};
use binfer_kernels::skinny_gemm::{SKINNY_GEMM_KERNELS, skinny_gemm_config};
use binfer_shard::DType;
use binfer_shard::spec::ActivationFn;

use super::{
    HALVES, Half, Known, MemoryLayout, Rig, is_sanitized, layout, near, numbers_of_tokens, oracle,
    same_bits,
};
use crate::backend::Backend;
use crate::backend::args::{LinearOutArgs, NormLinearArgs, TensorKind};

const EPS: f32 = 1e-5;
/// Inputs and outputs: no multiple of anything, of 8, of a tile, and more than one tile.
const SHAPES: [(usize, usize); 4] = [(77, 61), (72, 40), (128, 192), (320, 264)];

/// Numbers of decode rows with inputs and outputs for what small shapes do not meet. On Hopper:
/// blocks of a cluster that divide few rows' many inputs, blocks that go round more than once, and
/// the kernels of the most tokens.
const LARGE: [(usize, usize, usize); 16] = [
    (1, 1032, 120),
    (9, 1032, 120),
    (17, 1032, 120),
    (33, 1032, 120),
    (65, 1032, 120),
    (127, 1032, 120),
    (129, 1032, 120),
    (255, 1032, 120),
    (2, 4104, 72),
    (16, 4104, 72),
    (1, 64, 8456),
    (9, 64, 8456),
    (17, 64, 8456),
    (33, 64, 8456),
    (129, 64, WIDE),
    (255, 64, WIDE),
];
/// Of an H100.
const MULTIPROCESSORS: u32 = 132;
/// So many outputs have all tokens in one tile.
const WIDE: usize = 24_584;

/// Calls `test` with all types, numbers of tokens, shapes, chunks and decode rows.
fn for_all(test: impl Fn(&mut Rig, Case)) {
    for half in HALVES {
        let Some(mut rig) = Rig::new(half, 0) else { return };
        for (index, case) in cases().into_iter().enumerate() {
            rig.begin(index as u64 + 1);
            test(&mut rig, case);
        }
    }
}

/// Every number of tokens meets two of the shapes. Under a sanitizer the first number meets every
/// shape, and every number meets the last shape, which kernels of every kind take.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, tokens) in numbers_of_tokens().enumerate() {
        for (place, (cols, outs)) in SHAPES.into_iter().enumerate() {
            let is_met = match (is_sanitized(), index) {
                (true, 0) => true,
                (true, _) => place + 1 == SHAPES.len(),
                (false, _) => (index + place).is_multiple_of(2),
            };
            if !is_met {
                continue;
            }
            let aligned = (is_sanitized() && index > 0) || (index + place) % 3 != 0;
            let case = |is_decode| Case { tokens, cols, outs, is_decode, aligned };
            cases.extend([false, true].map(case));
        }
    }
    let large = |(tokens, cols, outs)| Case { tokens, cols, outs, is_decode: true, aligned: true };
    cases.extend(LARGE.map(large));
    if !is_sanitized() {
        let case =
            |(cols, outs)| Case { tokens: 8192, cols, outs, is_decode: false, aligned: true };
        cases.extend([SHAPES[0], SHAPES[2]].map(case));
    }
    cases
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) tokens: usize,
    pub(super) cols: usize,
    pub(super) outs: usize,
    pub(super) is_decode: bool,
    /// Tensors begin at multiples of 256 bytes.
    pub(super) aligned: bool,
}

impl Case {
    /// Memory for the step and a norm of so many columns.
    fn layout(&self, arena: usize, normed: usize) -> MemoryLayout {
        MemoryLayout { hidden: normed.max(512), ..layout(arena) }
    }
}

/// On Hopper, which CI does not need: plans are arithmetic.
#[test]
fn cases_meet_every_skinny_gemm() {
    const EPILOGUES: [Epilogue; 3] = [Epilogue::Store, Epilogue::Glu, Epilogue::AddF32];
    let suits = |case: &Case| case.aligned && case.cols.is_multiple_of(8);
    let config = |case: Case, epilogue| {
        let n = (if epilogue == Epilogue::Glu { 2 } else { 1 }) * case.outs as u32;
        let (k, m) = (case.cols as u32, case.tokens as u32);
        skinny_gemm_config(&GemmShape { m, n, k, epilogue }, MULTIPROCESSORS)
    };
    let cases = cases().into_iter().filter(suits);
    let configs: Vec<_> =
        cases.flat_map(|case| EPILOGUES.map(|of| config(case, of))).flatten().collect();
    for (index, kernel) in SKINNY_GEMM_KERNELS.iter().enumerate() {
        let is_met = configs.iter().any(|config| config.kernel == index);
        assert!(is_met, "no case has {}", kernel.variant);
    }
    assert!(configs.iter().any(|config| config.cluster > 1), "no case has clusters");
    assert!(configs.iter().any(|config| config.rounds > 1), "no case has rounds");
}

/// A bias of every other case.
fn bias(rig: &mut Rig, outs: usize) -> Option<Known> {
    (rig.random.below(2) == 0).then(|| rig.weight(DType::F32, outs, 1))
}

fn add(sums: Vec<oracle::Sum>, bias: Option<&Known>) -> Vec<oracle::Sum> {
    let Some(bias) = bias else { return sums };
    let values = bias.rows.concat();
    let add = |(sum, bias): (oracle::Sum, &f64)| oracle::Sum {
        value: sum.value + bias,
        size: sum.size + bias.abs(),
    };
    sums.into_iter().zip(&values).map(add).collect()
}

/// A dtype of the checkpoint whose blocks the columns consist of.
fn dtype(rig: &mut Rig) -> DType {
    [DType::BF16, DType::F16, DType::F32][rig.random.below(3)]
}

/// A gemm behind a norm with packed weights, whose blocks rows consist of.
pub(super) fn check_packed(rig: &mut Rig, dtype: DType, tokens: usize, is_glu: bool) {
    let case = Case { tokens, cols: 256, outs: 136, is_decode: tokens < 64, aligned: true };
    check_norm_linear(rig, case, dtype, is_glu.then_some(ActivationFn::Silu));
}

pub(super) fn check_norm_linear(
    rig: &mut Rig,
    case: Case,
    dtype: DType,
    glu: Option<ActivationFn>,
) {
    let Case { tokens, cols, outs, is_decode, aligned } = case;
    let half = rig.half();
    let rows = if glu.is_some() { 2 * outs } else { outs };
    let (norm, weight) = (rig.weight(DType::F32, 1, cols), rig.weight(dtype, rows, cols));
    let bias = bias(rig, rows);
    let (at, arena) =
        rig.place(&[(tokens, cols, TensorKind::Sum), (tokens, outs, TensorKind::Inner)], aligned);
    rig.allocate(&case.layout(arena, cols));
    let x = rig.random.floats(tokens * cols);
    rig.write(at[0], &x);
    let (norm_weight, bias_weight) = (norm.weight, bias.as_ref().map(|bias| bias.weight));
    let mut run = || {
        rig.upload(tokens, is_decode);
        let args = NormLinearArgs {
            x: at[0],
            norm: norm_weight,
            eps: EPS,
            weight: weight.weight,
            bias: bias_weight,
            glu,
            out: at[1],
        };
        rig.backend.norm_linear(&args).unwrap();
        let got = rig.read(at[1]);
        rig.outcome();
        got
    };
    let (got, again) = (run(), run());
    let sums = |x: &[f32]| {
        let normed = oracle::rms_norm(x, &norm.rows[0], EPS);
        let sums = add(oracle::gemm(&normed, &weight.rows), bias.as_ref());
        glu.map_or(sums.clone(), |act| oracle::glu(act, &sums))
    };
    let want: Vec<_> = x.chunks(cols).flat_map(sums).collect();
    near(&got, &want, half, &format!("{half:?} {case:?}"));
    same_bits(&got, &again, &format!("{half:?} {case:?}"));
}

#[test]
fn norm_linear_equals_its_oracle() {
    for_all(|rig, case| {
        let dtype = dtype(rig);
        check_norm_linear(rig, case, dtype, None);
    });
}

#[test]
fn gated_norm_linear_equals_its_oracle() {
    for_all(|rig, case| {
        let dtype = dtype(rig);
        check_norm_linear(rig, case, dtype, Some(ActivationFn::Silu));
    });
}

#[test]
fn linear_out_adds_to_the_residual() {
    for_all(|rig, case| {
        let dtype = dtype(rig);
        check_linear_out(rig, case, dtype);
    });
}

pub(super) fn check_linear_out(rig: &mut Rig, case: Case, dtype: DType) {
    let Case { tokens, cols, outs, is_decode, aligned } = case;
    let half = rig.half();
    let (weight, bias) = (rig.weight(dtype, outs, cols), bias(rig, outs));
    let shapes = [
        (tokens, cols, TensorKind::Inner),
        (tokens, outs, TensorKind::Sum),
        (tokens, outs, TensorKind::Sum),
    ];
    let (at, arena) = rig.place(&shapes, aligned);
    rig.allocate(&case.layout(arena, cols));
    let (x, residual) = (rig.random.floats(tokens * cols), rig.random.floats(tokens * outs));
    let x = rig.write(at[0], &x);
    rig.write(at[1], &residual);
    rig.upload(tokens, is_decode);
    let sums = |x| add(oracle::gemm(&oracle::wide(x), &weight.rows), bias.as_ref());
    let add = |(sum, residual): (oracle::Sum, &f32)| {
        let residual = f64::from(*residual);
        oracle::Sum { value: sum.value + residual, size: sum.size + residual.abs() }
    };
    let want: Vec<_> = x.chunks(cols).flat_map(sums).zip(&residual).map(add).collect();
    // Into another tensor first, then in place.
    let got = [at[2], at[1]].map(|out| {
        let (weight, bias) = (weight.weight, bias.as_ref().map(|bias| bias.weight));
        let args = LinearOutArgs { x: at[0], weight, bias, residual: at[1], out, next: None };
        rig.backend.linear_out(&args).unwrap();
        rig.read(out)
    });
    rig.outcome();
    // Sums are in single precision: nothing is rounded but inside of the gemms.
    crate::backend::tests::assert_near(&got[0], &want, 1e-5, &format!("{half:?} {case:?}"));
    same_bits(&got[0], &got[1], &format!("{half:?} {case:?}"));
}

/// A gemm, the norm behind it, and the gemm behind that, which may share the norm out.
fn check_norm_between(rig: &mut Rig, case: Case, glu: Option<ActivationFn>) {
    let Case { tokens, cols, outs, is_decode, aligned } = case;
    let (half, hidden) = (rig.half(), outs);
    let inner = if glu.is_some() { 2 * cols } else { cols };
    let (out, norm) = (rig.weight(DType::BF16, hidden, cols), rig.weight(DType::F32, 1, hidden));
    let (next, bias) = (rig.weight(DType::F16, inner, hidden), bias(rig, inner));
    let wide = (tokens, cols, TensorKind::Inner);
    let shapes = [wide, (tokens, hidden, TensorKind::Sum), wide];
    let (at, arena) = rig.place(&shapes, aligned);
    rig.allocate(&case.layout(arena, hidden));
    let x = rig.random.floats(tokens * cols);
    let x = rig.write(at[0], &x);
    let residual = rig.random.floats(tokens * hidden);
    let bias_weight = bias.as_ref().map(|bias| bias.weight);
    let mut run = |is_announced: bool| {
        rig.write(at[1], &residual);
        rig.upload(tokens, is_decode);
        let next = NormLinearArgs {
            x: at[1],
            norm: norm.weight,
            eps: EPS,
            weight: next.weight,
            bias: bias_weight,
            glu,
            out: at[2],
        };
        let (weight, residual, out) = (out.weight, at[1], at[1]);
        let announced = is_announced.then_some(next);
        let args = LinearOutArgs { x: at[0], weight, bias: None, residual, out, next: announced };
        rig.backend.linear_out(&args).unwrap();
        let has_begun = rig.backend.gemms.has_begun_norm();
        rig.backend.norm_linear(&next).unwrap();
        let got = [rig.read(at[1]), rig.read(at[2])];
        rig.outcome();
        (got, has_begun)
    };
    let ((got, has_begun), (again, _)) = (run(true), run(true));
    let (apart, begins_unasked) = run(false);
    assert!(!begins_unasked);
    let what = format!("{half:?} {case:?} {has_begun}");
    let sums: Vec<f32> = x
        .chunks(cols)
        .flat_map(|x| oracle::gemm(&oracle::wide(x), &out.rows))
        .zip(&residual)
        .map(|(sum, residual)| (sum.value + f64::from(*residual)) as f32)
        .collect();
    let row = |x: &[f32]| {
        let normed = oracle::rms_norm(x, &norm.rows[0], EPS);
        let sums = add(oracle::gemm(&normed, &next.rows), bias.as_ref());
        glu.map_or(sums.clone(), |act| oracle::glu(act, &sums))
    };
    let want: Vec<_> = sums.chunks(hidden).flat_map(row).collect();
    near(&got[1], &want, half, &what);
    near(&apart[1], &want, half, &what);
    same_bits(&got[0], &apart[0], &what);
    same_bits(&got[0], &again[0], &what);
    same_bits(&got[1], &again[1], &what);
    let is_fused = rig.backend.device.target == Target::Sm90a
        && half == Half::Bf16
        && tokens <= 16
        && cols.is_multiple_of(8)
        && hidden.is_multiple_of(8)
        && aligned
        // Where blocks go round more than once, norms stand alone.
        && hidden < 8192
        && are_of_one_kernel(case, inner, glu);
    assert!(!is_fused || has_begun, "{what}: norms stand alone");
}

/// Whether one skinny gemm kernel serves both gemms around a norm.
fn are_of_one_kernel(case: Case, inner: usize, glu: Option<ActivationFn>) -> bool {
    let [m, hidden, cols, inner] = [case.tokens, case.outs, case.cols, inner].map(|x| x as u32);
    let epilogue = if glu.is_some() { Epilogue::Glu } else { Epilogue::Store };
    let shapes = [
        GemmShape { m, n: hidden, k: cols, epilogue: Epilogue::AddF32 },
        GemmShape { m, n: inner, k: hidden, epilogue },
    ];
    let [first, second] = shapes.map(|shape| skinny_gemm_config(&shape, MULTIPROCESSORS));
    first.zip(second).is_some_and(|(first, second)| first.kernel == second.kernel)
}

#[test]
fn a_norm_between_two_gemms_may_be_shared_out_among_them() {
    for_all(|rig, case| {
        // That many tokens do not share norms out.
        if case.outs < WIDE {
            let glu = (rig.random.below(2) == 0).then_some(ActivationFn::Silu);
            check_norm_between(rig, case, glu);
        }
    });
}
