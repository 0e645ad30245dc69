//! Times of steps and what they are compared with: weights by name, what the device reaches.

use std::path::PathBuf;

use binfer_shard::{LocalPart, LocalTensor};

use super::cost::{Counts, OperationWork, TimedOperation};
use super::profile::Profile;
use super::trace::Trace;
use crate::backend::args::Weight;
use crate::backend::error::BackendError;
use crate::backend::memory_layout::MemoryLayout;
use crate::backend::rank_device::RankDevice;
use crate::backend::step_output::Ticket;

/// Operations of a layer, at most.
const STAMPS_OF_LAYER: usize = 8;
/// Operations outside of layers with the stamps around them, at most.
const STAMPS_OF_STEP: usize = 16;

/// What `--profile` and `--trace` ask for.
#[derive(Clone, Debug, Default)]
pub struct TimedSettings {
    /// A table of operations at the end.
    pub profile: bool,
    /// A file that gets every operation of every step.
    pub trace: Option<PathBuf>,
    /// Rank, for the trace.
    pub rank: u32,
    /// Bytes of an element of the cache.
    pub kv_element_bytes: u64,
}

/// A weight as operations know it.
struct NamedWeight {
    name: String,
    elements: u64,
    bytes: u64,
}

/// The times of steps, and what they are put in relation to.
pub struct StepTimes {
    kv_element_bytes: u64,
    weights: Vec<NamedWeight>,
    profile: Option<Profile>,
    trace: Option<Trace>,
}

impl StepTimes {
    /// Measures what the device reaches, which must not have weights yet, and creates the trace.
    ///
    /// # Errors
    /// When the trace's file cannot be created, or the device fails at being measured.
    pub fn new(device: &mut dyn RankDevice, settings: TimedSettings) -> Result<Self, BackendError> {
        let create = |path: PathBuf| Trace::create(&path, settings.rank);
        let trace = settings.trace.map(create).transpose();
        let trace = trace.map_err(|source| BackendError::Io { operation: "--trace", source })?;
        let profile = if settings.profile { Some(Profile::new(device.peaks()?)) } else { None };
        let kv_element_bytes = settings.kv_element_bytes;
        Ok(Self { kv_element_bytes, weights: Vec::new(), profile, trace })
    }

    /// Learns names and sizes of weights, which `device` holds.
    pub fn learn(&mut self, tensors: &[LocalTensor], weights: &[Weight], device: &dyn RankDevice) {
        for (tensor, weight) in tensors.iter().zip(weights) {
            let elements = |part: &LocalPart| u64::from(part.rows) * part.inputs.len() as u64;
            self.weights.push(NamedWeight {
                name: tensor.name.clone(),
                elements: tensor.parts.iter().map(elements).sum(),
                bytes: device.weight_bytes(*weight).unwrap_or(tensor.bytes()),
            });
        }
    }

    /// The memory of `layout` with room for stamps.
    pub fn with_stamps(layout: MemoryLayout) -> MemoryLayout {
        MemoryLayout { stamps_max: STAMPS_OF_LAYER * layout.kv.len() + STAMPS_OF_STEP, ..layout }
    }

    pub(super) fn kv_element_bytes(&self) -> u64 {
        self.kv_element_bytes
    }

    pub(super) fn name(&self, weight: Weight) -> String {
        self.weights.get(weight.0 as usize).map_or_else(String::new, |known| known.name.clone())
    }

    pub(super) fn gemm(&self, weight: Weight) -> OperationWork {
        let known = self.weights.get(weight.0 as usize);
        known.map_or(OperationWork::Other, |known| OperationWork::Gemm {
            elements: known.elements,
            bytes: known.bytes,
        })
    }

    /// Takes the times of a step: the beginnings of its operations, and the end.
    pub(super) fn add(
        &mut self,
        ticket: Ticket,
        operations: &[TimedOperation],
        counts: &Counts,
        stamps_ns: &[u64],
    ) {
        if let Some(profile) = &mut self.profile {
            profile.add(operations, counts, stamps_ns);
        }
        if let Some(trace) = &mut self.trace
            && let Err(error) = trace.add(ticket.0, operations, counts, stamps_ns)
        {
            // A disk that is full ends the trace, not the requests.
            let rest = "the rest of the steps is not in it";
            binfer_console::message(format_args!("--trace: {error}; {rest}"));
            self.trace = None;
        }
    }

    /// Closes the trace and prints the table, for people.
    pub(super) fn report(&mut self) -> String {
        // Readers of the format accept a trace that is cut off.
        if let Some(Err(error)) = self.trace.as_mut().map(Trace::end) {
            binfer_console::message(format_args!("--trace: {error}; the last steps are not in it"));
        }
        self.profile.as_ref().map_or_else(String::new, Profile::table)
    }
}
