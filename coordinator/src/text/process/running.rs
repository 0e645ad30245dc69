//! One run of the text process: it is started, listened to, ended and waited for.

use super::config::{Deadlines, TextConfig, TextSource};
use super::limits::JOBS_AT_ONCE;
use super::shared::{FilesChanged, SharedState};
use super::wire::{self, TextReply};
use crate::config::API_KEY_VARIABLE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
#[cfg(test)]
use std::sync::Arc;
use std::time::Instant;

/// How often deadlines are checked.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How much is read from the pipe at once.
const READ_BYTES: usize = 64 << 10;

/// What does the jobs: a process, or a thread in tests.
#[derive(Debug)]
pub(super) enum TextProgram {
    Process(TextConfig),
    #[cfg(test)]
    Thread(Arc<crate::text::TextModel>),
}

/// A started process and the pipe of its output.
#[derive(Debug)]
pub(super) struct RunningProcess {
    child: Option<Child>,
    output: PipeReader,
}

impl RunningProcess {
    /// Starts the process. The calling thread must outlive it: the kernel ends both together.
    pub(super) fn start(program: &TextProgram) -> std::io::Result<(Self, PipeWriter)> {
        match program {
            TextProgram::Process(config) => {
                let mut child = command(config).spawn()?;
                let (input, output) = (child.stdin.take(), child.stdout.take());
                let (Some(input), Some(output)) = (input, output) else {
                    return Err(std::io::Error::other("the text process has no pipes"));
                };
                let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
                Ok((Self { child: Some(child), output: output.into() }, input.into()))
            }
            #[cfg(test)]
            TextProgram::Thread(model) => {
                let (jobs, input) = std::io::pipe()?;
                let (output, mut answers) = std::io::pipe()?;
                let facts = serde_json::to_vec(&**model.facts()).unwrap();
                let model = Arc::clone(model);
                std::thread::spawn(move || {
                    wire::write(&mut answers, 0, &TextReply::Facts(facts).to_payload()).unwrap();
                    super::role::serve(&model, jobs, answers).unwrap();
                });
                Ok((Self { child: None, output }, input))
            }
        }
    }

    /// Passes answers on until the process has ended, by itself or because it must. Returns why it
    /// ended.
    pub(super) fn run(mut self, shared: &SharedState, deadlines: Deadlines) -> String {
        let began = Instant::now();
        let mut arrived = Vec::new();
        let mut reason = None;
        while let Ok(true) = self.listen(&mut arrived) {
            if let Err(cause) = pass_on(&mut arrived, shared) {
                reason.get_or_insert(cause.to_string());
            }
            let late = || {
                let seconds = deadlines.start.as_secs_f32();
                let late = shared.is_starting() && began.elapsed() > deadlines.start;
                late.then(|| format!("it took more than {seconds} s to read the model's files"))
            };
            let end = reason.clone().or_else(late).or_else(|| shared.reason_to_end(Instant::now()));
            if let Some(end) = end {
                self.kill();
                reason.get_or_insert(end);
            }
        }
        let ended = self.reap();
        reason.unwrap_or(ended)
    }

    /// Waits for output for a tick. Returns `false` once no more can come.
    fn listen(&mut self, arrived: &mut Vec<u8>) -> std::io::Result<bool> {
        let mut ready = [PollFd::new(&self.output, PollFlags::IN)];
        match poll(&mut ready, Some(&TICK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(true),
            found => found?,
        };
        let before = arrived.len();
        arrived.resize(before + READ_BYTES, 0);
        let read = self.output.read(&mut arrived[before..]);
        arrived.truncate(before + read.as_ref().map_or(0, |bytes| *bytes));
        match read {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            read => Ok(read? > 0),
        }
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
    }

    fn reap(&mut self) -> String {
        let Some(child) = &mut self.child else { return "it has ended".into() };
        // The output is closed: the process has ended, or will not answer.
        let _ = child.kill();
        child.wait().map_or_else(|error| error.to_string(), describe)
    }
}

fn command(config: &TextConfig) -> Command {
    let mut command = Command::new(&config.program);
    command.arg("text");
    match &config.source {
        TextSource::Folder(path) => command.arg("--folder").arg(path),
        TextSource::Gguf(path) => command.arg("--gguf").arg(path),
        TextSource::Numbers(below) => command.arg("--numbers").arg(below.to_string()),
    };
    if config.split_special_tokens {
        command.arg("--split-special-tokens");
    }
    command
        .args(["--parent", &std::process::id().to_string()])
        // Each arena of the allocator reserves address space, which is limited.
        .env_remove(API_KEY_VARIABLE)
        .env("GLIBC_TUNABLES", format!("glibc.malloc.arena_max={}", JOBS_AT_ONCE + 1))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // The message of a panic may contain pieces of a prompt.
        .stderr(Stdio::null())
        .process_group(0);
    command
}

/// What a process that must be ended did.
#[derive(Debug, thiserror::Error)]
enum ProcessFault {
    #[error("it sent what cannot be read")]
    Garbled,
    #[error(transparent)]
    FilesChanged(#[from] FilesChanged),
}

/// Passes whole answers on.
fn pass_on(arrived: &mut Vec<u8>, shared: &SharedState) -> Result<(), ProcessFault> {
    while let Some((id, payload)) = wire::take(arrived).map_err(|_| ProcessFault::Garbled)? {
        match TextReply::of_payload(&payload).ok_or(ProcessFault::Garbled)? {
            TextReply::Facts(facts) => shared.has_started(facts)?,
            TextReply::Refused(refusal) if id == 0 => shared.has_refused(refusal),
            answer => shared.answered(id, answer),
        }
    }
    Ok(())
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        // Rust aborts a process that gets no memory.
        (Some(6), _) => "it needed more memory than it may take".into(),
        (Some(11), _) => "it overflowed its stack".into(),
        (Some(signal), _) => format!("it was killed by signal {signal}"),
        (None, code) => format!("it ended with status {}", code.unwrap_or(-1)),
    }
}
