//! The device that the coordinator chose for a rank, and the devices that it may choose from.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use binfer_console as console;
use binfer_kernels::Target;
use binfer_proto::KvDtype;
use binfer_proto::cluster::{Cuda, Load, Welcome};

use crate::backend::cpu::{CpuBackend, CpuSettings};
use crate::backend::cuda::{self, CudaBackend, CudaSettings, Half};
use crate::backend::timed::{StepTimes, TimedSettings};
use crate::backend::{BackendError, RankDevice};

/// The device that a rank was told to use, without weights.
pub fn open(load: &Load, world: usize) -> Result<Box<dyn RankDevice>> {
    if let Some(cuda) = &load.cuda {
        return Ok(Box::new(CudaBackend::new(settings(cuda, load, world)?)?));
    }
    let kv_dtype = KvDtype::try_from(load.kv_dtype())?;
    let settings = CpuSettings { kv_dtype, ..CpuSettings::new(load.threads as usize) };
    Ok(Box::new(CpuBackend::new(settings)?))
}

/// What measures the steps of a device without weights; `None` unless somebody asked for it.
pub fn step_times(
    load: &Load,
    welcome: &Welcome,
    device: &mut dyn RankDevice,
) -> Result<Option<StepTimes>> {
    if !load.profile && load.trace.is_empty() {
        return Ok(None);
    }
    let settings = TimedSettings {
        profile: load.profile && welcome.rank == 0,
        trace: (!load.trace.is_empty()).then(|| PathBuf::from(&load.trace)),
        rank: welcome.rank,
        kv_element_bytes: kv_element_bytes(load)?,
    };
    Ok(Some(StepTimes::new(device, settings)?))
}

/// Bytes of an element of the cache.
pub fn kv_element_bytes(load: &Load) -> Result<u64> {
    Ok(KvDtype::try_from(load.kv_dtype())?.bytes())
}

fn settings(cuda: &Cuda, load: &Load, world: usize) -> Result<CudaSettings> {
    let target = Target::ALL.into_iter().find(|target| target.name() == cuda.kernels);
    if target.is_none() && !cuda.kernels.is_empty() {
        bail!("there are no kernels for {}", cuda.kernels);
    }
    Ok(CudaSettings {
        ordinal: i32::try_from(cuda.ordinal)?,
        half: match KvDtype::try_from(load.kv_dtype())? {
            KvDtype::BF16 => Half::Bf16,
            KvDtype::F16 => Half::F16,
            KvDtype::F32 => bail!("a GPU computes in bf16 or f16, not in f32"),
        },
        target,
        libraries: cuda.libraries.iter().map(PathBuf::from).collect(),
        graphs: cuda.graphs,
        memory_utilization: f64::from(cuda.memory_utilization),
        threads: load.threads as usize,
        world,
    })
}

/// Prints what `binfer worker --probe` finds: a JSON line a device, or one that says why there is
/// none. The coordinator never opens a driver itself.
pub fn print() -> Result<ExitCode> {
    let line = |device: &cuda::DeviceInfo| {
        let (major, minor) = device.capability;
        let image = Target::of_capability(major, minor).map_or("", Target::name);
        format!(
            "{{\"device\":\"cuda\",\"ordinal\":{},\"name\":{:?},\"capability\":\"{major}.{minor}\",\
             \"multiprocessors\":{},\"bytes\":{},\"image\":\"{image}\"}}\n",
            device.ordinal, device.name, device.multiprocessors, device.bytes_total
        )
    };
    console::print(&match cuda::probe() {
        Ok(devices) => devices.iter().map(line).collect::<String>(),
        Err(missing) => none(&missing.to_string()),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what `binfer worker --probe-nccl` and `--probe-cublas` find: a JSON line with the version
/// that GPUs would use, or with the cause why they could not.
pub fn print_library(name: &str, version: Result<String, BackendError>) -> Result<ExitCode> {
    console::print(&match version {
        Ok(version) => format!("{{\"device\":\"{name}\",\"version\":{version:?}}}\n"),
        Err(cause) => none(&cause.to_string()),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The line that says why there is nothing.
fn none(cause: &str) -> String {
    format!("{{\"device\":\"none\",\"cause\":{cause:?}}}\n")
}
