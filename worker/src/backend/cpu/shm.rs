//! Shared memory between the ranks of one host: the door to its unsafe code.
//!
//! One primitive is built here, [`ShmComm::exchange`]: every rank publishes up to a piece of
//! floats, waits until all have, and may then read everybody's. `collective.rs` makes sums and
//! gathers of it in safe code. The memory is a sealed memfd, so nothing is left behind whoever is
//! killed, the file cannot shrink under a mapping, and the size of /dev/shm does not matter.
//!
//! Why one wait per piece is enough. Pieces are counted from the start and never anew; piece `n`
//! lies in the rank's slot `n % 2`. To publish, a rank writes slot and note, then stores `n` in its
//! `arrived` word; a peer that loads `n` or `n + 1` there sees what was written before the store.
//! A rank writes slot `n % 2` again for piece `n + 2`, and only after it saw every peer's
//! `n + 1`, which a peer stores after its last read of piece `n`. So writes and reads of a slot are
//! always ordered by a store and a load of `arrived`, and no flag is ever reset.
//!
//! Waiters spin briefly, if at all, then sleep on the `bell` futex. They count themselves in
//! `sleepers` *before* they look at `arrived`; a publisher stores `arrived` before it looks at
//! `sleepers`; all four are sequentially consistent, so at least one of the two sees the other. The
//! bell's value is read before `arrived` and `abort`, so a ring in between makes the sleep return
//! at once.
//!
//! Nobody notices here that a peer died: the supervisor knows, and sets the abort word. There is no
//! trust between users to guard: ranks run the same build as the same user.
#![allow(
    unsafe_code,
    reason = "memory shared with other processes; nothing unsafe leaves this file"
)]

mod collective;
mod id;
mod note;
mod setup;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use memmap2::MmapRaw;
use rustix::io::Errno;
use rustix::thread::futex;

pub use id::{CommError, CommId, Wait};
use note::{Note, SharedNote};

/// Floats that a rank publishes at once.
const PIECE_FLOATS: usize = 64 << 10;
/// Most ranks of a communicator: 32 MiB of slots.
const WORLD_MAX: usize = 64;
/// Changes with the structs below, and with what the notes mean.
const LAYOUT_VERSION: u32 = 1;
/// Where slots begin: header and seats fit before it, on a page border.
const DATA_START: usize = 32 << 10;
/// How long a wait spins before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// How long one sleep lasts at most: bounds the harm of a wake-up lost to a bug or a signal.
const SLEEP: futex::Timespec = futex::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// First bytes of the file. Zero is valid for every field.
#[repr(C, align(128))]
struct Header {
    magic: [AtomicU64; 2],
    version: AtomicU32,
    world: AtomicU32,
    piece_floats: AtomicU32,
    /// Not 0: every wait ends with [`CommError::Aborted`].
    abort: AtomicU32,
    /// The futex: changes when a piece is complete and somebody sleeps, and on abort.
    bell: AtomicU32,
    /// Ranks about to sleep or asleep.
    sleepers: AtomicU32,
}

/// A rank's own cache lines: only that rank writes them.
#[repr(C, align(128))]
struct Seat {
    joined: AtomicU32,
    /// Count of pieces published, wrapping.
    arrived: AtomicU32,
    /// What the rank believes it is doing, by parity of the piece.
    notes: [SharedNote; 2],
}

const _: () = assert!(size_of::<Header>() + WORLD_MAX * size_of::<Seat>() <= DATA_START);

/// The mapping, as large as `world` says.
struct Region {
    map: MmapRaw,
    world: usize,
    /// Rank 0 keeps the file open so that others can open it through /proc.
    _file: Option<OwnedFd>,
}

impl Region {
    fn header(&self) -> &Header {
        let at = self.map.as_mut_ptr().cast::<Header>();
        // SAFETY: the mapping is page aligned, longer than a Header and lives as long as self; the
        // header is all atomics, valid for any bits, so other processes may write it meanwhile.
        unsafe { &*at }
    }

    fn seat(&self, rank: usize) -> &Seat {
        assert!(rank < self.world);
        let offset = size_of::<Header>() + rank * size_of::<Seat>();
        let at = self.map.as_mut_ptr().wrapping_add(offset).cast::<Seat>();
        // SAFETY: seats follow the header and end before DATA_START (asserted above), both sizes
        // are multiples of their alignment, and a Seat is all atomics, as in `header`.
        unsafe { &*at }
    }

    /// Start of the slot that `rank` uses for pieces of that parity; PIECE_FLOATS long.
    fn slot(&self, rank: usize, piece: u32) -> *mut f32 {
        assert!(rank < self.world);
        let index = rank * 2 + (piece & 1) as usize;
        let offset = DATA_START + index * PIECE_FLOATS * size_of::<f32>();
        self.map.as_mut_ptr().wrapping_add(offset).cast::<f32>()
    }

    /// Wakes all sleepers, and those that have read the bell and are about to sleep.
    fn ring(&self) {
        let bell = &self.header().bell;
        bell.fetch_add(1, SeqCst);
        // It can only fail for a bad address, and ours is mapped.
        let _ = futex::wake(bell, futex::Flags::empty(), i32::MAX as u32);
    }

    fn aborted(&self) -> bool {
        self.header().abort.load(SeqCst) != 0
    }
}

/// Ends all waits of all ranks, now and later. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct AbortHandle {
    region: Arc<Region>,
}

impl AbortHandle {
    /// Gives the communicator up; there is no way back.
    pub fn abort(&self) {
        self.region.header().abort.store(1, SeqCst);
        self.region.ring();
    }
}

/// One rank's end of a communicator.
pub struct ShmComm {
    region: Arc<Region>,
    rank: usize,
    wait: Wait,
    /// The piece published last.
    piece: u32,
    /// Operations begun, wrapping.
    sequence: u32,
    /// After an error slots may be in any state: never touch them again.
    broken: bool,
}

impl ShmComm {
    /// A handle for the supervisor's thread.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { region: Arc::clone(&self.region) }
    }

    /// Which rank this end is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.region.world
    }

    /// Publishes `mine`, waits for all ranks, and gives what they published. All notes are equal,
    /// or it is an error on every rank.
    fn exchange(&mut self, note: &Note, mine: &[f32]) -> Result<Pieces<'_>, CommError> {
        if self.broken || self.region.aborted() {
            self.broken = true;
            return Err(CommError::Aborted);
        }
        self.piece = self.piece.wrapping_add(1);
        self.publish(note, mine);
        let met = self.wait_all().and_then(|()| self.compare(note));
        self.broken = met.is_err();
        met.map(|()| Pieces { comm: self })
    }

    fn publish(&self, note: &Note, mine: &[f32]) {
        assert!(mine.len() <= PIECE_FLOATS);
        let slot = self.region.slot(self.rank, self.piece);
        // SAFETY: the slot is PIECE_FLOATS long and not part of `mine`, which is ordinary memory.
        // No peer reads it: all stored `piece - 1` (or this is the first use of the slot), hence
        // finished `piece - 2`, and none reads `piece` before the store of `arrived` below.
        unsafe { std::ptr::copy_nonoverlapping(mine.as_ptr(), slot, mine.len()) };
        let seat = self.region.seat(self.rank);
        note.store(&seat.notes[(self.piece & 1) as usize]);
        seat.arrived.store(self.piece, SeqCst);
        if self.region.header().sleepers.load(SeqCst) != 0 && self.all_arrived() {
            self.region.ring();
        }
    }

    /// Whether every rank published the current piece. Acquires what they wrote before.
    fn all_arrived(&self) -> bool {
        (0..self.region.world).all(|rank| {
            let ahead = self.region.seat(rank).arrived.load(SeqCst).wrapping_sub(self.piece);
            ahead <= 1
        })
    }

    fn wait_all(&self) -> Result<(), CommError> {
        if self.all_arrived() {
            return Ok(());
        }
        if self.wait == Wait::SpinThenSleep {
            let started = Instant::now();
            while started.elapsed() < SPIN {
                for _ in 0..8 {
                    if self.all_arrived() {
                        return Ok(());
                    }
                    std::hint::spin_loop();
                }
            }
        }
        let sleepers = &self.region.header().sleepers;
        sleepers.fetch_add(1, SeqCst);
        let met = self.sleep_until_all_arrived();
        sleepers.fetch_sub(1, SeqCst);
        met
    }

    fn sleep_until_all_arrived(&self) -> Result<(), CommError> {
        let bell = &self.region.header().bell;
        loop {
            let heard = bell.load(SeqCst);
            if self.region.aborted() {
                return Err(CommError::Aborted);
            }
            if self.all_arrived() {
                return Ok(());
            }
            match futex::wait(bell, futex::Flags::empty(), heard, Some(&SLEEP)) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
                Err(e) => return Err(CommError::Io { what: "futex wait", source: e.into() }),
            }
        }
    }

    /// All ranks compare with all others, so that all of them stop before any reads data.
    fn compare(&self, ours: &Note) -> Result<(), CommError> {
        for peer in 0..self.region.world {
            let theirs = Note::load(&self.region.seat(peer).notes[(self.piece & 1) as usize]);
            if theirs != *ours {
                let (ours, theirs) = (ours.to_string(), theirs.to_string());
                return Err(CommError::Mismatch { rank: self.rank, ours, peer, theirs });
            }
        }
        Ok(())
    }
}

/// What all ranks published. Borrows the communicator, so the next exchange cannot begin, and no
/// peer can overwrite these slots, while somebody reads.
struct Pieces<'a> {
    comm: &'a ShmComm,
}

impl Pieces<'_> {
    /// Copies from `rank`'s piece, from its element `start` on.
    fn copy(&self, rank: usize, start: usize, out: &mut [f32]) {
        assert!(start <= PIECE_FLOATS && out.len() <= PIECE_FLOATS - start);
        let from = self.comm.region.slot(rank, self.comm.piece).wrapping_add(start);
        // SAFETY: inside the slot (asserted), `out` is ordinary memory, any bits are an f32. The
        // owner wrote the slot before it stored `arrived`, which we loaded; it writes it again for
        // piece + 2, after we store piece + 1, which needs the `&mut` that self holds.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
    }
}
