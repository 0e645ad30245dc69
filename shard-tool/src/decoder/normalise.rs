//! Brings the tensors of a checkpoint into the form that the table of tensors asks for.

use super::Decoder;
use super::names::{Names, TensorRole};
use super::quantisation::Quantisation;
use crate::Error;
use crate::forms::{self, ExpertMatrix, FusedExperts, LatentHeads};
use crate::spec::{Mixer, Mla, Moe};
use crate::weight_map::WeightMap;

/// Offers experts, and keys and values of latent attention, by themselves.
pub(super) fn normalise(
    decoder: &Decoder,
    names: &Names,
    weight_map: &mut WeightMap,
) -> Result<(), Error> {
    if decoder.quantisation == Quantisation::Fp8 {
        forms::join_fp8(weight_map)?;
    }
    for (layer, ffn) in decoder.ffns.iter().enumerate() {
        if let Mixer::Mla(mla) = &decoder.mixer {
            keys_and_values(mla, (names, layer), weight_map)?;
        }
        if let Some(moe) = ffn.moe() {
            for kind in ["weight", "bias"] {
                experts(moe, decoder.hidden, (names, layer, kind), weight_map)?;
            }
        }
    }
    Ok(())
}

fn keys_and_values(
    mla: &Mla,
    (names, layer): (&Names, usize),
    weight_map: &mut WeightMap,
) -> Result<(), Error> {
    let dims = LatentHeads {
        heads: mla.heads.into(),
        nope: mla.dims.nope.into(),
        value: mla.dims.value.into(),
        latent: mla.dims.latent.into(),
    };
    let of = |role| names.of(layer, role, "weight");
    let (fused, parts) = (of(TensorRole::KvB), [of(TensorRole::KB), of(TensorRole::VB)]);
    if weight_map.tensor(&fused).is_some() {
        forms::split_kv_b(weight_map, &fused, parts.clone(), dims)?;
    }
    // llama.cpp stores heads as a third dimension.
    for part in &parts {
        let heads = weight_map.tensor(part).is_some_and(|info| info.shape.len() == 3);
        if let Some(source) = weight_map.row_source(part).filter(|_| heads) {
            weight_map.join(part, source)?;
        }
    }
    Ok(())
}

fn experts(
    moe: &Moe,
    hidden: u32,
    (names, layer, kind): (&Names, usize, &str),
    weight_map: &mut WeightMap,
) -> Result<(), Error> {
    let (count, bias) = (u64::from(moe.experts), kind == "bias");
    let matrix = |role, rows: u32, cols: u32| ExpertMatrix {
        pattern: names.of(layer, role, kind),
        rows: rows.into(),
        cols: if bias { 1 } else { cols.into() },
    };
    let matrices = [
        matrix(TensorRole::ExpertGate, moe.inner, hidden),
        matrix(TensorRole::ExpertUp, moe.inner, hidden),
        matrix(TensorRole::ExpertDown, hidden, moe.inner),
    ];
    if names.fused == FusedExperts::Stacked {
        for matrix in &matrices {
            let name = matrix.pattern.replacen(".{}", "", 1);
            forms::stacked(weight_map, &name, count, matrix)?;
            let old = matrix.pattern.replacen("_exps", "", 1);
            forms::one_by_one(weight_map, &old, count, matrix)?;
        }
        return Ok(());
    }
    let stem = matrices[0].pattern.split(".{}").next().unwrap_or_default().to_owned();
    forms::gate_up_and_down(weight_map, names.fused, &stem, (count, &matrices))
}
