//! On what to run: wishes in, a choice out.
//!
//! The coordinator never opens a driver: what there is, it hears from a child, `binfer worker
//! --probe`, which prints a JSON line a device.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde::Deserialize;

use crate::config::{self, ConfigError};
use crate::fleet::CudaConfig;
use crate::parallel::TensorParallel;

/// What the command line says of devices.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRequest {
    /// `--device`.
    pub device: DeviceChoice,
    /// `--kernels`.
    pub kernels: Option<KernelImage>,
    /// Unless `--no-cuda-graphs`.
    pub graphs: bool,
    /// `--gpu-memory-utilization`.
    pub memory_utilization: f32,
    /// Arithmetic in single precision.
    pub f32_arithmetic: bool,
    /// `BINFER_GPUS_SHARED`: there may be more ranks than GPUs.
    pub gpus_shared: bool,
}

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The best that is there.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// `--kernels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelImage {
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

impl KernelImage {
    fn name(self) -> &'static str {
        match self {
            Self::Sm90a => "sm_90a",
            Self::Sm80 => "sm_80",
            Self::Compute80 => "compute_80",
        }
    }
}

impl DeviceRequest {
    /// The GPUs that may be used; none for the CPU.
    pub fn gpus(&self) -> Result<Vec<Gpu>, ConfigError> {
        match self.device {
            DeviceChoice::Cpu => Ok(Vec::new()),
            DeviceChoice::Auto if self.f32_arithmetic => Ok(Vec::new()),
            DeviceChoice::Auto => Ok(usable_gpus()),
            DeviceChoice::Cuda if self.f32_arithmetic => Err(ConfigError(
                "--device cuda: computes in bf16 or f16, not in f32; use --dtype bf16, or --device \
                 cpu"
                .into(),
            )),
            DeviceChoice::Cuda => probe().map_err(|cause| {
                ConfigError(format!("--device cuda: {cause}; or use --device cpu"))
            }),
        }
    }

    /// Which of `gpus` the ranks run on, a rank on each; the CPU where there are none, or where
    /// somebody asked for more ranks than there are GPUs and not for a GPU.
    pub fn choose(
        &self,
        gpus: &[Gpu],
        ranks: u32,
        tp: TensorParallel,
    ) -> Result<Option<CudaConfig>, ConfigError> {
        let Some(first) = gpus.first() else { return Ok(None) };
        let wanted = ranks as usize;
        if wanted > gpus.len() && !self.gpus_shared {
            if self.device == DeviceChoice::Auto && matches!(tp, TensorParallel::Ranks(_)) {
                return Ok(None);
            }
            let there = gpus.len();
            return Err(ConfigError(format!(
                "--tp {ranks}: a rank takes a GPU, and {there} may be used; give --tp {there} or \
                 less, or --device cpu"
            )));
        }
        let chosen: Vec<&Gpu> = gpus.iter().cycle().take(wanted).collect();
        if let Some(other) = chosen.iter().find(|gpu| gpu.name != first.name) {
            return Err(ConfigError(format!(
                "--tp {ranks}: {} and {} would not compute the same; name GPUs of one kind in \
                 CUDA_VISIBLE_DEVICES",
                first.name, other.name
            )));
        }
        Ok(Some(self.cuda(&chosen, wanted.div_ceil(gpus.len()))))
    }

    /// A rank on each of `gpus`, of which one occurs `on_one` times at most.
    fn cuda(&self, gpus: &[&Gpu], on_one: usize) -> CudaConfig {
        CudaConfig {
            ordinals: gpus.iter().map(|gpu| gpu.ordinal).collect(),
            bytes: gpus.iter().map(|gpu| gpu.bytes).min().unwrap_or(0),
            kernels: self.kernels.map_or("", KernelImage::name),
            graphs: self.graphs,
            memory_utilization: self.memory_utilization / on_one as f32,
            libraries: config::cuda_library_folders(),
            is_shared: on_one > 1,
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
enum ProbeLine {
    Cuda(Gpu),
    Nccl { version: String },
    Cublas { version: String },
    None { cause: String },
}

/// The GPUs that can be used. Hosts without one are not made to start a child; where there is one
/// that cannot be used, stderr says why.
pub fn usable_gpus() -> Vec<Gpu> {
    probe_if_present(config::has_nvidia_device(), probe, |note| {
        binfer_console::message(format_args!("binfer: {note}"));
    })
}

fn probe_if_present(
    is_there: bool,
    probe: impl FnOnce() -> Result<Vec<Gpu>, String>,
    say: impl FnOnce(&str),
) -> Vec<Gpu> {
    if !is_there {
        return Vec::new();
    }
    probe().unwrap_or_else(|cause| {
        say(&format!("there is an NVIDIA device, and it is not used: {cause}"));
        Vec::new()
    })
}

/// The GPUs that can be used, or why there are none.
pub fn probe() -> Result<Vec<Gpu>, String> {
    let lines = run_probe(&["--probe".into()])?;
    let gpu = |line| if let ProbeLine::Cuda(gpu) = line { Some(gpu) } else { None };
    let gpus: Vec<Gpu> = lines.into_iter().filter_map(gpu).collect();
    let usable: Vec<Gpu> = gpus.iter().filter(|gpu| !gpu.image.is_empty()).cloned().collect();
    match (usable.is_empty(), gpus.first()) {
        (true, Some(gpu)) => {
            Err(format!("{} has compute capability {}; 8.0 is needed", gpu.name, gpu.capability))
        }
        _ => Ok(usable),
    }
}

/// Version of the NCCL that several ranks would use, or why they could not.
pub fn nccl() -> Result<String, String> {
    probe_library("--probe-nccl")
}

/// Version and file of the cuBLASLt that a GPU would use, or why it could not.
pub fn cublas() -> Result<String, String> {
    probe_library("--probe-cublas")
}

fn probe_library(flag: &str) -> Result<String, String> {
    let folders = config::cuda_library_folders().into_iter().map(PathBuf::into_os_string);
    let args: Vec<OsString> = [OsString::from(flag)].into_iter().chain(folders).collect();
    match run_probe(&args)?.pop() {
        Some(ProbeLine::Nccl { version } | ProbeLine::Cublas { version }) => Ok(version),
        _ => Err("looking for a library: a child spoke of something else".into()),
    }
}

/// The lines of a child, of which there is at least one.
fn run_probe(args: &[OsString]) -> Result<Vec<ProbeLine>, String> {
    let mut child = Command::new("/proc/self/exe");
    child.arg("worker").args(args).stdin(Stdio::null()).stderr(Stdio::null());
    let output = child.output().map_err(|error| format!("looking for GPUs: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(ProbeLine::None { cause }) => return Err(cause),
            Ok(found) => lines.push(found),
            Err(_) => return Err(format!("looking for GPUs: a child said {line:?}")),
        }
    }
    if lines.is_empty() { Err("looking for GPUs: a child said nothing".into()) } else { Ok(lines) }
}

/// Folders of installed wheels of NVIDIA's, below a folder of Python packages.
pub(crate) fn wheel_folders(packages: &Path) -> [PathBuf; 3] {
    ["nvidia/cu13/lib", "nvidia/cublas/lib", "nvidia/nccl/lib"].map(|folder| packages.join(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device_request(device: DeviceChoice) -> DeviceRequest {
        DeviceRequest {
            device,
            kernels: None,
            graphs: true,
            memory_utilization: 0.9,
            f32_arithmetic: false,
            gpus_shared: false,
        }
    }

    fn gpu(ordinal: u32, name: &str) -> Gpu {
        let (capability, image) = ("9.0".to_owned(), "sm_90a".to_owned());
        Gpu { ordinal, name: name.to_owned(), capability, bytes: 1 << 30, image }
    }

    #[test]
    fn each_rank_takes_a_gpu() {
        let gpus = [gpu(0, "H100"), gpu(1, "H100"), gpu(2, "H100")];
        let cuda =
            device_request(DeviceChoice::Auto).choose(&gpus, 2, TensorParallel::Ranks(2)).unwrap();
        let cuda = cuda.unwrap();
        assert_eq!((cuda.ordinals, cuda.is_shared), (vec![0, 1], false));
        let none =
            device_request(DeviceChoice::Auto).choose(&[], 2, TensorParallel::Ranks(2)).unwrap();
        assert!(none.is_none(), "there is no GPU");
    }

    #[test]
    fn more_ranks_than_gpus_say_what_to_do() {
        let gpus = [gpu(3, "H100")];
        let (auto, cuda) = (device_request(DeviceChoice::Auto), device_request(DeviceChoice::Cuda));
        let asked = TensorParallel::Ranks(2);
        assert!(auto.choose(&gpus, 2, asked).unwrap().is_none(), "the CPU has ranks");
        let error = cuda.choose(&gpus, 2, asked).unwrap_err().to_string();
        assert!(error.contains("give --tp 1") && error.contains("--device cpu"), "{error}");
        let gpus_shared =
            DeviceRequest { gpus_shared: true, ..cuda }.choose(&gpus, 3, asked).unwrap().unwrap();
        assert_eq!((gpus_shared.ordinals, gpus_shared.is_shared), (vec![3; 3], true));
        assert!((gpus_shared.memory_utilization - 0.3).abs() < 1e-6);
    }

    #[test]
    fn a_gpu_that_cannot_be_used_is_spoken_of_and_one_that_is_not_there_is_not() {
        let mut said = Vec::new();
        let old = || Err("driver 580 or newer is needed".to_owned());
        assert!(probe_if_present(true, old, |note| said.push(note.to_owned())).is_empty());
        assert!(said.len() == 1 && said[0].contains("driver 580 or newer"), "{said:?}");
        let unasked = || -> Result<Vec<Gpu>, String> { panic!("a child for nothing") };
        assert!(probe_if_present(false, unasked, |note| panic!("{note}")).is_empty());
        let there = || Ok(vec![gpu(0, "H100")]);
        assert_eq!(probe_if_present(true, there, |note| panic!("{note}")).len(), 1);
    }

    #[test]
    fn gpus_of_two_kinds_are_not_mixed() {
        let gpus = [gpu(0, "H100"), gpu(1, "A100")];
        let all = |ranks| {
            device_request(DeviceChoice::Cuda).choose(&gpus, ranks, TensorParallel::Ranks(ranks))
        };
        assert_eq!(all(1).unwrap().unwrap().ordinals, [0]);
        let error = all(2).unwrap_err().to_string();
        assert!(error.contains("H100 and A100") && error.contains("CUDA_VISIBLE_DEVICES"));
    }
}
