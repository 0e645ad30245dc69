//! What the choice of a kernel and its grid depends on: a card and the image that it runs.

use crate::Target;

/// A card and the image that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// The image.
    pub target: Target,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that the card gives a block [bytes]: all of a multiprocessor's but a kilobyte.
    pub shared_bytes_max: u32,
}

impl Chip {
    /// Shared memory that a kernel of the image may ask for [bytes].
    #[must_use]
    pub fn image_shared_bytes_max(&self) -> u32 {
        self.shared_bytes_max.min(self.target.shared_bytes_max())
    }
}
