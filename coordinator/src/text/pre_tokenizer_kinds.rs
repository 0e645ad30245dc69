//! The kinds of pre-tokenizer that `tokenizer.ggml.pre` names, and how each splits text.
//!
//! The names are those of llama.cpp. The patterns are those of the models' own tokenizer.json where
//! they are known, else those of llama.cpp, which differ only in letters that nobody writes. Each
//! is compared with what Python's tokenizers library cuts. Kinds of models that are not served are
//! left out where they need more than patterns (`gemma4`, `kimi-k2`, `afmoe`, encoders).

use super::error::TextError;
use super::pre_tokenizer::{PreTokenizerKind, SplitStep};
use SplitStep::{Digits, Gpt2, Pattern, Words};

/// Each kind with its names.
pub(super) const KINDS: [(&[&str], PreTokenizerKind); 24] = [
    (&["default"], plain(&[Pattern(SIGNS), Gpt2, Pattern(r"\p{N}+"), Pattern(THREE_DIGITS)])),
    (
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
        ],
        plain(&[Gpt2]),
    ),
    (
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        plain(&[Digits, Gpt2]),
    ),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        PreTokenizerKind {
            whole_pieces_first: true,
            adds_bos: true,
            ..plain(&[Words(r"\p{N}{1,3}")])
        },
    ),
    (&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], plain(&[Words(r"\p{N}{1,3}")])),
    (
        &["qwen2", "deepseek-r1-qwen"],
        PreTokenizerKind { composes: true, ..plain(&[Words(r"\p{N}")]) },
    ),
    (
        &["stablelm2", "megrez", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2"],
        plain(&[Words(r"\p{N}")]),
    ),
    (&["qwen35"], PreTokenizerKind { composes: true, ..plain(&[Pattern(QWEN35)]) }),
    (
        &["tekken"],
        PreTokenizerKind { whole_pieces_first: true, adds_bos: true, ..plain(&[Pattern(TEKKEN)]) },
    ),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], plain(&[Pattern(O200K)])),
    (&["tiny_aya", "cohere2moe"], plain(&[Pattern(r"\d{1,3}(?=(?:\d{3})*\b)"), Pattern(O200K)])),
    (
        &["deepseek-llm"],
        plain(&[
            Pattern(r"[\r\n]"),
            Pattern(CASED_LETTERS),
            Pattern(
                r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            ),
            Pattern(r"\s+$"),
            Pattern(HAN_AND_BELOW),
            Pattern(r"\p{N}+"),
        ]),
    ),
    (
        &["deepseek-coder"],
        plain(&[
            Pattern(r"[\r\n]"),
            Pattern(r"\s?\p{L}+"),
            Pattern(r"\s?\p{P}+"),
            Pattern(HAN_AND_BELOW),
            Pattern(r"\p{N}"),
        ]),
    ),
    (
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        plain(&[Pattern(r"\p{N}{1,3}"), Pattern(HAN_AND_KANA), Pattern(DEEPSEEK_V3)]),
    ),
    (&["falcon"], plain(&[Pattern(r"[\p{P}\$\+<=>\^~\|`]+"), Gpt2, Pattern(THREE_DIGITS)])),
    (&["bloom", "poro-chat", "gpt3-finnish"], plain(&[Pattern(BLOOM)])),
    (&["viking"], plain(&[Pattern(BLOOM), Pattern(r"\p{N}")])),
    (&["seed-coder"], plain(&[Pattern(SEED_CODER)])),
    (&["ufakzeka"], plain(&[Pattern(UFAKZEKA)])),
    (
        &["minicpm5"],
        PreTokenizerKind {
            whole_pieces_first: true,
            ..plain(&[Pattern(r"\p{N}{1,3}"), Words(r"\p{N}+")])
        },
    ),
    (&["bailingmoe", "bailingmoe2", "llada-moe"], plain(&[Pattern(BAILING)])),
    (&["exaone-moe"], plain(&[Pattern(EXAONE_MOE)])),
    (&["laguna"], plain(&[Pattern(r"[^\n]+|[\n]+"), Words(r"\p{N}")])),
    (&["superbpe"], plain(&[Pattern(r"\p{N}+"), Pattern(r"(?=(\d{3})+(?!\d))")])),
];

impl PreTokenizerKind {
    /// The kind with this name.
    pub(super) fn named(name: &str) -> Result<Self, TextError> {
        let found = KINDS.iter().find(|(names, _)| names.contains(&name));
        found.map(|(_, pre)| *pre).ok_or_else(|| TextError::Unsupported {
            key: "tokenizer.ggml.pre",
            found: name.to_owned(),
            supported: Self::names().collect::<Vec<_>>().join(", "),
        })
    }

    /// The names of all kinds.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().flat_map(|(names, _)| names.iter().copied())
    }
}

const fn plain(steps: &'static [SplitStep]) -> PreTokenizerKind {
    PreTokenizerKind { steps, whole_pieces_first: false, adds_bos: false, composes: false }
}

const SIGNS: &str = r"[\p{P}\$\+<=>\^~\|]+";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const HAN_AND_BELOW: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
const HAN_AND_KANA: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";
/// The letters that have a case, as the tokenizer.json of deepseek-llm lists them.
const CASED_LETTERS: &str = r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+";
