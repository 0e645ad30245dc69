//! The GPUs and CUDA libraries of this host, as a child process finds them.
//!
//! The coordinator never opens a driver. It starts `binfer worker --probe`, which prints one JSON
//! line per device.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::config;

/// A GPU as the child describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Gpu {
    /// The driver's number of the device.
    pub ordinal: u32,
    /// The driver's name of it, for example "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// The compute capability, for example "9.0".
    pub capability: String,
    /// The device's whole memory.
    pub bytes: u64,
    /// The kernel image that suits it best; empty where none does.
    pub image: String,
}

/// Why no GPU, or no CUDA library, can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The child found the device or the library unusable, and says why.
    #[error("{0}")]
    Unusable(String),
    /// The GPU is older than any for which there are kernels.
    #[error("{name} has compute capability {capability}; 8.0 is needed")]
    TooOld {
        /// The first GPU's name.
        name: String,
        /// Its compute capability.
        capability: String,
    },
    /// The child process did not start.
    #[error("looking for GPUs: {0}")]
    NotStarted(String),
    /// The child printed a line of an unknown kind.
    #[error("looking for GPUs: the probe printed {0:?}")]
    UnknownLine(String),
    /// The child printed nothing.
    #[error("looking for GPUs: the probe printed nothing")]
    NoLine,
}

/// One line of the child.
#[derive(Debug, Deserialize)]
#[serde(tag = "device", rename_all = "lowercase")]
enum ProbeLine {
    Cuda(Gpu),
    Nccl { version: String },
    Cublas { version: String },
    None { cause: String },
}

/// The GPUs that can be used. A host without an NVIDIA device starts no child. Where there is a
/// device that cannot be used, stderr says why.
pub fn usable_gpus() -> Vec<Gpu> {
    probe_if_present(config::has_nvidia_device(), probe, |note| {
        binfer_console::message(format_args!("binfer: {note}"));
    })
}

fn probe_if_present(
    is_present: bool,
    probe: impl FnOnce() -> Result<Vec<Gpu>, ProbeError>,
    note: impl FnOnce(&str),
) -> Vec<Gpu> {
    if !is_present {
        return Vec::new();
    }
    probe().unwrap_or_else(|cause| {
        note(&format!("there is an NVIDIA device, and it is not used: {cause}"));
        Vec::new()
    })
}

/// The GPUs that can be used, at least one.
///
/// # Errors
/// Why there is none.
pub fn probe() -> Result<Vec<Gpu>, ProbeError> {
    let lines = run_probe(&["--probe".into()])?;
    let gpu = |line| if let ProbeLine::Cuda(gpu) = line { Some(gpu) } else { None };
    let gpus: Vec<Gpu> = lines.into_iter().filter_map(gpu).collect();
    let usable: Vec<Gpu> = gpus.iter().filter(|gpu| !gpu.image.is_empty()).cloned().collect();
    match (usable.is_empty(), gpus.into_iter().next()) {
        (true, Some(Gpu { name, capability, .. })) => Err(ProbeError::TooOld { name, capability }),
        _ => Ok(usable),
    }
}

/// The version of the NCCL that several ranks would use.
///
/// # Errors
/// Why there is none.
pub fn nccl() -> Result<String, ProbeError> {
    probe_library("--probe-nccl")
}

/// Version and file of the cuBLASLt that a GPU would use.
///
/// # Errors
/// Why there is none.
pub fn cublas() -> Result<String, ProbeError> {
    probe_library("--probe-cublas")
}

fn probe_library(flag: &str) -> Result<String, ProbeError> {
    let folders = config::cuda_library_folders().into_iter().map(PathBuf::into_os_string);
    let args: Vec<OsString> = [OsString::from(flag)].into_iter().chain(folders).collect();
    match run_probe(&args)?.pop() {
        Some(ProbeLine::Nccl { version } | ProbeLine::Cublas { version }) => Ok(version),
        other => Err(ProbeError::UnknownLine(format!("{other:?}"))),
    }
}

/// The lines that the child prints, of which there is at least one.
fn run_probe(args: &[OsString]) -> Result<Vec<ProbeLine>, ProbeError> {
    let mut child = Command::new("/proc/self/exe");
    child.arg("worker").args(args).stdin(Stdio::null()).stderr(Stdio::null());
    let output = child.output().map_err(|error| ProbeError::NotStarted(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(ProbeLine::None { cause }) => return Err(ProbeError::Unusable(cause)),
            Ok(found) => lines.push(found),
            Err(_) => return Err(ProbeError::UnknownLine(line.to_owned())),
        }
    }
    if lines.is_empty() { Err(ProbeError::NoLine) } else { Ok(lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_cannot_be_used_is_spoken_of_and_one_that_is_not_there_is_not() {
        let mut notes = Vec::new();
        let old = || Err(ProbeError::Unusable("driver 580 or newer is needed".to_owned()));
        assert!(probe_if_present(true, old, |note| notes.push(note.to_owned())).is_empty());
        assert!(notes.len() == 1 && notes[0].contains("driver 580 or newer"), "{notes:?}");
        let unasked = || -> Result<Vec<Gpu>, ProbeError> { panic!("a child for nothing") };
        assert!(probe_if_present(false, unasked, |note| panic!("{note}")).is_empty());
        let found = || {
            Ok(vec![Gpu {
                ordinal: 0,
                name: "H100".to_owned(),
                capability: "9.0".to_owned(),
                bytes: 1 << 30,
                image: "sm_90a".to_owned(),
            }])
        };
        assert_eq!(probe_if_present(true, found, |note| panic!("{note}")).len(), 1);
    }
}
