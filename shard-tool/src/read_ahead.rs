//! Reads parts of tensors ahead: a few at once, handed to the consumer in order.
//!
//! Loading, sharding and verifying read through it, so the disk works while tensors are repacked,
//! written or compared. Memory holds the part that each reader reads and the one that the consumer
//! has: of a mixture of experts four matrices of one expert each, and beside them at most the
//! embedding or the head.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::{Checkpoint, Error, LocalPart, LocalTensor};

/// The number of parts that are read at once. The consumer has one more.
const READERS: usize = 3;

/// The bytes of each part of a tensor, in the order of the parts.
pub type PartBytes = Vec<Vec<u8>>;

/// Which part of which tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartIndex {
    pub(crate) tensor: usize,
    pub(crate) part: usize,
}

/// Reads `tensors` and hands each to `consume`, in their order, with the bytes of all its parts.
///
/// # Errors
/// Those of [`Checkpoint::read_into`] and of `consume`. The first error ends the reading.
pub fn read_ahead<E: From<Error>>(
    source: &Checkpoint,
    tensors: &[LocalTensor],
    mut consume: impl FnMut(&LocalTensor, PartBytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut gathered = PartBytes::new();
    read_parts_ahead(source, tensors, |at, bytes| {
        gathered.push(bytes);
        let tensor = &tensors[at.tensor];
        if gathered.len() < tensor.parts.len() {
            return Ok(());
        }
        consume(tensor, std::mem::take(&mut gathered))
    })
}

/// Reads the parts of `tensors` and hands each to `consume`, in their order.
pub(crate) fn read_parts_ahead<E: From<Error>>(
    source: &Checkpoint,
    tensors: &[LocalTensor],
    mut consume: impl FnMut(PartIndex, Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut parts = Vec::new();
    for (tensor, local) in tensors.iter().enumerate() {
        let of_tensor = local.parts.iter().enumerate();
        parts.extend(of_tensor.map(|(part, local)| (PartIndex { tensor, part }, local)));
    }
    thread::scope(|scope| {
        let readers: Vec<Receiver<Result<Vec<u8>, Error>>> = (0..READERS)
            .map(|first| {
                // The channel has no room, so a reader holds one part at a time.
                let (sender, receiver) = sync_channel(0);
                let every = parts.iter().skip(first).step_by(READERS);
                scope.spawn(move || read_each(source, every.map(|(_, part)| *part), &sender));
                receiver
            })
            .collect();
        // Leaving early drops the receivers, which ends the readers.
        for ((at, _), reader) in parts.iter().zip(readers.iter().cycle()) {
            // A reader that ended early has sent its error before.
            let Ok(read) = reader.recv() else { break };
            consume(*at, read?)?;
        }
        drop(readers);
        Ok(())
    })
}

/// Reads until the consumer is gone or a read fails.
fn read_each<'t>(
    source: &Checkpoint,
    parts: impl Iterator<Item = &'t LocalPart>,
    sender: &SyncSender<Result<Vec<u8>, Error>>,
) {
    for part in parts {
        let mut bytes = vec![0; usize::try_from(part.bytes()).unwrap_or(usize::MAX)];
        let read = source.read_into(part, &mut bytes).map(|()| bytes);
        let failed = read.is_err();
        if sender.send(read).is_err() || failed {
            return;
        }
    }
}
