//! What the device's memory was taken for: exact where this process asked for it, by the driver's
//! count before and after where the driver takes it by itself.

use super::ffi::driver::Context;
use crate::backend::BackendError;

/// What the driver and its libraries took, in the order in which they did.
#[derive(Debug, Default)]
pub(super) struct DeviceLedger(Vec<(&'static str, u64)>);

impl DeviceLedger {
    /// A context that was just made: it holds all that is in use, whoever uses it.
    pub(super) fn new(context: &Context) -> Result<Self, BackendError> {
        Ok(Self(vec![("context and other processes", in_use(context)?)]))
    }

    /// Runs what takes memory and counts how much.
    pub(super) fn count<T>(
        &mut self,
        name: &'static str,
        context: &Context,
        take: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let before = in_use(context)?;
        let taken = take()?;
        self.add(name, in_use(context)?.saturating_sub(before));
        Ok(taken)
    }

    /// The lines; the first is not only this process's.
    pub(super) fn lines(&self) -> &[(&'static str, u64)] {
        &self.0
    }

    /// Adds to a line, which is there from its first byte on.
    pub(super) fn add(&mut self, name: &'static str, bytes: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => *all += bytes,
            None if bytes > 0 => self.0.push((name, bytes)),
            None => {}
        }
    }
}

/// Bytes of the device's memory that are in use, whoever uses them.
pub(super) fn in_use(context: &Context) -> Result<u64, BackendError> {
    let (free, total) = context.memory_bytes()?;
    Ok(total.saturating_sub(free))
}
