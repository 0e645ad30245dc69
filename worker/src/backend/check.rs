//! Contracts of the operations as code: shapes, places in the arena, overlap.
//!
//! Handles lose what references would prove, so every backend calls these in every build. A broken
//! contract is a bug of ours, never a client's.

use super::BackendError;
use super::args::{
    AttendArgs, EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor,
};

/// Sizes that the arguments of a step must agree with.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Elements of the arena.
    pub arena: usize,
    /// Input tokens.
    pub tokens: usize,
    /// Output rows.
    pub outputs: usize,
    /// Width of gathered logits.
    pub vocab: usize,
}

/// Outputs of a weight, and the inputs that it is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Outputs; 1 for a vector, which is the scale of a norm or a bias.
    pub rows: usize,
    /// Inputs that are fed.
    pub cols: usize,
}

impl WeightShape {
    /// The shape of a vector.
    #[must_use]
    pub fn of_vector(vector: &[f32]) -> Self {
        Self { rows: 1, cols: vector.len() }
    }
}

/// The contract of one operation in one step.
pub(super) struct Contract<'a> {
    pub(super) operation: &'static str,
    pub(super) step: &'a StepShape,
}

impl Contract<'_> {
    pub(super) fn refuse(&self, cause: String) -> Result<(), BackendError> {
        Err(BackendError::Args { operation: self.operation, cause })
    }

    /// Demands that `tensor` is `[rows, cols]` and lies in the arena.
    pub(super) fn tensor(
        &self,
        name: &str,
        tensor: &Tensor,
        rows: usize,
        cols: usize,
    ) -> Result<(), BackendError> {
        if (tensor.rows, tensor.cols) != (rows, cols) {
            return self.refuse(format!("{name} is {tensor:?}, not [{rows}, {cols}]"));
        }
        let end = rows.checked_mul(cols).and_then(|len| len.checked_add(tensor.offset));
        if end.is_none_or(|end| end > self.step.arena) {
            let arena = self.step.arena;
            return self.refuse(format!("{name} is {tensor:?} in an arena of {arena}"));
        }
        Ok(())
    }

    pub(super) fn apart(&self, one: &Tensor, other: &Tensor) -> Result<(), BackendError> {
        if one.overlaps(other) {
            return self.refuse(format!("{one:?} and {other:?} overlap"));
        }
        Ok(())
    }

    pub(super) fn weight(
        &self,
        name: &str,
        weight: WeightShape,
        rows: usize,
        cols: usize,
    ) -> Result<(), BackendError> {
        if weight != (WeightShape { rows, cols }) {
            let WeightShape { rows: has_rows, cols: has_cols } = weight;
            let cause = format!("{name} is [{has_rows}, {has_cols}], not [{rows}, {cols}]");
            return self.refuse(cause);
        }
        Ok(())
    }

    /// Demands that `vector`, where there is one, has `len` elements.
    pub(super) fn vector(
        &self,
        name: &str,
        vector: Option<WeightShape>,
        len: usize,
    ) -> Result<(), BackendError> {
        vector.map_or(Ok(()), |vector| self.weight(name, vector, 1, len))
    }
}

impl EmbedArgs {
    /// Refuses what breaks the contract.
    pub fn check(&self, step: &StepShape, table: WeightShape) -> Result<(), BackendError> {
        let contract = Contract { operation: "embed", step };
        contract.tensor("out", &self.out, step.tokens, table.cols)
    }
}

impl NormLinearArgs {
    /// Refuses what breaks the contract.
    pub fn check(
        &self,
        step: &StepShape,
        norm: WeightShape,
        weight: WeightShape,
        bias: Option<WeightShape>,
    ) -> Result<(), BackendError> {
        let contract = Contract { operation: "norm_linear", step };
        let hidden = self.x.cols;
        let rows = if self.glu.is_some() { 2 * self.out.cols } else { self.out.cols };
        contract.weight("norm", norm, 1, hidden)?;
        contract.weight("weight", weight, rows, hidden)?;
        contract.vector("bias", bias, rows)?;
        contract.tensor("x", &self.x, step.tokens, hidden)?;
        contract.tensor("out", &self.out, step.tokens, self.out.cols)?;
        contract.apart(&self.x, &self.out)
    }
}

impl AttendArgs {
    /// Refuses what breaks the contract.
    pub fn check(
        &self,
        step: &StepShape,
        [q_norm, k_norm, sinks]: [Option<WeightShape>; 3],
    ) -> Result<(), BackendError> {
        let contract = Contract { operation: "attend", step };
        let Self { heads, kv_heads, head_dim, rope, .. } = *self;
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return contract.refuse(format!("{heads} query heads of {kv_heads} KV heads"));
        }
        if !rope.dims.is_multiple_of(2) || rope.dims as usize > head_dim || self.window == Some(0) {
            let window = self.window;
            let cause = format!("{rope:?} and window {window:?} of heads of {head_dim}");
            return contract.refuse(cause);
        }
        contract.vector("q_norm", q_norm, head_dim)?;
        contract.vector("k_norm", k_norm, head_dim)?;
        contract.vector("sinks", sinks, heads)?;
        contract.tensor("qkv", &self.qkv, step.tokens, (heads + 2 * kv_heads) * head_dim)?;
        contract.tensor("out", &self.out, step.tokens, heads * head_dim)?;
        contract.apart(&self.qkv, &self.out)
    }
}

impl LinearOutArgs {
    /// Refuses what breaks the contract. `out` may be the same tensor as `residual`.
    pub fn check(
        &self,
        step: &StepShape,
        weight: WeightShape,
        bias: Option<WeightShape>,
    ) -> Result<(), BackendError> {
        let contract = Contract { operation: "linear_out", step };
        contract.weight("weight", weight, self.out.cols, self.x.cols)?;
        contract.vector("bias", bias, self.out.cols)?;
        contract.tensor("x", &self.x, step.tokens, weight.cols)?;
        contract.tensor("residual", &self.residual, step.tokens, weight.rows)?;
        contract.tensor("out", &self.out, step.tokens, weight.rows)?;
        contract.apart(&self.x, &self.out)?;
        if self.residual == self.out {
            return Ok(());
        }
        contract.apart(&self.residual, &self.out)
    }
}

impl HeadArgs {
    /// Refuses what breaks the contract.
    pub fn check(
        &self,
        step: &StepShape,
        norm: WeightShape,
        weight: WeightShape,
    ) -> Result<(), BackendError> {
        let contract = Contract { operation: "head", step };
        let (hidden, vocab) = (self.x.cols, step.vocab);
        contract.weight("norm", norm, 1, hidden)?;
        contract.weight("weight", weight, weight.rows, hidden)?;
        if self.first_token + weight.rows > vocab {
            let (first, rows) = (self.first_token, weight.rows);
            return contract.refuse(format!("{rows} rows from token {first} of {vocab}"));
        }
        contract.tensor("x", &self.x, step.tokens, hidden)?;
        contract.tensor("logits", &self.logits, step.outputs, vocab)?;
        contract.apart(&self.x, &self.logits)
    }
}

impl SampleArgs {
    /// Refuses what breaks the contract.
    pub fn check(&self, step: &StepShape) -> Result<(), BackendError> {
        let contract = Contract { operation: "sample", step };
        contract.tensor("logits", &self.logits, step.outputs, step.vocab)
    }
}
