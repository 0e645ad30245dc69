//! Exit statuses, row by row of README's table.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Permit, Run, binfer, poll, repository, send_signal, workers_of};
use crate::hub_server::{Fault, HubServer, REPOSITORY};

const LIMIT: Duration = Duration::from_secs(10);
/// What no test can bring about: a bug. `every_kind_of_error_has_its_status` has it.
const DEFECT: i32 = 101;

fn tiny() -> String {
    repository("tests/fixtures/tiny/qwen3").to_str().unwrap().to_owned()
}

fn status(args: &[&str]) -> i32 {
    Run::of(args).status.code().unwrap()
}

/// Waits for the end of a child that was sent a signal or lost a worker.
fn end(mut child: Child) -> i32 {
    let status = poll(LIMIT, || child.try_wait().unwrap());
    let Some(status) = status else {
        child.kill().unwrap();
        panic!("it goes on");
    };
    status.code().unwrap_or_else(|| panic!("{status}"))
}

/// Starts a command without any output to read, for itself alone.
fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Sends a signal once the process does more about it than to die.
fn signalled(child: Child, signal: Signal) -> i32 {
    let pid = child.id();
    let catches = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
        (mask & (1 << (signal.as_raw() - 1)) != 0).then_some(())
    };
    assert!(poll(LIMIT, catches).is_some(), "it catches no signal");
    assert!(send_signal(pid, signal));
    end(child)
}

/// What `bench` does on two ranks until it is broken off.
const ENDLESS: [&str; 10] =
    ["--repeat", "1000000", "--prompt-tokens", "8", "--generate", "2", "--batch", "1", "--tp", "2"];

/// Commands that a signal breaks off: before anything is there to bring down, and while ranks run.
fn broken_off(signal: Signal) -> Vec<i32> {
    let waits = start(binfer().args(["run", &tiny()]).stdin(Stdio::piped()));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut pull = binfer();
    pull.args(["serve", "some-org/some-model"]).env("HF_ENDPOINT", endpoint);
    let pull = start(pull.env("NO_PROXY", "127.0.0.1").env("HF_HUB_CACHE", "/nonexistent"));
    let _held = silent.accept().unwrap();
    let bench = start(binfer().args([&["bench", &tiny()], &ENDLESS[..]].concat()));
    let ranks = || (workers_of(bench.id()).len() == 2).then_some(());
    assert!(poll(LIMIT, ranks).is_some());
    [waits, pull, bench].map(|child| signalled(child, signal)).into()
}

fn hub_status(fault: Option<Fault>) -> i32 {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hub-statuses");
    let _ = fs::remove_dir_all(&home);
    let server = HubServer::of_folder(Path::new(&tiny()));
    let model = if fault.is_some() { REPOSITORY } else { "no-org/no-model" };
    fault.into_iter().for_each(|fault| server.fault("GET /model.safetensors", fault));
    let mut pull = binfer();
    pull.args(["pull", model]).env("HF_HOME", &home).env("HF_ENDPOINT", &server.endpoint);
    for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "SSL_CERT_FILE"] {
        pull.env_remove(name);
    }
    end(start(pull.env("NO_PROXY", "127.0.0.1")))
}

fn lost_worker() -> i32 {
    let child = start(binfer().args([&["bench", &tiny()], &ENDLESS[..]].concat()));
    let pid = child.id();
    let workers = poll(LIMIT, || Some(workers_of(pid)).filter(|workers| workers.len() == 2));
    assert!(send_signal(workers.expect("no workers")[1].1, Signal::KILL));
    end(child)
}

fn to(stdout: impl Into<Stdio>) -> i32 {
    let mut child = binfer();
    child.args(["plan", &tiny()]).stdout(stdout).stderr(Stdio::null());
    end(child.spawn().unwrap())
}

#[test]
fn every_status_of_the_readme_is_that_of_its_cases() {
    let _permit = Permit::alone();
    let tiny = tiny();
    let long = "word ".repeat(2000);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let unread = || std::io::pipe().unwrap().1;
    let rows: Vec<(i32, Vec<i32>)> = vec![
        (0, vec![status(&["--help"]), status(&["run", &tiny, "Once", "--max-tokens", "2"])]),
        (2, vec![status(&[]), status(&["run"]), status(&["serve", &tiny, "--port", "x"])]),
        (2, vec![status(&["serve", &tiny, "--drain", "18446744073709551615"])]),
        (69, vec![hub_status(Some(Fault::WrongByte))]),
        (70, vec![lost_worker()]),
        (74, vec![to(full())]),
        (78, vec![status(&["run", &tiny, &long]), status(&["plan", "/no/such/file"])]),
        (78, vec![status(&["run", &tiny]), status(&["run", &tiny, "Hi", "--top-p", "7"])]),
        (78, vec![hub_status(None), status(&["bench", &tiny, "--prompt-tokens", "4000000000"])]),
        (130, broken_off(Signal::INT)),
        (141, vec![to(unread())]),
        (143, broken_off(Signal::TERM)),
    ];
    for (wanted, found) in &rows {
        assert!(found.iter().all(|status| status == wanted), "{wanted}: {found:?}");
    }
    let readme = fs::read_to_string(repository("README.md")).unwrap();
    let table = readme.split("| exit status |").nth(1).unwrap().split("\n\n").next().unwrap();
    let first = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let listed: BTreeSet<i32> =
        first.flat_map(|cell| cell.split(", ")).filter_map(|number| number.parse().ok()).collect();
    let tested = rows.iter().map(|(status, _)| *status).chain([DEFECT]).collect();
    assert_eq!(listed, tested, "README's table and this one");
}
