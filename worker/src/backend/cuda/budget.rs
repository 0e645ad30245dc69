//! What the cache may take of the device: a share of its memory is this process's, and of that the
//! cache gets what the rest leaves.
//!
//! `--gpu-memory-utilization` counts as vLLM's does: what other processes use does not make the
//! share smaller, unless the device has not so much free.

use super::ffi::error::failed;
use crate::backend::BackendError;

/// A device's memory before the cache is taken, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryRoom {
    pub(super) total: u64,
    pub(super) free: u64,
    /// Taken by this process.
    pub(super) taken: u64,
    /// To be taken besides the cache.
    pub(super) needed: u64,
    /// Part of the total that this process may take.
    pub(super) utilization: f64,
}

impl MemoryRoom {
    fn for_cache(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "a share of a size")]
        let share = (self.total as f64 * self.utilization) as u64;
        self.free.min(share.saturating_sub(self.taken)).saturating_sub(self.needed)
    }

    /// Bytes for the cache, of which a block of every layer takes `block_bytes`.
    pub(super) fn for_blocks(&self, block_bytes: u64) -> Result<u64, BackendError> {
        let bytes = self.for_cache();
        if bytes >= block_bytes {
            return Ok(bytes);
        }
        let Self { total, free, taken, needed, utilization } = *self;
        let [bytes, total, free, taken, needed] =
            [bytes, total, free, taken, needed].map(|bytes| bytes >> 20);
        let cause = format!(
            "no room for a KV cache ({bytes} MiB): of {total} MiB this process may take \
             {utilization:.2} (--gpu-memory-utilization) and {free} MiB are free; it holds {taken} \
             MiB, and steps, driver and collectives need {needed} MiB; lower \
             --max-num-batched-tokens or --max-num-seqs, use more GPUs (--tp), or free the device"
        );
        Err(failed("KV cache", cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: MemoryRoom =
        MemoryRoom { total: 1000, free: 900, taken: 80, needed: 20, utilization: 0.9 };

    #[test]
    fn the_share_counts_what_this_process_takes_and_no_other() {
        assert_eq!(ROOM.for_cache(), 800);
        // Others use 200 bytes: the share of 0.9 still fits beside less.
        assert_eq!(MemoryRoom { free: 720, utilization: 0.5, ..ROOM }.for_cache(), 400);
        // What is not free cannot be had, whatever the share.
        assert_eq!(MemoryRoom { free: 300, ..ROOM }.for_cache(), 280);
        assert_eq!(MemoryRoom { free: 10, ..ROOM }.for_cache(), 0);
        assert_eq!(MemoryRoom { taken: 2000, ..ROOM }.for_cache(), 0);
    }

    #[test]
    fn too_little_memory_is_refused_with_numbers_and_flags() {
        let room = MemoryRoom { total: 16 << 30, free: 2 << 30, taken: 13 << 30, ..ROOM };
        assert_eq!(room.for_blocks(64 << 20).unwrap(), room.for_cache());
        let full = MemoryRoom { needed: 2 << 30, ..room };
        assert_eq!(full.for_blocks(0).unwrap(), 0, "a model without a cache needs none");
        let error = full.for_blocks(64 << 20).unwrap_err().to_string();
        for words in ["16384 MiB", "0.90 (--gpu-memory-utilization)", "2048 MiB are free", "13312"]
        {
            assert!(error.contains(words), "{words}: {error}");
        }
        assert!(error.contains("--max-num-batched-tokens") && error.contains("--tp"), "{error}");
    }
}
