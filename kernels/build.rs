//! Compiles `cuda/*.cu` for each target with nvcc and writes the table of images.
//!
//! nvcc is looked for in `CUDA_HOME`, in `PATH`, and in `target/cuda`, which `make cuda-toolchain`
//! fills. Without it the table is empty, and `--device cuda` says so at run time. A file is
//! compiled again only when it, a header, the compiler or a flag changed. With `BINFER_STRESS=1`
//! there is a second table, of images for tests that look for races (`cuda/stress.cuh`).
//! Deliberately absent: linking; each file is a module of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What to compile for.
#[derive(Hash)]
struct Target {
    /// As it is called in `// targets:` and in file names.
    name: &'static str,
    variant: &'static str,
    gencode: &'static str,
    /// nvcc's output.
    suffix: &'static str,
    defines: &'static [&'static str],
}

const TARGETS: [Target; 3] = [
    Target {
        name: "sm_90a",
        variant: "Sm90a",
        gencode: "arch=compute_90a,code=sm_90a",
        suffix: "cubin",
        defines: &[],
    },
    Target {
        name: "sm_80",
        variant: "Sm80",
        gencode: "arch=compute_80,code=sm_80",
        suffix: "cubin",
        defines: &[],
    },
    Target {
        name: "compute_80",
        variant: "Compute80",
        gencode: "arch=compute_80,code=compute_80",
        suffix: "ptx",
        defines: &[],
    },
];
/// What runs on a Hopper GPU, stressed: its own image, the one with dependent launch, and the
/// portable one.
const STRESSED: [Target; 2] = [
    Target { defines: &["-DBINFER_STRESS"], ..TARGETS[0] },
    Target { defines: &["-DBINFER_STRESS"], ..TARGETS[2] },
];
const FLAGS: [&str; 4] = ["-O3", "-std=c++17", "-Xptxas=-v", "--diag-suppress=177"];

/// Oldest CUDA whose compiler is used.
const CUDA_MAJOR_MIN: u32 = 13;

/// One file for one target.
struct Job {
    source: PathBuf,
    file: String,
    target: &'static Target,
}

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-env-changed=BINFER_STRESS");
    let is_stressed = std::env::var("BINFER_STRESS").is_ok_and(|value| value == "1");
    let nvcc = find_nvcc();
    let compiled = |targets: &'static [Target]| match &nvcc {
        Some(nvcc) => compile_all(nvcc, &out, targets),
        None => Vec::new(),
    };
    let mut text = String::from("/// Compiled files; none where nvcc was not found.\n");
    write_table(&mut text, "MODULES", &compiled(&TARGETS));
    text.push_str("/// Stressed ones, see `cuda/stress.cuh`; none where the build did not ask.\n");
    write_table(&mut text, "STRESSED", &compiled(if is_stressed { &STRESSED } else { &[] }));
    fs::write(out.join("images.rs"), text).expect("writing OUT_DIR");
}

/// The first compiler that is new enough, if there is one.
fn find_nvcc() -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let fetched = root.parent()?.join("target/cuda");
    let fetched = fetched.join("bin");
    // A file that is not there counts as changed at every build, so it is watched only while it is.
    // When it appears, `make cuda-toolchain` touches the folder `cuda`.
    if fetched.join("nvcc").is_file() {
        println!("cargo::rerun-if-changed={}", fetched.join("nvcc").display());
    }
    let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = home.into_iter().chain(std::env::split_paths(&path)).chain([fetched]);
    dirs.map(|dir| dir.join("nvcc")).filter(|nvcc| nvcc.is_file()).find(|nvcc| is_new(nvcc))
}

/// Whether a compiler knows CUDA 13; a warning says so if not.
fn is_new(nvcc: &Path) -> bool {
    let said = Command::new(nvcc).arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let release = said.as_deref().ok().and_then(|said| said.split("release ").nth(1));
    let release = release.and_then(|rest| rest.split(',').next()).unwrap_or("unknown");
    let major = release.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let is_new = major.is_some_and(|major| major >= CUDA_MAJOR_MIN);
    if !is_new {
        let nvcc = nvcc.display();
        println!(
            "cargo::warning={nvcc} is of CUDA {release}, {CUDA_MAJOR_MIN}.0 is needed: not used"
        );
    }
    is_new
}

/// Compiles what changed, two files at a time or more. Fails with nvcc's words.
fn compile_all(nvcc: &Path, out: &Path, targets: &'static [Target]) -> Vec<(Job, Outcome)> {
    let sources = |suffix: &str| {
        let mut found: Vec<PathBuf> = fs::read_dir("cuda")
            .expect("the folder cuda")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|has| has == suffix))
            .collect();
        found.sort();
        found
    };
    let mut shared = DefaultHasher::new();
    let version = Command::new(nvcc).arg("--version").output().expect("running nvcc").stdout;
    (FLAGS, version).hash(&mut shared);
    for header in sources("h").into_iter().chain(sources("cuh")) {
        fs::read(header).expect("a header").hash(&mut shared);
    }
    let shared = shared.finish();
    let all = sources("cu").iter().flat_map(|source| jobs(source, targets)).collect::<Vec<_>>();
    let jobs = Mutex::new(all);
    let done = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = jobs.lock().expect("no panics").pop() {
                    let outcome = compile(nvcc, out, &job, shared);
                    done.lock().expect("no panics").push((job, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no panics");
    done.sort_by(|(a, _), (b, _)| (a.target.name, &a.file).cmp(&(b.target.name, &b.file)));
    done
}

/// A file's targets: all, or those of its first line, `// targets: sm_90a`.
fn jobs(source: &Path, targets: &'static [Target]) -> Vec<Job> {
    let text = fs::read_to_string(source).expect("a kernel's source");
    let only = text.lines().next().and_then(|line| line.strip_prefix("// targets: "));
    let wanted = |name: &str| only.is_none_or(|only| only.split_whitespace().any(|t| t == name));
    let file = source.file_stem().expect("a file").to_string_lossy().into_owned();
    targets
        .iter()
        .filter(|target| wanted(target.name))
        .map(|target| Job { source: source.to_path_buf(), file: file.clone(), target })
        .collect()
}

/// A compiled file.
struct Outcome {
    image: PathBuf,
    /// What ptxas said.
    report: String,
}

fn compile(nvcc: &Path, out: &Path, job: &Job, shared: u64) -> Outcome {
    let Target { name, gencode, suffix, defines, .. } = job.target;
    let stressed = if defines.is_empty() { "" } else { ".stressed" };
    let image = out.join(format!("{}.{name}{stressed}.{suffix}", job.file));
    let (report_path, key_path) = (image.with_extension("log"), image.with_extension("key"));
    let mut key = DefaultHasher::new();
    (shared, job.target, fs::read(&job.source).expect("a kernel's source")).hash(&mut key);
    let key = key.finish().to_string();
    let fresh = image.is_file() && fs::read_to_string(&key_path).is_ok_and(|old| old == key);
    if !fresh {
        let mut command = Command::new(nvcc);
        command.args(FLAGS).args(*defines).arg(format!("-{suffix}"));
        command.args(["-gencode", gencode, "-o"]);
        let output = command.arg(&image).arg(&job.source).output().expect("running nvcc");
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "nvcc {} for {name}:\n{said}{report}", job.file);
        fs::write(&report_path, report).expect("writing OUT_DIR");
        fs::write(&key_path, key).expect("writing OUT_DIR");
    }
    Outcome { report: fs::read_to_string(report_path).unwrap_or_default(), image }
}

/// A generated Rust table: one compiled file for one target each.
fn write_table(text: &mut String, name: &str, done: &[(Job, Outcome)]) {
    let _ = writeln!(text, "pub static {name}: &[Module] = &[");
    for (job, outcome) in done {
        let entries = if job.target.suffix == "ptx" {
            entries_of_ptx(&fs::read_to_string(&outcome.image).expect("the output"))
        } else {
            entries_of_report(&outcome.report)
        };
        // Serialised wgmma and an ignored setmaxnreg are no warnings to ptxas.
        let suspect = ["warning", "Potential Performance Loss", "setmaxnreg"];
        let warns = |line: &&str| suspect.iter().any(|words| line.contains(words));
        let warnings: Vec<&str> = outcome.report.lines().filter(warns).collect();
        let _ = writeln!(
            text,
            "    Module {{ file: {:?}, target: Target::{}, image: include_bytes!({:?}), \
             warnings: &{warnings:?}, entries: &[",
            job.file, job.target.variant, outcome.image
        );
        for (name, spill_bytes) in entries {
            let _ =
                writeln!(text, "        Entry {{ name: {name:?}, spill_bytes: {spill_bytes} }},");
        }
        text.push_str("    ] },\n");
    }
    text.push_str("];\n");
}

/// Kernels and bytes of spills out of `-Xptxas -v`.
fn entries_of_report(report: &str) -> BTreeMap<String, u64> {
    let mut entries = BTreeMap::new();
    let mut current = None;
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            current = rest.split('\'').next().map(str::to_owned);
        } else if let (Some(name), Some(at)) = (&current, line.find(" bytes spill stores")) {
            let bytes = line[..at].rsplit(' ').next().and_then(|number| number.parse().ok());
            entries.insert(name.clone(), bytes.expect("a number of bytes"));
            current = None;
        }
    }
    entries
}

/// Kernels of PTX, which the driver compiles at start.
fn entries_of_ptx(ptx: &str) -> BTreeMap<String, u64> {
    let name = |line: &str| line.split(".entry ").nth(1)?.split('(').next().map(str::to_owned);
    ptx.lines().filter_map(name).map(|name| (name, 0)).collect()
}
