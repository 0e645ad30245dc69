//! The error of this crate: where it happened, its cause, and the way out.
//!
//! It is a struct with a kind and not an enum, because every error here has the same five fields,
//! and callers ask for little more than whether the file or the request is wrong. It does not know
//! ranks: a caller that does puts `rank 2: ` in front.

use std::fmt;
use std::path::{Path, PathBuf};

/// The kind of an [`Error`], for callers that branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system refused, because of a missing file, a permission or a read error.
    Io,
    /// The bytes are not what the format says.
    Format,
    /// The file ends before its content does.
    Truncated,
    /// The file is well-formed, but this build does not serve what it holds.
    Unsupported,
    /// Names, shapes or lengths that should agree do not.
    Mismatch,
    /// The model cannot be cut in the way that was asked for.
    Layout,
}

/// An error of this crate, with all that is known of its place. It displays as one line:
/// `model.gguf: blk.17.ffn_down.weight: 12 bytes short (byte 98360128); the file is truncated: ...`
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    file: Option<PathBuf>,
    tensor: Option<String>,
    offset: Option<u64>,
    cause: String,
    way_out: Option<String>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, file: None, tensor: None, offset: None, cause: cause.into(), way_out: None }
    }

    /// An error of the operating system, in its own words. `doing` is "open", "read" and so on.
    pub(crate) fn io(file: &Path, doing: &str, error: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("cannot {doing}: {error}")).file(file)
    }

    pub(crate) fn file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_path_buf());
        self
    }

    /// The file or folder, unless the error names one.
    pub(crate) fn in_file(self, file: &Path) -> Self {
        if self.file.is_some() { self } else { self.file(file) }
    }

    pub(crate) fn tensor(mut self, name: &str) -> Self {
        self.tensor = Some(name.to_owned());
        self
    }

    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    pub(crate) fn way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = Some(way_out.into());
        self
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The tensor concerned, by its name in the checkpoint. `None` if it is not about a tensor.
    #[must_use]
    pub fn tensor_name(&self) -> Option<&str> {
        self.tensor.as_deref()
    }

    /// The byte of the file at which the error was noticed.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "{tensor}: ")?;
        }
        f.write_str(&self.cause)?;
        if let Some(offset) = self.offset {
            write!(f, " (byte {offset})")?;
        }
        if let Some(way_out) = &self.way_out {
            write!(f, "; {way_out}")?;
        }
        Ok(())
    }
}

/// Lists the first few of `names` and how many more there are, so that the list fits on a line.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN_MAX: usize = 8;
    let shown: Vec<&str> = names.iter().take(SHOWN_MAX).map(AsRef::as_ref).collect();
    let rest = names.len() - shown.len();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
