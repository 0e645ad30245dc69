//! Who asks, and whose cached prefixes a request may be given.

use std::sync::Arc;

/// Who asks: the number that fronts have for an API key. Without keys all requests are of one
/// tenant, number 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// What two requests must have in common to share cached blocks. Salts are compared and not hashed,
/// so no text can be made that reads the blocks of another salt.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Salt {
    /// Digest of the weights.
    pub(super) weights: u64,
    pub(super) tenant: TenantId,
    /// `cache_salt` of the request.
    pub(super) text: Option<Arc<str>>,
}

impl Salt {
    /// Whether the request shares less than all requests to these weights do.
    pub(super) fn is_narrow(&self) -> bool {
        self.tenant != TenantId::default() || self.text.is_some()
    }
}
