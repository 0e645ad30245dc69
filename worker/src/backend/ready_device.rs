//! The device of a rank that is ready for steps: bare, or timed where somebody asks for it.

use super::graph_capture::GraphCapture;
use super::operations::Backend;
use super::rank_device::RankDevice;
use super::timed::TimedBackend;

/// What an engine runs its steps on.
pub enum ReadyDevice {
    /// The device itself.
    Bare(Box<dyn RankDevice>),
    /// The device with its operations timed, for `--profile` and `--trace`.
    Timed(Box<TimedBackend>),
}

impl ReadyDevice {
    /// Where operations go.
    pub fn backend(&mut self) -> &mut dyn Backend {
        match self {
            Self::Bare(device) => &mut **device,
            Self::Timed(timed) => &mut **timed,
        }
    }

    /// Where captures go; `None` where the device has no CUDA graphs.
    pub fn graphs(&mut self) -> Option<&mut dyn GraphCapture> {
        match self {
            Self::Bare(device) => device.graphs(),
            Self::Timed(timed) => timed.graphs(),
        }
    }

    /// The device itself.
    pub fn device(&self) -> &dyn RankDevice {
        match self {
            Self::Bare(device) => &**device,
            Self::Timed(timed) => timed.device(),
        }
    }

    /// What was measured, for people. Asked for once, after the last step.
    pub fn report(&mut self) -> String {
        match self {
            Self::Bare(_) => String::new(),
            Self::Timed(timed) => timed.report(),
        }
    }
}
