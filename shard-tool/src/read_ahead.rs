//! Reads tensors ahead: a few at once, handed to the consumer in order.
//!
//! Loading, sharding and verifying read through it, so the disk works while tensors are repacked,
//! written or compared. A few of the largest tensors bound the memory.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::{Checkpoint, Error, LocalTensor};

/// The number of tensors that are read at once. The consumer has one more.
const READERS: usize = 3;

/// The bytes of each part of a tensor, in the order of the parts.
pub type PartBytes = Vec<Vec<u8>>;

/// Reads `tensors` and hands each to `consume`, in their order.
///
/// # Errors
/// Those of [`Checkpoint::read_into`] and of `consume`. The first error ends the reading.
pub fn read_ahead<E: From<Error>>(
    source: &Checkpoint,
    tensors: &[LocalTensor],
    mut consume: impl FnMut(&LocalTensor, PartBytes) -> Result<(), E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        let readers: Vec<Receiver<Result<PartBytes, Error>>> = (0..READERS)
            .map(|first| {
                // The channel has no room, so a reader holds one tensor at a time.
                let (sender, receiver) = sync_channel(0);
                let every = tensors.iter().skip(first).step_by(READERS);
                scope.spawn(move || read_each(source, every, &sender));
                receiver
            })
            .collect();
        // Leaving early drops the receivers, which ends the readers.
        for (tensor, reader) in tensors.iter().zip(readers.iter().cycle()) {
            // A reader that ended early has sent its error before.
            let Ok(read) = reader.recv() else { break };
            consume(tensor, read?)?;
        }
        drop(readers);
        Ok(())
    })
}

/// Reads until the consumer is gone or a read fails.
fn read_each<'t>(
    source: &Checkpoint,
    tensors: impl Iterator<Item = &'t LocalTensor>,
    sender: &SyncSender<Result<PartBytes, Error>>,
) {
    for tensor in tensors {
        let read = read(source, tensor);
        let failed = read.is_err();
        if sender.send(read).is_err() || failed {
            return;
        }
    }
}

fn read(source: &Checkpoint, tensor: &LocalTensor) -> Result<PartBytes, Error> {
    let part = |part: &crate::LocalPart| {
        let mut bytes = vec![0; usize::try_from(part.bytes()).unwrap_or(usize::MAX)];
        source.read_into(part, &mut bytes).map(|()| bytes)
    };
    tensor.parts.iter().map(part).collect()
}
