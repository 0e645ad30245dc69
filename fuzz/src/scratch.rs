//! Folders of this process, in which a file of a model is replaced. They lie in `target/`, and stay
//! there for a look at what a finding was made of.

use std::path::{Path, PathBuf};

/// An empty folder; `name` tells targets of one process apart.
pub(crate) fn folder(name: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz-scratch");
    let path = all.join(format!("{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a scratch folder");
    path
}

/// A checkpoint of the fixtures.
pub(crate) fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny").join(model)
}

/// A copy of a checkpoint of the fixtures.
pub(crate) fn copy(model: &str, name: &str) -> PathBuf {
    let to = folder(name);
    for entry in fixture(model).read_dir().expect("the fixture").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy of a fixture");
    }
    to
}

/// Writes a file of a model.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file in the scratch folder");
}
