//! The one error of this crate: where, what, and what to do about it.
//!
//! It is a struct with a kind rather than an enum of shapes, because every failure here has the
//! same five facts and callers branch on little more than "is the file bad or the request".
//! It does not know ranks: whoever has one puts `rank 2: ` in front.

use std::fmt;
use std::path::{Path, PathBuf};

/// What sort of failure it is; callers may branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system refused: missing file, permission, read error.
    Io,
    /// The bytes are not what the format says.
    Format,
    /// The file ends before its content does.
    Truncated,
    /// Well-formed, but of a sort that this build does not serve.
    Unsupported,
    /// Parts that should agree do not: names, shapes, lengths.
    Mismatch,
    /// The model cannot be cut in the way that was asked for.
    Layout,
}

/// A failure, with all that is known of its place. Displays as one line:
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

    /// Takes over the system's own words for `error`; `doing` is "open", "read", ...
    pub(crate) fn io(file: &Path, doing: &str, error: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("cannot {doing}: {error}")).file(file)
    }

    pub(crate) fn file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_path_buf());
        self
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

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The tensor concerned, under its name in the checkpoint, if it is one.
    #[must_use]
    pub fn tensor_name(&self) -> Option<&str> {
        self.tensor.as_deref()
    }

    /// The byte of the file at which it was noticed.
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

/// The first few of `names` and how many more there are: a list that fits on a line of a log.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN_MAX: usize = 8;
    let shown: Vec<&str> = names.iter().take(SHOWN_MAX).map(AsRef::as_ref).collect();
    let rest = names.len() - shown.len();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
