//! Ranks that stand still, and the sudden end of the coordinator.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Golden, PATIENCE, Permit, Server, Streamed, goldens, is_alive, is_waiting, newest_thread_named,
    poll, send_signal,
};

/// From the end of the coordinator to the end of its last worker.
const LIMIT: Duration = Duration::from_secs(5);

/// Starts to read a stream on a thread; returns when the first text has come.
fn reading(server: &Server, golden: &Golden, max_tokens: u32) -> thread::JoinHandle<Streamed> {
    let (path, mut body) = golden.ask();
    body["max_tokens"] = json!(max_tokens);
    let client = server.client;
    let (started, first) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut events = client.stream(path, &body).unwrap().unwrap();
        let begin = events.pieces(1);
        started.send(()).unwrap();
        let rest = events.rest();
        Streamed { text: begin.text + &rest.text, ..rest }
    });
    first.recv_timeout(PATIENCE).expect("no text comes");
    reader
}

fn once() -> Golden {
    goldens().into_iter().find(|golden| golden.name == "once").unwrap()
}

#[test]
fn a_stop_of_a_second_harms_nothing() {
    let mut server = Server::ready(Permit::one(), 2, &[]);
    let golden = once();
    for rank in 0..2 {
        let reader = reading(&server, &golden, 64);
        let worker = server.worker(rank);
        assert!(send_signal(worker, Signal::STOP));
        thread::sleep(Duration::from_secs(1));
        assert!(send_signal(worker, Signal::CONT));
        let answer = reader.join().unwrap();
        assert!(answer.is_whole(), "{answer:?}");
        assert_eq!(answer.text, golden.whole);
    }
    server.stop();
}

#[test]
fn a_stop_past_the_step_deadline_is_a_loss_and_names_the_rank() {
    for (world, rank) in [(2, 0), (3, 1)] {
        let mut server = Server::ready(Permit::one(), world, &["--step-deadline", "1"]);
        let reader = reading(&server, &once(), 3000);
        let workers = server.all_workers();
        assert!(send_signal(workers[rank], Signal::STOP));
        let stopped = Instant::now();
        let answer = reader.join().unwrap();
        let error = answer.error.as_deref().unwrap_or_else(|| panic!("{answer:?}"));
        assert!(error.starts_with(&format!("rank {rank}: ")), "{error}");
        assert!(error.contains("for 1.0 s") && !answer.done, "{answer:?}");
        let status = server.exit(LIMIT);
        assert_eq!(status.code(), Some(70), "{}", server.log.text());
        assert_eq!(server.survivors(LIMIT.saturating_sub(stopped.elapsed())), []);
    }
}

/// How the workers are when their coordinator is killed.
#[derive(Clone, Copy, Debug)]
enum Workers {
    Loading,
    Idle,
    Decoding,
    /// One is stopped, and with it no signal but SIGKILL does anything.
    Stopped,
    /// One is stopped and the other waits for it.
    InCollective,
}

#[test]
fn the_coordinators_sudden_end_leaves_nobody_behind() {
    use Workers::{Decoding, Idle, InCollective, Loading, Stopped};
    for workers in [Loading, Idle, Decoding, Stopped, InCollective] {
        let mut server = Server::start(Permit::one(), 2, &[]);
        let pids = server.all_workers();
        if !matches!(workers, Loading) {
            server.wait_until_ready();
        }
        let reader = match workers {
            Loading | Idle | Stopped => None,
            Decoding | InCollective => Some(reading(&server, &once(), 3000)),
        };
        if matches!(workers, Stopped | InCollective) {
            assert!(send_signal(pids[1], Signal::STOP));
        }
        if matches!(workers, InCollective) {
            let engine = newest_thread_named(pids[0], "engine").unwrap();
            let mut asleep = 0;
            let waits = poll(PATIENCE, || {
                asleep = if is_waiting(pids[0], engine) { asleep + 1 } else { 0 };
                (asleep >= 10).then_some(())
            });
            assert!(waits.is_some(), "the engine does not come to wait");
        }
        assert!(pids.iter().all(|pid| is_alive(*pid)), "{workers:?}");
        server.signal(Signal::KILL);
        let killed = Instant::now();
        assert_eq!(server.survivors(LIMIT), [], "{workers:?}");
        server.exit(LIMIT);
        if let Some(reader) = reader {
            let answer = reader.join().unwrap();
            assert!(!answer.done && answer.cut.is_some(), "{answer:?}");
            assert!(killed.elapsed() < LIMIT);
        }
    }
}
