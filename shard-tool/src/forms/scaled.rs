//! Codes and scales in two tensors.

use crate::views::RowSource;
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

/// The ending of the scales of FP8.
const SCALES: &str = "_scale_inv";

/// Joins every tensor that has scales for 128 times 128 elements with them.
pub(crate) fn join_fp8(weight_map: &mut WeightMap) -> Result<(), Error> {
    let names: Vec<String> = weight_map
        .names()
        .filter_map(|name| name.strip_suffix(SCALES))
        .map(str::to_owned)
        .collect();
    for name in names {
        let scales = format!("{name}{SCALES}");
        let missing = || {
            let cause = "it has scales, but is not there";
            Error::new(ErrorKind::Mismatch, cause).tensor(&name)
        };
        let codes = weight_map.mapped(&name).ok_or_else(missing)?;
        let scales = weight_map.mapped(&scales).ok_or_else(missing)?;
        weight_map.join(&name, RowSource::fp8(codes, scales)?)?;
    }
    Ok(())
}
