//! What the library stores is stored, though `initcheck` does not see it.
//!
//! A gemm writes rows that nobody wrote before, and a kernel of ours reads them, in both tests. Who
//! wrote them is the only difference, and the sums are as near to their oracle. So what the tool
//! reports in one of the tests and not in the other it reports of the library's stores:
//! `tests/gpu/known.txt`.

use binfer_shard::DType;

use super::{Half, Rig, allocate, is_sanitized, layout, near, oracle};
use crate::backend::args::{LinearOutArgs, NormLinearArgs, TensorKind};
use crate::backend::{Backend, DeviceClock};

/// More than any kernel of ours that has the library beside it multiplies.
const TOKENS: usize = 320;
const COLS: usize = 64;
const OUTS: usize = 128;
/// Rows of the reader's, and its outputs: so few that the tool names every read.
const READ: usize = 1;
const LAST: usize = 3;

/// A gemm and its reader; whether the library took part.
fn write_and_read(aligned: bool) -> Option<bool> {
    let mut rig = Rig::new(Half::Bf16, 1)?;
    let (norm, weight) = (rig.weight(DType::F32, 1, COLS), rig.weight(DType::BF16, OUTS, COLS));
    let reader = rig.weight(DType::BF16, LAST, OUTS);
    let shapes = [
        (TOKENS, COLS, TensorKind::Sum),
        (TOKENS, OUTS, TensorKind::Inner),
        (READ, LAST, TensorKind::Sum),
    ];
    let (at, arena) = rig.place(&shapes, aligned);
    // Neither poisoned nor watched between tensors: both would be writing.
    rig.gaps.clear();
    allocate(&mut rig.backend, &layout(arena));
    let x = rig.random.floats(TOKENS * COLS);
    rig.write(at[0], &x);
    rig.write(at[2], &[0.0; READ * LAST]);
    rig.backend.device.keep_names(true);
    rig.upload(TOKENS, false);
    let (norm_weight, bias, glu) = (norm.weight, None, None);
    let args = NormLinearArgs {
        x: at[0],
        norm: norm_weight,
        eps: 1e-5,
        weight: weight.weight,
        bias,
        glu,
        out: at[1],
    };
    rig.backend.norm_linear(&args).unwrap();
    rig.outcome();
    rig.upload(READ, false);
    let args = LinearOutArgs {
        x: at[1].with_rows(READ),
        weight: reader.weight,
        bias,
        residual: at[2],
        out: at[2],
        next: None,
    };
    rig.backend.linear_out(&args).unwrap();
    rig.outcome();
    let names = rig.backend.launched();
    let is_ours =
        |name: &&str| ["gemm_reference", "stream_k_gemm"].iter().any(|ours| name.starts_with(ours));
    assert!(names.iter().any(is_ours), "{names:?}");
    let row = |x| oracle::gemm(&oracle::rms_norm(x, &norm.rows[0], 1e-5), &weight.rows);
    let want: Vec<_> = x.chunks(COLS).flat_map(row).collect();
    // A copy to the host is one more read that the tool reports.
    if !is_sanitized() {
        near(&rig.read(at[1]), &want, Half::Bf16, "stored");
    }
    let stored = want.chunks(OUTS).take(READ).map(|row| row.iter().map(|sum| sum.value).collect());
    let want = stored.flat_map(|row: Vec<f64>| oracle::gemm(&row, &reader.rows));
    near(&rig.read(at[2]), &want.collect::<Vec<_>>(), Half::Bf16, "read");
    Some(names.contains(&"cublasLt"))
}

#[test]
fn what_the_library_stored_is_read() {
    let Some(by_library) = write_and_read(true) else { return };
    assert!(by_library);
}

#[test]
fn what_a_kernel_of_ours_stored_is_read() {
    let Some(by_library) = write_and_read(false) else { return };
    assert!(!by_library);
}
