//! Damaged files: an error or a good answer, never a panic, a hang or a large allocation.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use binfer_shard::{Checkpoint, layouts, local_tensors};
use proptest::prelude::*;

use crate::gguf_writer::TINY;
use crate::scratch;

/// The longest that opening may take on a busy machine.
const OPEN_MAX: Duration = Duration::from_secs(1);

/// Opens the file, and uses whatever it says if it opens. Whether it opened.
fn survives(path: &Path) -> bool {
    let start = Instant::now();
    let opened = Checkpoint::open(path);
    assert!(start.elapsed() < OPEN_MAX);
    let Ok(source) = opened else { return false };
    for world in 1..=4 {
        let Ok(layouts) = layouts(source.spec(), world) else { continue };
        for layout in layouts {
            for tensor in local_tensors(source.spec(), &layout).unwrap() {
                for part in &tensor.parts {
                    source.read_into(part, &mut vec![0; part.bytes() as usize]).unwrap();
                }
            }
        }
    }
    true
}

/// A good file, its bytes and the length of its header.
fn good(name: &str) -> (PathBuf, Vec<u8>, usize) {
    let path = scratch(&format!("damage-{name}.gguf"));
    let bytes = TINY.writer().bytes();
    std::fs::write(&path, &bytes).unwrap();
    assert!(survives(&path));
    (path, bytes, TINY.writer().header().len())
}

fn writable(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// Most address space that the process has ever had, in bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn every_truncation_is_an_error() {
    let (path, bytes, header) = good("truncated");
    let file = writable(&path);
    let data = (header..bytes.len()).rev().step_by(97);
    // From the end, so that each step only cuts.
    for length in data.chain((0..header).rev()) {
        file.set_len(length as u64).unwrap();
        assert!(!survives(&path), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn every_byte_of_the_header_flipped() {
    let (path, bytes, header) = good("flipped");
    let file = writable(&path);
    for at in 0..header {
        for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            file.write_all_at(&[bytes[at] ^ flip], at as u64).unwrap();
            survives(&path);
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert!(survives(&path));
}

#[test]
fn huge_numbers_everywhere_take_no_memory() {
    const HUGE: [u64; 6] = [u64::MAX, i64::MAX as u64, 1 << 40, 1 << 32, u32::MAX as u64, 1 << 24];
    let (path, bytes, header) = good("huge");
    let file = writable(&path);
    let before = peak_bytes();
    for at in 0..header {
        for huge in HUGE {
            file.write_all_at(&huge.to_le_bytes(), at as u64).unwrap();
            survives(&path);
        }
        file.write_all_at(&bytes[at..at + 8], at as u64).unwrap();
    }
    // Threads of other tests map arenas too; a trusted count would take terabytes.
    assert!(peak_bytes() - before < 2 << 30);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn several_bytes_at_once(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let path = scratch("damage-several.gguf");
        let (mut bytes, header) = (TINY.writer().bytes(), TINY.writer().header().len());
        for (at, byte) in edits {
            bytes[at.index(header)] = byte;
        }
        std::fs::write(&path, &bytes).unwrap();
        survives(&path);
    }
}
