//! Models in several GGUF files: `NAME-00001-of-00003.gguf` and so on, as llama.cpp's gguf-split
//! and gguf's Python writer make them.
//!
//! Each part is a GGUF file with tensors of its own and with three keys that say which part it is.
//! The first part has all other metadata. Whichever part the user names, all are opened, and each
//! must be the part that its name says. Parts under other names cannot be found.

use std::path::{Path, PathBuf};

use super::Gguf;
use crate::data_file::DataFile;
use crate::error::listed;
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

/// The key of a part's number, from 0.
const NUMBER: &str = "split.no";
/// The key of the number of parts.
const COUNT: &str = "split.count";
/// The key of the number of tensors in all parts.
const TENSORS: &str = "split.tensors.count";
/// The most parts of a model. Each is an open file.
const PARTS_MAX: u32 = 512;

/// What the file name of a part says: `STEM-00002-of-00003.gguf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitName<'a> {
    /// The beginning that the names of all parts share.
    pub stem: &'a str,
    /// The number of the part, from 1.
    pub number: u32,
    /// The number of parts.
    pub count: u32,
}

impl<'a> SplitName<'a> {
    /// Reads a file name. `None` if it is not that of a part.
    #[must_use]
    pub fn parse(name: &'a str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
        Some(Self { stem, number: digits(number)?, count: digits(count)? })
    }

    /// The name of another part of the same model.
    #[must_use]
    pub fn sibling(self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

const WAY_OUT: &str = "put all parts of one model, under their own names, into one folder";

/// Opens a GGUF file, and all other parts if it is a part. The header is that of the first part.
pub(crate) fn open(path: &Path) -> Result<(Gguf, WeightMap), Error> {
    let (file, gguf) = read(DataFile::open_named(path)?)?;
    let mut weight_map = WeightMap::default();
    let Some(split) = SplitModel::of(&gguf, path)? else {
        weight_map.add(file, gguf.header_digest(), gguf.tensors().cloned())?;
        return Ok((gguf, weight_map));
    };
    split.check_files(path)?;
    let first = split.add(0, &mut weight_map)?;
    for number in 1..split.count {
        split.add(number, &mut weight_map)?;
    }
    if weight_map.len() as u64 != u64::from(split.tensors) {
        let (found, count, said) = (weight_map.len(), split.count, split.tensors);
        let cause = format!("{count} parts have {found} tensors, but {TENSORS} is {said}");
        return Err(Error::new(ErrorKind::Mismatch, cause).file(path).way_out(WAY_OUT));
    }
    Ok((first, weight_map))
}

fn read(file: DataFile) -> Result<(DataFile, Gguf), Error> {
    let gguf = Gguf::read(&file.file, &file.path, file.bytes)?;
    Ok((file, gguf))
}

/// A model in several files: what all parts have in common.
struct SplitModel {
    folder: PathBuf,
    /// The beginning that the names of all parts share.
    stem: String,
    count: u32,
    tensors: u32,
}

impl SplitModel {
    /// The model that a file is a part of. `None` if the file is a whole model.
    fn of(gguf: &Gguf, path: &Path) -> Result<Option<Self>, Error> {
        let metadata = &gguf.metadata;
        let count = metadata.u32(COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Ok(None);
        }
        let refuse = |cause: String| Error::new(ErrorKind::Mismatch, cause).file(path);
        let number = metadata.required(NUMBER, metadata.u32(NUMBER))?;
        let tensors = metadata.required(TENSORS, metadata.u32(TENSORS))?;
        if count > PARTS_MAX || number >= count {
            let cause = format!("{NUMBER} is {number} and {COUNT} {count}, of {PARTS_MAX} at most");
            return Err(refuse(cause));
        }
        let name = path.file_name().and_then(|name| name.to_str()).and_then(SplitName::parse);
        let named = name.filter(|name| (name.number, name.count) == (number + 1, count));
        let Some(name) = named else {
            let ending = SplitName { stem: "", number, count }.sibling(number + 1);
            let cause = format!("part {} of {count}, but its name has not the", number + 1);
            return Err(refuse(format!("{cause} ending {ending:?}")).way_out(WAY_OUT));
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Some(Self { folder, stem: name.stem.to_owned(), count, tensors }))
    }

    fn path(&self, number: u32) -> PathBuf {
        let name = SplitName { stem: &self.stem, number, count: self.count };
        self.folder.join(name.sibling(number + 1))
    }

    /// Refuses a folder that lacks parts, and lists them.
    fn check_files(&self, path: &Path) -> Result<(), Error> {
        let paths = (0..self.count).map(|number| self.path(number));
        let missing = paths.filter(|path| !path.is_file());
        let missing: Vec<String> = missing.map(|path| path.display().to_string()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let count = format!("{} of {}", missing.len(), self.count);
        let cause = format!("{count} parts of the model are missing: {}", listed(&missing));
        Err(Error::new(ErrorKind::Format, cause).file(path).way_out(WAY_OUT))
    }

    /// Adds the tensors of a part, after checking that it is the part that its name says.
    fn add(&self, number: u32, weight_map: &mut WeightMap) -> Result<Gguf, Error> {
        let path = self.path(number);
        let (file, gguf) = read(DataFile::open(&path)?)?;
        for (key, wanted) in [(NUMBER, number), (COUNT, self.count), (TENSORS, self.tensors)] {
            let said = gguf.metadata.u32(key)?;
            if said != Some(wanted) {
                let said = said.map_or("missing".to_owned(), |said| said.to_string());
                let cause = format!("not a part of this model: {key} is {said}, not {wanted}");
                return Err(Error::new(ErrorKind::Mismatch, cause).file(&path).way_out(WAY_OUT));
            }
        }
        weight_map.add(file, gguf.header_digest(), gguf.tensors().cloned())?;
        Ok(gguf)
    }
}
