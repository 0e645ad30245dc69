//! Rotary position embedding: cosines and sines of a step's positions, and the rotation of a head.

use binfer_shard::spec::Rope;

use crate::backend::rope::{attention_factor, frequencies};

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
        self.frequencies.clear();
        self.frequencies.extend(frequencies(rope));
        let size = attention_factor(rope.scaling);
        self.data.clear();
        for position in positions {
            let angles = self.frequencies.iter().map(|frequency| *position as f32 * frequency);
            self.data.extend(angles.clone().map(|angle| angle.cos() * size));
            self.data.extend(angles.map(|angle| angle.sin() * size));
        }
        self.made_for = Some(rope);
    }

    /// `out = head`, rotated to the token's position.
    pub(super) fn rotate(&self, token: usize, head: &[f32], out: &mut [f32]) {
        out.copy_from_slice(head);
        self.rotate_in_place(token, out);
    }

    /// Rotates a head to the token's position.
    pub(super) fn rotate_in_place(&self, token: usize, head: &mut [f32]) {
        let half = self.frequencies.len();
        let (cos, sin) = self.data[2 * half * token..][..2 * half].split_at(half);
        let (first, second) = head[..2 * half].split_at_mut(half);
        for pair in 0..half {
            let (x, y) = (first[pair], second[pair]);
            first[pair] = x * cos[pair] - y * sin[pair];
            second[pair] = y * cos[pair] + x * sin[pair];
        }
    }
}
