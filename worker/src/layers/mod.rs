//! Kinds of layer: one file each, a few backend operations each. Knows no architecture.

pub mod glu;
pub mod gqa;

use crate::backend::args::{NormLinearArgs, Tensor};
use crate::backend::{Backend, BackendError};
use crate::progress::{Operation, Progress};

/// What a layer works with during one step.
pub struct Step<'a> {
    /// The device.
    pub backend: &'a mut dyn Backend,
    /// Told of every operation before it is entered.
    pub progress: &'a Progress,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// The first operation behind the mixer or feed-forward under way, where another one follows.
    pub next: Option<NormLinearArgs>,
    /// The residual stream, `[tokens, hidden]`: read and written.
    pub x: Tensor,
    /// Room for what lies between a layer's two products, `[tokens, wide]`.
    pub wide: Tensor,
    /// Room for attention's output, `[tokens, heads * head_dim]`.
    pub mixed: Tensor,
}

impl Step<'_> {
    /// Enters an operation of a layer and runs it.
    fn run(
        &mut self,
        operation: Operation,
        layer: usize,
        call: impl FnOnce(&mut dyn Backend) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.progress.enter(operation, Some(layer));
        call(self.backend)
    }
}
