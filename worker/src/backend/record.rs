//! A backend that writes down what it is asked to do: one line a call, weights by name.
//!
//! With it a model's decoder has a golden trace that needs neither weights nor a device, and the
//! live range of each piece of the arena can be read off. Deliberately absent: arithmetic, reading
//! files (a weight is its description), and checks that belong to the operations.

use std::fmt::{self, Write};
use std::sync::Arc;

use binfer_shard::LocalTensor;

use super::args::{
    AttendArgs, EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor,
};
use super::{Abort, Backend, BackendError, MemoryPlan, Sampled, StepOutput, Weight};
use crate::batch::{Batch, TokenInput};

/// See the module.
#[derive(Debug, Default)]
pub struct Recorder {
    trace: String,
    weights: Vec<String>,
    outputs: usize,
}

impl Recorder {
    /// With an empty trace.
    pub fn new() -> Self {
        Self::default()
    }

    /// All calls so far, a line each.
    pub fn trace(&self) -> &str {
        &self.trace
    }

    /// Forgets the calls, not the weights: a trace may begin after loading.
    pub fn clear(&mut self) {
        self.trace.clear();
    }

    /// What `load` does; needs no bytes.
    pub fn declare(&mut self, tensor: &LocalTensor) -> Weight {
        let parts = tensor.parts.iter().map(|part| {
            let (rows, cols, dtype) = (part.rows, part.cols, part.dtype.name());
            let fed = if part.inputs == (0..cols) {
                String::new()
            } else {
                format!(" fed {}..{}", part.inputs.start, part.inputs.end)
            };
            format!("{}[{rows}, {cols}] {dtype}{fed}", part.source)
        });
        let parts = parts.collect::<Vec<_>>().join(" + ");
        self.line(format_args!("load {} {:?} = {parts}", tensor.name, tensor.cut));
        self.weights.push(tensor.name.clone());
        Weight(u32::try_from(self.weights.len() - 1).unwrap_or(u32::MAX))
    }

    fn line(&mut self, call: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.trace, "{call}");
    }

    fn name(&self, operation: &'static str, weight: Weight) -> Result<String, BackendError> {
        self.weights.get(weight.0 as usize).cloned().ok_or_else(|| {
            let cause = format!("weight {} was never loaded", weight.0);
            BackendError::Args { operation, cause }
        })
    }

    /// A weight that a call may lack, with what it is called by.
    fn option(
        &self,
        operation: &'static str,
        before: &str,
        weight: Option<Weight>,
    ) -> Result<String, BackendError> {
        let Some(weight) = weight else { return Ok(String::new()) };
        Ok(format!("{before}{}", self.name(operation, weight)?))
    }
}

/// A tensor as the trace shows it: `@offset[rows, cols]`.
struct At(Tensor);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}[{}, {}]", self.0.offset, self.0.rows, self.0.cols)
    }
}

impl Backend for Recorder {
    fn load(&mut self, tensor: &LocalTensor, _parts: &[Vec<u8>]) -> Result<Weight, BackendError> {
        Ok(self.declare(tensor))
    }

    fn comm_id(&mut self, world: usize) -> Result<Vec<u8>, BackendError> {
        self.line(format_args!("comm_id world {world}"));
        Ok(b"recorded".to_vec())
    }

    fn join(&mut self, id: &[u8], rank: usize, world: usize) -> Result<Abort, BackendError> {
        let id = String::from_utf8_lossy(id).into_owned();
        self.line(format_args!("join {id:?} rank {rank} of {world}"));
        Ok(Box::new(|| ()))
    }

    fn allocate(&mut self, plan: &MemoryPlan) -> Result<(), BackendError> {
        let MemoryPlan { arena, slots_max, outputs_max, vocab, kv } = plan;
        self.line(format_args!(
            "allocate arena {arena}, slots {slots_max}, outputs {outputs_max}, vocab {vocab}"
        ));
        for (layer, kv) in kv.iter().enumerate() {
            self.line(format_args!(
                "allocate kv {layer} [{}, {}, {}, {}]",
                kv.blocks, kv.kv_heads, kv.block_tokens, kv.head_dim
            ));
        }
        Ok(())
    }

    fn upload(&mut self, batch: Arc<Batch>) -> Result<(), BackendError> {
        self.line(format_args!("upload {} tokens", batch.tokens.len()));
        for row in &batch.rows {
            let tokens = batch.tokens.get(row.first..row.first + row.count).unwrap_or_default();
            let tokens: Vec<String> = tokens.iter().map(show).collect();
            self.line(format_args!(
                "  row slot {} from {} blocks {:?}: {}",
                row.slot,
                row.start,
                row.block_tables.iter().map(Vec::len).collect::<Vec<_>>(),
                tokens.join(" ")
            ));
        }
        for output in &batch.outputs {
            let (token, slot, position) = (output.token, output.slot, output.position);
            self.line(format_args!("  output of token {token} to slot {slot} at {position}"));
        }
        self.outputs = batch.outputs.len();
        Ok(())
    }

    fn embed(&mut self, args: &EmbedArgs) -> Result<(), BackendError> {
        let EmbedArgs { table, first_token, out } = *args;
        let table = self.name("embed", table)?;
        self.line(format_args!("embed {} = {table} from token {first_token}", At(out)));
        Ok(())
    }

    fn norm_linear(&mut self, args: &NormLinearArgs) -> Result<(), BackendError> {
        let NormLinearArgs { x, norm, eps, weight, bias, glu, out } = *args;
        let bias = self.option("norm_linear", " + ", bias)?;
        let (norm, weight) = (self.name("norm_linear", norm)?, self.name("norm_linear", weight)?);
        let (x, out) = (At(x), At(out));
        let glu = glu.map_or(String::new(), |act| format!(" glu {act:?}"));
        self.line(format_args!(
            "norm_linear {out} = {x} norm {norm} eps {eps:e} * {weight}{bias}{glu}"
        ));
        Ok(())
    }

    fn attend(&mut self, args: &AttendArgs) -> Result<(), BackendError> {
        let AttendArgs { heads, kv_heads, head_dim, rope, layer, kv_group, window, .. } = *args;
        let q_norm = self.option("attend", " q norm ", args.q_norm)?;
        let k_norm = self.option("attend", " k norm ", args.k_norm)?;
        let eps = match (args.q_norm, args.k_norm) {
            (None, None) => String::new(),
            _ => format!(" eps {:e}", args.norm_eps),
        };
        let window = window.map_or(String::new(), |last| format!(" window {last}"));
        self.line(format_args!(
            "attend {} = {} heads {heads}/{kv_heads} of {head_dim} layer {layer} group {kv_group}{window}{q_norm}{k_norm}{eps} {rope:?}",
            At(args.out),
            At(args.qkv)
        ));
        Ok(())
    }

    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError> {
        let LinearOutArgs { x, weight, bias, residual, out } = *args;
        let weight = self.name("linear_out", weight)?;
        let bias = self.option("linear_out", " + ", bias)?;
        let (x, residual, out) = (At(x), At(residual), At(out));
        self.line(format_args!(
            "linear_out {out} = {residual} + sum over ranks {x} * {weight}{bias}"
        ));
        Ok(())
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), BackendError> {
        let HeadArgs { x, norm, eps, weight, first_token, logits } = *args;
        let (norm, weight) = (self.name("head", norm)?, self.name("head", weight)?);
        let (x, logits) = (At(x), At(logits));
        self.line(format_args!(
            "head {logits} = {x} norm {norm} eps {eps:e} * {weight} from token {first_token}"
        ));
        Ok(())
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError> {
        self.line(format_args!("sample {}", At(args.logits)));
        Ok(())
    }

    fn all_reduce(&mut self, x: Tensor) -> Result<(), BackendError> {
        self.line(format_args!("all_reduce {}", At(x)));
        Ok(())
    }

    /// Token 0 for every output.
    fn collect(&mut self) -> Result<StepOutput, BackendError> {
        self.line(format_args!("collect"));
        let sampled = vec![Sampled { token: 0, finite: true }; self.outputs];
        Ok(StepOutput { sampled, digest: 0 })
    }

    /// Zeros.
    fn read(&mut self, x: Tensor) -> Result<Vec<f32>, BackendError> {
        self.line(format_args!("read {}", At(x)));
        Ok(vec![0.0; x.len()])
    }
}

fn show(token: &TokenInput) -> String {
    match token {
        TokenInput::Known(token) => token.to_string(),
        TokenInput::LastSample(slot) => format!("last:{slot}"),
    }
}

#[cfg(test)]
mod tests {
    use binfer_shard::spec::{Act, Cut, Rope, RopeScaling};
    use binfer_shard::{DType, LocalPart};

    use super::*;

    fn declare(recorder: &mut Recorder, name: &str, rows: u32, cols: u32) -> Weight {
        let part = LocalPart {
            source: format!("blk.{name}"),
            dtype: DType::F16,
            rows,
            cols,
            inputs: 0..cols.min(6),
            ranges: Vec::new(),
        };
        let tensor = LocalTensor { name: name.into(), cut: Cut::FfnRows, parts: vec![part] };
        recorder.declare(&tensor)
    }

    #[test]
    fn calls_become_lines_with_names_and_shapes() {
        let mut recorder = Recorder::new();
        let norm = declare(&mut recorder, "norm", 1, 4);
        let weight = declare(&mut recorder, "up", 8, 8);
        let x = Tensor { offset: 0, rows: 2, cols: 4 };
        let wide = Tensor { offset: 16, rows: 2, cols: 8 };
        let rope = Rope { theta: 1e4, dims: 4, scaling: RopeScaling::None };
        recorder.embed(&EmbedArgs { table: weight, first_token: 8, out: x }).unwrap();
        let glu = Some(Act::Silu);
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
                out,
            })
            .unwrap();
        let (residual, bias) = (x, Some(norm));
        recorder.linear_out(&LinearOutArgs { x: wide, weight, bias, residual, out: x }).unwrap();
        let expected = "\
load norm FfnRows = blk.norm[1, 4] F16
load up FfnRows = blk.up[8, 8] F16 fed 0..6
embed @0[2, 4] = up from token 8
norm_linear @16[2, 8] = @0[2, 4] norm norm eps 1e-5 * up glu Silu
attend @0[2, 4] = @16[2, 8] heads 1/1 of 4 layer 3 group 0 window 9 q norm norm eps 1e-6 Rope { theta: 10000.0, dims: 4, scaling: None }
linear_out @0[2, 4] = @0[2, 4] + sum over ranks @16[2, 8] * up + norm
";
        assert_eq!(recorder.trace(), expected);
        let unknown = LinearOutArgs { x: wide, weight, bias: Some(Weight(7)), residual, out: x };
        assert!(recorder.linear_out(&unknown).is_err());
    }
}
