//! Where the workers' socket is made: wherever it can be, and nothing of it is left.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::harness::{
    PATIENCE, Permit, Scratch, Server, binfer, poll, repository, send_signal, traces, workers_of,
};

#[test]
fn folders_that_will_not_do_are_passed_over_and_named() {
    let _permit = Permit::one();
    let scratch = Scratch::new("sockets");
    let long = scratch.file(&"x".repeat(200));
    fs::create_dir(&long).unwrap();
    let model = repository("tests/fixtures/tiny/qwen3");
    let answer = |runtime: &str, temporary: &str| {
        let output = binfer()
            .args(["run", model.to_str().unwrap(), "ships", "--max-tokens", "4", "--device", "cpu"])
            .env("XDG_RUNTIME_DIR", runtime)
            .env("TMPDIR", temporary)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (output.stdout, said)
    };
    // A path that is too long for a socket's address is as good as another.
    let (expected, said) = answer(long.to_str().unwrap(), "/proc");
    assert!(!said.contains("no place"), "{said}");
    assert_eq!(fs::read_dir(&long).unwrap().count(), 0);
    let (text, said) = answer("/proc", "/no/such/folder");
    assert_eq!(text, expected);
    for words in ["XDG_RUNTIME_DIR /proc: ", "TMPDIR /no/such/folder: No such file"] {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_coordinator_killed_while_its_workers_start_leaves_no_folder() {
    let permit = Permit::one();
    let server = Server::start(permit, 3, &[]);
    let begun = poll(PATIENCE, || (!workers_of(server.pid()).is_empty()).then_some(()));
    assert!(begun.is_some(), "no worker: {}", server.log.text());
    assert!(send_signal(server.pid(), Signal::KILL));
    assert_eq!(traces(server.pid()), Vec::<PathBuf>::new());
}
