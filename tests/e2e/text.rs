//! Tokenizers that come with models and mean harm, or are killed: a request pays, never the server.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use binfer_coordinator::text::TextError;
use binfer_coordinator::text::process::{Deadlines, TextConfig, TextJob, TextProcess, TextSource};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    PATIENCE, Permit, Scratch, Server, is_alive, poll, repository, send_signal, text_process_of,
};

/// A folder of a tiny model whose tokenizer.json has been changed.
fn folder(scratch: &Scratch, change: impl FnOnce(&mut Value)) {
    for entry in repository("tests/fixtures/tiny/qwen3").read_dir().unwrap().flatten() {
        std::fs::copy(entry.path(), scratch.path().join(entry.file_name())).unwrap();
    }
    let path = scratch.file("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut tokenizer);
    std::fs::write(path, tokenizer.to_string()).unwrap();
}

/// Each "a" of a text becomes `times` to the power of `steps` of them.
fn growing(times: usize, steps: usize) -> impl FnOnce(&mut Value) {
    move |tokenizer| {
        let step = json!({ "type": "Replace", "pattern": { "String": "a" },
            "content": "a".repeat(times) });
        tokenizer["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![step; steps] });
    }
}

/// Indexes beyond its own table for any character.
fn panicking(tokenizer: &mut Value) {
    // 8 bytes of table, the second entry pointing far away, and a text to replace with.
    let charsmap = "CAAAAAAEAAD///9/YWJjAA==";
    tokenizer["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": charsmap });
}

fn start(folder: &Path, deadlines: Deadlines) -> Result<TextProcess, TextError> {
    let program = env!("CARGO_BIN_EXE_binfer").into();
    TextProcess::start(
        TextConfig {
            program,
            source: TextSource::Folder(folder.to_owned()),
            split_special_tokens: false,
            deadlines,
        },
        Box::new(|_| {}),
    )
}

fn prompt(text: &str) -> TextJob {
    TextJob::Prompt { text: text.into(), tokens_max: u32::MAX, add_special: true }
}

/// The one text process of this test process whose command line holds `folder`.
fn pid_of(folder: &Path) -> Option<u32> {
    let named = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("\0text\0") && line.contains(&format!("\0{}\0", folder.display()))
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(named)
}

#[test]
fn a_text_that_grows_beyond_memory_costs_itself_alone() {
    let scratch = Scratch::new("text-memory");
    folder(&scratch, growing(1000, 4));
    let process = start(scratch.path(), Deadlines::default()).unwrap();
    let right = process.encode(&prompt("How 12")).unwrap();
    std::thread::scope(|scope| {
        let grown = scope.spawn(|| process.encode(&prompt("a")).unwrap_err().to_string());
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(process.encode(&prompt("How 12")).unwrap(), right);
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
        let error = grown.join().unwrap();
        assert!(error.contains("needed more memory than it may take"), "{error}");
    });
}

#[test]
fn a_text_that_takes_too_long_is_cut_off_and_delays_no_other() {
    let scratch = Scratch::new("text-time");
    folder(&scratch, growing(100, 3));
    let job = Duration::from_secs(2);
    let deadlines = Deadlines { job, job_megabyte: Duration::ZERO, ..Deadlines::default() };
    let process = start(scratch.path(), deadlines).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| process.encode(&prompt("aaaaaaaa")).unwrap_err().to_string());
        std::thread::sleep(job / 8);
        assert!(!process.encode(&prompt("How 12")).unwrap().is_empty());
        assert!(began.elapsed() < job, "a slow text delays others");
        let error = slow.join().unwrap();
        assert!(error.contains("took more than 2 s over it"), "{error}");
    });
    assert!(began.elapsed() < PATIENCE / 10);
    assert!(!process.encode(&prompt("How 12")).unwrap().is_empty());
}

#[test]
fn a_panic_is_an_error_of_its_text() {
    let scratch = Scratch::new("text-panic");
    folder(&scratch, panicking);
    let process = start(scratch.path(), Deadlines::default()).unwrap();
    let pid = pid_of(scratch.path()).unwrap();
    for _ in 0..20 {
        let error = process.encode(&prompt("x")).unwrap_err().to_string();
        assert!(error.contains("panicked over this text"), "{error}");
    }
    assert_eq!(process.encode(&prompt("")).unwrap(), [0; 0]);
    assert!(is_alive(pid), "the process need not end for that");
}

#[test]
fn a_tokenizer_that_adds_gigabytes_to_each_text_costs_texts_alone() {
    let scratch = Scratch::new("text-specials");
    folder(&scratch, |tokenizer| {
        // 5000 times 100,000 tokens around each text.
        let piece = json!({ "SpecialToken": { "id": "X", "type_id": 0 } });
        let tokens = json!({ "id": "X", "ids": vec![1; 100_000], "tokens": vec!["a"; 100_000] });
        tokenizer["post_processor"] = json!({ "type": "TemplateProcessing",
            "single": vec![piece; 5000], "pair": [], "special_tokens": { "X": tokens } });
    });
    let process = start(scratch.path(), Deadlines::default()).unwrap();
    for _ in 0..2 {
        let error = process.encode(&prompt("How 12")).unwrap_err().to_string();
        assert!(error.contains("it needed more memory than it may take"), "{error}");
    }
}

#[test]
fn a_tokenizer_that_cannot_be_loaded_is_refused_with_the_reason() {
    let scratch = Scratch::new("text-start");
    folder(&scratch, |tokenizer| tokenizer["decoder"] = Value::Null);
    let error = start(scratch.path(), Deadlines::default()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: a tokenizer without a decoder"), "{error}");
    folder(&scratch, |_| {});
    let hurried = Deadlines { start: Duration::ZERO, ..Deadlines::default() };
    let error = start(scratch.path(), hurried).err().map(|error| error.to_string());
    assert!(error.is_none_or(|error| error.contains("it took more than 0 s to read")));
}

#[test]
fn a_killed_text_process_is_there_again_until_it_ends_too_often() {
    let scratch = Scratch::new("text-killed");
    folder(&scratch, |_| {});
    let process = start(scratch.path(), Deadlines::default()).unwrap();
    let right = process.encode(&prompt("How 12")).unwrap();
    let mut kills = 0;
    let error = loop {
        match process.encode(&prompt("How 12")) {
            Ok(tokens) => assert_eq!(tokens, right),
            Err(error) => break error,
        }
        let pid = poll(PATIENCE, || pid_of(scratch.path())).unwrap();
        assert!(send_signal(pid, Signal::KILL));
        assert!(poll(PATIENCE, || (!is_alive(pid)).then_some(())).is_some());
        kills += 1;
        assert!(kills < 30, "no end of starts");
    };
    assert!(matches!(error, TextError::Resting(_)), "{error}");
    assert!(error.to_string().contains("killed by signal 9"), "{error}");
    assert!(kills >= 3, "{kills}");
    assert_eq!(pid_of(scratch.path()), None, "nothing is started any more");
}

#[test]
fn files_that_changed_do_not_speak_for_those_of_the_start() {
    let scratch = Scratch::new("text-changed");
    folder(&scratch, |_| {});
    let process = start(scratch.path(), Deadlines::default()).unwrap();
    let pid = pid_of(scratch.path()).unwrap();
    folder(&scratch, |tokenizer| {
        let swapped = &mut tokenizer["model"]["vocab"];
        (swapped["!"], swapped["\""]) = (swapped["\""].clone(), swapped["!"].clone());
    });
    assert!(send_signal(pid, Signal::KILL));
    let error = process.encode(&prompt("How 12")).unwrap_err();
    assert!(error.to_string().contains("others than at the server's start"), "{error}");
}

#[test]
fn a_server_with_a_hostile_tokenizer_serves_on_and_leaves_nobody() {
    let scratch = Scratch::new("text-server");
    folder(&scratch, growing(1000, 4));
    let model = scratch.path().to_str().unwrap();
    let mut server = Server::of(model, Permit::one(), 1, &[]);
    server.wait_until_ready();
    let ask = |server: &Server, text: &str| {
        let body = json!({ "prompt": text, "max_tokens": 2, "temperature": 0 });
        server.client.post("/v1/completions", &body).unwrap()
    };
    assert_eq!(ask(&server, "How 12").status, 200);
    let refused = ask(&server, "a");
    assert_eq!(refused.status, 500, "{refused:?}");
    assert!(refused.error().0.contains("cannot be made into tokens"), "{refused:?}");
    assert_eq!(ask(&server, "How 12").status, 200);
    let log = server.log.text();
    assert!(log.contains("is started again: it needed more memory"), "{log}");
    let text = poll(PATIENCE, || text_process_of(server.pid())).unwrap();
    server.signal(Signal::KILL);
    server.exit(PATIENCE);
    let ended = poll(Duration::from_secs(5), || (!is_alive(text)).then_some(()));
    assert!(ended.is_some(), "the text process outlives its coordinator");
    assert_eq!(server.survivors(Duration::from_secs(5)), []);

    let mut server = Server::of(model, Permit::one(), 1, &[]);
    server.wait_until_ready();
    let text = poll(PATIENCE, || text_process_of(server.pid())).unwrap();
    server.stop();
    let ended = poll(Duration::from_secs(5), || (!is_alive(text)).then_some(()));
    assert!(ended.is_some(), "the text process outlives an orderly end");
}

#[test]
fn a_signal_ends_a_server_in_order_while_a_prompt_is_tokenised_and_half_a_request_is_there() {
    let scratch = Scratch::new("text-signal");
    folder(&scratch, growing(100, 3));
    let mut server = Server::of(scratch.path().to_str().unwrap(), Permit::one(), 1, &[]);
    server.wait_until_ready();
    let client = server.client;
    let asked = std::thread::spawn(move || {
        let body = json!({ "prompt": "aaaaaaaa", "max_tokens": 2 });
        client.post("/v1/completions", &body).unwrap()
    });
    let mut half = TcpStream::connect(client.address).unwrap();
    half.write_all(b"POST /v1/comp").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    server.signal(Signal::TERM);
    let status = server.exit(Duration::from_secs(5));
    assert!(status.success(), "{status}: {}", server.log.text());
    let refused = asked.join().unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
}
