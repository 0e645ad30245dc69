//! How many cards a model wants: the fewest that hold it.

use super::{FitLimits, Ledger, Memory};
use crate::{Error, ErrorKind, ModelSpec};

/// Positions that must fit, unless the model's own context is shorter.
const POSITIONS_WANTED: u32 = 65_536;

/// A rank count, and why it is that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How many ranks.
    pub world: u32,
    /// Why, in a few words for people.
    pub reason: String,
}

/// The fewest of `devices` (bytes of memory each, taken in order) that hold weights, activations
/// and KV cache for `limits.context_max` or 65,536 positions, whichever is less. Without devices
/// it is 1: on the CPU one rank uses all cores, and more only add sums between them.
///
/// # Errors
/// [`ErrorKind::Layout`] when all devices together are too small, or the model cannot be cut for as
/// many as it would take.
pub fn choose(spec: &ModelSpec, devices: &[u64], limits: &FitLimits) -> Result<Choice, Error> {
    if devices.is_empty() {
        let reason = "no GPU: on the CPU one rank uses all cores".to_owned();
        return Ok(Choice { world: 1, reason });
    }
    let context_max = limits.context_max.min(POSITIONS_WANTED);
    let mut missing = None;
    for (world, smallest) in (1_u32..).zip(smallest_of_first(devices)) {
        let limits = FitLimits { memory: Memory::Devices(smallest), context_max, ..*limits };
        let ledger = match Ledger::new(spec, world, &limits) {
            Ok(ledger) => ledger,
            // It cannot be cut any further; what is known of fewer cards says more.
            Err(error) => return Err(missing.map_or(error, |bytes| too_small(world - 1, bytes))),
        };
        if ledger.missing_bytes == 0 {
            let cards = if world == 1 { "card holds" } else { "cards hold" };
            let reason = format!("{world} {cards} weights and {context_max} positions");
            return Ok(Choice { world, reason });
        }
        missing = Some(ledger.missing_bytes);
    }
    Err(too_small(u32::try_from(devices.len()).unwrap_or(u32::MAX), missing.unwrap_or(0)))
}

/// The smallest of the first device, of the first two, and so on: every rank must fit on it.
fn smallest_of_first(devices: &[u64]) -> impl Iterator<Item = u64> {
    devices.iter().scan(u64::MAX, |smallest, bytes| {
        *smallest = (*smallest).min(*bytes);
        Some(*smallest)
    })
}

fn too_small(world: u32, missing_bytes: u64) -> Error {
    let missing = missing_bytes.div_ceil(1 << 20);
    let cause = format!("on {world} card(s), each is {missing} MiB short of one full context");
    let way_out = "give more or larger cards, a shorter --max-model-len, or a smaller model";
    Error::new(ErrorKind::Layout, cause).way_out(way_out)
}
