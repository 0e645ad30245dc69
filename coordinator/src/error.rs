//! Why a command that needs a model failed. `cli/exit.rs` gives each error its exit status.

use binfer_shard::hub::HubError;

use crate::config::ConfigError;
use crate::fleet::FleetError;
use crate::signals::StopSignal;
use crate::text::TextError;

/// Why a model could not be had, a cluster did not come up, or it ended.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Settings are wrong; nothing was started.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model cannot be had from the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model's file is wrong.
    #[error(transparent)]
    Model(#[from] binfer_shard::Error),
    /// The model's tokenizer or template is wrong.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A worker is lost, or never came.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The request or the model gives no answer.
    #[error("{0}")]
    Answer(String),
    /// The host refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A signal broke the command off before the front had ended by itself.
    #[error("interrupted")]
    Interrupted(StopSignal),
    /// There is a bug in binfer, which a panic has described.
    #[error("{0}; this is a bug of binfer")]
    Defect(String),
}
