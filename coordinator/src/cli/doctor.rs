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
            println!("cublas  {}", cublas());
            match device::nccl() {
                Ok(version) => println!("nccl    ok       {version}"),
                Err(cause) => println!("nccl    missing  {cause} (for several GPUs alone)"),
            }
        }
        Err(cause) => println!("cuda    missing  {cause}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Where cuBLASLt was found.
fn cublas() -> String {
    let folders = config::cuda_library_folders();
    let found = folders.into_iter().map(|folder| folder.join("libcublasLt.so.13"));
    match found.into_iter().find(|path| path.is_file()) {
        Some(path) => format!("ok       {}", path.display()),
        None => "unknown  not in a Python package; the system's places and LD_LIBRARY_PATH are \
                 tried at start. `pip install 'nvidia-cublas==13.*'` brings it"
            .to_owned(),
    }
}
