//! A folder of a test's own, gone with it.

use std::fs;
use std::path::{Path, PathBuf};

/// Removed when it is dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new one, empty.
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("binfer-e2e-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path of something in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The same as an argument.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
