//! Orderly ends: what a signal does to requests that run, to new ones, and to the traces of a
//! cluster on its machine.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Golden, PATIENCE, Permit, Server, Streamed, binfer, goldens, is_alive, poll, send_signal,
    traces, workers_of,
};

const LIMIT: Duration = Duration::from_secs(5);

fn once() -> Golden {
    goldens().into_iter().find(|golden| golden.name == "once").unwrap()
}

#[test]
fn sigterm_lets_the_running_finish_and_refuses_the_new() {
    let server = Server::ready(Permit::one(), 2, &[]);
    let pid = server.pid();
    let golden = once();
    let (path, body) = golden.ask();
    let client = server.client;
    let (started, first) = mpsc::channel();
    let reader = thread::spawn({
        let body = body.clone();
        move || {
            let mut events = client.stream(path, &body).unwrap().unwrap();
            let begin = events.pieces(1);
            started.send(()).unwrap();
            let rest = events.rest();
            Streamed { text: begin.text + &rest.text, ..rest }
        }
    });
    first.recv_timeout(PATIENCE).expect("no text comes");
    server.signal(Signal::TERM);
    assert!(server.client.get("/health").is_ok(), "it does not answer while it drains");
    let drains = poll(LIMIT, || client.get("/health").ok().filter(|reply| reply.status == 503));
    let drains = drains.unwrap_or_else(|| panic!("health stays good"));
    assert!(drains.error().0.contains("shutting down"), "{drains:?}");
    let refused = client.post(path, &body).unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let answer = reader.join().unwrap();
    assert!(answer.is_whole(), "{answer:?}");
    assert_eq!(answer.text, golden.whole);
    let mut server = server;
    let status = server.exit(LIMIT);
    assert!(status.success(), "{status}");
    assert_eq!(server.survivors(LIMIT), []);
    assert_eq!(traces(pid), Vec::<PathBuf>::new());
}

#[test]
fn draining_ends_at_its_limit_with_an_error_to_those_who_still_wait() {
    let mut server = Server::ready(Permit::one(), 2, &["--drain", "1"]);
    let (path, mut body) = once().ask();
    body["max_tokens"] = json!(6000);
    let mut events = server.client.stream(path, &body).unwrap().unwrap();
    events.pieces(1);
    server.signal(Signal::TERM);
    let answer = events.rest();
    let error = answer.error.as_deref().unwrap_or_else(|| panic!("{answer:?}"));
    assert!(error.contains("shutting down") && !answer.done, "{answer:?}");
    assert!(server.exit(LIMIT).success());
    assert_eq!(server.survivors(LIMIT), []);
}

/// A stopped worker holds the start, so that it can be looked at.
#[test]
fn requests_that_come_during_the_start_are_told_to_come_back() {
    let mut server = Server::start(Permit::one(), 2, &[]);
    let held = server.worker(1);
    assert!(send_signal(held, Signal::STOP));
    server.wait_until_listening();
    let (path, body) = once().ask();
    let health = server.client.get("/health").unwrap();
    let early = server.client.post(path, &body).unwrap();
    for reply in [&health, &early] {
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.error().0.contains("starting"), "{reply:?}");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
    }
    assert!(send_signal(held, Signal::CONT));
    server.wait_until_ready();
    assert_eq!(server.client.post(path, &body).unwrap().text(), once().whole);
    server.stop();
}

/// What a terminal does with Ctrl-C, and what `kill -INT` to everybody would.
#[test]
fn sigint_takes_all_of_it_down_whoever_gets_it() {
    let mut server = Server::ready(Permit::one(), 2, &[]);
    let pid = server.pid();
    for worker in server.all_workers() {
        assert!(send_signal(worker, Signal::INT));
    }
    let (path, body) = once().ask();
    let reply = server.client.post(path, &body).unwrap();
    assert_eq!((reply.status, reply.text()), (200, once().whole), "workers mind SIGINT");
    server.signal(Signal::INT);
    assert!(server.exit(LIMIT).success(), "{}", server.log.text());
    assert_eq!(server.survivors(LIMIT), []);
    assert_eq!(traces(pid), Vec::<PathBuf>::new());
}

#[test]
fn a_signal_ends_a_start_at_once() {
    let mut server = Server::start(Permit::one(), 2, &[]);
    server.all_workers();
    server.signal(Signal::INT);
    assert!(server.exit(LIMIT).success(), "{}", server.log.text());
    assert_eq!(server.survivors(LIMIT), []);
    assert_eq!(traces(server.pid()), Vec::<PathBuf>::new());
}

#[test]
fn a_second_sigterm_does_not_wait() {
    let mut server = Server::ready(Permit::one(), 2, &[]);
    let (path, mut body) = once().ask();
    body["max_tokens"] = json!(6000);
    let mut events = server.client.stream(path, &body).unwrap().unwrap();
    events.pieces(1);
    server.signal(Signal::TERM);
    let draining = || server.client.get("/health").ok().filter(|reply| reply.status == 503);
    assert!(poll(LIMIT, draining).is_some());
    server.signal(Signal::TERM);
    let status = server.exit(Duration::from_secs(1));
    assert_eq!(status.code(), Some(143));
    assert!(!events.rest().done);
    assert_eq!(server.survivors(LIMIT), []);
}

/// Neither the kernel nor the next start has to clear up behind a cluster that was killed.
#[test]
fn a_killed_cluster_leaves_no_trace() {
    let mut server = Server::ready(Permit::one(), 2, &[]);
    server.signal(Signal::KILL);
    assert_eq!(server.exit(LIMIT).signal(), Some(9));
    assert_eq!(server.survivors(LIMIT), []);
    assert_eq!(traces(server.pid()), Vec::<PathBuf>::new());
}

#[test]
fn ctrl_c_ends_a_command() {
    let _permit = Permit::one();
    let args = ["run", "demo", "Once", "--max-tokens", "8000", "--tp", "2", "-v"];
    let mut child =
        binfer().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let workers = poll(PATIENCE, || {
        let workers = workers_of(pid);
        (workers.len() == 2).then_some(workers)
    });
    let workers = workers.expect("no workers");
    assert!(send_signal(pid, Signal::INT));
    let status = poll(LIMIT, || child.try_wait().unwrap());
    let Some(status) = status else {
        child.kill().unwrap();
        panic!("it goes on");
    };
    assert_eq!(status.code(), Some(130));
    let left = || workers.iter().all(|(_, worker)| !is_alive(*worker)).then_some(());
    assert!(poll(LIMIT, left).is_some(), "workers are left");
    assert_eq!(traces(pid), Vec::<PathBuf>::new());
}
