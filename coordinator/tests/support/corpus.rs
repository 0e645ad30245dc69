//! The lines of `tests/fixtures/corpus`, and comparing what we make of them with what Python does.
//!
//! Goldens are digests, one a line: a failure names the line, and what was found.
#![allow(unreachable_pub, missing_docs, reason = "each user takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// Hexadecimal digits of a digest.
const DIGITS: usize = 8;

pub struct Corpus {
    folder: PathBuf,
    pub lines: Vec<String>,
    goldens: BTreeMap<String, String>,
}

impl Corpus {
    pub fn read(repository: &Path) -> Self {
        let folder = repository.join("tests/fixtures/corpus");
        let mut corpus = Self { folder, lines: Vec::new(), goldens: BTreeMap::new() };
        corpus.lines = serde_json::from_value(corpus.json("lines.json")).unwrap();
        corpus.goldens = serde_json::from_value(corpus.json("golden.json")).unwrap();
        assert_eq!(corpus.lines.len(), 2000);
        corpus
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.folder.join(name)).unwrap()).unwrap()
    }

    /// Of each line, `make` gives what the golden of that name is a digest of.
    pub fn check<T: Digested + Debug>(&self, name: &str, make: impl Fn(&str) -> T) {
        let golden = &self.goldens[name];
        assert_eq!(golden.len(), DIGITS * self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            let found = make(line);
            let wanted = &golden[DIGITS * index..][..DIGITS];
            assert_eq!(fnv(&found.bytes()), wanted, "{name}, line {index}: {line:?}: {found:?}");
        }
    }
}

/// What goldens are made of.
pub trait Digested {
    fn bytes(&self) -> Vec<u8>;
}

impl Digested for Vec<u32> {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|id| id.to_le_bytes()).collect()
    }
}

impl Digested for String {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Digested for Vec<String> {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|piece| [piece.as_bytes(), b"\0"].concat()).collect()
    }
}

/// FNV-1a, 32 bits.
pub fn fnv(bytes: &[u8]) -> String {
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    format!("{:08x}", bytes.iter().fold(0x811c_9dc5, mix))
}
