//! Folders in which a target replaces a file of a model. They lie in `target/`, and stay there so
//! that a finding can be looked at.

use std::path::{Path, PathBuf};

/// Makes an empty folder. `name` tells the targets of one process apart.
pub(crate) fn folder(name: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz-scratch");
    let path = all.join(format!("{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a scratch folder");
    path
}

/// The path of a checkpoint of the fixtures.
pub(crate) fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny").join(model)
}

/// Makes a copy of a checkpoint of the fixtures.
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
