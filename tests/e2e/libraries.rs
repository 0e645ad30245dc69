//! NCCL and cuBLASLt as they are found: what is too old, or lacks something, is said by name with
//! the way out.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Run, Scratch, binfer};

/// What is used of it.
const FUNCTIONS: [&str; 8] = [
    "ncclGetUniqueId",
    "ncclGetLastError",
    "ncclGetErrorString",
    "ncclCommInitRankConfig",
    "ncclCommGetAsyncError",
    "ncclCommAbort",
    "ncclAllReduce",
    "ncclAllGather",
];

/// Compiles a library.
fn make(file: &Path, soname: &str, text: &str) {
    let mut compiler = Command::new("cc")
        .args(["-shared", "-fPIC", &format!("-Wl,-soname,{soname}"), "-x", "c", "-", "-o"])
        .arg(file)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
}

/// Makes an NCCL that says it is of that version and has these functions.
fn make_nccl(folder: &Path, version: u32, functions: &[&str]) {
    let mut text = format!("int ncclGetVersion(int* to) {{ *to = {version}; return 0; }}\n");
    functions.iter().for_each(|name| writeln!(text, "int {name}(void) {{ return 1; }}").unwrap());
    make(&folder.join("libnccl.so.2"), "libnccl.so.2", &text);
}

#[test]
fn a_cublas_of_another_cuda_is_refused_by_its_file_even_if_the_loader_finds_it_first() {
    let scratch = Scratch::new("cublas");
    let folder = scratch.path().to_str().unwrap();
    let make = |file: &str, soname: &str, version: u32| {
        let text = format!("unsigned long cublasLtGetVersion(void) {{ return {version}; }}\n");
        make(&scratch.path().join(file), soname, &text);
    };
    let probe = || {
        let args = ["worker", "--probe-cublas", folder];
        let output = binfer().env("LD_LIBRARY_PATH", folder).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    make("libcublasLt.so.13", "libcublasLt.so.13", 130_100);
    let file = scratch.path().join("libcublasLt.so.13");
    let said = format!(r#"{{"device":"cublas","version":"13.1.0, {}"}}"#, file.display());
    assert_eq!(probe().trim(), said);
    // What a development package of CUDA 12 leaves behind.
    make("libcublasLt.so", "libcublasLt.so.12", 120_805);
    let said = probe();
    let file = scratch.path().join("libcublasLt.so");
    let cause = format!("{} is 12.8.5; 13.0.0 is needed", file.display());
    assert!(said.contains(&cause) && said.contains("nvidia-cublas"), "{said}");
}

#[test]
fn a_library_that_will_not_do_is_refused_with_the_reason() {
    let scratch = Scratch::new("nccl");
    let probe = |version, functions: &[&str]| {
        make_nccl(scratch.path(), version, functions);
        Run::good(&["worker", "--probe-nccl", scratch.path().to_str().unwrap()]).stdout
    };
    let said = probe(22_707, &FUNCTIONS);
    assert_eq!(said.trim(), r#"{"device":"nccl","version":"2.27.7"}"#);
    let said = probe(21_005, &FUNCTIONS);
    let way_out = "`pip install --upgrade 'nvidia-nccl-cu13'`";
    assert!(said.contains("it is 2.10.5; 2.27.7 is needed") && said.contains(way_out), "{said}");
    let lacking: Vec<&str> =
        FUNCTIONS.into_iter().filter(|name| *name != "ncclCommInitRankConfig").collect();
    let said = probe(22_809, &lacking);
    assert!(said.contains("ncclCommInitRankConfig") && said.contains(way_out), "{said}");
}
