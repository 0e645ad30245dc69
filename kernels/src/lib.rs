//! CUDA kernels: their images, their names and launch shapes, their parameters.
//!
//! | file | is |
//! |---|---|
//! | `cuda/*.cu` | kernels, a contract comment each; `cuda/*params.h`: their parameters |
//! | `params.rs`, `*_params.rs` | twins of those structs |
//! | `list.rs` | every kernel that the backend launches: file, name, threads, shared memory |
//! | `gemm.rs`, `chip.rs` | what a gemm is, and on what it runs |
//! | `skinny_gemm.rs` | which kernel serves a gemm of few tokens, and how: on Hopper |
//! | `stream_k_gemm.rs` | the same elsewhere |
//! | `moe_gemm.rs`, `fp8_gemm.rs` | the same of experts, and of weights in FP8, on Hopper |
//! | `moe.rs` | how the tokens of a mixture of experts are cut into chunks and tiles |
//! | `build.rs` | nvcc's work: [`MODULES`], empty where there was no nvcc; [`STRESSED`] |
//!
//! Deliberately absent: the driver. Launching is the worker's.

pub mod attention_params;
pub mod chip;
pub mod fp8_gemm;
pub mod gemm;
pub mod gemm_params;
pub mod latent_attention;
pub mod list;
pub mod moe;
pub mod moe_gemm;
pub mod moe_params;
pub mod params;
pub mod rank_params;
pub mod sample_params;
pub mod skinny_gemm;
pub mod stream_k_gemm;

/// A set of modules for a kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Machine code for compute capability 9.0, Hopper's own instructions included.
    Sm90a,
    /// Machine code for 8.0.
    Sm80,
    /// Portable assembly, compiled by the driver at start: anything from 8.0 up.
    Compute80,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sm90a, Self::Sm80, Self::Compute80];

    /// What a device of that compute capability runs; nothing below 8.0.
    #[must_use]
    pub fn of_capability(major: i32, minor: i32) -> Option<Self> {
        match (major, minor) {
            (9, 0) => Some(Self::Sm90a),
            (8, 0) => Some(Self::Sm80),
            (8.., _) => Some(Self::Compute80),
            _ => None,
        }
    }

    /// Whether a device of that compute capability runs it: machine code holds for its major
    /// version.
    #[must_use]
    pub fn runs_on(self, (major, minor): (i32, i32)) -> bool {
        match self {
            Self::Sm90a => (major, minor) == (9, 0),
            Self::Sm80 => major == 8,
            Self::Compute80 => major >= 8,
        }
    }

    /// Shared memory that a block may ask for: what the devices have that the image is made for,
    /// the least of them where there are many.
    #[must_use]
    pub fn shared_bytes_max(self) -> u32 {
        match self {
            Self::Sm90a => 227 << 10,
            Self::Sm80 => 163 << 10,
            Self::Compute80 => 99 << 10,
        }
    }

    /// The target's name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sm90a => "sm_90a",
            Self::Sm80 => "sm_80",
            Self::Compute80 => "compute_80",
        }
    }

    /// Whether kernels of this image wait for the kernel before them by themselves, so that they
    /// may be launched as dependents. A launch so of any other image would be a race.
    #[must_use]
    pub fn has_dependent_launch(self) -> bool {
        self == Self::Sm90a
    }
}

/// One compiled file.
#[derive(Debug)]
pub struct Module {
    /// Stem of its source.
    pub file: &'static str,
    /// What it was compiled for.
    pub target: Target,
    /// A cubin, or PTX.
    pub image: &'static [u8],
    /// What the compiler complained about.
    pub warnings: &'static [&'static str],
    /// Its kernels.
    pub entries: &'static [Entry],
}

/// A kernel in a module.
#[derive(Debug)]
pub struct Entry {
    /// Its exported name.
    pub name: &'static str,
    /// Bytes of registers that went to memory; none are wanted.
    pub spill_bytes: u64,
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Modules for one target; none where nvcc was missing.
pub fn modules(target: Target) -> impl Iterator<Item = &'static Module> {
    MODULES.iter().filter(move |module| module.target == target)
}

#[cfg(test)]
mod tests;
