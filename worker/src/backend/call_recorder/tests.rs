//! Calls and the lines that they become.

use binfer_shard::spec::{ActivationFn, Rope, RopeScaling, TensorCut};
use binfer_shard::{DType, LocalPart};

use super::*;
use crate::backend::args::TensorKind;

fn declare(recorder: &mut CallRecorder, name: &str, rows: u32, cols: u32) -> Weight {
    let part = LocalPart {
        source: format!("blk.{name}"),
        dtype: DType::F16,
        rows,
        cols,
        inputs: 0..cols.min(6),
        ranges: Vec::new(),
    };
    let tensor = LocalTensor { name: name.into(), cut: TensorCut::FfnRows, parts: vec![part] };
    recorder.declare(&tensor)
}

#[test]
fn calls_become_lines_with_names_and_shapes() {
    let mut recorder = CallRecorder::new();
    let norm = declare(&mut recorder, "norm", 1, 4);
    let weight = declare(&mut recorder, "up", 8, 8);
    let x = Tensor { offset: 0, rows: 2, cols: 4, kind: TensorKind::Sum };
    let wide = Tensor { offset: 16, rows: 2, cols: 8, kind: TensorKind::Inner };
    let rope = Rope { theta: 1e4, dims: 4, scaling: RopeScaling::None };
    recorder.embed(&EmbedArgs { table: weight, first_token: 8, out: x }).unwrap();
    let glu = Some(ActivationFn::Silu);
    recorder
        .norm_linear(&NormLinearArgs { x, norm, eps: 1e-5, weight, bias: None, glu, out: wide })
        .unwrap();
    let (heads, kv_heads, head_dim, layer, kv_group) = (1, 1, 4, 3, 0);
    let (qkv, out, window) = (wide, x, Some(9));
    recorder
        .attend(&AttendArgs {
            qkv,
            heads,
            kv_heads,
            head_dim,
            q_norm: Some(norm),
            k_norm: None,
            norm_eps: 1e-6,
            rope,
            layer,
            kv_group,
            window,
            sinks: None,
            out,
        })
        .unwrap();
    let (residual, bias) = (x, Some(norm));
    let args = LinearOutArgs { x: wide, weight, bias, residual, out: x, next: None };
    recorder.linear_out(&args).unwrap();
    let expected = "\
load norm FfnRows = blk.norm[1, 4] F16
load up FfnRows = blk.up[8, 8] F16 fed 0..6
embed @0[2, 4] = up from token 8
norm_linear @16[2, 8] = @0[2, 4] norm norm eps 1e-5 * up glu Silu
attend @0[2, 4] = @16[2, 8] heads 1/1 of 4 layer 3 group 0 window 9 q norm norm eps 1e-6 Rope { theta: 10000.0, dims: 4, scaling: None }
linear_out @0[2, 4] = @0[2, 4] + sum over ranks @16[2, 8] * up + norm
";
    assert_eq!(recorder.trace(), expected);
    let unknown = LinearOutArgs { bias: Some(Weight(7)), ..args };
    assert!(recorder.linear_out(&unknown).is_err());
}
