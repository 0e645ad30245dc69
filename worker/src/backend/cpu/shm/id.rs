//! What a communicator is found by, and what can go wrong with it.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Why a collective, or joining one, failed.
#[derive(Debug, thiserror::Error)]
pub enum CommError {
    /// The supervisor gave it up, or an earlier error did.
    #[error("collective aborted")]
    Aborted,
    /// Two ranks met in different operations: a bug of ours, or plans that differ.
    #[error("rank {rank} does {ours} while rank {peer} does {theirs}")]
    Mismatch {
        /// This rank.
        rank: usize,
        /// What it does.
        ours: String,
        /// The first rank that does something else.
        peer: usize,
        /// What that one does.
        theirs: String,
    },
    /// Arguments that break the operation's contract.
    #[error("collective: {0}")]
    Args(String),
    /// The id does not lead to a communicator that this rank can be part of.
    #[error("cannot join the ranks' shared memory: {0}")]
    Join(String),
    /// The host refused a resource.
    #[error("{what}: {source}")]
    Io {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// How a rank waits for its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Spin up to 50 us, then sleep: when every thread of every rank has a core.
    SpinThenSleep,
    /// Sleep at once: a spinning rank would keep its peer from running.
    Sleep,
}

impl Wait {
    /// What suits `world` ranks of `threads` threads each on `cores` cores.
    pub fn suiting(world: usize, threads: usize, cores: usize) -> Self {
        if world * threads > cores { Self::Sleep } else { Self::SpinThenSleep }
    }
}

/// Names a communicator to the other ranks: process and descriptor of rank 0, and a random number
/// that stands in the file, because both may be somebody else's by the time they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommId {
    text: String,
}

const PREFIX: &str = "binfer-shm";

impl CommId {
    /// The id as bytes for the other ranks.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The id out of bytes of another rank. It is checked here, and again when it is used.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CommError> {
        let text = std::str::from_utf8(bytes).unwrap_or_default().to_owned();
        let id = Self { text };
        id.parse().map(|_| id)
    }

    pub(super) fn for_file(file: &OwnedFd) -> Result<Self, CommError> {
        let mut magic = [0_u8; 16];
        io::Result::and_then(std::fs::File::open("/dev/urandom"), |mut f| f.read_exact(&mut magic))
            .map_err(|source| CommError::Io { what: "read /dev/urandom", source })?;
        let magic = u128::from_le_bytes(magic);
        let (pid, fd) = (std::process::id(), file.as_raw_fd());
        Ok(Self { text: format!("{PREFIX} {pid} {fd} {magic:032x}") })
    }

    pub(super) fn magic(&self) -> Result<[u64; 2], CommError> {
        let (_, _, magic) = self.parse()?;
        let bytes = magic.to_le_bytes();
        let half = |at: usize| std::array::from_fn(|i| bytes[at + i]);
        Ok([u64::from_le_bytes(half(0)), u64::from_le_bytes(half(8))])
    }

    /// Opens rank 0's file. The path is made of two numbers, so an id cannot name any other.
    pub(super) fn open(&self) -> Result<OwnedFd, CommError> {
        let (pid, fd, _) = self.parse()?;
        let path = format!("/proc/{pid}/fd/{fd}");
        // Should the descriptor be another's by now, opening it must neither wait nor have effects.
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| {
            CommError::Join(format!(
                "{path}: {e}; rank 0 must live, on this host, in this PID namespace, as this user, \
                 who may read the program's file"
            ))
        })
    }

    fn parse(&self) -> Result<(u32, u32, u128), CommError> {
        let fields: Vec<&str> = self.text.split(' ').collect();
        let parsed = match fields.as_slice() {
            [PREFIX, pid, fd, magic] if magic.len() == 32 => {
                pid.parse().ok().zip(fd.parse().ok()).zip(u128::from_str_radix(magic, 16).ok())
            }
            _ => None,
        };
        let wrong = || CommError::Join(format!("not a shared-memory id: {:?}", self.text));
        parsed.map(|((pid, fd), magic)| (pid, fd, magic)).ok_or_else(wrong)
    }
}

/// Process and descriptor, without the secret.
impl fmt::Display for CommId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parse() {
            Ok((pid, fd, _)) => write!(f, "/proc/{pid}/fd/{fd}"),
            Err(_) => f.write_str("not an id"),
        }
    }
}
