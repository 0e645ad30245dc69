//! Copies the scheduler into the build's folder and puts the faults of `mutants.rs` into the copy.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

mod mutants;

use mutants::MUTANTS;

/// The scheduler's folder, seen from this one.
const SCHED: &str = "../..";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed={SCHED}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where"));
    let copy = out.join("sched");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    copy_sources(Path::new(SCHED), &copy)?;
    for (index, mutant) in MUTANTS.iter().enumerate() {
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
    for (index, mutant) in MUTANTS.iter().enumerate() {
        let name = mutant.name;
        writeln!(generated, "#[test]\nfn {name}() {{\n    is_found({index});\n}}")
            .expect("memory holds it");
    }
    fs::write(out.join("generated.rs"), generated)
}

/// Rust files of a folder and of those below it, but for this package. Their tests are the
/// coordinator's and run there.
fn copy_sources(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "mutants" {
            copy_sources(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            fs::write(to.join(name), fs::read_to_string(&path)?.replace("#[test]", ""))?;
        }
    }
    Ok(())
}
