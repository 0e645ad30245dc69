//! Cards by name, so that nobody has to look their numbers up.

/// The least compute capability that kernels are built for, times ten.
const COMPUTE_CAPABILITY_MIN: u32 = 80;

/// A card's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// What people call the card.
    pub name: &'static str,
    /// What the driver reports as its total.
    pub bytes: u64,
    /// Bandwidth of its memory as the maker states it, in bytes a second.
    pub bytes_per_s: f64,
    /// Compute capability times ten.
    capability: u32,
    /// Words that are all in the driver's name of the card, and not all in the names of lesser
    /// cards.
    words: &'static [&'static str],
}

const fn card(
    name: &'static str,
    words: &'static [&'static str],
    mebibytes: u64,
    gigabytes_per_s: f64,
    capability: u32,
) -> Card {
    Card { name, bytes: mebibytes << 20, bytes_per_s: gigabytes_per_s * 1e9, capability, words }
}

/// Known cards. Totals are those that `nvidia-smi` prints. Bandwidths are the maker's; the document
/// beside each is where to look it up. A name without a kind of board is that of the SXM module.
pub const CARDS: &[Card] = &[
    // DGX B200 data sheet: 64 TB/s of eight.
    card("B200", &["B200"], 183_359, 8_000.0, 100),
    // GH200 data sheet, with 96 GB of HBM3: "up to 4 TB/s".
    card("GH200", &["GH200"], 97_871, 4_000.0, 90),
    // H200 data sheet.
    card("H200", &["H200"], 143_771, 4_800.0, 90),
    // H100 data sheet.
    card("H100", &["H100"], 81_559, 3_350.0, 90),
    card("H100-NVL", &["H100", "NVL"], 95_830, 3_900.0, 90),
    // H100 PCIe product brief, PB-11133-001: "greater than 2,000".
    card("H100-PCIe", &["H100", "PCIE"], 81_559, 2_000.0, 90),
    // A100 data sheet, 80 GB; of 40 GB it says 1,555 of both boards.
    card("A100", &["A100"], 81_920, 2_039.0, 80),
    card("A100-80GB-PCIe", &["A100", "80GB", "PCIE"], 81_920, 1_935.0, 80),
    card("A100-40GB", &["A100", "40GB"], 40_960, 1_555.0, 80),
    // Data sheets of L40S, L4 and A10.
    card("L40S", &["L40S"], 46_068, 864.0, 89),
    card("L4", &["L4"], 23_034, 300.0, 89),
    card("A10", &["A10"], 23_028, 600.0, 86),
    // T4 product brief: 256 bits at 10 GHz.
    card("T4", &["T4"], 15_360, 320.0, 75),
    // GeForce specifications: 512 bits at 28 GHz, 384 at 21.
    card("5090", &["5090"], 32_607, 1_792.0, 120),
    card("4090", &["4090"], 24_564, 1_008.0, 89),
];
/// Words that people write in front of a card's name.
const PREFIXES: [&str; 4] = ["NVIDIA", "GEFORCE", "TESLA", "RTX"];
/// Other names of a known card.
const ALIASES: [(&str, &str); 4] =
    [("H100SXM", "H100"), ("H100SXM5", "H100"), ("A10080GB", "A100"), ("A100SXM", "A100")];

impl Card {
    /// A card of which nothing but its memory is known.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Self {
        Self { name: "", bytes, bytes_per_s: 0.0, capability: COMPUTE_CAPABILITY_MIN, words: &[] }
    }

    /// The same card with as much memory as one of them was found to have.
    #[must_use]
    pub fn with_bytes(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    /// Whether there are kernels for it.
    #[must_use]
    pub fn is_served(self) -> bool {
        self.capability >= COMPUTE_CAPABILITY_MIN
    }

    /// The card of that name; case, spaces and dashes do not count.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let plain = plain(name);
        let mut wanted = plain.as_str();
        while let Some(rest) = PREFIXES.iter().find_map(|prefix| wanted.strip_prefix(prefix)) {
            wanted = rest;
        }
        let alias = ALIASES.iter().find(|(alias, _)| *alias == wanted);
        let wanted = alias.map_or(wanted, |(_, name)| name);
        CARDS.iter().find(|card| self::plain(card.name) == wanted).copied()
    }

    /// The card that a driver calls `name`, as "NVIDIA A100-SXM4-40GB".
    #[must_use]
    pub fn of_driver(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let said: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let fits = |card: &&Self| card.words.iter().all(|word| said.contains(word));
        CARDS.iter().filter(fits).max_by_key(|card| card.words.len()).copied()
    }
}

/// Letters and digits alone, large.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_found_however_people_write_its_name() {
        for (written, name) in [
            ("h100", "H100"),
            ("H100 SXM", "H100"),
            ("h100_pcie", "H100-PCIe"),
            ("NVIDIA H100 NVL", "H100-NVL"),
            ("a100 40gb", "A100-40GB"),
            ("A100-80GB", "A100"),
            ("RTX 4090", "4090"),
            ("GeForce RTX 5090", "5090"),
            ("Tesla T4", "T4"),
            ("l40s", "L40S"),
            ("b200", "B200"),
            ("gh-200", "GH200"),
        ] {
            assert_eq!(Card::named(written).map(|card| card.name), Some(name), "{written}");
        }
        assert_eq!(Card::named("H1000"), None);
        assert_eq!(Card::named(""), None);
    }

    #[test]
    fn a_card_is_found_by_its_drivers_name() {
        for (driver, name) in [
            ("NVIDIA H100 80GB HBM3", Some("H100")),
            ("NVIDIA H100 PCIe", Some("H100-PCIe")),
            ("NVIDIA H100 NVL", Some("H100-NVL")),
            ("NVIDIA H200", Some("H200")),
            ("NVIDIA GH200 480GB", Some("GH200")),
            ("NVIDIA A100-SXM4-40GB", Some("A100-40GB")),
            ("NVIDIA A100-SXM4-80GB", Some("A100")),
            ("NVIDIA A100 80GB PCIe", Some("A100-80GB-PCIe")),
            ("NVIDIA A10", Some("A10")),
            ("NVIDIA L40S", Some("L40S")),
            ("NVIDIA L4", Some("L4")),
            ("Tesla T4", Some("T4")),
            ("NVIDIA GeForce RTX 4090", Some("4090")),
            ("NVIDIA L40", None),
            ("NVIDIA Next", None),
        ] {
            assert_eq!(Card::of_driver(driver).map(|card| card.name), name, "{driver}");
        }
    }
}
