//! The door to the CUDA driver, cuBLASLt and NCCL: every unsafe call of this backend, behind safe
//! ones.
//!
//! | file | is |
//! |---|---|
//! | `driver.rs`, `error.rs` | the driver, devices, contexts; errors |
//! | `memory.rs` | device memory, pinned memory, copies |
//! | `launch.rs` | modules, functions, streams, events |
//! | `capture.rs` | CUDA graphs: captured, instantiated, launched |
//! | `tensor_map.rs` | tensors in the copy engine's words |
//! | `library.rs` | libraries beside the driver: found and kept open |
//! | `blas.rs`, `matmul.rs` | cuBLASLt; what is asked of it |
//! | `nccl.rs`, `nccl_bindings.rs` | NCCL; what bindgen made of its header |
//!
//! Libraries are opened at run time, and nothing panics where one is missing. What cannot be proved
//! here: that addresses inside of a kernel's parameters are right. A wrong one is a device error,
//! which every later call reports; it cannot harm the host's memory, except through mapped memory,
//! whose addresses only the step's ring uses.
#![allow(unsafe_code, reason = "one of the doors that docs/architecture.md names")]

pub(super) mod blas;
pub(super) mod capture;
pub(super) mod driver;
pub(super) mod error;
pub(super) mod launch;
pub(super) mod library;
pub(super) mod matmul;
pub(super) mod memory;
pub(super) mod nccl;
mod nccl_bindings;
pub(super) mod tensor_map;
