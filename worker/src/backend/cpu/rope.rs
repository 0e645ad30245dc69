//! Rotary position embedding: cosines and sines of a step's positions, and the rotation of a head.
//!
//! Frequencies and angles are computed in single precision, as transformers does: at large
//! positions the rounding shows, and must be the same.

use binfer_shard::spec::{Rope, RopeScaling};

/// Cosines and sines of the tokens of a step.
#[derive(Default)]
pub(super) struct RopeTable {
    /// What the table was made for; `None` when the step is new.
    made_for: Option<Rope>,
    frequencies: Vec<f32>,
    /// Per token: cosines, then sines, half as many each as elements rotate.
    data: Vec<f32>,
}

impl RopeTable {
    /// Forgets the last step.
    pub(super) fn clear(&mut self) {
        self.made_for = None;
    }

    /// Makes the table for a step, unless a layer before this one did.
    pub(super) fn prepare(&mut self, rope: Rope, positions: &[u32]) {
        if self.made_for == Some(rope) {
            return;
        }
        assert!(rope.scaling == RopeScaling::None, "no family asks for scaling yet");
        #[expect(clippy::cast_possible_truncation, reason = "transformers computes so")]
        let theta = rope.theta as f32;
        self.frequencies.clear();
        self.frequencies.extend((0..rope.dims / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / rope.dims as f32;
            1.0 / theta.powf(exponent)
        }));
        self.data.clear();
        for position in positions {
            let angles = self.frequencies.iter().map(|frequency| *position as f32 * frequency);
            self.data.extend(angles.clone().map(f32::cos));
            self.data.extend(angles.map(f32::sin));
        }
        self.made_for = Some(rope);
    }

    /// `out = head`, rotated to the token's position.
    pub(super) fn rotate(&self, token: usize, head: &[f32], out: &mut [f32]) {
        let half = self.frequencies.len();
        let (cos, sin) = self.data[2 * half * token..][..2 * half].split_at(half);
        out.copy_from_slice(head);
        let (first, second) = head[..2 * half].split_at(half);
        let (out_first, out_second) = out[..2 * half].split_at_mut(half);
        for pair in 0..half {
            out_first[pair] = first[pair] * cos[pair] - second[pair] * sin[pair];
            out_second[pair] = second[pair] * cos[pair] + first[pair] * sin[pair];
        }
    }
}
