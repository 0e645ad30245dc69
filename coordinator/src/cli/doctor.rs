//! `binfer doctor`: what this machine offers, what is missing, and how to get it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::config;
use crate::device;

/// Arguments of `binfer doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {}

/// Prints a line a finding. A machine without a GPU is in order.
pub fn run(_: &DoctorArgs) -> Result<ExitCode> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let memory = gib(config::memory_available_bytes());
    println!("cpu     ok       {} cores, {memory:.1} GiB free", config::cores());
    match config::demo_path() {
        Ok(path) => println!("demo    ok       {}", path.display()),
        Err(cause) => println!("demo    missing  {cause}"),
    }
    match device::probe() {
        Ok(gpus) => {
            for gpu in &gpus {
                let (bytes, image) = (gib(gpu.bytes), &gpu.image);
                println!(
                    "cuda:{}  ok       {}, {bytes:.1} GiB, compute capability {}, runs {image}",
                    gpu.ordinal, gpu.name, gpu.capability
                );
            }
            match device::cublas() {
                Ok(version) => println!("cublas  ok       {version}"),
                Err(cause) => println!("cublas  missing  {cause}"),
            }
            match device::nccl() {
                Ok(version) => println!("nccl    ok       {version}"),
                Err(cause) => println!("nccl    missing  {cause} (for several GPUs alone)"),
            }
        }
        Err(cause) => println!("cuda    missing  {cause}"),
    }
    Ok(ExitCode::SUCCESS)
}
