//! What the device's memory was taken for: exact where this process asked for it, by the driver's count
//! before and after where the driver takes it by itself.

use super::CudaBackend;
use super::ffi::Context;
use super::ring::Ring;
use crate::backend::BackendError;

/// What the driver and its libraries took, in the order in which they did.
#[derive(Debug, Default)]
pub(super) struct Ledger(Vec<(&'static str, u64)>);

impl Ledger {
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

    /// Adds to a line, which is there from its first byte on.
    pub(super) fn add(&mut self, name: &'static str, bytes: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => *all += bytes,
            None if bytes > 0 => self.0.push((name, bytes)),
            None => {}
        }
    }
}

pub(super) fn in_use(context: &Context) -> Result<u64, BackendError> {
    let (free, total) = context.memory_bytes()?;
    Ok(total.saturating_sub(free))
}

impl CudaBackend {
    /// All that lies on the device; the first line is not only this process's.
    pub(super) fn device_lines(&self) -> Vec<(String, u64)> {
        let own = [("weights", self.weights.bytes()), ("shared sums", self.narrow.bytes())];
        let exact = own.into_iter().filter(|(_, bytes)| *bytes > 0).chain(self.memory.ledger());
        let exact = exact.map(|(name, bytes)| (name, bytes as u64));
        self.ledger
            .0
            .iter()
            .copied()
            .chain(exact)
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect()
    }

    /// What this process took since it has a context.
    pub(super) fn own_bytes(&self) -> u64 {
        self.device_lines().iter().skip(1).map(|(_, bytes)| bytes).sum()
    }

    /// The same for people, with what the driver says is in use, and the host's share.
    pub(super) fn all_lines(&self) -> Vec<(String, u64)> {
        let device = &self.device.info;
        let title = format!("{} ({})", device.name, self.device.target.name());
        let in_use = in_use(&self.device.context).ok().map(|bytes| ("in use".to_owned(), bytes));
        let ring = self.step.ring.as_ref().map_or(0, Ring::bytes);
        let pinned = (ring + self.memory.seen.host_bytes()) as u64;
        [(title, device.bytes_total)]
            .into_iter()
            .chain(in_use)
            .chain(self.device_lines())
            .chain([("pinned host memory".to_owned(), pinned)])
            .collect()
    }
}
