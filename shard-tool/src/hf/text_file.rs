//! Small files that are read as a whole: settings, indexes, manifests.

use std::io::Read;
use std::path::Path;

use crate::files::open_within;
use crate::{Error, ErrorKind};

/// Reads a whole file, and refuses one that is longer than `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::io(path, "read", &error);
    let mut text = Vec::new();
    let file = open_within(path).map_err(failed)?;
    file.take(bytes_max + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        let cause = format!("it is longer than {bytes_max} bytes");
        return Err(Error::new(ErrorKind::Format, cause).file(path));
    }
    Ok(text)
}

/// The error for a file that is not the JSON it should be, in the parser's words.
pub(crate) fn not_json(path: &Path, error: &serde_json::Error) -> Error {
    let error = Error::new(ErrorKind::Format, format!("not as it should be: {error}")).file(path);
    error.way_out("download it again")
}
