//! Mixed load over many steps: the real scheduler drives two engines side by side, which must agree
//! on every token and every digest, and end as lean as they began.
//!
//! | module | is |
//! |---|---|
//! | `clients` | requests that come, are preempted, given up and end |
//! | `pair` | two engines that are given the same plans |
//! | `run` | the loop, and what must hold at its end |
//! | `cpu` | some steps on the CPU, with other numbers of threads |
//! | `gpu` | 200,000 steps on a GPU, with CUDA graphs and without |
//!
//! In one process and without gRPC: a step costs its kernels and little else.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod clients;
mod cpu;
mod gpu;
mod pair;
mod run;
