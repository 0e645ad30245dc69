//! The header of a rank's file, written by the types of the safetensors crate.
//!
//! The reader compares a file's header byte by byte with what is written here, so the bytes must
//! stay those that the first version wrote.

use std::io;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::format::LAYOUT_VERSION;
use crate::{Error, ErrorKind, RankLayout};

/// Data and parts begin at a multiple of this.
pub(super) const ALIGN_BYTES: usize = 4096;

/// The JSON of a header.
#[derive(Serialize)]
struct RankHeader<'a> {
    #[serde(rename = "__metadata__")]
    origin: &'a Origin,
    #[serde(flatten)]
    tensors: &'a Metadata,
}

/// Where a rank's file comes from. The crate's own map for this is a hash map, whose order, and so
/// the bytes of the file, would change from run to run.
#[derive(Serialize)]
pub(super) struct Origin {
    binfer_layout_version: String,
    rank: String,
    world: String,
    source_digest: String,
}

impl Origin {
    pub(super) fn new(layout: &RankLayout, source_digest: u64) -> Self {
        Self {
            binfer_layout_version: LAYOUT_VERSION.to_string(),
            rank: layout.rank.to_string(),
            world: layout.world.to_string(),
            source_digest: format!("{source_digest:016x}"),
        }
    }
}

/// The header of a file whose tensors follow each other as listed: length, JSON, and spaces up to
/// the first byte of the data.
pub(super) fn rank_header(
    origin: &Origin,
    tensors: Vec<(String, TensorInfo)>,
) -> Result<Vec<u8>, Error> {
    let failed = |cause: String| Error::new(ErrorKind::Layout, cause);
    let tensors = Metadata::new(None, tensors).map_err(|error| failed(error.to_string()))?;
    let length_bytes = size_of::<u64>();
    let mut header = vec![0; length_bytes];
    let mut serializer = Serializer::with_formatter(&mut header, SpacedShapes::default());
    let written = RankHeader { origin, tensors: &tensors }.serialize(&mut serializer);
    written.map_err(|error| failed(error.to_string()))?;
    header.resize(header.len().next_multiple_of(ALIGN_BYTES), b' ');
    let length = (header.len() - length_bytes) as u64;
    header[..length_bytes].copy_from_slice(&length.to_le_bytes());
    Ok(header)
}

/// Compact JSON, but with a space after each comma of a shape, as the first version wrote it. A
/// tensor has two arrays, of which the first is its shape.
#[derive(Default)]
struct SpacedShapes {
    in_shape: bool,
}

impl Formatter for SpacedShapes {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.in_shape = !self.in_shape;
        writer.write_all(b"[")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        match (first, self.in_shape) {
            (true, _) => Ok(()),
            (false, true) => writer.write_all(b", "),
            (false, false) => writer.write_all(b","),
        }
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    fn origin() -> Origin {
        Origin {
            binfer_layout_version: "1".into(),
            rank: "0".into(),
            world: "2".into(),
            source_digest: "00000000000000ff".into(),
        }
    }

    #[test]
    fn a_header_has_the_bytes_that_the_first_version_wrote() {
        let info = |dtype, shape: &[usize], data_offsets| {
            let shape = shape.to_vec();
            TensorInfo { dtype, shape, data_offsets }
        };
        let tensors = vec![
            ("a \"b\"".to_owned(), info(Dtype::F32, &[2, 3], (0, 24))),
            ("_fill.0".to_owned(), info(Dtype::U8, &[4072], (24, 4096))),
            ("packed".to_owned(), info(Dtype::U8, &[20], (4096, 4116))),
        ];
        let json = concat!(
            r#"{"__metadata__":{"binfer_layout_version":"1","rank":"0","world":"2","#,
            r#""source_digest":"00000000000000ff"},"#,
            r#""a \"b\"":{"dtype":"F32","shape":[2, 3],"data_offsets":[0,24]},"#,
            r#""_fill.0":{"dtype":"U8","shape":[4072],"data_offsets":[24,4096]},"#,
            r#""packed":{"dtype":"U8","shape":[20],"data_offsets":[4096,4116]}}"#,
        );
        let header = rank_header(&origin(), tensors).unwrap();
        assert_eq!(header.len(), ALIGN_BYTES);
        assert_eq!(header[..8], (ALIGN_BYTES as u64 - 8).to_le_bytes());
        let text = std::str::from_utf8(&header[8..]).unwrap();
        assert_eq!(text.trim_end_matches(' '), json);
    }

    #[test]
    fn tensors_that_leave_a_hole_are_no_header() {
        let info = TensorInfo { dtype: Dtype::U8, shape: vec![4], data_offsets: (4, 8) };
        let error = rank_header(&origin(), vec![("a".to_owned(), info)]);
        assert!(error.unwrap_err().to_string().contains("invalid offset for tensor `a`"));
    }
}
