//! Rotary position embedding: frequencies and the size of what is rotated, for every backend.
//!
//! Computed in single precision, as transformers does: at large positions the rounding shows, and
//! must be the same on every device.

use std::f32::consts::TAU;

use binfer_shard::spec::{Rope, RopeScaling};

/// The factor of cosines and sines.
pub fn attention_factor(scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::Yarn { attention_factor, .. } => single(attention_factor),
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Llama3 { .. } => 1.0,
    }
}

/// Angle per position of each pair of elements.
pub fn frequencies(rope: Rope) -> impl Iterator<Item = f32> {
    let theta = single(base(rope));
    let ramp = yarn_ramp(rope);
    (0..rope.dims / 2).map(move |pair| {
        let wave = theta.powf((2 * pair) as f32 / rope.dims as f32);
        match rope.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => 1.0 / wave,
            RopeScaling::Linear { factor } => 1.0 / wave / single(factor),
            RopeScaling::Llama3 { .. } => llama3(1.0 / wave, rope.scaling),
            RopeScaling::Yarn { factor, .. } => {
                let [low, width] = ramp;
                let kept = 1.0 - ((pair as f32 - low) / width).clamp(0.0, 1.0);
                1.0 / (single(factor) * wave) * (1.0 - kept) + 1.0 / wave * kept
            }
        }
    })
}

/// The base of the frequencies.
fn base(rope: Rope) -> f64 {
    let RopeScaling::Dynamic { factor, original_context, longest } = rope.scaling else {
        return rope.theta;
    };
    let (longest, original) = (longest.max(original_context), f64::from(original_context));
    let stretch = factor * f64::from(longest) / original - (factor - 1.0);
    let dims = f64::from(rope.dims);
    rope.theta * stretch.powf(dims / (dims - 2.0))
}

/// Llama 3's scaling: long waves are stretched, short ones kept, and those between get a share of
/// both.
fn llama3(frequency: f32, scaling: RopeScaling) -> f32 {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } =
        scaling
    else {
        return frequency;
    };
    let (factor, context) = (single(factor), original_context as f32);
    let [low, high] = [low_freq_factor, high_freq_factor].map(single);
    let length = TAU / frequency;
    if length > context / low {
        return frequency / factor;
    }
    if length < context / high {
        return frequency;
    }
    let share = (context / length - low) / (high - low);
    (1.0 - share) * frequency / factor + share * frequency
}

/// From which pair on `YaRN` goes over from frequencies as they are to divided ones, and within how
/// many pairs.
fn yarn_ramp(rope: Rope) -> [f32; 2] {
    let RopeScaling::Yarn { original_context, beta_fast, beta_slow, truncate, .. } = rope.scaling
    else {
        return [0.0; 2];
    };
    let dims = f64::from(rope.dims);
    // The pair that turns so many times within the original context; not a whole number.
    let pair_of = |turns: f64| {
        let wave = f64::from(original_context) / (turns * std::f64::consts::TAU);
        dims * wave.ln() / (2.0 * rope.theta.ln())
    };
    let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, high) = (low.max(0.0), high.min(dims - 1.0));
    // No ramp at all would divide zero by zero.
    [single(low), if low == high { 0.001 } else { single(high - low) }]
}

#[expect(clippy::cast_possible_truncation, reason = "transformers computes so")]
fn single(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which pairs the tables below show.
    const PAIRS: [usize; 9] = [0, 1, 20, 25, 29, 32, 35, 40, 63];

    /// Numbers of transformers 5.23.0, with `kind`, `theta` and `scaling` from each case:
    /// `config = LlamaConfig(head_dim=128, max_position_embeddings=131072,
    ///      rope_parameters={"rope_type": kind, "rope_theta": theta, **scaling})`
    /// `ROPE_INIT_FUNCTIONS[kind](config)[0][[0, 1, 20, 25, 29, 32, 35, 40, 63]]`
    fn check(theta: f64, scaling: RopeScaling, expected: [f64; 9]) {
        let found: Vec<f32> = frequencies(Rope { theta, dims: 128, scaling }).collect();
        assert_eq!(found.len(), 64);
        for (pair, expected) in PAIRS.into_iter().zip(expected) {
            let found = f64::from(found[pair]);
            assert!((found / expected - 1.0).abs() < 1e-6, "{pair}: {found}, {expected}");
        }
    }

    /// `{"factor": 4.0}`
    #[test]
    fn linear_frequencies() {
        let expected = [
            0.25,
            0.216_491_088,
            0.014_058_532_2,
            0.006_846_048_87,
            0.003_849_816_28,
            0.002_499_999_94,
            0.001_623_454_15,
            0.000_790_569_466,
            2.886_954_83e-5,
        ];
        check(1e4, RopeScaling::Linear { factor: 4.0 }, expected);
    }

    /// `{"factor": 2.0}`, with `max_position_embeddings=4096` and `seq_len=torch.tensor(longest)`.
    #[test]
    fn dynamic_frequencies_follow_from_the_longest_sequence() {
        let scaling = RopeScaling::Dynamic { factor: 2.0, original_context: 4096, longest: 4096 };
        let plain = [
            1.0,
            0.865_964_353,
            0.056_234_128_8,
            0.027_384_195_5,
            0.015_399_265_1,
            0.009_999_999_78,
            0.006_493_816_62,
            0.003_162_277_86,
            0.000_115_478_193,
        ];
        for longest in [1, 100, 4096] {
            check(1e4, scaling.for_sequences_of(longest), plain);
        }
        let stretched = [
            1.0,
            0.844_504_356,
            0.034_043_796_4,
            0.014_623_37,
            0.007_437_980_27,
            0.004_479_821_77,
            0.002_698_152_09,
            0.001_158_979_95,
            2.376_399_97e-5,
        ];
        check(1e4, scaling.for_sequences_of(12_000), stretched);
    }

    /// `{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    /// "original_max_position_embeddings": 8192}`
    #[test]
    fn llama3_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let expected = [
            1.0,
            0.814_617_217,
            0.016_560_440_9,
            0.005_940_730_68,
            0.002_166_570_63,
            0.000_524_846_022,
            9.556_212_17e-5,
            3.428_102_35e-5,
            3.068_925_88e-7,
        ];
        check(5e5, scaling, expected);
    }

    /// `{"factor": 4.0, "original_max_position_embeddings": 32768}`, whose second result is
    /// 1.138629436111989.
    #[test]
    fn yarn_frequencies_and_size() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32768,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.138_629_436_111_989,
            truncate: true,
        };
        let expected = [
            1.0,
            0.805_842_221,
            0.013_335_214_9,
            0.004_131_738_1,
            0.001_405_112_45,
            0.000_602_941_145,
            0.000_246_258_394,
            4.445_698_51e-5,
            3.102_344_41e-7,
        ];
        check(1e6, scaling, expected);
        assert_eq!(attention_factor(scaling).to_bits(), 1.138_629_4_f32.to_bits());
    }
}
