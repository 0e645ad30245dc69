//! The tiny mixtures of experts in bfloat16 against transformers in single precision.
//!
//! Where two experts score alike, bfloat16 may rightly choose otherwise, and then ends elsewhere.
//! A checkpoint's `bf16.json` has the experts that single precision chose, how near its logits
//! transformers comes in bfloat16 with these, and where the choice is not clear. Here the same
//! experts are forced on the device: each token is a step of its own, and each router gets a
//! correction that no score reaches. Then one layer after the other is left free, behind layers
//! that are not, and must choose the same wherever that is clear.

use binfer_proto::Token;
use serde_json::Value;

use super::goldens::{feed, relative};
use super::tiny::{Tiny, What, fixture};
use super::{Half, is_sanitized, settings};
use crate::backend::Weight;
use crate::backend::cuda::CudaSettings;
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::weights::DeviceWeight;
use crate::layers::FfnLayer;
use crate::layers::moe::MoeLayer;

/// What a chosen expert's score gets on top; scores are within 1.
const FORCED: f32 = 16.0;
/// A sanitizer has time for prompts of so many tokens.
const SANITIZED_PROMPT: usize = 17;
/// Of the checkpoints a sanitizer has time for one of each format.
const SANITIZED: [&str; 3] = ["qwen3-moe", "gpt-oss-mxfp4", "deepseek-v3-fp8"];

/// Whether it is one of the mixtures.
pub(super) fn is_mixture(name: &str) -> bool {
    fixture(name).ancestors().any(|folder| folder.ends_with("mixtures"))
}

/// All mixtures.
fn names() -> Vec<&'static str> {
    let folder = fixture("mixtral");
    let entries = std::fs::read_dir(folder.parent().unwrap()).unwrap();
    let folders = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let name = |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<&str> = folders.map(|path| &*name(path).leak()).collect();
    names.sort_unstable();
    assert!(names.len() >= 16, "{names:?}");
    names.retain(|name| !is_sanitized() || SANITIZED.contains(name));
    names
}

/// What `bf16.py` says of a checkpoint, or of the one that has the same weights.
fn reference(name: &str) -> Value {
    let folder = fixture("mixtral");
    let read = |name: &str| -> Value {
        let path = folder.with_file_name(name).join("bf16.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let of = read(name);
    of["like"].as_str().map_or(of.clone(), read)
}

fn golden(name: &str) -> Value {
    let folder = fixture("mixtral").with_file_name(name);
    serde_json::from_str(&std::fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap()
}

/// A prompt with the choices of single precision.
struct Case {
    tokens: Vec<Token>,
    logits: Vec<f32>,
    /// `[layer with experts, token, choice]`, rising.
    experts: Vec<u32>,
    /// Where in `[layer with experts, token]` bfloat16 may choose otherwise.
    unclear: Vec<usize>,
}

impl Case {
    fn chosen(&self, layer: usize, token: usize, top_k: usize) -> &[u32] {
        &self.experts[(layer * self.tokens.len() + token) * top_k..][..top_k]
    }

    fn is_clear(&self, layer: usize, token: usize) -> bool {
        !self.unclear.contains(&(layer * self.tokens.len() + token))
    }
}

/// Prompts of at most so many tokens.
fn cases(name: &str, longest: usize) -> Vec<Case> {
    let (golden, reference) = (golden(name), reference(name));
    let pairs = golden["prompts"].as_array().unwrap().iter();
    let pairs = pairs.zip(reference["prompts"].as_array().unwrap());
    let case = |(golden, choices): (&Value, &Value)| Case {
        tokens: serde_json::from_value(golden["prompt_ids"].clone()).unwrap(),
        logits: serde_json::from_value(golden["logits"].clone()).unwrap(),
        experts: serde_json::from_value(choices["experts"].clone()).unwrap(),
        unclear: serde_json::from_value(choices["unclear"].clone()).unwrap(),
    };
    pairs.map(case).filter(|case| case.tokens.len() <= longest).collect()
}

/// Largest difference of a logit, relative to the largest: 1.5 times the mean of transformers.
fn bound(name: &str) -> f32 {
    1.5 * reference(name)["logits"].as_f64().unwrap() as f32
}

fn mixture(ffn: &mut FfnLayer) -> Option<&mut MoeLayer> {
    match ffn {
        FfnLayer::Moe(moe) => Some(moe),
        FfnLayer::Glu(_) => None,
    }
}

/// A model whose experts are chosen for it.
pub(super) struct Forced<'a> {
    tiny: &'a mut Tiny,
    name: &'a str,
    /// Of each layer with experts the correction that forces, and where it begins in its slab.
    corrections: Vec<(Weight, usize)>,
    /// The model's own.
    own: Vec<Option<Weight>>,
    experts: usize,
    top_k: usize,
}

impl<'a> Forced<'a> {
    pub(super) fn new(tiny: &'a mut Tiny, name: &'a str) -> Self {
        // Parameters of a CUDA graph are fixed.
        tiny.backend.graphs.buckets.clear();
        let moes: Vec<_> =
            tiny.model.layers.iter_mut().filter_map(|of| mixture(&mut of.ffn)).collect();
        let (experts, top_k) = (moes[0].experts, moes[0].routing.top_k as usize);
        let format = WeightFormat::Dense(tiny.backend.settings.half);
        let vectors = vec![DeviceWeight::nowhere(1, experts, format); moes.len()];
        let own = moes.iter().map(|moe| moe.correction).collect();
        let corrections = tiny.backend.weights.place(&vectors).unwrap();
        Self { tiny, name, corrections, own, experts, top_k }
    }

    fn layers(&self) -> usize {
        self.corrections.len()
    }

    /// Leaves one layer with experts free, the others not.
    fn leave_free(&mut self, free: Option<usize>) {
        let moes = self.tiny.model.layers.iter_mut().filter_map(|of| mixture(&mut of.ffn));
        for (layer, moe) in moes.enumerate() {
            let forces = Some(self.corrections[layer].0);
            moe.correction = if free == Some(layer) { self.own[layer] } else { forces };
        }
    }

    /// Has all layers that are not free choose what single precision chose for a token.
    fn force(&mut self, case: &Case, token: usize) {
        let backend = &self.tiny.backend;
        for (layer, (_, at)) in self.corrections.iter().enumerate() {
            let mut correction = vec![0.0; self.experts];
            let chosen = case.chosen(layer, token, self.top_k);
            chosen.iter().for_each(|expert| correction[*expert as usize] = FORCED);
            let bytes: Vec<u8> = correction.iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
            backend.weights.slab().write(*at, &bytes, &backend.device.stream).unwrap();
        }
    }

    /// Feeds a prompt token by token; calls `after` with each. Returns the last logits.
    fn feed(
        &mut self,
        slot: usize,
        case: &Case,
        mut after: impl FnMut(&mut Tiny, usize),
    ) -> Vec<f32> {
        let mut logits = Vec::new();
        for token in 0..case.tokens.len() {
            self.force(case, token);
            logits = feed(self.tiny, slot, (token, &case.tokens[token..=token]), 1);
            after(self.tiny, token);
        }
        logits
    }

    /// With all choices forced, logits are as near as bfloat16 can be. Returns those of all
    /// prompts.
    pub(super) fn check_logits(&mut self, longest: usize) -> Vec<f32> {
        self.leave_free(None);
        let mut all = Vec::new();
        for (slot, case) in cases(self.name, longest).iter().enumerate() {
            let got = self.feed(slot, case, |_, _| ());
            let (error, bound) = (relative(&got, &case.logits), bound(self.name));
            eprintln!("{}, {} tokens: {error:.5} of {bound:.5}", self.name, case.tokens.len());
            assert!(error <= bound, "{}: {error} where {bound} is allowed", self.name);
            all.extend(got);
        }
        all
    }

    /// Each layer left free chooses what single precision chose, wherever that is clear.
    fn check_choices(&mut self, longest: usize) {
        let cases = cases(self.name, longest);
        for free in (0..self.layers()).rev() {
            self.leave_free(Some(free));
            // Of the choices that are kept the last layer's are left.
            let is_last = |of: &mut crate::layers::Layer| mixture(&mut of.ffn).is_some();
            while !self.tiny.model.layers.last_mut().is_some_and(is_last) {
                self.tiny.model.layers.pop();
            }
            let (mut clear, mut same, mut all) = (0, 0, 0);
            for (index, case) in cases.iter().enumerate() {
                let (name, top_k) = (self.name, self.top_k);
                self.feed(10 * (1 + free) + index, case, |tiny, token| {
                    let is_same = choices(tiny, 1, top_k)[0] == case.chosen(free, token, top_k);
                    let is_clear = case.is_clear(free, token);
                    assert!(is_same || !is_clear, "{name}, layer {free}, token {token}");
                    clear += usize::from(is_clear);
                    same += usize::from(is_same);
                    all += 1;
                });
            }
            eprintln!("{}, layer {free}: {same} of {all} the same, {clear} are clear", self.name);
            // Whatever is clear or not, a router that is right seldom chooses otherwise.
            assert!(4 * same >= 3 * all, "{}, layer {free}: {same} of {all}", self.name);
            self.tiny.model.layers.pop();
        }
    }
}

/// The experts of each token of the last step, in its last layer with experts; rising.
fn choices(tiny: &Tiny, tokens: usize, top_k: usize) -> Vec<Vec<u32>> {
    let (memory, stream) = (&tiny.backend.memory, &tiny.backend.device.stream);
    let place = tiny.backend.moe.places.experts_of;
    let bytes = memory.read_place(place, 4 * tokens * top_k, stream).unwrap();
    let ids: Vec<u32> = bytes.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
    let rising = |ids: &[u32]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    ids.chunks(top_k).map(rising).collect()
}

#[test]
fn tiny_mixtures_are_as_near_as_bfloat16_can_be_and_choose_the_same_experts() {
    let longest = if is_sanitized() { SANITIZED_PROMPT } else { usize::MAX };
    for name in names() {
        let Some(settings) = settings(Half::Bf16) else { return };
        let mut tiny = Tiny::new(CudaSettings { graphs: false, ..settings }, What::Fixture(name));
        let mut forced = Forced::new(&mut tiny, name);
        let logits = forced.check_logits(longest);
        super::same_bits(&logits, &forced.check_logits(longest), name);
        forced.check_choices(if is_sanitized() { 1 } else { longest });
    }
}

/// A prompt at once with free choices, which the first layer with experts must get right wherever
/// that is clear, and the logits where all layers chose as single precision did.
fn check_whole(tiny: &mut Tiny, name: &str, (slot, case): (usize, &Case)) {
    let layers = tiny.model.layers.clone();
    let mut all_same = true;
    let mut layer = 0;
    for depth in 1..=layers.len() {
        tiny.model.layers = layers[..depth].to_vec();
        let moe = mixture(&mut tiny.model.layers[depth - 1].ffn);
        let Some(top_k) = moe.map(|moe| moe.routing.top_k as usize) else { continue };
        feed(tiny, slot, (0, &case.tokens), case.tokens.len());
        let rows = choices(tiny, case.tokens.len(), top_k);
        for (token, chosen) in rows.iter().enumerate() {
            let is_same = chosen == case.chosen(layer, token, top_k);
            let must_be_same = layer == 0 && case.is_clear(layer, token);
            assert!(is_same || !must_be_same, "{name}, token {token}: {chosen:?}");
            all_same &= is_same;
        }
        layer += 1;
    }
    tiny.model.layers = layers;
    let logits = feed(tiny, slot, (0, &case.tokens), case.tokens.len());
    let (error, bound) = (relative(&logits, &case.logits), bound(name));
    let same = if all_same { "the same choices" } else { "other choices" };
    eprintln!("{name}, {} tokens at once, {same}: {error:.5} of {bound:.5}", case.tokens.len());
    assert!(error.is_finite() && (error <= bound || !all_same), "{name}: {error}");
}

#[test]
fn prompts_at_once_choose_the_same_experts_as_transformers() {
    let longest = if is_sanitized() { SANITIZED_PROMPT } else { usize::MAX };
    for name in names() {
        let Some(settings) = settings(Half::Bf16) else { return };
        let mut tiny = Tiny::new(CudaSettings { graphs: false, ..settings }, What::Fixture(name));
        for case in cases(name, longest).iter().enumerate() {
            check_whole(&mut tiny, name, case);
        }
    }
}
