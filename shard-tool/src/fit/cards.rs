//! Cards by name, so that nobody has to look their numbers up.

/// A card's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// As people call it.
    pub name: &'static str,
    /// What the driver reports as its total.
    pub bytes: u64,
    /// Bandwidth of its memory as the maker states it, in bytes a second.
    pub bytes_per_s: f64,
}

const fn card(name: &'static str, mebibytes: u64, gigabytes_per_s: f64) -> Card {
    Card { name, bytes: mebibytes << 20, bytes_per_s: gigabytes_per_s * 1e9 }
}

/// Known cards. Totals as `nvidia-smi` prints them, bandwidth from NVIDIA's data sheets of each.
pub const CARDS: &[Card] = &[
    card("H200", 143_771, 4_800.0),
    card("H100", 81_559, 3_350.0), // SXM
    card("A100", 81_920, 2_039.0), // SXM, 80 GB
    card("A100-40GB", 40_960, 1_555.0),
    card("L40S", 46_068, 864.0),
    card("L4", 23_034, 300.0),
    card("4090", 24_564, 1_008.0),
];

impl Card {
    /// The card of that name, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        CARDS.iter().find(|card| card.name.eq_ignore_ascii_case(name)).copied()
    }
}
