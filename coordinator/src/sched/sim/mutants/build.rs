//! Copies the scheduler into the build's folder and puts the faults of `mutants.rs` into the copy.
//!
//! For `make mutants`, which sets `BINFER_SCHED_TESTS`, the copy has the scheduler's own tests in
//! place of the faults: cargo-mutants changes the original hundreds of times, and this package is
//! built in seconds, the coordinator in minutes.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

mod mutants;

use mutants::MUTANTS;

/// The scheduler's folder, seen from this one.
const SCHED: &str = "../..";
const OWN_TESTS: &str = "BINFER_SCHED_TESTS";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed={SCHED}");
    println!("cargo:rerun-if-env-changed={OWN_TESTS}");
    let own_tests = env::var_os(OWN_TESTS).is_some();
    let mutants = if own_tests { &[] } else { MUTANTS };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where"));
    let copy = out.join("sched");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    copy_sources(Path::new(SCHED), &copy, own_tests)?;
    for (index, mutant) in mutants.iter().enumerate() {
        let path = copy.join(mutant.file);
        let text = fs::read_to_string(&path)?;
        let count = text.matches(mutant.right).count();
        let (name, file, right, wrong) = (mutant.name, mutant.file, mutant.right, mutant.wrong);
        assert_eq!(
            count, 1,
            "mutant {name}: {file} has `{right}` {count} times, must have it once"
        );
        let either = format!("(if crate::is_planted({index}) {{ {wrong} }} else {{ {right} }})");
        fs::write(&path, text.replacen(right, &either, 1))?;
    }
    let root = copy.join("mod.rs");
    let mut generated =
        format!("#[allow(warnings, clippy::all)]\n#[path = {root:?}]\nmod sched;\n");
    for (index, mutant) in mutants.iter().enumerate() {
        let name = mutant.name;
        writeln!(generated, "#[test]\nfn {name}() {{\n    is_found({index});\n}}")
            .expect("memory holds it");
    }
    fs::write(out.join("generated.rs"), generated)
}

/// Rust files of a folder and of those below it, but for this package. Without `own_tests` their
/// tests are left to the coordinator.
fn copy_sources(from: &Path, to: &Path, own_tests: bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "mutants" {
            copy_sources(&path, &to.join(name), own_tests)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let text = if own_tests { text } else { text.replace("#[test]", "") };
            fs::write(to.join(name), text)?;
        }
    }
    Ok(())
}
