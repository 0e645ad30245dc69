//! Streams that take nothing, and terminals: what commands do with a full disk, a reader that has
//! gone, and text that a terminal would obey.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Permit, Scratch, binfer, poll, repository, send_signal};

/// A full or failing stdout, and a reader that has gone.
const FAILED: i32 = 74;
const UNREAD: i32 = 141;

fn tiny() -> String {
    repository("tests/fixtures/tiny/qwen3").to_str().unwrap().to_owned()
}

/// Commands that write to stdout, each in its own way.
fn commands() -> Vec<Vec<String>> {
    let tiny = tiny();
    let lines = [
        "--help".into(),
        "serve --help".into(),
        "--version".into(),
        "doctor".into(),
        format!("plan {tiny}"),
        format!("plan {tiny} --json"),
        format!("shard {tiny} --dry-run --tp 2"),
        format!("run {tiny} Once --max-tokens 4"),
        format!("bench {tiny} --batch 1 --prompt-tokens 4 --generate 2 --repeat 1"),
        "worker --probe".into(),
    ];
    lines.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Runs a command whose stdout or stderr is not a pipe to the test.
fn output(args: &[String], change: impl FnOnce(&mut Command)) -> (Output, String) {
    let mut command = binfer();
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    change(&mut command);
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    (output, stderr)
}

#[test]
fn a_full_stdout_is_told_and_ends_with_its_own_status() {
    let _permit = Permit::one();
    for args in commands() {
        let (output, stderr) = output(&args, |command| {
            command.stdout(full());
        });
        assert_eq!(output.status.code(), Some(FAILED), "{args:?}: {stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.contains("stdout: No space left on device"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_reader_that_has_gone_ends_a_command_without_a_word() {
    let _permit = Permit::one();
    for args in commands() {
        let (output, stderr) = output(&args, |command| {
            let (read, write) = std::io::pipe().unwrap();
            drop(read);
            command.stdout(write);
        });
        assert_eq!(output.status.code(), Some(UNREAD), "{args:?}: {stderr}");
        assert!(!stderr.contains("stdout"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_stderr_that_takes_nothing_changes_nothing() {
    let _permit = Permit::one();
    for args in commands() {
        let (good, _) = output(&args, |_| {});
        let (to_full, _) = output(&args, |command| {
            command.stderr(full());
        });
        let (unread, _) = output(&args, |command| {
            let (read, write) = std::io::pipe().unwrap();
            drop(read);
            command.stderr(write);
        });
        for output in [to_full, unread] {
            assert!(output.status.success(), "{args:?}: {output:?}");
            if args[0] != "bench" && args[0] != "plan" && args[0] != "doctor" {
                assert_eq!(output.stdout, good.stdout, "{args:?}");
            }
        }
    }
    // An error that cannot be told still has its status.
    let (refused, _) = output(&["plan".into(), "/nothing".into()], |command| {
        command.stderr(full());
    });
    assert_eq!(refused.status.code(), Some(78));
    let (usage, _) = output(&["plan".into()], |command| {
        command.stderr(full());
    });
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn closed_streams_and_a_limit_of_file_size_end_in_order() {
    let _permit = Permit::one();
    let scratch = Scratch::new("limits");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        let binfer = env!("CARGO_BIN_EXE_binfer");
        command.args(["-c", script, "sh", binfer, &tiny()]).current_dir(scratch.path());
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(shell("exec \"$1\" plan \"$2\" >&- 2>&- <&-").0, Some(0));
    let (status, stderr) = shell("ulimit -f 0; exec \"$1\" plan \"$2\" > plan.txt");
    assert_eq!(status, Some(FAILED), "{stderr}");
    assert!(stderr.contains("stdout: File too large"), "{stderr}");
    let (status, stderr) = shell("ulimit -f 0; exec \"$1\" shard \"$2\" -o out --tp 2");
    assert_eq!(status, Some(78), "{stderr}");
    assert!(stderr.contains("File too large"), "{stderr}");
}

#[test]
fn a_server_whose_messages_go_nowhere_serves() {
    let _permit = Permit::one();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let args = ["serve", &tiny(), "--tp", "2", "--port", &port.to_string()];
    let mut server = binfer().args(args).stdout(full()).stderr(full()).spawn().unwrap();
    let address = ([127, 0, 0, 1], port).into();
    let client = crate::harness::Client { address, timeout: Duration::from_secs(20) };
    let healthy = || client.get("/health").ok().filter(|reply| reply.status == 200);
    let is_healthy = poll(Duration::from_secs(30), healthy).is_some();
    send_signal(server.id(), Signal::TERM);
    let ended = poll(Duration::from_secs(10), || server.try_wait().unwrap());
    if ended.is_none() {
        server.kill().unwrap();
    }
    assert!(is_healthy && ended.is_some_and(|status| status.success()), "{ended:?}");
}

/// What a command shows in a terminal of its own.
fn in_terminal(args: &[&str]) -> String {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let open = || File::options().read(true).write(true).open(&name).unwrap();
    let mut command = binfer();
    command.args(args).stdin(open()).stdout(open()).stderr(open());
    let mut child = command.spawn().unwrap();
    drop(command); // and with it this process's ends of the terminal
    let mut shown = Vec::new();
    // The end of the last writer is an error here, not an end of file.
    let _ = File::from(master).read_to_end(&mut shown);
    child.wait().unwrap();
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn a_terminal_obeys_no_name_and_a_pipe_gets_it_as_it_is() {
    let scratch = Scratch::new("escapes");
    let folder = scratch.file("\u{1b}[31mred\u{7}");
    fs::create_dir(&folder).unwrap();
    fs::copy(repository("tests/fixtures/tiny/qwen3/config.json"), folder.join("config.json"))
        .unwrap();
    let name = folder.to_str().unwrap();
    let shown = in_terminal(&["plan", name]);
    assert!(shown.contains("\\u{1b}[31mred\\u{7}: qwen3,"), "{shown:?}");
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown:?}");
    let (piped, _) = output(&["plan".into(), name.into()], |_| {});
    assert!(String::from_utf8_lossy(&piped.stdout).starts_with(&format!("{name}: ")));
    // Messages are escaped wherever they go: logs are read in terminals.
    let missing = format!("{name}.gguf\nlistening on http://elsewhere");
    let (_, stderr) = output(&["plan".into(), missing], |_| {});
    assert!(!stderr.contains('\u{1b}') && stderr.contains("\\u{1b}[31mred"), "{stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr:?}");
}

/// A tokenizer in which the first two tokens of the golden answer are an escape and a bracket,
/// which begin a command to a terminal.
#[test]
fn a_terminal_obeys_no_answer_and_a_pipe_gets_it_as_it_is() {
    // The characters by which byte-level BPE writes the bytes of the golden's token and of an
    // escape.
    const GOLDEN: &str = "°";
    const ESCAPE: &str = "ě";
    let _permit = Permit::one();
    let scratch = Scratch::new("escapes-of-answers");
    for file in repository("tests/fixtures/tiny/qwen3").read_dir().unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        fs::copy(file.path(), scratch.file(&name)).unwrap();
    }
    let golden = fs::read(scratch.file("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let tokenizer = fs::read(scratch.file("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    assert_eq!((&vocab[GOLDEN], &golden["chat"]["ids"][0]), (&108.into(), &108.into()));
    let escape = vocab.insert(ESCAPE.into(), vocab[GOLDEN].clone()).unwrap();
    vocab.insert(GOLDEN.into(), escape);
    fs::write(scratch.file("tokenizer.json"), tokenizer.to_string()).unwrap();
    // One message is all that `run` asks, so the golden's conversation goes as text.
    let prompt = golden["chat"]["rendered"].as_str().unwrap();
    let args = ["run", scratch.path().to_str().unwrap(), prompt, "--max-tokens", "2", "-q"];
    let (piped, _) = output(&args.map(str::to_owned), |_| {});
    assert_eq!(piped.stdout, b"\x1b]\n");
    let shown = in_terminal(&args);
    assert!(shown.contains("\\u{1b}]") && !shown.contains('\u{1b}'), "{shown:?}");
}

/// Ranks say one after the other what they are going to load, so the bar's total grows.
#[test]
fn a_progress_bar_is_gone_when_a_line_follows_it() {
    let _permit = Permit::one();
    let shown = in_terminal(&["run", "demo", "Once", "--max-tokens", "2", "--tp", "3"]);
    assert!(shown.contains("ready in"), "{shown:?}");
    for line in shown.split('\n') {
        // What is drawn is erased before something else is drawn, and before a line ends.
        let mut drawn = line.split("\u{1b}[2K");
        assert!(drawn.all(|part| part.matches("loading ").count() <= 1), "{line:?}");
        let last = line.rsplit("\u{1b}[2K").next().unwrap();
        assert!(!last.contains("loading "), "{line:?}");
    }
}

/// Everybody on a machine can read what processes were started with.
#[test]
fn what_workers_prove_themselves_by_is_not_among_their_arguments() {
    let _permit = Permit::one();
    let tiny = tiny();
    let args = ["run", &tiny, "Once", "--max-tokens", "400", "--tp", "2", "-q"];
    let mut command = binfer();
    let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    let workers = crate::harness::workers_of(child.id());
    let lines: Vec<String> = (workers.iter())
        .map(|(_, pid)| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap())
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let secret = |word: &str| word.len() >= 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(!line.split('\0').any(secret) && !line.contains("--instance"), "{line}");
    }
}
