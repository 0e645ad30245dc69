//! Which device a cluster runs on: the command line's request in, a choice out.

use clap::ValueEnum;

use crate::config::{self, ConfigError};
use crate::fleet::CudaConfig;
use crate::gpu_probe::{self, Gpu, usable_gpus};
use crate::parallel::TensorParallel;

/// What the command line and the environment ask of devices.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRequest {
    /// The value of `--device`.
    pub device: DeviceChoice,
    /// The value of `--kernels`.
    pub kernels: Option<KernelImage>,
    /// Decode steps run out of CUDA graphs; false with `--no-cuda-graphs`.
    pub graphs: bool,
    /// The value of `--gpu-memory-utilization`.
    pub memory_utilization: f32,
    /// The arithmetic is to be f32, which only the CPU has.
    pub f32_arithmetic: bool,
    /// Several ranks may have one GPU (`BINFER_GPUS_SHARED`).
    pub gpus_shared: bool,
}

/// The values of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// A GPU where there is one that can do what is asked, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The values of `--kernels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelImage {
    /// Machine code for compute capability 9.0 (Hopper).
    #[value(name = "sm_90a")]
    Sm90a,
    /// Machine code for compute capability 8.0.
    #[value(name = "sm_80")]
    Sm80,
    /// PTX, which the driver compiles for the device.
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
    /// The GPUs that may be used; empty where the CPU is meant.
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
            DeviceChoice::Cuda => gpu_probe::probe().map_err(|cause| {
                ConfigError(format!("--device cuda: {cause}; or use --device cpu"))
            }),
        }
    }

    /// Assigns one of `gpus` to each rank. The result is `None`, the CPU, where there is no GPU,
    /// and where `--tp` asks for more ranks than there are GPUs and `--device` does not ask for a
    /// GPU.
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

    /// The configuration of one rank for each of `gpus`; at most `ranks_per_gpu` share one.
    fn cuda(&self, gpus: &[&Gpu], ranks_per_gpu: usize) -> CudaConfig {
        CudaConfig {
            ordinals: gpus.iter().map(|gpu| gpu.ordinal).collect(),
            bytes: gpus.iter().map(|gpu| gpu.bytes).min().unwrap_or(0),
            kernels: self.kernels.map_or("", KernelImage::name),
            graphs: self.graphs,
            memory_utilization: self.memory_utilization / ranks_per_gpu as f32,
            libraries: config::cuda_library_folders(),
            is_shared: ranks_per_gpu > 1,
        }
    }
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
