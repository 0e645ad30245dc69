//! Libraries beside the driver: found, kept open, and refused with the way out where they will not
//! do.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::path::PathBuf;

use cudarc::cublaslt::sys as cublaslt;

use super::error::failed;
use crate::backend::BackendError;

/// cuBLASLt, and who brings it.
const CUBLAS: SharedLibrary =
    SharedLibrary { file: "libcublasLt.so.13", package: "nvidia-cublas==13.*" };
/// Oldest version of it that is used: CUDA 13's first.
const CUBLAS_MIN: usize = 130_000;

/// A library beside the driver.
pub(super) struct SharedLibrary {
    /// Name of the file.
    pub(super) file: &'static str,
    /// The Python package that brings it.
    pub(super) package: &'static str,
}

impl SharedLibrary {
    /// Opens it out of one of `folders`, or where the system looks, for as long as the process
    /// lives, so that opening it by its name finds it again.
    pub(super) fn keep(&self, folders: &[PathBuf]) -> Result<(), BackendError> {
        let (name, package) = (self.file, self.package);
        let places = folders.iter().map(|folder| folder.join(name)).filter(|place| place.is_file());
        let mut causes = Vec::new();
        for place in places.chain([PathBuf::from(name)]) {
            // SAFETY: NVIDIA's libraries may be initialised in any process at any time.
            match unsafe { libloading::Library::new(&place) } {
                Ok(library) => {
                    std::mem::forget(library);
                    return Ok(());
                }
                Err(error) => causes.push(with_source(&error)),
            }
        }
        let causes = causes.join("; ");
        Err(failed("dlopen", format!("{causes}; `pip install '{package}'` brings {name}")))
    }

    /// The library is there, and is not what is needed.
    pub(super) fn too_old(&self, cause: &str) -> BackendError {
        let (name, package) = (self.file, self.package);
        failed(name, format!("{cause}; `pip install --upgrade '{package}'` brings a newer one"))
    }
}

/// An error of the loader's, with its own words, which name the file or the function.
pub(super) fn with_source(error: &libloading::Error) -> String {
    use std::error::Error as _;
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

/// A version as cuBLASLt and NCCL count: "13.1.0".
pub(in crate::backend::cuda) fn version_text(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// The file in which an address lies, out of the lines of `/proc/self/maps`.
fn file_at(maps: &str, address: usize) -> Option<&str> {
    let number = |text: &str| usize::from_str_radix(text, 16).ok();
    let holds = |line: &&str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let range = range.and_then(|(from, to)| Some(number(from)?..number(to)?));
        range.is_some_and(|range| range.contains(&address))
    };
    let line = maps.lines().find(holds)?;
    line.find('/').map(|at| &line[at..])
}

/// Opens cuBLASLt, out of one of `folders` if it is there. Its version, and the file that it came
/// out of: a `libcublasLt.so` without a number, which may be an older one, is found first.
pub(in crate::backend::cuda) fn cublas(
    folders: &[PathBuf],
) -> Result<(usize, String), BackendError> {
    CUBLAS.keep(folders)?;
    // SAFETY: the library is there. Asks for a number.
    let version = unsafe { cublaslt::cublasLtGetVersion() };
    // SAFETY: the library is there.
    let library = unsafe { cublaslt::culib() };
    // SAFETY: the type is right, and only the address counts.
    let symbol = unsafe { library.get::<unsafe extern "C" fn() -> usize>("cublasLtGetVersion") };
    let address = symbol.map_or(0, |function| *function as usize);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let file = file_at(&maps, address).unwrap_or(CUBLAS.file).to_owned();
    if version < CUBLAS_MIN {
        let [is, wanted] = [version, CUBLAS_MIN].map(version_text);
        return Err(CUBLAS.too_old(&format!("{file} is {is}; {wanted} is needed")));
    }
    Ok((version, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_there_and_cannot_be_opened_is_not_called_missing() {
        let folder = std::env::temp_dir().join(format!("binfer-dlopen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let library = SharedLibrary { file: "libbinfertest.so.9", package: "some-wheel" };
        let error = library.keep(std::slice::from_ref(&folder)).unwrap_err().to_string();
        assert!(error.contains("No such file") && error.contains("some-wheel"), "{error}");
        let place = folder.join(library.file);
        std::fs::write(&place, "no ELF").unwrap();
        let error = library.keep(std::slice::from_ref(&folder)).unwrap_err().to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        let place = place.to_str().unwrap();
        assert!(error.contains(place) && error.contains("too short"), "{error}");
    }

    #[test]
    fn an_address_lies_in_the_file_that_is_mapped_there() {
        let maps = "7f00-7f80 r-xp 00000000 08:01 12   /usr/lib/a b.so.13\n\
                    7f80-7fff rw-p 00000000 00:00 0\n";
        assert_eq!(file_at(maps, 0x7f7f), Some("/usr/lib/a b.so.13"));
        assert_eq!(file_at(maps, 0x7f80), None);
        assert_eq!(file_at(maps, 0x8000), None);
    }
}
