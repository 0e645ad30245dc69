//! Which keys look as if they changed what a model computes, by the words in their names.
//!
//! Short words count only as a whole word of the name, and long ones anywhere in it.

/// Words that count anywhere in a name.
const ANYWHERE: &[&str] = &[
    "attn",
    "attention",
    "head",
    "norm",
    "rotary",
    "position",
    "yarn",
    "activ",
    "gelu",
    "swiglu",
    "scal",
    "multipl",
    "factor",
    "quant",
    "compress",
    "window",
    "sliding",
    "chunk",
    "expert",
    "router",
    "bias",
    "softcap",
    "residual",
    "embed",
    "logit",
    "alibi",
    "sparse",
    "mamba",
    "recurren",
    "adapter",
    "lora",
    "latent",
    "layer",
    "hidden",
    "intermediate",
    "epsilon",
    "theta",
    "cross",
    "frequency",
    "dimension",
    "shared",
];

/// Words that count only as a whole word, since they are parts of harmless ones.
const WHOLE: &[&str] = &[
    "act", "acts", "alpha", "beta", "bits", "block", "blocks", "cap", "clamp", "clip", "conv",
    "dim", "dims", "embd", "eps", "ffn", "fp4", "fp8", "freq", "gamma", "gate", "gated", "gating",
    "glu", "hyper", "int4", "int8", "kv", "mask", "masked", "mla", "mlp", "moe", "mrope", "mtp",
    "nope", "mup", "ntk", "pos", "proj", "qk", "qkv", "rank", "resid", "rms", "rope", "sink",
    "sinks", "skip", "ssm", "temp", "tie", "tied", "vocab",
];

/// Whether a key looks as if it changed what the model computes.
pub(super) fn look_risky(key: &str) -> bool {
    let lower = key.to_lowercase();
    if ANYWHERE.iter().any(|word| lower.contains(word)) {
        return true;
    }
    let snake = snake_case(key);
    let mut words = snake.split(|letter: char| !letter.is_alphanumeric());
    words.any(|word| WHOLE.contains(&word))
}

/// The key in lower case, with an underscore before each capital letter that begins a word.
fn snake_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 8);
    let mut after_small = false;
    for letter in key.chars() {
        if letter.is_uppercase() && after_small {
            out.push('_');
        }
        after_small = letter.is_lowercase() || letter.is_numeric();
        out.extend(letter.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_matter_and_names_that_do_not() {
        for key in [
            "embedding_multiplier",
            "logits_scaling",
            "attentionScale",
            "qkNorm",
            "use_qk_l2",
            "n_shared_experts",
            "hidden-act",
            "kvRank",
            "mlp.type",
        ] {
            assert!(look_risky(key), "{key}");
        }
        for key in ["favourite_colour", "properties", "capability", "actor", "billing", "émile"] {
            assert!(!look_risky(key), "{key}");
        }
    }

    proptest! {
        #[test]
        fn a_word_that_matters_does_so_in_any_name(
            before in "([a-z0-9]{1,8}_){0,2}",
            after in "(_[a-z0-9]{1,8}){0,2}",
            whole in 0..WHOLE.len(),
            anywhere in 0..ANYWHERE.len(),
        ) {
            let (whole, anywhere) = (WHOLE[whole], ANYWHERE[anywhere]);
            for word in [whole, anywhere] {
                let upper = word.to_uppercase();
                prop_assert!(look_risky(&[&before, word, &after].concat()));
                prop_assert!(look_risky(&[&before, &*upper, &after].concat()));
            }
            prop_assert!(look_risky(&[&before, "x", anywhere, "x", &after].concat()));
        }

        #[test]
        fn any_name_can_be_judged(key in "\\PC{0,40}") {
            let _ = look_risky(&key);
        }
    }
}
