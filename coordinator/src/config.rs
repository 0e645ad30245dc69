//! Where raw settings become checked ones; the only file that reads the environment.
//!
//! Command line and environment come in, immutable values go out and are passed on explicitly.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// File name of the demo model in the cache folder.
pub const DEMO_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Why settings are refused. The process exits with status 78.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Folder for what binfer downloads: `BINFER_CACHE`, or `binfer` in the user's cache folder.
pub fn cache_dir() -> Option<PathBuf> {
    let var =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("BINFER_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("binfer")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/binfer")))
}

/// What MODEL names: a GGUF file, a Hugging Face folder, or `demo`.
pub fn model_path(model: &str) -> Result<PathBuf, ConfigError> {
    if model == "demo" {
        let path = cache_dir().map(|dir| dir.join(DEMO_FILE));
        return path.filter(|path| path.is_file()).ok_or_else(|| {
            ConfigError("the demo model is not there yet: run `make demo` once".into())
        });
    }
    let path = PathBuf::from(model);
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(path.canonicalize().unwrap_or(path)),
        Ok(meta) if meta.is_dir() && path.join("config.json").is_file() => {
            Ok(path.canonicalize().unwrap_or(path))
        }
        Ok(meta) if meta.is_dir() => Err(ConfigError(format!(
            "{model}: the folder has no config.json; MODEL is a GGUF file or a Hugging Face folder"
        ))),
        Ok(_) => Err(ConfigError(format!(
            "{model}: not a file; MODEL is a GGUF file or a Hugging Face folder"
        ))),
        Err(error) => Err(ConfigError(format!(
            "{model}: {error}; MODEL is a GGUF file, a Hugging Face folder, or `demo` \
             (Hugging Face ids come later)"
        ))),
    }
}

/// Name of the socket for this cluster's workers, in a fresh folder, and the token that they show.
pub fn fresh_socket() -> (String, PathBuf) {
    let random = || RandomState::new().build_hasher().finish();
    let instance = format!("{:016x}{:016x}", random(), random());
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir());
    let base = base.unwrap_or_else(|| PathBuf::from("/tmp"));
    let dir = format!("binfer-{}-{:08x}", std::process::id(), random() >> 32);
    (instance, base.join(dir).join("cluster.sock"))
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Bytes of memory that can be taken without swapping, as the kernel estimates.
pub fn memory_available_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(1 << 30, |kib| kib.saturating_mul(1024))
}
