//! Reads tensors ahead of whoever uses them: several at once, handed over in order.
//!
//! Loading, cutting and verifying read through it, so that the disk works while tensors are
//! repacked, written or compared. Memory is bounded by a few of the largest tensors. Deliberately
//! absent: what is done with the bytes.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::{Checkpoint, Error, LocalTensor};

/// Tensors that are read at once. One more is with the consumer.
const READERS: usize = 3;

/// Bytes of a tensor's parts, in their order.
pub type PartBytes = Vec<Vec<u8>>;

/// Reads `tensors` and hands each to `consume`, in their order.
///
/// # Errors
/// As [`Checkpoint::read_into`], and whatever `consume` returns; nothing is read after the first.
pub fn read_ahead<E: From<Error>>(
    source: &Checkpoint,
    tensors: &[LocalTensor],
    mut consume: impl FnMut(&LocalTensor, PartBytes) -> Result<(), E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        let readers: Vec<Receiver<Result<PartBytes, Error>>> = (0..READERS)
            .map(|first| {
                // A channel without room: a reader holds one tensor at a time.
                let (hand, taken) = sync_channel(0);
                let every = tensors.iter().skip(first).step_by(READERS);
                scope.spawn(move || read_each(source, every, &hand));
                taken
            })
            .collect();
        // Leaving early drops the receivers, which ends the readers.
        for (tensor, reader) in tensors.iter().zip(readers.iter().cycle()) {
            // A reader that is gone has handed over its error before.
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
    hand: &SyncSender<Result<PartBytes, Error>>,
) {
    for tensor in tensors {
        let read = read(source, tensor);
        let failed = read.is_err();
        if hand.send(read).is_err() || failed {
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
