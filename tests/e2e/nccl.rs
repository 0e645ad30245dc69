//! NCCL as it is found: what is too old, or lacks something, is said by name with the way out.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Run, Scratch};

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

/// Makes a library that says it is of that version and has these functions.
fn make(folder: &Path, version: u32, functions: &[&str]) {
    let mut text = format!("int ncclGetVersion(int* to) {{ *to = {version}; return 0; }}\n");
    functions.iter().for_each(|name| writeln!(text, "int {name}(void) {{ return 1; }}").unwrap());
    let mut compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wl,-soname,libnccl.so.2", "-x", "c", "-", "-o"])
        .arg(folder.join("libnccl.so.2"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
}

#[test]
fn a_library_that_will_not_do_is_refused_with_the_reason() {
    let scratch = Scratch::new("nccl");
    let probe = |version, functions: &[&str]| {
        make(scratch.path(), version, functions);
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
