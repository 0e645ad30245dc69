//! Cuts parts of tensors as they are read. Each part is read once, for all ranks.
//!
//! Writing and verifying both cut, and differ in what they do with a slice. Cutting copies nothing:
//! a slice is ranges of a tensor that lives as long as a slice of it. Digests and the proof of
//! coverage are made on the way, from the bytes and ranges that were really used.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::coverage::{Repeated, prove};
use super::format::spec_value;
use super::layout_record::LayoutRecord;
use super::manifest::{
    Covered, Digest, Manifest, RankRecord, SourceFile, SourceRecord, SourceTensor,
};
use super::settings;
use super::table::RankTable;
use crate::slice::{local_tensor, whole_tensor};
use crate::spec::TensorSpec;
use crate::{
    Checkpoint, Error, ErrorKind, LocalPart, LocalTensor, RankLayout, StoredTensor, layouts,
    read_parts_ahead,
};

/// A checkpoint, and how it is cut.
pub(super) struct CutJob<'a> {
    pub(super) source: &'a Checkpoint,
    pub(super) layouts: Vec<RankLayout>,
    /// What the file of each rank holds.
    pub(super) tables: Vec<RankTable>,
}

/// A rank's slice of a part.
pub(super) struct Slice {
    pub(super) rank: usize,
    /// The index of the part in the rank's table.
    pub(super) index: usize,
    pub(super) part: LocalPart,
    /// All bytes of the checkpoint's tensor. The ranges of the part say which of them are the
    /// slice.
    pub(super) whole: Arc<Vec<u8>>,
}

impl Slice {
    /// The bytes of the slice, range by range.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        pieces(&self.whole, &self.part.ranges)
    }
}

impl<'a> CutJob<'a> {
    pub(super) fn new(source: &'a Checkpoint, world: u32) -> Result<Self, Error> {
        if source.shards_world().is_some() {
            let error = Error::new(ErrorKind::Unsupported, "it is made of shards already");
            let way_out = "give the checkpoint that they were cut from";
            return Err(error.file(source.path()).way_out(way_out));
        }
        let layouts = layouts(source.spec(), world)?;
        let table = |layout| RankTable::new(source.spec(), layout, source.digest());
        let tables = layouts.iter().map(table).collect::<Result<_, _>>()?;
        Ok(Self { source, layouts, tables })
    }

    /// Cuts everything, hands the slices to `take`, and returns the manifest. `progress` is told
    /// how many bytes were read. If it returns false, the cutting ends.
    pub(super) fn run(
        &self,
        mut progress: impl FnMut(u64) -> bool,
        take: impl FnMut(Slice) -> Result<(), Error>,
    ) -> Result<Manifest, Error> {
        let specs = &self.source.spec().tensors;
        let whole: Vec<LocalTensor> = specs.iter().map(whole_tensor).collect();
        let mut cutter = Cutter {
            layouts: &self.layouts,
            take,
            digests: vec![Vec::new(); self.layouts.len()],
            covered: Vec::new(),
            left: Vec::new(),
        };
        let mut done = 0;
        read_parts_ahead(self.source, &whole, |at, bytes| {
            // There is a spec for each tensor, in the same order.
            let spec = &specs[at.tensor];
            if at.part == 0 {
                cutter.begin(spec)?;
            }
            done += bytes.len() as u64;
            cutter.cut(spec, at.part, bytes)?;
            if progress(done) { Ok(()) } else { Err(Error::new(ErrorKind::Io, "interrupted")) }
        })?;
        let records = self.tables.iter().zip(&cutter.digests);
        let records = records.map(|(table, digests)| RankRecord::new(table, digests)).collect();
        let spec = spec_value(self.source.spec())?;
        let source = source_record(self.source, cutter.covered);
        Ok(Manifest::new(source, spec, LayoutRecord::new(&self.layouts), records))
    }
}

/// Cuts one part after the other, and keeps what the manifest will say of them.
struct Cutter<'a, F> {
    layouts: &'a [RankLayout],
    take: F,
    /// The parts of the tensor under way that each rank keeps and has not got yet. They are in the
    /// order of the spec's, but may be fewer.
    left: Vec<VecDeque<LocalPart>>,
    /// The digests of each rank's parts so far.
    digests: Vec<Vec<u64>>,
    /// What became of each tensor of the checkpoint so far.
    covered: Vec<(String, Covered)>,
}

impl<F: FnMut(Slice) -> Result<(), Error>> Cutter<'_, F> {
    /// Begins a tensor.
    fn begin(&mut self, spec: &TensorSpec) -> Result<(), Error> {
        let local = |layout| Ok(local_tensor(spec, layout)?.parts.into());
        self.left = self.layouts.iter().map(local).collect::<Result<_, Error>>()?;
        Ok(())
    }

    /// Cuts a part for all ranks.
    fn cut(&mut self, spec: &TensorSpec, number: usize, bytes: Vec<u8>) -> Result<(), Error> {
        let part = &spec.parts[number];
        let (digest, whole) = (xxh3_64(&bytes), Arc::new(bytes));
        let mut kept = Vec::new();
        for (rank, left) in self.left.iter_mut().enumerate() {
            let Some(part) = left.pop_front_if(|local| local.source == part.source) else {
                continue;
            };
            let index = self.digests[rank].len();
            let slice = Slice { rank, index, part, whole: Arc::clone(&whole) };
            kept.extend_from_slice(&slice.part.ranges);
            self.digests[rank].push(slice_digest(&slice, digest));
            (self.take)(slice)?;
        }
        let repeated = Repeated::of(spec, number);
        let repeated_bytes = prove(&part.source, part.bytes(), kept, repeated)?;
        let covered = Covered::ByRanks { xxh3: Digest(digest), repeated, repeated_bytes };
        self.covered.push((part.source.clone(), covered));
        Ok(())
    }
}

/// The bytes of each range, in their order.
fn pieces<'w>(whole: &'w [u8], ranges: &'w [Range<u64>]) -> impl Iterator<Item = &'w [u8]> {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    ranges.iter().map(move |range| &whole[at(range.start)..at(range.end)])
}

/// The digest of a slice. That of the whole tensor is known.
fn slice_digest(slice: &Slice, of_whole: u64) -> u64 {
    let mut hash = Xxh3::new();
    match slice.part.ranges[..] {
        [Range { start: 0, end }] if end == slice.whole.len() as u64 => return of_whole,
        _ => slice.pieces().for_each(|piece| hash.update(piece)),
    }
    hash.digest()
}

/// The manifest's record of the checkpoint, with what became of each of its tensors.
fn source_record(source: &Checkpoint, covered: Vec<(String, Covered)>) -> SourceRecord {
    let weight_map = source.weight_map();
    let name = source.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let files = weight_map.files().map(|(file, header_digest)| SourceFile {
        name: file.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: file.bytes,
        header_xxh3: Digest(header_digest),
    });
    let kept = || if source.gguf().is_some() { Covered::BySettings } else { Covered::Unused };
    let unused = settings::unused(source).into_iter().map(|name| (name.to_owned(), kept()));
    let hidden = weight_map.hidden().map(|name| (name.to_owned(), Covered::ByViews));
    let (mut tensors, mut views) = (Vec::new(), Vec::new());
    for (name, covered) in covered.into_iter().chain(unused) {
        if weight_map.mapped(&name).is_some() {
            tensors.extend(weight_map.stored(&name).map(|info| source_tensor(info, covered)));
        } else {
            views.extend(weight_map.tensor(&name).map(|info| source_tensor(info, covered)));
        }
    }
    for (name, covered) in hidden {
        tensors.extend(weight_map.stored(&name).map(|info| source_tensor(info, covered)));
    }
    SourceRecord { name, digest: Digest(source.digest()), files: files.collect(), tensors, views }
}

fn source_tensor(info: &StoredTensor, covered: Covered) -> SourceTensor {
    SourceTensor {
        name: info.name.clone(),
        dtype: info.dtype.name().to_owned(),
        shape: info.shape.clone(),
        bytes: info.bytes,
        covered,
    }
}
