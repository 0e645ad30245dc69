//! Making the shared file and joining it: everything is checked before the first exchange.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::id::{CommError, CommId, Wait};
use super::{DATA_START, LAYOUT_VERSION, PIECE_FLOATS, Region, ShmComm, WORLD_MAX};

impl ShmComm {
    /// Makes a communicator for `world` ranks and joins it as rank 0. The id is for the others, and
    /// good while this end lives.
    pub fn create(world: usize, wait: Wait) -> Result<(Self, CommId), CommError> {
        Self::create_at(world, wait, 0)
    }

    /// `first`: what pieces are counted from, so that a test can see the counter wrap.
    pub(super) fn create_at(
        world: usize,
        wait: Wait,
        first: u32,
    ) -> Result<(Self, CommId), CommError> {
        check_world(0, world)?;
        let io = |what| move |e: Errno| CommError::Io { what, source: e.into() };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("binfer-comm", flags).map_err(io("memfd_create"))?;
        // Takes the memory now: later there would be no error to return, only SIGBUS.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, region_bytes(world) as u64)
            .map_err(io("reserve shared memory"))?;
        rustix::fs::fcntl_add_seals(&file, seals()).map_err(io("seal shared memory"))?;
        let id = CommId::for_file(&file)?;
        let region = Region { map: map(&file, world)?, world, _file: Some(file) };
        let header = region.header();
        header.version.store(LAYOUT_VERSION, SeqCst);
        header.world.store(to_u32(world), SeqCst);
        header.piece_floats.store(to_u32(PIECE_FLOATS), SeqCst);
        for rank in 0..world {
            region.seat(rank).arrived.store(first, SeqCst);
        }
        let magic = id.magic()?;
        header.magic[0].store(magic[0], SeqCst);
        header.magic[1].store(magic[1], SeqCst);
        Ok((Self::seated(region, 0, wait)?, id))
    }

    /// Joins as `rank` the communicator that rank 0 made.
    pub fn join(id: &CommId, rank: usize, world: usize, wait: Wait) -> Result<Self, CommError> {
        check_world(rank, world)?;
        let magic = id.magic()?;
        let file = id.open()?;
        let sealed = rustix::fs::fcntl_get_seals(&file);
        if !sealed.is_ok_and(|found| found.contains(seals())) {
            return Err(CommError::Join(format!("{id} is not a sealed memory file")));
        }
        let size = rustix::fs::fstat(&file).map_or(0, |stat| stat.st_size);
        if usize::try_from(size) != Ok(region_bytes(world)) {
            let cause =
                format!("{id} has {size} bytes, {world} ranks need {}", region_bytes(world));
            return Err(CommError::Join(cause));
        }
        let region = Region { map: map(&file, world)?, world, _file: None };
        let header = region.header();
        let found = [header.magic[0].load(SeqCst), header.magic[1].load(SeqCst)];
        let shape = [&header.version, &header.world, &header.piece_floats].map(|w| w.load(SeqCst));
        if found != magic {
            return Err(CommError::Join(format!("{id} is another file by now")));
        }
        if shape != [LAYOUT_VERSION, to_u32(world), to_u32(PIECE_FLOATS)] {
            let cause =
                format!("{id} has (layout, ranks, piece) {shape:?}: another build or group");
            return Err(CommError::Join(cause));
        }
        Self::seated(region, rank, wait)
    }

    fn seated(region: Region, rank: usize, wait: Wait) -> Result<Self, CommError> {
        let seat = region.seat(rank);
        if seat.joined.swap(1, SeqCst) != 0 {
            return Err(CommError::Join(format!("rank {rank} has joined already")));
        }
        let piece = seat.arrived.load(SeqCst);
        Ok(Self { region: Arc::new(region), rank, wait, piece, sequence: 0, broken: false })
    }
}

/// Size of the whole file.
fn region_bytes(world: usize) -> usize {
    DATA_START + world * 2 * PIECE_FLOATS * size_of::<f32>()
}

fn map(file: &OwnedFd, world: usize) -> Result<MmapRaw, CommError> {
    MmapOptions::new()
        .len(region_bytes(world))
        .map_raw(file)
        .map_err(|source| CommError::Io { what: "map shared memory", source })
}

fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

fn check_world(rank: usize, world: usize) -> Result<(), CommError> {
    if world == 0 || world > WORLD_MAX || rank >= world {
        return Err(CommError::Args(format!("rank {rank} of {world}; at most {WORLD_MAX} ranks")));
    }
    Ok(())
}

/// A size as shared memory has it. Constants of this module keep sizes far below 2^32.
fn to_u32(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
