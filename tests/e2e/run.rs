//! `binfer run`: what stands on stdout and what on stderr.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Golden, Permit, Run, Scratch, TOKENS, binfer, goldens, is_alive, poll, repository, send_signal,
    workers_of,
};

fn golden(name: &str) -> Golden {
    goldens().into_iter().find(|golden| golden.name == name).unwrap()
}

/// `[64 tokens, 0.42 s, 152 tok/s]`, and what its numbers are.
fn statistics(line: &str) -> Option<(usize, f64, f64)> {
    let inner = line.strip_prefix('[')?.strip_suffix(" tok/s]")?;
    let (tokens, rest) = inner.split_once(" tokens, ")?;
    let (seconds, speed) = rest.split_once(" s, ")?;
    Some((tokens.parse().ok()?, seconds.parse().ok()?, speed.parse().ok()?))
}

#[test]
fn the_answer_stands_alone_on_stdout_and_statistics_on_stderr() {
    let _permit = Permit::one();
    let golden = golden("once");
    let prompt = golden.text.as_deref().unwrap();
    let run =
        Run::good(&["run", "demo", prompt, "--max-tokens", "64", "--dtype", "f32", "--tp", "2"]);
    assert_eq!(run.stdout, golden.whole);
    let last = run.stderr.lines().last().unwrap();
    let (tokens, seconds, speed) = statistics(last).unwrap_or_else(|| panic!("{last}"));
    assert_eq!(tokens, TOKENS);
    // Seconds are written with two digits, the speed with none.
    let low = 64.0 / (seconds + 0.006) - 1.0;
    let high = 64.0 / (seconds - 0.006).max(0.001) + 1.0;
    assert!(low <= speed && speed <= high, "{last}");
}

#[test]
fn a_prompt_comes_from_stdin_and_quiet_is_quiet() {
    let _permit = Permit::one();
    let golden = golden("prose");
    let prompt = golden.text.as_deref().unwrap();
    let run = Run::with_stdin(&["run", "demo", "-", "--max-tokens", "64", "-q"], prompt);
    assert!(run.status.success(), "{run:?}");
    assert_eq!((&run.stdout, run.stderr.as_str()), (&golden.whole, ""));
    let run = Run::with_stdin(&["run", "demo", "--max-tokens", "64", "-q"], prompt);
    assert_eq!((run.stdout, run.stderr.as_str()), (golden.whole, ""));
}

#[test]
fn a_template_makes_a_chat_of_it_and_an_end_token_ends_it() {
    let _permit = Permit::one();
    let golden = golden("chat-stop");
    let question = &golden.chat()[0].content;
    let run = Run::good(&["run", "demo", question, "--use-template", "-v"]);
    assert_eq!(run.stdout, golden.generated);
    for phase in ["model opened", "tokenizer built", "workers ready"] {
        let line = run.stderr.lines().find(|line| line.contains(phase));
        let line = line.unwrap_or_else(|| panic!("no {phase}: {}", run.stderr));
        assert!(line.starts_with('[') && line.contains(" ms] "), "{line}");
    }
}

#[test]
fn a_broken_template_is_told_with_status_78_by_whom_it_concerns_alone() {
    let _permit = Permit::one();
    let scratch = Scratch::new("broken-template");
    for file in repository("tests/fixtures/tiny/qwen3").read_dir().unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        std::fs::copy(file.path(), scratch.file(&name)).unwrap();
    }
    std::fs::write(scratch.file("chat_template.jinja"), "\n{% if %}").unwrap();
    let folder = scratch.path().to_str().unwrap();
    let chat = Run::of(&["run", folder, "Hello", "--use-template"]);
    assert_eq!(chat.status.code(), Some(78), "{chat:?}");
    assert!(chat.stderr.contains("chat_template line 2: "), "{chat:?}");
    Run::good(&["run", folder, "Hello", "--max-tokens", "1"]);
}

#[test]
fn a_raw_prompt_to_a_chat_model_is_told_and_so_is_an_answer_that_ends_at_once() {
    let _permit = Permit::one();
    let question = "What is the capital of France?";
    let raw = Run::good(&["run", "demo", question]);
    assert_eq!(raw.stdout.trim(), "");
    let line = |words: &str| raw.stderr.lines().position(|line| line.contains(words));
    let (told, why) = (line("--use-template"), line("the answer is empty"));
    assert!(told.is_some() && told < why, "{}", raw.stderr);
    let asked = Run::good(&["run", "demo", question, "--use-template"]);
    assert!(asked.stdout.contains("Paris"), "{asked:?}");
    assert!(!asked.stderr.contains("--use-template"), "{asked:?}");
}

#[test]
fn a_lost_rank_ends_the_command_with_its_name_and_status_70() {
    const LIMIT: Duration = Duration::from_secs(5);
    let _permit = Permit::one();
    let args = ["run", "demo", "Once upon a time", "--max-tokens", "5000", "--tp", "2"];
    let mut command = binfer();
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b", the ci");
    let workers = workers_of(child.id());
    assert_eq!(workers.len(), 2);
    assert!(send_signal(workers[1].1, Signal::KILL));
    let killed = Instant::now();
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(killed.elapsed() < LIMIT, "{:?}", killed.elapsed());
    assert_eq!(output.status.code(), Some(70), "{log}");
    assert!(log.contains("binfer: rank 1: was killed by signal 9"), "{log}");
    assert!(!log.contains(" tok/s]"), "{log}");
    let gone = || workers.iter().all(|(_, pid)| !is_alive(*pid)).then_some(());
    assert!(poll(LIMIT, gone).is_some(), "workers are left");
}

#[test]
fn a_seed_makes_a_drawn_answer_repeatable_at_any_rank_count() {
    let _permit = Permit::one();
    let drawn = |seed: &str, tp: &str| {
        let args =
            ["run", "demo", "Once upon a time", "--max-tokens", "24", "--temperature", "1.0"];
        let more = ["--top-k", "40", "--top-p", "0.95", "--seed", seed, "--tp", tp, "-q"];
        Run::good(&[&args[..], &more[..]].concat()).stdout
    };
    let first = drawn("7", "1");
    assert_eq!(first, drawn("7", "1"));
    assert_eq!(first, drawn("7", "2"));
    let others: Vec<String> = ["8", "9"].map(|seed| drawn(seed, "1")).into();
    assert!(others.iter().any(|other| *other != first), "the seed changes nothing: {first}");
}

/// A process that may run its program but not read it belongs to root, as far as /proc is
/// concerned.
#[test]
fn a_program_that_may_be_run_but_not_read_answers() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let _permit = Permit::one();
    let scratch = Scratch::new("unreadable");
    let (program, model) = (scratch.file("binfer"), scratch.file("model"));
    let set_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(scratch.path(), 0o755);
    std::fs::copy(env!("CARGO_BIN_EXE_binfer"), &program).unwrap();
    set_mode(&program, 0o111);
    std::fs::create_dir(&model).unwrap();
    set_mode(&model, 0o755);
    for entry in std::fs::read_dir(repository("tests/fixtures/tiny/qwen3")).unwrap() {
        let from = entry.unwrap().path();
        let to = model.join(from.file_name().unwrap());
        std::fs::copy(&from, &to).unwrap();
        set_mode(&to, 0o644);
    }
    let run = |ranks: &str| {
        let mut command = Command::new(&program);
        command.arg("run").arg(&model).args(["Once", "--max-tokens", "2", "--tp", ranks]);
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534); // root may read every file
        }
        command.current_dir("/").stdin(Stdio::null()).output().unwrap()
    };
    let one = run("1");
    assert!(one.status.success(), "{one:?}");
    // Ranks on the CPU meet in memory of each other, which such processes may not open.
    let two = run("2");
    let said = String::from_utf8_lossy(&two.stderr);
    assert_eq!(two.status.code(), Some(70), "{said}");
    assert!(said.contains("who may read the program's file"), "{said}");
}
