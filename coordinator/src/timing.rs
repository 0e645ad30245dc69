//! `--profile` and `--trace`: what workers tell of the time that operations take.
//!
//! The workers measure and write; the coordinator only names the files.

use std::path::PathBuf;

use binfer_shard::files::overwrite;

use crate::config::ConfigError;

/// What every rank is asked to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// A table of operations at the end (`--profile`).
    pub profile: bool,
    /// A file with the time of every operation (`--trace`).
    pub trace: Option<PathBuf>,
}

impl Timing {
    /// The path of a rank's trace.
    pub fn trace_of(&self, rank: usize, world: usize) -> Option<PathBuf> {
        let trace = self.trace.clone()?;
        if world == 1 {
            return Some(trace);
        }
        let mut name = trace.into_os_string();
        name.push(format!(".rank-{rank}"));
        Some(name.into())
    }

    /// Creates the files, so that a bad path is refused before anything is started.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn check(&self, world: usize) -> Result<(), ConfigError> {
        for path in (0..world).filter_map(|rank| self.trace_of(rank, world)) {
            overwrite(&path)
                .map_err(|error| ConfigError(format!("--trace: {}: {error}", path.display())))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_has_its_file() {
        let timing = Timing { profile: false, trace: Some("out/steps.json".into()) };
        let name = |rank, world| timing.trace_of(rank, world).unwrap().display().to_string();
        assert_eq!(name(0, 1), "out/steps.json");
        assert_eq!([name(0, 2), name(1, 2)], ["out/steps.json.rank-0", "out/steps.json.rank-1"]);
        assert_eq!(Timing::default().trace_of(0, 2), None);
    }

    #[test]
    fn a_file_that_cannot_be_is_named() {
        let timing = Timing { profile: false, trace: Some("/nowhere/at/all.json".into()) };
        let message = timing.check(1).unwrap_err().to_string();
        assert!(message.starts_with("--trace: /nowhere/at/all.json: "), "{message}");
    }
}
