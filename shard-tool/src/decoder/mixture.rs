//! Which layers of a model are mixtures of experts.

use crate::spec::{ActivationFn, Ffn, Moe};

/// A model's mixtures of experts.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    pub(crate) moe: Moe,
    pub(crate) layers: MixtureLayers,
}

/// The layers that are mixtures; the others are dense.
#[derive(Clone, Debug)]
pub(crate) struct MixtureLayers {
    /// The first one.
    pub(crate) first: u32,
    /// One of so many layers is a mixture: each whose number, from 1, is a multiple.
    pub(crate) step: u32,
    /// Layers that are dense all the same.
    pub(crate) dense: Vec<u32>,
}

impl MixtureLayers {
    /// All layers.
    pub(crate) const ALL: Self = Self { first: 0, step: 1, dense: Vec::new() };

    fn has(&self, layer: u32) -> bool {
        layer >= self.first
            && (layer + 1).is_multiple_of(self.step.max(1))
            && !self.dense.contains(&layer)
    }
}

/// The feed-forward of each of `layers`; `inner` is that of the dense ones, and read only if there
/// are any.
pub(super) fn ffns<E>(
    layers: u32,
    mixture: Option<&Mixture>,
    inner: impl FnOnce() -> Result<u32, E>,
) -> Result<Vec<Ffn>, E> {
    let moe = |layer| mixture.filter(|mixture| mixture.layers.has(layer)).map(|of| of.moe);
    let dense = (0..layers).any(|layer| moe(layer).is_none());
    let inner = if dense { inner()? } else { 0 };
    let glu = Ffn::Glu { inner, act: ActivationFn::Silu };
    Ok((0..layers).map(|layer| moe(layer).map_or(glu, Ffn::Moe)).collect())
}
