//! `binfer doctor`: what this machine offers, what is missing, and how to get it.

use std::process::ExitCode;

use anyhow::Result;
use binfer_console as console;
use clap::Args;

use crate::config;
use crate::gpu_probe;
use crate::memory::{AvailableMemory, KernelFiles, available_to_cluster};

/// Arguments of `binfer doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {}

/// Prints one line per finding. A machine without a GPU is in order.
pub fn run(_: &DoctorArgs) -> Result<ExitCode> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let line = |line: String| console::print(&(line + "\n"));
    let AvailableMemory { bytes, limit } = available_to_cluster(&KernelFiles::here());
    let limit = limit.map_or_else(String::new, |limit| format!(" ({limit})"));
    line(format!("cpu     ok       {} cores, {:.1} GiB free{limit}", config::cores(), gib(bytes)))?;
    line(match config::demo_path() {
        Ok(path) => format!("demo    ok       {}", path.display()),
        Err(cause) => format!("demo    missing  {cause}"),
    })?;
    let gpus = match gpu_probe::probe() {
        Ok(gpus) => gpus,
        Err(cause) => {
            line(format!("cuda    missing  {cause}"))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    for gpu in &gpus {
        let (bytes, image) = (gib(gpu.bytes), &gpu.image);
        line(format!(
            "cuda:{}  ok       {}, {bytes:.1} GiB, compute capability {}, runs {image}",
            gpu.ordinal, gpu.name, gpu.capability
        ))?;
    }
    line(match gpu_probe::cublas() {
        Ok(version) => format!("cublas  ok       {version}"),
        Err(cause) => format!("cublas  missing  {cause}"),
    })?;
    line(match gpu_probe::nccl() {
        Ok(version) => format!("nccl    ok       {version}"),
        Err(cause) => format!("nccl    missing  {cause} (for several GPUs alone)"),
    })?;
    Ok(ExitCode::SUCCESS)
}
