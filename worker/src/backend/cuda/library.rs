//! Products of many tokens: cuBLASLt, whose sums another kernel finishes.
//!
//! A model has few products, and algorithms are chosen for a ladder of token counts: all of them
//! before the first step, once a recording has shown what the products are. A step's own count takes
//! the algorithm of the next rung. Deliberately absent: decode steps, whose recordings hold only our
//! own kernels.

use std::collections::BTreeSet;

use binfer_kernels::Target;
use binfer_kernels::list;
use binfer_kernels::params::EpilogueParams;
use binfer_kernels::stream::STREAM_TOKENS_MAX;

use super::CudaBackend;
use super::ffi::blas::{Operands, Shape};
use super::ffi::recording::{Calls, Recording};
use super::narrow_product::LAUNCHED_TOKENS_MAX;
use super::product::{Product, Then, word};
use crate::backend::BackendError;

/// From so many tokens on, the library is asked.
const TOKENS_MIN: u32 = 32;
/// The ladder's rungs lie so many tokens apart, or a sixteenth of the next power of two.
const RUNG_TOKENS_MIN: u32 = 64;
/// What the library wants every row to be a multiple of, in elements.
const ROW_ELEMENTS: usize = 8;
/// Bytes that it wants addresses to be multiples of.
const ALIGNMENT: u64 = 256;
/// Elements of a thread of `glu_wide`.
const GLU_ELEMENTS: u32 = 8;

/// The model's products, as far as they were seen.
#[derive(Default)]
pub(super) struct Library {
    seen: BTreeSet<Seen>,
    is_prepared: bool,
}

/// A product of any number of tokens, and one weight that it multiplies.
type Seen = (Shape, bool, u64);

/// The rung of the ladder that so many tokens stand on.
fn rung(tokens: u32) -> u32 {
    tokens.next_multiple_of((tokens.next_power_of_two() / 16).max(RUNG_TOKENS_MIN))
}

/// All rungs for `least` to `most` tokens; the last one is `most` itself.
fn rungs(least: u32, most: u32) -> impl Iterator<Item = u32> {
    let step = move |tokens: u32| (tokens <= most).then(|| rung(tokens).min(most));
    std::iter::successors(step(least), move |tokens| step(tokens + 1))
}

fn suits(product: &Product) -> bool {
    let aligned = |size: usize| size.is_multiple_of(ROW_ELEMENTS);
    aligned(product.weight.cols)
        && aligned(product.weight.rows)
        && aligned(product.out_stride as usize)
        && [product.x, product.out].iter().all(|address| address.is_multiple_of(ALIGNMENT))
}

impl CudaBackend {
    /// Whether the library is to multiply.
    pub(super) fn suits_library(&self, product: &Product) -> bool {
        product.tokens >= TOKENS_MIN && !self.step.shape.is_decode && suits(product)
    }

    /// Most tokens of such a product.
    fn tokens_max(&self, is_head: bool) -> u32 {
        let plan = &self.step.plan;
        word(if is_head { plan.outputs_max } else { plan.tokens_max })
    }

    /// What the library is asked for.
    fn library_shape(&self, product: &Product) -> Shape {
        let rows = word(product.weight.rows);
        let most = self.tokens_max(product.then == Then::Logits);
        Shape {
            tokens: rung(product.tokens).min(most).max(product.tokens),
            outputs: rows,
            inputs: word(product.weight.cols),
            stride: word(product.weight.stride),
            out_stride: if product.then == Then::Glu { rows } else { product.out_stride },
            adds: product.then == Then::Add,
            single: matches!(product.then, Then::Add | Then::Logits | Then::Part),
        }
    }

    /// Remembers a product of a recording: steps of many tokens will have it, too.
    pub(super) fn expect_product(&mut self, product: &Product) {
        if suits(product) {
            let shape = Shape { tokens: 0, ..self.library_shape(product) };
            let is_head = product.then == Then::Logits;
            if !self.library.seen.iter().any(|(known, head, _)| (*known, *head) == (shape, is_head))
            {
                self.library.seen.insert((shape, is_head, product.weight.address));
            }
        }
    }

    /// Chooses the algorithms of all products that were seen, and has the library load its kernels:
    /// a product is recorded for each, and the recording dropped.
    pub(super) fn prepare_library(&mut self) -> Result<(), BackendError> {
        if std::mem::replace(&mut self.library.is_prepared, true) {
            return Ok(());
        }
        let has_stream = self.device.target == Target::Sm90a;
        let least = 1 + if has_stream { STREAM_TOKENS_MAX } else { LAUNCHED_TOKENS_MAX };
        let seen: Vec<(Shape, u32, u64)> = self
            .library
            .seen
            .iter()
            .map(|(shape, is_head, weight)| (*shape, self.tokens_max(*is_head), *weight))
            .collect();
        let (x, out) = (self.memory.arena.address(), self.memory.arena.address());
        let Self { ledger, blas, device, .. } = self;
        let prepare = || {
            let recording = Recording::begin(&device.stream, Calls::All)?;
            for (shape, most, weight) in seen {
                for tokens in rungs(least, most) {
                    let operands = Operands { tokens, x, weight, out };
                    blas.product(Shape { tokens, ..shape }, operands, &device.stream)?;
                }
            }
            recording.end().map(drop)
        };
        ledger.count("cuBLASLt", &device.context, prepare)
    }

    pub(super) fn multiply_by_library(&mut self, product: &Product) -> Result<(), BackendError> {
        let out = if product.then == Then::Glu { self.memory.at.sums } else { product.out };
        let (tokens, x, weight) = (product.tokens, product.x, product.weight.address);
        let operands = Operands { tokens, x, weight, out };
        self.blas.product(self.library_shape(product), operands, &self.device.stream)?;
        self.device.note_launch("cublasLt");
        let params = EpilogueParams {
            sums: out,
            bias: product.bias(),
            out: product.out,
            tokens: product.tokens,
            outputs: product.outputs(),
        };
        let kernel = match product.then {
            Then::Glu if params.outputs.is_multiple_of(GLU_ELEMENTS) => {
                let threads = list::ALL[list::GLU_WIDE.index].threads * GLU_ELEMENTS;
                let grid = [params.outputs.div_ceil(threads), params.tokens, 1];
                return self.device.launch(list::GLU_WIDE, grid, &params);
            }
            Then::Glu => list::GLU,
            Then::Store if product.bias.is_some() => list::BIAS,
            Then::Add if product.bias.is_some() => list::BIAS_RESIDUAL,
            _ => return Ok(()),
        };
        let threads = list::ALL[kernel.index].threads;
        let grid = [params.tokens, params.outputs.div_ceil(threads), 1];
        self.device.launch(kernel, grid, &params)
    }
}

#[cfg(test)]
mod tests {
    use super::{rung, rungs};

    #[test]
    fn rungs_lie_at_most_an_eighth_apart() {
        assert_eq!(
            [32, 64, 65, 257, 1024, 1025, 4097].map(rung),
            [64, 64, 128, 320, 1024, 1152, 4608]
        );
        for tokens in 512..20_000 {
            let up = rung(tokens);
            assert!(up >= tokens && 8 * (up - tokens) <= tokens && rung(up) == up, "{tokens}");
        }
    }

    #[test]
    fn every_count_stands_on_a_rung_that_is_prepared() {
        for (least, most) in [(257, 2048), (32, 100), (257, 8192), (257, 300), (257, 256)] {
            let prepared: Vec<u32> = rungs(least, most).collect();
            assert!((least..=most).all(|tokens| prepared.contains(&rung(tokens).min(most))));
            assert!(prepared.len() < 50 && prepared.is_empty() == (least > most));
        }
    }
}
