//! Experts in one tensor.

use super::shaped;
use crate::views::{Pick, RowSource, View};
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

/// How a container stores all experts of a layer together, where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FusedExperts {
    /// transformers 5: `gate_up_proj` is `[experts, 2 * inner, hidden]`, gate before up, and
    /// `down_proj` is `[experts, hidden, inner]`.
    GateThenUp,
    /// gpt-oss: gate and up alternate. Plain tensors are transposed, `[experts, hidden, 2 * inner]`
    /// and `[experts, inner, hidden]`; those of MXFP4 are not.
    Alternating,
    /// llama.cpp: a tensor each of gate, up and down.
    Stacked,
}

/// A matrix that each expert has, and what it is called there: `{}` stands for the expert.
#[derive(Clone, Debug)]
pub(crate) struct ExpertMatrix {
    pub(crate) pattern: String,
    pub(crate) rows: u64,
    pub(crate) cols: u64,
}

impl ExpertMatrix {
    fn of(&self, expert: u64) -> String {
        self.pattern.replacen("{}", &expert.to_string(), 1)
    }
}

/// Offers gate and up, and down, of all experts by themselves, if `stem` has them together.
/// `matrices` are gate, up and down; biases have one column.
pub(crate) fn gate_up_and_down(
    weight_map: &mut WeightMap,
    form: FusedExperts,
    stem: &str,
    (experts, matrices): (u64, &[ExpertMatrix; 3]),
) -> Result<(), Error> {
    let [gate, up, down] = matrices;
    let bias = gate.cols == 1;
    let ending = if bias { "_bias" } else { "" };
    let gate_up = [gate.clone(), up.clone()];
    for (name, fused) in [("gate_up_proj", &gate_up[..]), ("down_proj", std::slice::from_ref(down))]
    {
        let name = format!("{stem}.{name}{ending}");
        if form == FusedExperts::Alternating && !bias {
            join_mxfp4(weight_map, &name)?;
        }
        if weight_map.tensor(&name).is_none() {
            continue;
        }
        let each = fused.len() as u64;
        let [rows, cols] = [fused[0].rows, fused[0].cols];
        let transposed = form == FusedExperts::Alternating
            && weight_map.tensor(&name).is_some_and(|info| info.shape.len() == 3);
        let wanted = match (bias, transposed) {
            (true, _) => vec![each * rows, experts],
            (false, true) => vec![each * rows, cols, experts],
            // Joined tensors are matrices.
            (false, false) if form == FusedExperts::Alternating => {
                vec![cols, each * rows * experts]
            }
            (false, false) => vec![cols, each * rows, experts],
        };
        let source = shaped(weight_map, &name, &wanted)?;
        let mut views = Vec::new();
        for expert in 0..experts {
            for (number, matrix) in (0..each).zip(fused) {
                let (first, step) = match form {
                    FusedExperts::Alternating => (number, each),
                    FusedExperts::GateThenUp | FusedExperts::Stacked => (number * rows, 1),
                };
                let pick = if bias || transposed {
                    let source_rows = if bias { 1 } else { cols };
                    columns(expert * source_rows, first, step)
                } else {
                    let first = expert * each * rows + first;
                    let run = if step == 1 { rows } else { 1 };
                    Pick::Rows { first, run, stride: step }
                };
                views.push(View::new(matrix.of(expert), source.clone(), pick, [rows, cols])?);
            }
        }
        weight_map.split(&name, &source, views)?;
    }
    Ok(())
}

/// Offers a matrix of all experts by itself, if `name` stacks them.
pub(crate) fn stacked(
    weight_map: &mut WeightMap,
    name: &str,
    experts: u64,
    matrix: &ExpertMatrix,
) -> Result<(), Error> {
    if weight_map.tensor(name).is_none() {
        return Ok(());
    }
    let &ExpertMatrix { rows, cols, .. } = matrix;
    let bias = cols == 1;
    let wanted = if bias { vec![rows, experts] } else { vec![cols, rows, experts] };
    let source = shaped(weight_map, name, &wanted)?;
    let view = |expert| {
        let pick = if bias {
            columns(expert, 0, 1)
        } else {
            Pick::Rows { first: expert * rows, run: rows, stride: rows }
        };
        View::new(matrix.of(expert), source.clone(), pick, [rows, cols])
    };
    let views = (0..experts).map(view).collect::<Result<_, _>>()?;
    weight_map.split(name, &source, views)
}

/// Offers a matrix of each expert under its name, if files of before March 2024 store it under
/// `pattern`.
pub(crate) fn one_by_one(
    weight_map: &mut WeightMap,
    pattern: &str,
    experts: u64,
    matrix: &ExpertMatrix,
) -> Result<(), Error> {
    for expert in 0..experts {
        let name = pattern.replacen("{}", &expert.to_string(), 1);
        let Some(source) = weight_map.row_source(&name) else { return Ok(()) };
        weight_map.join(&matrix.of(expert), source)?;
    }
    Ok(())
}

/// Columns of the source, each from row `first` on.
fn columns(first: u64, col: u64, col_step: u64) -> Pick {
    Pick::Columns { first, block: u64::MAX, stride: 0, col, col_step }
}

/// Joins codes and scales of gpt-oss's experts, if they are there, to a matrix of that name.
fn join_mxfp4(weight_map: &mut WeightMap, name: &str) -> Result<(), Error> {
    let (codes, scales) = (format!("{name}_blocks"), format!("{name}_scales"));
    let found = [weight_map.mapped(&codes), weight_map.mapped(&scales)];
    let missing = |name: &str| {
        let cause = "it is missing, and its other half is there";
        Err(Error::new(ErrorKind::Mismatch, cause).tensor(name))
    };
    match found {
        [None, None] => Ok(()),
        [None, Some(_)] => missing(&codes),
        [Some(_), None] => missing(&scales),
        [Some(codes), Some(scales)] => weight_map.join(name, RowSource::mxfp4(codes, scales)?),
    }
}
