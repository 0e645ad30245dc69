//! A device: its context and stream, the image that it runs, launches by name.
//!
//! The image is chosen once, by compute capability or by order; launch settings come from the
//! image, never from the device.

use std::cell::{Cell, RefCell};

use binfer_kernels::chip::Chip;
use binfer_kernels::list::{self, Kernel, Types};
use binfer_kernels::{MODULES, Target, modules};

use super::ffi::driver::{self, Context, DeviceInfo};
use super::ffi::error::failed;
use super::ffi::launch::{CudaModule, CudaStream, Function, FunctionShape, KernelLaunch};
use super::formats::half::Half;
use super::ledger::DeviceLedger;
use super::settings::CudaSettings;
use crate::backend::BackendError;

/// What is in the way of using CUDA here.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Missing {
    /// The program has no kernels.
    #[error(
        "this program was built without nvcc: run `make cuda-toolchain`, then `cargo build --release`"
    )]
    Kernels,
    /// No driver, an old one, or no device.
    #[error("{0}")]
    Driver(String),
}

/// All devices of this machine, or why there are none to be had.
pub fn probe() -> Result<Vec<DeviceInfo>, Missing> {
    if MODULES.is_empty() {
        return Err(Missing::Kernels);
    }
    let missing = |error: BackendError| Missing::Driver(error.to_string());
    driver::start_driver().map_err(missing)?;
    let devices = driver::devices().map_err(missing)?;
    if devices.is_empty() {
        return Err(Missing::Driver("the driver knows no device".to_owned()));
    }
    Ok(devices)
}

/// A device in use.
pub(super) struct CudaDevice {
    pub(super) info: DeviceInfo,
    pub(super) target: Target,
    /// The type in which kernels compute.
    pub(super) half: Half,
    /// Functions in the order of [`list::ALL`]; none where the image lacks a kernel.
    functions: Vec<Option<Function>>,
    /// Kernels may start before the one before them has ended.
    pub(super) dependent: bool,
    pub(super) stream: CudaStream,
    /// The next kernel does not start before all work before it has ended.
    waits_for_all: Cell<bool>,
    /// Names of kernels as they are launched, while anybody wants to know.
    launched: RefCell<Option<Vec<&'static str>>>,
    /// Last: the stream ends before it.
    pub(super) context: Context,
}

/// The blocks of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaunchBlocks {
    pub(super) grid: [u32; 3],
    pub(super) cluster: u32,
    /// Shared memory of a block; what the kernel is listed with where absent.
    pub(super) shared_bytes: Option<u32>,
    /// Nothing of the kernel runs before the one before it has ended.
    pub(super) after_all: bool,
}

impl Default for LaunchBlocks {
    fn default() -> Self {
        Self { grid: [1; 3], cluster: 1, shared_bytes: None, after_all: false }
    }
}

impl CudaDevice {
    /// Takes the device and loads its image; counts what that takes.
    pub(super) fn open(settings: &CudaSettings) -> Result<(Self, DeviceLedger), BackendError> {
        let found = probe().map_err(|missing| failed("CUDA", missing.to_string()))?;
        let info = found.into_iter().find(|device| device.ordinal == settings.ordinal);
        let info = info.ok_or_else(|| failed("CUDA", format!("no device {}", settings.ordinal)))?;
        let target = image(&info, settings.target)?;
        let context = Context::new(settings.ordinal)?;
        let mut ledger = DeviceLedger::new(&context)?;
        let stream = CudaStream::new()?;
        let half = settings.half;
        let shared_bytes_max = chip(&info, target).image_shared_bytes_max();
        let image = || load(modules(target), half, shared_bytes_max);
        let functions = ledger.count("modules", &context, image)?;
        let (dependent, launched) = (target.has_dependent_launch(), RefCell::default());
        let waits_for_all = Cell::default();
        let device = Self {
            info,
            target,
            half,
            functions,
            dependent,
            stream,
            waits_for_all,
            launched,
            context,
        };
        Ok((device, ledger))
    }

    /// What choices of kernels depend on.
    pub(super) fn chip(&self) -> Chip {
        chip(&self.info, self.target)
    }

    /// What was enqueued last is no kernel of ours: the next one is not launched as its dependent.
    pub(super) fn wait_for_all_before_next(&self) {
        self.waits_for_all.set(true);
    }

    /// Goes on with the stressed image; false where this build or this device has none.
    #[cfg(test)]
    pub(super) fn stress(&mut self) -> Result<bool, BackendError> {
        let found = binfer_kernels::STRESSED.iter().filter(|module| module.target == self.target);
        if found.clone().next().is_none() {
            return Ok(false);
        }
        self.functions = load(found, self.half, self.chip().image_shared_bytes_max())?;
        Ok(true)
    }

    /// Goes on as on a device whose blocks have so much shared memory.
    #[cfg(test)]
    pub(super) fn limit_shared_memory(&mut self, bytes: u32) -> Result<(), BackendError> {
        self.info.shared_bytes_max = bytes;
        self.functions = load(modules(self.target), self.half, bytes)?;
        Ok(())
    }

    /// From now on names of launched kernels are kept, or not.
    pub(super) fn keep_names(&self, wanted: bool) {
        *self.launched.borrow_mut() = wanted.then(Vec::new);
    }

    /// Keeps the name of what is being launched, if anybody wants it.
    pub(super) fn note_launch(&self, name: &'static str) {
        if let Some(names) = &mut *self.launched.borrow_mut() {
            names.push(name);
        }
    }

    /// Names kept since the last call.
    pub(super) fn take_names(&self) -> Vec<&'static str> {
        self.launched.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Enqueues a kernel over `grid` blocks. A grid of nothing is no launch.
    pub(super) fn launch<P: Copy>(
        &self,
        kernel: Kernel<P>,
        grid: [u32; 3],
        params: &P,
    ) -> Result<(), BackendError> {
        self.launch_blocks(kernel, LaunchBlocks { grid, ..LaunchBlocks::default() }, params)
    }

    /// Enqueues a kernel whose blocks are not all that its listing says.
    pub(super) fn launch_blocks<P: Copy>(
        &self,
        kernel: Kernel<P>,
        blocks: LaunchBlocks,
        params: &P,
    ) -> Result<(), BackendError> {
        let LaunchBlocks { grid, cluster, shared_bytes, after_all } = blocks;
        if grid.contains(&0) {
            return Ok(());
        }
        let name = list::ALL[kernel.index].name;
        let function = self.functions[kernel.index]
            .as_ref()
            .ok_or_else(|| failed("launch", format!("{name} is not in {}", self.target.name())))?;
        self.note_launch(name);
        let after_all = self.waits_for_all.take() || after_all;
        let dependent = self.dependent && !after_all;
        let launch = KernelLaunch { grid, cluster, shared_bytes, dependent };
        self.stream.launch(function, launch, params)
    }
}

fn chip(info: &DeviceInfo, target: Target) -> Chip {
    let DeviceInfo { multiprocessors, shared_bytes_max, .. } = *info;
    Chip { target, multiprocessors, shared_bytes_max }
}

/// Which image a device runs.
fn image(info: &DeviceInfo, wanted: Option<Target>) -> Result<Target, BackendError> {
    let (major, minor) = info.capability;
    let best = Target::of_capability(major, minor).ok_or_else(|| {
        let name = &info.name;
        let cause = format!("{name} has compute capability {major}.{minor}; 8.0 is needed");
        failed("CUDA", cause)
    })?;
    let image = wanted.unwrap_or(best);
    if image.runs_on(info.capability) {
        return Ok(image);
    }
    let fits = Target::ALL.into_iter().filter(|target| target.runs_on(info.capability));
    let fits = fits.map(Target::name).collect::<Vec<_>>().join(" and ");
    let (wanted, name) = (image.name(), &info.name);
    let cause = format!(
        "--kernels {wanted}: {name} has compute capability {major}.{minor}, for which {fits} are"
    );
    Err(failed("CUDA", cause))
}

/// Loads modules of one target and finds all kernels in them. Where a kernel may ask for more
/// shared memory than the device has, whoever launches it looks before.
fn load(
    modules: impl Iterator<Item = &'static binfer_kernels::Module>,
    half: Half,
    shared_bytes_max: u32,
) -> Result<Vec<Option<Function>>, BackendError> {
    let loaded = modules
        .map(|module| {
            // The driver wants PTX to end with 0.
            let text: Vec<u8> = module.image.iter().copied().chain([0]).collect();
            Ok((module.file, CudaModule::load(&text)?))
        })
        .collect::<Result<Vec<_>, BackendError>>()?;
    let suffix = match half {
        Half::Bf16 => "_bf16",
        Half::F16 => "_f16",
    };
    list::ALL
        .iter()
        .map(|kernel| {
            let module = loaded.iter().find(|(file, _)| *file == kernel.file);
            let Some((_, module)) = module else { return Ok(None) };
            let name = match kernel.types {
                Types::None => kernel.name.to_owned(),
                Types::Halves => format!("{}{suffix}", kernel.name),
            };
            let shape = FunctionShape {
                threads: kernel.threads,
                shared_bytes: kernel.shared_bytes.min(shared_bytes_max),
                param_bytes: kernel.param_bytes,
            };
            module.function(&name, shape).map(Some)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_a_device_cannot_run_is_refused_with_those_that_it_can() {
        let device = |capability| DeviceInfo {
            ordinal: 0,
            name: "Some GPU".to_owned(),
            capability,
            multiprocessors: 1,
            shared_bytes_max: 1,
            bytes_total: 1,
        };
        assert_eq!(image(&device((9, 0)), Some(Target::Compute80)).unwrap(), Target::Compute80);
        assert_eq!(image(&device((8, 9)), Some(Target::Sm80)).unwrap(), Target::Sm80);
        let error = image(&device((9, 0)), Some(Target::Sm80)).unwrap_err().to_string();
        assert!(error.contains("--kernels sm_80: Some GPU has compute capability 9.0"), "{error}");
        assert!(error.ends_with("sm_90a and compute_80 are"), "{error}");
        assert!(image(&device((7, 5)), None).is_err());
    }
}
