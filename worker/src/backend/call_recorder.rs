//! A backend that writes down which operations it is asked for: one line a call, weights by name.
//!
//! With it a model's decoder has a golden trace (`tests/goldens/*.trace`) that needs neither
//! weights nor a device, and the live range of each piece of the arena can be read off. It computes
//! nothing, reads no files, and leaves the operations' contracts to the devices.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use binfer_proto::{Mask, SlotId};
use binfer_shard::LocalTensor;
use binfer_shard::spec::KvShape;

use super::args::{
    AttendArgs, AttendLatentArgs, EmbedArgs, HeadArgs, LinearOutArgs, MoeArgs, NormLinearArgs,
    SampleArgs, Tensor,
};
use super::{Backend, BackendError, MemoryLayout, Sampled, StepMode, StepOutcome, Ticket, Weight};
use crate::batch::{Batch, TokenInput};

/// The calls of operations so far, as text.
#[derive(Debug, Default)]
pub struct CallRecorder {
    trace: String,
    weights: Vec<String>,
    outputs: usize,
    /// Blocks of each slot by KV group.
    blocks: BTreeMap<SlotId, Vec<usize>>,
}

impl CallRecorder {
    /// A recorder with an empty trace.
    pub fn new() -> Self {
        Self::default()
    }

    /// All calls so far, a line each.
    pub fn trace(&self) -> &str {
        &self.trace
    }

    /// Forgets the calls, not the weights, so that a trace may begin after loading.
    pub fn clear(&mut self) {
        self.trace.clear();
    }

    /// A weight of which nothing but the description is there.
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

    /// Writes down what a device would take.
    pub fn allocate(&mut self, layout: &MemoryLayout) {
        let MemoryLayout { arena, slots_max, outputs_max, vocab, kv, .. } = layout;
        self.line(format_args!(
            "allocate arena {arena}, slots {slots_max}, outputs {outputs_max}, vocab {vocab}"
        ));
        for (layer, kv) in kv.iter().enumerate() {
            let (blocks, block_tokens) = (kv.blocks, kv.block_tokens);
            match kv.shape {
                KvShape::Heads { kv_heads, head_dim } => self.line(format_args!(
                    "allocate kv {layer} [{blocks}, {kv_heads}, {block_tokens}, {head_dim}]"
                )),
                KvShape::Latent { width } => self.line(format_args!(
                    "allocate latent kv {layer} [{blocks}, {block_tokens}, {width}]"
                )),
            }
        }
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

    /// The name of a weight that a call may lack, with `before` in front.
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

impl Backend for CallRecorder {
    fn upload(&mut self, batch: Arc<Batch>) -> Result<StepMode, BackendError> {
        self.line(format_args!("upload {} tokens", batch.tokens.len()));
        for new in &batch.new_blocks {
            let blocks = self.blocks.entry(new.slot).or_default();
            blocks.resize(blocks.len().max(new.kv_group + 1), 0);
            blocks[new.kv_group] = new.first + new.ids.len();
        }
        for row in &batch.rows {
            let blocks = self.blocks.get(&row.slot).cloned().unwrap_or_default();
            let tokens = batch.tokens.get(row.first..row.first + row.count).unwrap_or_default();
            let tokens: Vec<String> = tokens.iter().map(show).collect();
            self.line(format_args!(
                "  row slot {} from {} blocks {blocks:?}: {}",
                row.slot,
                row.start,
                tokens.join(" ")
            ));
        }
        for output in &batch.outputs {
            let (token, slot, position) = (output.token, output.slot, output.position);
            self.line(format_args!("  output of token {token} to slot {slot} at {position}"));
        }
        self.outputs = batch.outputs.len();
        Ok(StepMode::Eager)
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
        let sinks = self.option("attend", " sinks ", args.sinks)?;
        let eps = match (args.q_norm, args.k_norm) {
            (None, None) => String::new(),
            _ => format!(" eps {:e}", args.norm_eps),
        };
        let window = window.map_or(String::new(), |last| format!(" window {last}"));
        self.line(format_args!(
            "attend {} = {} heads {heads}/{kv_heads} of {head_dim} layer {layer} group {kv_group}{window}{q_norm}{k_norm}{eps}{sinks} {rope:?}",
            At(args.out),
            At(args.qkv)
        ));
        Ok(())
    }

    fn attend_latent(&mut self, args: &AttendLatentArgs) -> Result<(), BackendError> {
        let operation = "attend_latent";
        let AttendLatentArgs { heads, nope, latent_dim, value_dim, rope, scale, .. } = *args;
        let names = [args.latent_norm, args.k_b, args.v_b].map(|w| self.name(operation, w));
        let [norm, k_b, v_b] = names;
        let (norm, k_b, v_b) = (norm?, k_b?, v_b?);
        self.line(format_args!(
            "attend_latent {} = {v_b} * {} * {k_b} over {} norm {norm} eps {:e} heads {heads} of {nope}, latent {latent_dim}, value {value_dim} scale {scale:e} layer {} group {} {rope:?}",
            At(args.out),
            At(args.queries),
            At(args.latent),
            args.norm_eps,
            args.layer,
            args.kv_group,
        ));
        Ok(())
    }

    fn moe(&mut self, args: &MoeArgs) -> Result<(), BackendError> {
        let operation = "moe";
        let MoeArgs { x, eps, router, experts, shared, out, .. } = *args;
        let [norm, weight] = [args.norm, router.weight].map(|w| self.name(operation, w));
        let (norm, weight, routing) = (norm?, weight?, router.routing);
        let bias = self.option(operation, " + ", router.bias)?;
        let correction = self.option(operation, " correction ", router.correction)?;
        self.line(format_args!(
            "moe {} = {} norm {norm} eps {eps:e} router {weight}{bias}{correction} {routing:?}",
            At(out),
            At(x),
        ));
        let [gate_up, down] = [experts.gate_up, experts.down].map(|w| self.name(operation, w));
        let (gate_up, down) = (gate_up?, down?);
        let gate_up_bias = self.option(operation, " + ", experts.gate_up_bias)?;
        let down_bias = self.option(operation, " + ", experts.down_bias)?;
        self.line(format_args!(
            "  experts {}..{} {:?} {} = {gate_up}{gate_up_bias}, {} = {down}{down_bias}",
            experts.first,
            experts.first + experts.count,
            experts.act,
            At(experts.inner_rows),
            At(experts.out_rows),
        ));
        let Some(shared) = shared else { return Ok(()) };
        let [gate_up, down] = [shared.gate_up, shared.down].map(|w| self.name(operation, w));
        let (gate_up, down) = (gate_up?, down?);
        let gate = self.option(operation, " gate ", shared.gate)?;
        let inner = At(shared.inner_rows);
        self.line(format_args!("  shared {inner} = {gate_up}, {down}{gate}"));
        Ok(())
    }

    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError> {
        let LinearOutArgs { x, weight, bias, residual, out, next: _ } = *args;
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

    fn masks(&mut self, masks: Vec<Mask>) -> Result<(), BackendError> {
        let outputs: Vec<u32> = masks.iter().map(|mask| mask.output).collect();
        self.line(format_args!("masks of outputs {outputs:?}"));
        Ok(())
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError> {
        self.line(format_args!("sample {}", At(args.logits)));
        Ok(())
    }

    fn commit(&mut self) -> Result<Ticket, BackendError> {
        Ok(Ticket(0))
    }

    fn is_done(&mut self, _: Ticket) -> Result<bool, BackendError> {
        Ok(true)
    }

    /// Token 0 for every output.
    fn collect(&mut self, _: Ticket) -> Result<StepOutcome, BackendError> {
        self.line(format_args!("collect"));
        let sampled = vec![Sampled { token: 0, finite: true }; self.outputs];
        Ok(StepOutcome { sampled, ..StepOutcome::default() })
    }
}

fn show(token: &TokenInput) -> String {
    match token {
        TokenInput::Known(token) => token.to_string(),
        TokenInput::LastSample(slot) => format!("last:{slot}"),
    }
}

#[cfg(test)]
mod tests;
