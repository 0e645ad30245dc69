//! How a CUDA backend works.

use std::path::PathBuf;

use binfer_kernels::Target;

use super::formats::half::Half;

/// How a CUDA backend works.
#[derive(Clone, Debug)]
pub struct CudaSettings {
    /// Number of the device.
    pub ordinal: i32,
    /// The type in which it computes.
    pub half: Half,
    /// The image that it runs; the device's best where absent.
    pub target: Option<Target>,
    /// Where libraries are looked for before the system's places.
    pub libraries: Vec<PathBuf>,
    /// Decode steps run out of CUDA graphs.
    pub graphs: bool,
    /// Share of the device's memory that this process may take.
    pub memory_utilization: f64,
    /// Threads that read and convert weights.
    pub threads: usize,
    /// Ranks that share the model.
    pub world: usize,
}
