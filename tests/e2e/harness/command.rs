//! Commands of the real binary that run to their end.

use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::log::Log;
use super::{PATIENCE, model_path, poll};

/// The program under test, never reading the tester's stdin.
pub(crate) fn binfer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_binfer"));
    // Whatever the tests were started with, the binary must find the same demo model.
    command.env("BINFER_CACHE", model_path().parent().unwrap());
    command.stdin(Stdio::null());
    command
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Run {
    /// Runs `binfer ARGS`.
    pub(crate) fn of(args: &[&str]) -> Self {
        Self::with_stdin(args, "")
    }

    /// Runs `binfer ARGS` and writes `stdin` to it.
    pub(crate) fn with_stdin(args: &[&str], stdin: &str) -> Self {
        let began = Instant::now();
        let mut child = binfer()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // A command that fails early does not read it.
        let _ = input.write_all(stdin.as_bytes());
        drop(input);
        let mut out = Log::of(child.stdout.take().unwrap());
        let mut err = Log::of(child.stderr.take().unwrap());
        let Some(status) = poll(PATIENCE, || child.try_wait().unwrap()) else {
            child.kill().unwrap();
            panic!("binfer {args:?} did not end; stderr:\n{}", err.text());
        };
        let took = began.elapsed();
        Self { status, stdout: out.finish(), stderr: err.finish(), took }
    }

    /// Runs `binfer ARGS`, which must end well.
    pub(crate) fn good(args: &[&str]) -> Self {
        let run = Self::of(args);
        assert!(run.status.success(), "binfer {args:?}: {run:?}");
        run
    }
}
