//! One life of the text process: started, listened to, ended, waited for.

use super::supervisor::SharedState;
use super::wire::{self, TextReply};
use super::{JOBS_AT_ONCE, TextConfig, TextSource};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
#[cfg(test)]
use std::sync::Arc;
use std::time::Instant;

/// How often deadlines are looked at.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// What is taken out of the pipe at once.
const READ_BYTES: usize = 64 << 10;

/// What does the jobs.
#[derive(Debug)]
pub(super) enum TextProgram {
    /// A process.
    Process(TextConfig),
    /// A thread of this process.
    #[cfg(test)]
    Thread(Arc<crate::text::TextModel>),
}

/// A started process and its pipes.
#[derive(Debug)]
pub(super) struct RunningProcess {
    child: Option<Child>,
    output: PipeReader,
}

impl RunningProcess {
    /// Starts it. The calling thread must outlive it: the kernel ends it with the thread.
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

    /// Passes on what it says until it has ended, of itself or because it must. The reason is the
    /// result.
    pub(super) fn run(mut self, shared: &SharedState, deadlines: super::Deadlines) -> String {
        let began = Instant::now();
        let mut arrived = Vec::new();
        let mut reason = None;
        while let Ok(true) = self.listen(&mut arrived) {
            if let Err(cause) = pass_on(&mut arrived, shared) {
                reason.get_or_insert(cause);
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

    /// Waits a tick for something to be said. `false`: nothing can come any more.
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
        // Its output is closed: it has ended, or will not answer.
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
        .env("GLIBC_TUNABLES", format!("glibc.malloc.arena_max={}", JOBS_AT_ONCE + 1))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A panic's message may hold pieces of somebody's prompt.
        .stderr(Stdio::null())
        .process_group(0);
    command
}

/// Hands over whole answers. An error: what says so is no text process.
fn pass_on(arrived: &mut Vec<u8>, shared: &SharedState) -> Result<(), String> {
    let garbled = || "it sent what cannot be read".to_owned();
    while let Some((id, payload)) = wire::take(arrived).map_err(|_| garbled())? {
        match TextReply::of_payload(&payload).ok_or_else(garbled)? {
            TextReply::Facts(facts) => shared.has_started(facts)?,
            TextReply::Refused(refusal) if id == 0 => shared.has_refused(refusal),
            answer => shared.answered(id, answer),
        }
    }
    Ok(())
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        // Rust ends a process so that gets no memory.
        (Some(6), _) => "it needed more memory than it may take".into(),
        (Some(11), _) => "it overflowed its stack".into(),
        (Some(signal), _) => format!("it was killed by signal {signal}"),
        (None, code) => format!("it ended with status {}", code.unwrap_or(-1)),
    }
}
