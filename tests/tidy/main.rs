//! The repository's own rules, those that a machine can check. Run by `cargo test`.
//!
//! Each rule says in its message what to do instead. Deliberately absent: anything that rustfmt or
//! clippy already checks.

mod circles;
mod dependencies;
mod faults;
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const RUST_LINES_MAX: usize = 300;
const TEST_LINES_MAX: usize = 350;
const KERNEL_LINES_MAX: usize = 350;
const MAP_ROWS_MAX: usize = 25;
/// The doors behind which `unsafe` lives.
const UNSAFE_DOORS: [&str; 3] = [
    "worker/src/backend/cpu/simd.rs",
    "worker/src/backend/cpu/shm.rs",
    "worker/src/backend/cuda/ffi/",
];
/// Words that have no place in the pure scheduler.
const SCHED_BANNED: [&str; 9] = [
    "tokio",
    "async ",
    "Instant",
    "SystemTime",
    "rand::",
    "HashMap",
    "std::fs",
    "std::env",
    "println!",
];
/// Who may use whom: a package and the workspace packages in its manifest.
const ARROWS: [(&str, &[&str]); 9] = [
    ("shard-tool/console", &[]),
    ("proto", &[]),
    ("kernels", &[]),
    ("shard-tool", &["binfer-console"]),
    ("worker", &["binfer-console", "binfer-kernels", "binfer-proto", "binfer-shard"]),
    ("coordinator", &["binfer-console", "binfer-proto", "binfer-shard"]),
    ("coordinator/src/sched/sim/mutants", &["binfer-proto"]),
    ("fuzz", &["binfer-coordinator", "binfer-proto", "binfer-shard", "binfer-worker"]),
    (
        ".",
        &["binfer-console", "binfer-coordinator", "binfer-proto", "binfer-shard", "binfer-worker"],
    ),
];
const PACKAGES: [&str; 6] = [
    "binfer-console",
    "binfer-kernels",
    "binfer-proto",
    "binfer-shard",
    "binfer-worker",
    "binfer-coordinator",
];
/// Ways past the one writer of stdout and stderr.
const BARE_OUTPUT: [&str; 6] =
    ["println!", "print!", "dbg!", "io::stdout()", "io::stderr()", "/dev/std"];

struct File {
    path: String,
    text: String,
}

impl File {
    fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || ["/tests/", "/tests.rs", "/sim/", "/testing.rs"]
                .iter()
                .any(|part| self.path.contains(part))
    }
}

/// Files that git knows or would add.
fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(root, &mut found);
    found
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            let path = path.strip_prefix(root).ok()?.to_string_lossy().into_owned();
            Some(File { path, text })
        })
        .collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder of the checkout").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let skipped = ["target", ".git", ".cache", "__pycache__"].contains(&&*name);
        if path.is_dir() && !skipped {
            walk(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

fn rust() -> impl Iterator<Item = File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs"))
}

/// Fails with all breaches at once.
fn none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn files_are_short() {
    let too_long = rust().filter_map(|file| {
        let (lines, max) = (
            file.text.lines().count(),
            if file.is_test() { TEST_LINES_MAX } else { RUST_LINES_MAX },
        );
        (lines > max).then(|| format!("{}: {lines} lines, {max} at most", file.path))
    });
    none("split by responsibility", &too_long.collect::<Vec<_>>());
}

#[test]
fn kernel_files_are_short_and_open_with_their_contract() {
    let cuda = files().into_iter().filter(|file| file.path.starts_with("kernels/cuda/"));
    let wrong = cuda.filter_map(|file| {
        let lines = file.text.lines().count();
        let mute = !file.text.starts_with("// ");
        (mute || lines > KERNEL_LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
    });
    none("a contract comment, then at most 350 lines", &wrong.collect::<Vec<_>>());
}

#[test]
fn modules_say_what_they_are_for() {
    let mute = rust().filter(|file| !file.text.starts_with("//!")).map(|file| file.path);
    none("open with `//!`: what for, and what deliberately not", &mute.collect::<Vec<_>>());
}

#[test]
fn unsafe_stays_behind_its_doors() {
    let word = concat!("unsafe", " ");
    let allow = concat!("allow(", "unsafe_code)");
    let outside = rust()
        .filter(|file| !UNSAFE_DOORS.iter().any(|door| file.path.starts_with(door)))
        .filter(|file| !file.path.starts_with("tests/tidy/"))
        .filter(|file| {
            file.text.contains(allow)
                || file
                    .text
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && line.contains(word))
        })
        .map(|file| file.path);
    none("unsafe code outside of its doors", &outside.collect::<Vec<_>>());
}

#[test]
fn the_scheduler_is_pure() {
    let impure = rust()
        .filter(|file| {
            file.path.starts_with("coordinator/src/sched/") && !file.path.contains("/sim")
        })
        .flat_map(|file| {
            let code = file.text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code: Vec<&str> = code.collect();
            let found =
                SCHED_BANNED.iter().filter(|word| code.iter().any(|line| line.contains(**word)));
            found.map(|word| format!("{}: {word}", file.path)).collect::<Vec<_>>()
        });
    none("no clock, randomness or I/O in the scheduler", &impure.collect::<Vec<_>>());
}

#[test]
fn the_environment_is_read_in_one_file() {
    let readers = rust()
        .filter(|file| !file.is_test() && !file.path.ends_with("build.rs"))
        .filter(|file| file.path != "coordinator/src/config.rs")
        .filter(|file| ["env::var", "env::vars"].iter().any(|call| file.text.contains(call)))
        .map(|file| file.path);
    none("read the environment in coordinator/src/config.rs", &readers.collect::<Vec<_>>());
}

/// `println!` panics when stdout is full or closed, and lets a model's escapes reach a terminal.
#[test]
fn one_package_writes_to_stdout_and_stderr() {
    let program = |file: &File| {
        let folders = ["coordinator/", "kernels/src/", "proto/src/", "shard-tool/", "worker/"];
        let is_writer = file.path.starts_with("shard-tool/console/");
        folders.iter().any(|folder| file.path.starts_with(folder)) && !is_writer && !file.is_test()
    };
    let bare = rust().filter(program).flat_map(|file| {
        let lines = file.text.lines().take_while(|line| !line.contains("mod tests {"));
        let code = lines.filter(|line| {
            // Whether it is a terminal may be asked; `as_fd` is a pipe between two roles.
            let asks = [".is_terminal()", ".as_fd()"].iter().any(|ask| line.contains(ask));
            !line.trim_start().starts_with("//") && !asks
        });
        let code: Vec<&str> = code.collect();
        let found = BARE_OUTPUT.iter().filter(|way| code.iter().any(|line| line.contains(**way)));
        found.map(|way| format!("{}: {way}", file.path)).collect::<Vec<_>>()
    });
    none("write through binfer-console", &bare.collect::<Vec<_>>());
}

#[test]
fn the_wall_clock_dates_answers_and_nothing_else() {
    let dated = [
        "coordinator/src/blueprint.rs",
        "coordinator/src/grpc/date.rs",
        "coordinator/src/http/answer.rs",
    ];
    let readers = rust()
        .filter(|file| !file.is_test() && file.text.contains(concat!("System", "Time::now")))
        .map(|file| file.path)
        .filter(|path| !dated.contains(&&**path) && path != "coordinator/src/text/clock.rs");
    none("it may jump: wait and measure with Instant", &readers.collect::<Vec<_>>());
}

#[test]
fn packages_use_each_other_along_the_arrows() {
    let mut wrong = Vec::new();
    for (dir, allowed) in ARROWS {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir).join("Cargo.toml");
        let text = fs::read_to_string(manifest).unwrap();
        let uses = |package: &str| {
            text.lines().any(|line| line.starts_with(&format!("{package}.workspace")))
        };
        wrong.extend(
            PACKAGES
                .iter()
                .filter(|package| uses(package) && !allowed.contains(package))
                .map(|package| format!("{dir} uses {package}")),
        );
    }
    none("the arrows stand in docs/architecture.md", &wrong);
}

#[test]
fn the_top_level_has_the_folders_that_it_was_given() {
    const FOLDERS: [&str; 8] =
        ["coordinator", "docs", "fuzz", "kernels", "proto", "shard-tool", "tests", "worker"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = fs::read_dir(root).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let others = names.filter(|name| {
        !name.starts_with('.') && name != "target" && !FOLDERS.contains(&name.as_str())
    });
    none("a package belongs below one of the others", &others.collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_to_do() {
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("#[", "ignore")];
    let left = rust().flat_map(|file| {
        let found = words.iter().filter(|word| file.text.contains(**word));
        found.map(|word| format!("{}: {word}", file.path)).collect::<Vec<_>>()
    });
    none("unfinished means absent", &left.collect::<Vec<_>>());
}

/// A package may have one row; otherwise `src/` and each folder right below it has one.
#[test]
fn the_code_map_names_every_folder_in_few_rows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (_, map) = readme.split_once("| folder | what it holds |\n").expect("a code map");
    let rows: Vec<&str> = map.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() <= MAP_ROWS_MAX, "{} rows, {MAP_ROWS_MAX} at most", rows.len());
    let named = |folder: &str| rows.iter().any(|row| row.contains(&format!("`{folder}/`")));
    let missing = rust().filter(|file| !file.is_test()).filter_map(|file| {
        let (package, inside) = match file.path.split_once("/src/") {
            Some((package, inside)) => (package.to_owned(), inside),
            None => (file.path.split('/').next()?.to_owned(), ""),
        };
        let folder = match inside.split_once('/') {
            Some((folder, _)) => format!("{package}/src/{folder}"),
            None => format!("{package}/src"),
        };
        let bin = file.path.rsplit_once('/').map(|(folder, _)| folder.to_owned())?;
        let has_row = [package, folder.clone(), bin].iter().any(|folder| named(folder));
        (!has_row).then_some(folder)
    });
    let missing: BTreeSet<String> = missing.collect();
    none("add the folder to README's code map", &missing.into_iter().collect::<Vec<_>>());
}

#[test]
fn every_source_file_is_a_module_of_its_crate() {
    let all: Vec<File> = rust().collect();
    let dead = all
        .iter()
        .filter(|file| {
            let path = Path::new(&file.path);
            let stem = path.file_stem().unwrap().to_string_lossy();
            let root =
                ["lib", "main", "mod", "build", "binfer", "shard-tool", "tidy"].contains(&&*stem);
            !root && !all.iter().any(|other| declares(&other.text, &stem))
        })
        .map(|file| file.path.clone());
    none("dead files", &dead.collect::<Vec<_>>());
}

#[test]
fn every_architecture_has_a_golden_trace() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let without = rust()
        .filter_map(|file| Some(file.path.strip_prefix("shard-tool/src/families/")?.to_owned()))
        .filter(|name| !["mod.rs", "tensors.rs"].contains(&name.as_str()))
        .map(|name| format!("tests/goldens/{}", name.replace(".rs", ".trace")))
        .filter(|trace| !root.join(trace).is_file());
    none("make it with UPDATE_GOLDEN=1 cargo test", &without.collect::<Vec<_>>());
}

fn declares(text: &str, module: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim();
        line.ends_with(&format!("mod {module};")) || line.ends_with(&format!("/{module}.rs\"]"))
    })
}
