//! On what to run: wishes in, a choice out.
//!
//! The coordinator never opens a driver: what there is, it hears from a child, `binfer worker
//! --probe`, which prints a JSON line a device.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde::Deserialize;

use crate::config::{self, ConfigError};
use crate::fleet::CudaConfig;

/// What the command line says of devices.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// `--device`.
    pub device: Device,
    /// `--kernels`.
    pub kernels: Option<Kernels>,
    /// Unless `--no-cuda-graphs`.
    pub graphs: bool,
    /// `--gpu-memory-utilization`.
    pub memory_utilization: f32,
    /// Ranks.
    pub world: u32,
    /// Arithmetic in single precision.
    pub single: bool,
}

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best that is there.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// `--kernels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernels {
    /// Hopper's machine code.
    #[value(name = "sm_90a")]
    Sm90a,
    /// That of compute capability 8.0.
    #[value(name = "sm_80")]
    Sm80,
    /// Portable assembly.
    #[value(name = "compute_80")]
    Compute80,
}

impl Kernels {
    fn name(self) -> &'static str {
        match self {
            Self::Sm90a => "sm_90a",
            Self::Sm80 => "sm_80",
            Self::Compute80 => "compute_80",
        }
    }
}

impl Wishes {
    /// The GPU to run on; the CPU where there is none.
    pub fn choose(&self) -> Result<Option<CudaConfig>, ConfigError> {
        let can = self.world == 1 && !self.single;
        match self.device {
            Device::Cpu => Ok(None),
            Device::Auto if !can || !config::has_nvidia_device() => Ok(None),
            Device::Auto => Ok(probe().ok().and_then(|gpus| Some(self.cuda(gpus.first()?)))),
            Device::Cuda if self.world > 1 => Err(ConfigError(format!(
                "--device cuda: this version runs on one GPU, not on {}; leave --tp away, or use \
                 --device cpu",
                self.world
            ))),
            Device::Cuda if self.single => Err(ConfigError(
                "--device cuda: computes in bf16 or f16, not in f32; use --dtype bf16, or --device \
                 cpu"
                .into(),
            )),
            Device::Cuda => match probe() {
                Ok(gpus) => Ok(gpus.first().map(|gpu| self.cuda(gpu))),
                Err(cause) => {
                    Err(ConfigError(format!("--device cuda: {cause}; or use --device cpu")))
                }
            },
        }
    }

    fn cuda(&self, gpu: &Gpu) -> CudaConfig {
        CudaConfig {
            ordinal: gpu.ordinal,
            bytes: gpu.bytes,
            kernels: self.kernels.map_or("", Kernels::name),
            graphs: self.graphs,
            memory_utilization: self.memory_utilization,
            libraries: config::cuda_library_folders(),
        }
    }
}

/// A GPU, as the child describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Gpu {
    /// Its number.
    pub ordinal: u32,
    /// "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// Compute capability, "9.0".
    pub capability: String,
    /// All of its memory.
    pub bytes: u64,
    /// Kernels that suit it best; empty where none do.
    pub image: String,
}

/// A line of the child.
#[derive(Deserialize)]
#[serde(tag = "device", rename_all = "lowercase")]
enum Line {
    Cuda(Gpu),
    None { cause: String },
}

/// The GPUs that can be used, or why there are none.
pub fn probe() -> Result<Vec<Gpu>, String> {
    let gpus = ask(Path::new("/proc/self/exe"))?;
    let usable: Vec<Gpu> = gpus.iter().filter(|gpu| !gpu.image.is_empty()).cloned().collect();
    match (usable.is_empty(), gpus.first()) {
        (true, Some(gpu)) => {
            Err(format!("{} has compute capability {}; 8.0 is needed", gpu.name, gpu.capability))
        }
        _ => Ok(usable),
    }
}

fn ask(program: &Path) -> Result<Vec<Gpu>, String> {
    let mut child = Command::new(program);
    child.args(["worker", "--probe"]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = child.output().map_err(|error| format!("looking for GPUs: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut gpus = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Cuda(gpu)) => gpus.push(gpu),
            Ok(Line::None { cause }) => return Err(cause),
            Err(_) => return Err(format!("looking for GPUs: a child said {line:?}")),
        }
    }
    if gpus.is_empty() { Err("looking for GPUs: a child said nothing".into()) } else { Ok(gpus) }
}

/// Folders of an installed wheel of NVIDIA's, below a folder of Python packages.
pub(crate) fn wheel_folders(packages: &Path) -> [PathBuf; 2] {
    ["nvidia/cu13/lib", "nvidia/cublas/lib"].map(|folder| packages.join(folder))
}
