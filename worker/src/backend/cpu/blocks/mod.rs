//! Blocks of weights as the kernel reads them: some inputs by sixteen rows, as packed as they came.
//!
//! | file | is |
//! |---|---|
//! | `weight_blocks.rs` | blocks of any type, and packing them |
//! | `block.rs` | what every type of block does |
//! | `plain.rs` | F32, F16, BF16 |
//! | `bytes.rs` | Q8_0 |
//! | `codes.rs` | integers of four to six bits, whatever their scales |
//! | `single.rs` | Q4_0, Q4_1, Q5_0, Q5_1: one scale for 32 inputs |
//! | `double.rs` | Q4_K, Q5_K, Q6_K: scales of scales for 256 inputs |
//! | `mxfp4.rs` | MXFP4 |
//! | `fp8.rs` | FP8 by blocks of 128 |
//! | `sums.rs` | multiply-adds that all of them share |
//!
//! A lane is a row. Inputs come in groups of 32, the unit of a gemm's order: multiply-adds over
//! a group's inputs, then its scale. Which block comes where is `matrix.rs`'s.

mod block;
mod bytes;
mod codes;
mod double;
mod fp8;
mod mxfp4;
mod plain;
mod single;
mod sums;
mod weight_blocks;

pub(super) use block::WeightBlock;
pub(super) use weight_blocks::{BlockRows, WeightBlocks, with_blocks};
