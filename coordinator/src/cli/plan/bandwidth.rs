//! Measures briefly how fast this host reads its memory.
//!
//! All cores read at once, because the ranks together use all of them.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::config;

/// How much all cores read together, which is more than caches hold.
const BYTES: usize = 1 << 30;
/// The measurement takes at most one part in this many of the free memory.
const FREE_PART: u64 = 4;
/// With less memory the caches would be measured.
const BYTES_MIN: usize = 64 << 20;
/// How long the measurement takes.
const MEASURED: Duration = Duration::from_millis(200);
/// How much is read before the clock is checked again.
const PIECE_WORDS: usize = 1 << 17;

/// The bandwidth in bytes per second; `None` where there is too little memory to measure.
pub(super) fn measure(free_bytes: u64) -> Option<f64> {
    let spare = usize::try_from(free_bytes / FREE_PART).unwrap_or(usize::MAX);
    let bytes = BYTES.min(spare);
    if bytes < BYTES_MIN {
        return None;
    }
    let cores = config::cores();
    let words = bytes / cores / size_of::<u64>();
    let read = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..cores).map(|_| scope.spawn(move || read(words))).collect();
        readers.into_iter().filter_map(|reader| reader.join().ok()).sum::<f64>()
    });
    (read > 0.0).then_some(read)
}

/// The bytes per second of one core, which reads its own `words` again and again.
fn read(words: usize) -> f64 {
    // Pages must be written first: all pages that nobody wrote to are the same page of zeros.
    let memory: Vec<u64> = (0..words as u64).collect();
    let began = Instant::now();
    let mut bytes = 0;
    for piece in memory.chunks(PIECE_WORDS).cycle() {
        black_box(piece.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)));
        bytes += size_of_val(piece);
        if began.elapsed() >= MEASURED {
            break;
        }
    }
    bytes as f64 / began.elapsed().as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_faster_than_a_disk_and_slower_than_ten_terabytes_a_second() {
        let bytes_per_s = measure(512 << 20).unwrap();
        assert!((1e8..1e13).contains(&bytes_per_s), "{bytes_per_s}");
        assert_eq!(measure(1 << 20), None);
    }
}
