//! Bad timing changes no bit: neither with dependent launch nor within a pipeline.
//!
//! Each test compares the image as it is with the stressed one, whose kernels start early, work
//! late, have the shortest rings and sleep at random (`kernels/cuda/stress.cuh`), if the build has
//! it.

use binfer_kernels::gemm::Epilogue;
use binfer_shard::DType;
use binfer_shard::spec::ActivationFn;

use super::attention::{Feeding, Shape};
use super::tiny::{Tiny, decode, models, prompts};
use super::{Half, Rig, layout, same_bits, settings};
use super::{latent, moe};
use crate::backend::Backend;
use crate::backend::args::{LinearOutArgs, NormLinearArgs, TensorKind};
use crate::backend::cuda::CudaBackend;

const REPEATS: usize = 1000;

/// Whether there is a stressed image for `backend`, which then runs it.
fn stress(backend: &mut CudaBackend) -> bool {
    let stressed = backend.device.stress().unwrap();
    if !stressed {
        eprintln!("no stressed image: not this target's, or built without BINFER_STRESS=1");
    }
    stressed
}

#[test]
fn dependent_launch_changes_no_bit() {
    for (half, what) in models() {
        let Some(settings) = settings(half) else { return };
        let new = || CudaBackend::new(settings.clone()).unwrap();
        let (mut serial, mut stressed) = (new(), new());
        serial.device.dependent = false;
        let mut serial = Tiny::on(serial, what);
        let mut others = vec![("as it is", Tiny::on(new(), what))];
        if stress(&mut stressed) {
            others.push(("stressed", Tiny::on(stressed, what)));
        }
        for rows in [1, 5, 40, 100, 144, 256] {
            for step in 0..4 {
                let batch = || if step == 0 { prompts(rows) } else { decode(rows, step) };
                let (_, want, logits) = serial.step(batch());
                for (name, tiny) in &mut others {
                    let name = format!("{name}: {half:?} {what:?}, {rows} rows, step {step}");
                    let (_, got, other) = tiny.step(batch());
                    same_bits(&logits, &other, &name);
                    assert_eq!(want, got, "{name}");
                }
            }
        }
    }
}

/// Runs `case` on the image as it is and on the stressed one, each from the same seed.
fn both(half: Half, name: &str, case: impl Fn(&mut Rig) -> Vec<f32>) {
    let Some(mut rig) = Rig::new(half, 1) else { return };
    let want = case(&mut rig);
    let mut rig = Rig::new(half, 1).unwrap();
    if stress(&mut rig.backend) {
        same_bits(&want, &case(&mut rig), name);
    }
}

/// A gemm of so many tokens into so many outputs, again and again.
fn gemm(
    rig: &mut Rig,
    dtype: DType,
    (tokens, outs): (usize, usize),
    epilogue: Epilogue,
) -> Vec<f32> {
    let cols = 4096;
    let rows = if epilogue == Epilogue::Glu { 2 * outs } else { outs };
    let norm = rig.weight(DType::F32, 1, cols).weight;
    let weight = rig.weight(dtype, rows, cols).weight;
    let (in_kind, out_kind) = if epilogue == Epilogue::AddF32 {
        (TensorKind::Inner, TensorKind::Sum)
    } else {
        (TensorKind::Sum, TensorKind::Inner)
    };
    let shapes =
        [(tokens, cols, in_kind), (tokens, outs, TensorKind::Sum), (tokens, outs, out_kind)];
    let (at, arena) = rig.place(&shapes, true);
    rig.allocate(&super::MemoryLayout { hidden: cols, intermediate: 2 * outs, ..layout(arena) });
    let (x, residual) = (rig.random.floats(tokens * cols), rig.random.floats(tokens * outs));
    rig.write(at[0], &x);
    rig.write(at[1], &residual);
    let mut run = || {
        rig.upload(tokens, true);
        let (x, out, bias) = (at[0], at[2], None);
        if epilogue == Epilogue::AddF32 {
            let args = LinearOutArgs { x, weight, bias, residual: at[1], out, next: None };
            rig.backend.linear_out(&args).unwrap();
        } else {
            let glu = (epilogue == Epilogue::Glu).then_some(ActivationFn::Silu);
            let args = NormLinearArgs { x, norm, eps: 1e-6, weight, bias, glu, out };
            rig.backend.norm_linear(&args).unwrap();
        }
        let got = rig.read(out);
        rig.outcome();
        got
    };
    let first = run();
    (1..REPEATS).for_each(|_| same_bits(&first, &run(), &format!("{tokens} tokens, {epilogue:?}")));
    first
}

#[test]
fn gemms_bear_short_rings_and_pauses() {
    let epilogues = [Epilogue::Store, Epilogue::Glu, Epilogue::AddF32].into_iter().cycle();
    for (tokens, epilogue) in [1, 8, 16, 32, 64, 96, 128, 192, 256].into_iter().zip(epilogues) {
        let name = format!("{tokens} tokens, {epilogue:?}");
        both(Half::Bf16, &name, |rig| gemm(rig, DType::BF16, (tokens, 1024), epilogue));
    }
    // Enough outputs for a tile of all tokens.
    both(Half::Bf16, "129 tokens", |rig| gemm(rig, DType::BF16, (129, 8456), Epilogue::Store));
}

#[test]
fn fp8_gemms_bear_short_rings_and_pauses() {
    let epilogues = [Epilogue::Store, Epilogue::Glu, Epilogue::AddF32].into_iter().cycle();
    for (tokens, epilogue) in [1, 16, 32, 64, 128, 300].into_iter().zip(epilogues) {
        let name = format!("FP8, {tokens} tokens, {epilogue:?}");
        both(Half::Bf16, &name, |rig| gemm(rig, DType::FP8_BLOCK, (tokens, 1024), epilogue));
    }
    // More pieces of work than blocks.
    both(Half::Bf16, "FP8, 9 tokens", |rig| {
        gemm(rig, DType::FP8_BLOCK, (9, 17_032), Epilogue::Store)
    });
}

#[test]
fn mixtures_bear_short_rings_and_pauses() {
    for tokens in [1, 9, 65, 300] {
        let name = format!("mixtures, {tokens} tokens");
        both(Half::Bf16, &name, |rig| moe::repeated(rig, tokens, REPEATS));
    }
}

#[test]
fn attention_bears_short_rings_and_pauses() {
    let shape = |heads, kv_heads, head_dim, window| Shape {
        heads,
        kv_heads,
        head_dim,
        rope_dims: head_dim,
        window,
        has_norms: true,
        has_sinks: true,
    };
    for shape in [shape(8, 2, 64, None), shape(4, 2, 128, Some(150))] {
        both(Half::Bf16, &format!("{shape:?}"), |rig| {
            let mut feeding = Feeding::new(rig, shape, 3, 512);
            feeding.step(rig, &[300, 150, 0], "first chunks");
            feeding.repeats = REPEATS;
            let counts = [[1, 1, 0], [130, 1, 250]];
            counts.iter().flat_map(|counts| feeding.step(rig, counts, "stressed")).collect()
        });
    }
}

#[test]
fn latent_attention_bears_short_rings_and_pauses() {
    both(Half::Bf16, "latent attention", |rig| {
        let mut feeding = latent::Feeding::new(rig, latent::PUBLISHED, 3, 640);
        feeding.compared = 97;
        feeding.step(rig, &[300, 150, 0], "first chunks");
        feeding.repeats = REPEATS;
        // The last one's chunks have keys and values expanded.
        let counts = [[1, 1, 0], [70, 1, 50], [200, 1, 250]];
        counts.iter().flat_map(|counts| feeding.step(rig, counts, "stressed")).collect()
    });
}
