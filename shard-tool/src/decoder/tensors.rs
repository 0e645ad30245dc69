//! Binds a family's table of tensors to those of a checkpoint, and collects all that does not fit.
//!
//! Complaints are gathered and given at once: a reader of the message wants the whole list.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use crate::error::listed;
use crate::hf::ANOTHER_MODEL;
use crate::spec::{PartSpec, RowOrder, TensorCut, TensorSpec};
use crate::weight_map::WeightMap;
use crate::{DType, Error, ErrorKind};

/// A line of a family's table: a checkpoint tensor `[rows, cols]` that is part of another.
pub(super) struct Line {
    pub(super) source: String,
    pub(super) rows: u32,
    pub(super) cols: u32,
    pub(super) row_order: RowOrder,
    /// Its type where there is no checkpoint that says it.
    pub(super) assumed: DType,
}

/// The tensors of a spec, as they are added.
pub(super) struct Tensors<'c> {
    weight_map: &'c WeightMap,
    specs: Vec<TensorSpec>,
    used: BTreeSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
}

impl<'c> Tensors<'c> {
    pub(super) fn new(weight_map: &'c WeightMap, settings_tensors: &[&str]) -> Self {
        let used = settings_tensors.iter().map(|name| (*name).to_owned()).collect();
        let (specs, missing, misshapen) = (Vec::new(), Vec::new(), Vec::new());
        Self { weight_map, specs, used, missing, misshapen }
    }

    /// The type of tensors that are not quantised, where there is no checkpoint that says it.
    pub(super) fn assumed_dtype(&self) -> DType {
        self.weight_map.assumed_dtype().unwrap_or(DType::F32)
    }

    /// Adds the run-time tensor `name` of a layer, or of none, made of `lines`.
    pub(super) fn add(
        &mut self,
        name: String,
        layer: Option<usize>,
        cut: TensorCut,
        lines: Vec<Line>,
    ) {
        let parts = lines.into_iter().map(|line| self.bind(line)).collect();
        self.specs.push(TensorSpec { name, parts, cut, layer });
    }

    /// Gives a line the type that the checkpoint says. A line that does not fit is noted and gets
    /// any type, since [`Self::finish`] will not return its spec.
    fn bind(&mut self, line: Line) -> PartSpec {
        let Line { source, rows, cols, row_order, assumed } = line;
        let mut dtype = DType::F32;
        if let Some(info) = self.weight_map.tensor(&source) {
            dtype = info.dtype;
            let wanted = [u64::from(cols), u64::from(rows)];
            // A vector is a matrix of one row or of one column.
            let vector = wanted.contains(&1) && info.shape == [wanted[0].max(wanted[1])];
            if info.shape != wanted && !vector {
                self.misshapen.push(format!("{source} is {:?}, not {wanted:?}", info.shape));
            } else if !dtype.is_weight() {
                self.misshapen.push(format!("{source} is {}, which is no weight", dtype.name()));
            } else if dtype != DType::FP8_BLOCK && !cols.is_multiple_of(dtype.block_elems()) {
                let cause =
                    format!("{source} is {}, which needs rows of whole blocks", dtype.name());
                self.misshapen.push(cause);
            }
        } else if self.weight_map.assumed_dtype().is_some() {
            dtype = assumed;
        } else {
            self.missing.push(source.clone());
        }
        self.used.insert(source.clone());
        PartSpec { source, dtype, rows, cols, row_order }
    }

    /// Counts the tensors of layers that are not used as used. Returns a note about them, if there
    /// are any.
    pub(super) fn ignore_layers(&mut self, prefix: &str, layers: Range<usize>) -> Vec<String> {
        let of_layer = |name: &&str| {
            let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
            let number = rest.and_then(|rest| rest.split('.').next()?.parse().ok());
            number.is_some_and(|number: usize| layers.contains(&number))
        };
        let names: Vec<String> =
            self.weight_map.names().filter(of_layer).map(str::to_owned).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let (count, first) = (names.len(), layers.start);
        self.used.extend(names);
        vec![format!(
            "{count} tensors of layers from {prefix}.{first} on predict further tokens at once, and are not used"
        )]
    }

    /// The specs, if the checkpoint has these tensors, of these shapes, and no others.
    pub(super) fn finish(self, path: &Path) -> Result<Vec<TensorSpec>, Error> {
        let unused = self
            .weight_map
            .names()
            .filter(|name| !self.used.contains(*name) && !is_derived_buffer(name));
        let unused: Vec<String> = unused.map(str::to_owned).collect();
        let promised = self.missing.iter().any(|name| self.weight_map.promised(name).is_some());
        let complaints: Vec<String> = [
            ("lacks tensors", self.missing),
            ("has tensors without a use in this architecture", unused),
            ("has tensors of another shape ([cols, rows])", self.misshapen),
        ]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", listed(names)))
        .collect();
        if complaints.is_empty() {
            return Ok(self.specs);
        }
        let cause = format!("the checkpoint {}", complaints.join("; it "));
        let error = Error::new(ErrorKind::Mismatch, cause).file(path);
        if promised {
            return Err(error.way_out(ANOTHER_MODEL));
        }
        Err(error)
    }
}

/// Buffers that old versions of transformers saved although they follow from the settings.
fn is_derived_buffer(name: &str) -> bool {
    let buffers = ["inv_freq", "original_inv_freq", "cos_cached", "sin_cached"];
    name.rsplit_once("rotary_emb.").is_some_and(|(_, buffer)| buffers.contains(&buffer))
}
