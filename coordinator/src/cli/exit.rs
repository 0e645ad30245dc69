//! Exit statuses: what an error means to a script or a supervisor. README has the same table.

use binfer_console::StdoutError;
use binfer_shard::hub::HubError;

use crate::error::LaunchError;
use crate::fleet::FleetError;
use crate::front::SubmitError;

/// The flags cannot be read.
pub const USAGE: u8 = 2;
/// The hub cannot be reached or sends damaged data; a later attempt may work. `EX_UNAVAILABLE`.
const UNAVAILABLE: u8 = 69;
/// A worker is lost. `EX_SOFTWARE`.
const WORKER_LOST: u8 = 70;
/// The system refused to read, write or make something. `EX_IOERR`.
const IO: u8 = 74;
/// The settings, the files or the prompt cannot work, now or later. `EX_CONFIG`.
const SETTINGS: u8 = 78;
/// A bug of binfer; Rust gives a main thread that panics the same status.
const DEFECT: u8 = 101;

/// The exit status of a command that ended with `error`.
#[must_use]
pub fn status(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<LaunchError>() {
        of_launch(error)
    } else if let Some(error) = error.downcast_ref::<StdoutError>() {
        error.exit_status()
    } else if error.is::<SubmitError>() {
        SETTINGS
    } else if error.is::<std::io::Error>() {
        IO
    } else {
        WORKER_LOST
    }
}

fn of_launch(error: &LaunchError) -> u8 {
    match error {
        LaunchError::Hub(HubError::Unreachable(_) | HubError::Answer(_) | HubError::Damaged(_)) => {
            UNAVAILABLE
        }
        LaunchError::Config(_)
        | LaunchError::Hub(_)
        | LaunchError::Model(_)
        | LaunchError::Text(_)
        | LaunchError::Answer(_) => SETTINGS,
        LaunchError::Fleet(FleetError::Worker { .. } | FleetError::Disagreement { .. }) => {
            WORKER_LOST
        }
        LaunchError::Fleet(FleetError::System(_)) | LaunchError::Io(_) => IO,
        LaunchError::Interrupted(signal) => signal.exit_status(),
        LaunchError::Fleet(FleetError::Defect(_)) | LaunchError::Defect(_) => DEFECT,
    }
}

/// Whether the error is not told on stderr.
#[must_use]
pub fn is_silent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StdoutError::Unread))
        || matches!(error.downcast_ref(), Some(LaunchError::Interrupted(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;
    use crate::signals::StopSignal;

    #[test]
    fn every_kind_of_error_has_its_status() {
        let of = |error: LaunchError| status(&error.into());
        let lost = FleetError::Worker { rank: binfer_proto::Rank(1), cause: "gone".into() };
        assert_eq!(of(LaunchError::Fleet(lost)), 70);
        assert_eq!(of(LaunchError::Fleet(FleetError::System("no socket".into()))), 74);
        assert_eq!(of(LaunchError::Fleet(FleetError::Defect("no ranks".into()))), 101);
        assert_eq!(of(LaunchError::Config(ConfigError("--tp".into()))), 78);
        assert_eq!(of(LaunchError::Answer("not finite".into())), 78);
        assert_eq!(of(LaunchError::Hub(HubError::Unreachable("no network".into()))), 69);
        assert_eq!(of(LaunchError::Hub(HubError::Absent("no such model".into()))), 78);
        assert_eq!(of(LaunchError::Io(std::io::ErrorKind::StorageFull.into())), 74);
        assert_eq!(of(LaunchError::Interrupted(StopSignal::Terminate)), 143);
        assert_eq!(of(LaunchError::Defect("the front".into())), 101);
        assert_eq!(status(&StdoutError::Unread.into()), 141);
        assert_eq!(status(&SubmitError::Template("roles must alternate".into()).into()), 78);
    }
}
