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
use crate::parallel::TensorParallel;

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
    /// The GPUs that may be used; none for the CPU.
    pub fn gpus(&self) -> Result<Vec<Gpu>, ConfigError> {
        match self.device {
            Device::Cpu => Ok(Vec::new()),
            Device::Auto if self.single => Ok(Vec::new()),
            Device::Auto => Ok(present()),
            Device::Cuda if self.single => Err(ConfigError(
                "--device cuda: computes in bf16 or f16, not in f32; use --dtype bf16, or --device \
                 cpu"
                .into(),
            )),
            Device::Cuda => probe().map_err(|cause| {
                ConfigError(format!("--device cuda: {cause}; or use --device cpu"))
            }),
        }
    }

    /// Which of `gpus` the ranks run on; the CPU where there are none, or where somebody asked for
    /// more ranks than this version puts on GPUs and not for a GPU.
    pub fn choose(
        &self,
        gpus: &[Gpu],
        ranks: u32,
        tp: TensorParallel,
    ) -> Result<Option<CudaConfig>, ConfigError> {
        let Some(gpu) = gpus.first() else { return Ok(None) };
        let asked = matches!(tp, TensorParallel::Ranks(_));
        match self.device {
            _ if ranks == 1 => Ok(Some(self.cuda(gpu))),
            Device::Auto if asked => Ok(None),
            _ => Err(ConfigError(format!(
                "{ranks} GPUs are wanted, and this version runs on one; give --tp 1 if the model \
                 fits with a shorter --max-model-len, or --device cpu"
            ))),
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

/// The GPUs that can be used. Hosts without one are not made to start a child.
pub fn present() -> Vec<Gpu> {
    if config::has_nvidia_device() { probe().unwrap_or_default() } else { Vec::new() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_takes_the_gpu_and_several_say_what_to_do() {
        let wishes = |device| Wishes {
            device,
            kernels: None,
            graphs: true,
            memory_utilization: 0.9,
            single: false,
        };
        let (name, capability, image) = ("GPU".to_owned(), "9.0".to_owned(), "sm_90a".to_owned());
        let gpus = [Gpu { ordinal: 3, name, capability, bytes: 1 << 30, image }];
        let (auto, cuda) = (wishes(Device::Auto), wishes(Device::Cuda));
        let ordinal = |chosen: Option<CudaConfig>| chosen.map(|cuda| cuda.ordinal);
        let asked = TensorParallel::Ranks(2);
        assert_eq!(ordinal(auto.choose(&gpus, 1, TensorParallel::Auto).unwrap()), Some(3));
        assert_eq!(ordinal(auto.choose(&gpus, 2, asked).unwrap()), None, "the CPU has ranks");
        assert_eq!(ordinal(auto.choose(&[], 1, TensorParallel::Auto).unwrap()), None);
        for (wishes, tp) in [(auto, TensorParallel::Auto), (cuda, asked)] {
            let error = wishes.choose(&gpus, 2, tp).unwrap_err().to_string();
            assert!(error.contains("2 GPUs are wanted") && error.contains("--device cpu"));
        }
    }
}
