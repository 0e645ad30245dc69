//! Ranks killed at any moment: every client gets a whole answer or an error that names rank and
//! cause within five seconds, the coordinator ends with status 70, and nobody is left.
//!
//! 60 moments, spread by seed over ranks and phases. `BINFER_FAULT_SEED=N` tries others.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Client, PATIENCE, Permit, Prng, Reply, Server, Streamed, full, goldens, is_waiting, maps,
    newest_thread_named, poll, send_signal, traces,
};

/// From the kill to the last trace of the cluster.
const LIMIT: Duration = Duration::from_secs(5);
/// Per rank; the ranks of worlds of two and three are five.
const MOMENTS: usize = 12;

/// What a cluster is doing when a rank dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The process has just been started.
    Start,
    /// It reads weights.
    Load,
    /// Ranks join each other and allocate.
    Handshake,
    /// A long prompt is fed.
    Prefill,
    /// It waits in a collective for another rank, which is stopped.
    Collective,
    /// Tokens come.
    Decode,
    /// Tokens come after SIGTERM.
    Drain,
}

const PHASES: [Phase; 7] = [
    Phase::Decode,
    Phase::Collective,
    Phase::Load,
    Phase::Prefill,
    Phase::Handshake,
    Phase::Drain,
    Phase::Start,
];

/// What a client saw, and when it was over.
#[derive(Debug)]
enum Seen {
    Stream(Streamed),
    Whole(Reply),
}

#[test]
fn a_killed_rank_of_two_is_named_to_every_client() {
    kill_each_rank(2);
}

#[test]
fn a_killed_rank_of_three_is_named_to_every_client() {
    kill_each_rank(3);
}

fn kill_each_rank(world: usize) {
    let seed = std::env::var("BINFER_FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(20_260);
    let moments = if full() { MOMENTS * 3 } else { MOMENTS };
    for number in 0..moments * world {
        let (rank, round) = (number % world, number / world);
        // Each rank sees every phase, and another one twice.
        let phase = PHASES[(round + rank) % PHASES.len()];
        let mut prng = Prng::new(seed ^ ((world * 1000 + number) as u64));
        eprintln!("seed {seed}, moment {number}: rank {rank} of {world} dies in {phase:?}");
        kill_in(phase, world, rank, &mut prng);
    }
}

fn kill_in(phase: Phase, world: usize, rank: usize, prng: &mut Prng) {
    let mut server = Server::start(Permit::one(), world, &[]);
    let clients = match phase {
        Phase::Start | Phase::Load | Phase::Handshake => None,
        Phase::Prefill | Phase::Collective | Phase::Decode | Phase::Drain => {
            server.wait_until_ready();
            Some(ask(server.client, phase, prng))
        }
    };
    let victim = server.worker(rank);
    reach(&mut server, phase, (world, rank, victim), prng);
    server.workers();
    assert!(send_signal(victim, Signal::KILL), "{phase:?}: rank {rank} ended before");
    let killed = Instant::now();
    if let Some(clients) = clients {
        for client in clients {
            judge(client.join().unwrap(), rank, killed);
        }
    }
    let status = server.exit(LIMIT.saturating_sub(killed.elapsed()));
    assert_eq!(status.code(), Some(70), "{phase:?}: {}", server.log.text());
    assert_eq!(server.survivors(LIMIT.saturating_sub(killed.elapsed())), [], "{phase:?}");
    assert!(killed.elapsed() < LIMIT, "{phase:?}: {:?}", killed.elapsed());
    assert_eq!(traces(server.pid()), Vec::<PathBuf>::new(), "{phase:?}");
    let log = server.log.finish();
    let cause = format!("rank {rank}: was killed by signal 9");
    assert!(log.contains(&cause), "{phase:?}: not {cause:?} but {log}");
}

/// One client reads a stream, one waits for a whole answer. Returns when the stream has come as
/// far as `phase` wants.
fn ask(client: Client, phase: Phase, prng: &mut Prng) -> Vec<thread::JoinHandle<Seen>> {
    let long = goldens().into_iter().find(|golden| golden.name == "long").unwrap();
    let (prompt, pieces) = match phase {
        Phase::Prefill => (Value::from(long.text.unwrap()), 0),
        _ => (Value::from("Once upon a time"), usize::try_from(1 + prng.below(20)).unwrap()),
    };
    let body = json!({
        "prompt": prompt, "temperature": 0, "max_tokens": 3000, "ignore_eos": true,
    });
    let (reached, far_enough) = mpsc::channel();
    let streamed = body.clone();
    let stream = thread::spawn(move || {
        let mut events = match client.stream("/v1/completions", &streamed).unwrap() {
            Ok(events) => events,
            Err(reply) => return Seen::Whole(reply),
        };
        let first = events.pieces(pieces);
        let _ = reached.send(());
        let rest = events.rest();
        Seen::Stream(Streamed { text: first.text + &rest.text, ..rest })
    });
    let whole = thread::spawn(move || Seen::Whole(client.post("/v1/completions", &body).unwrap()));
    far_enough.recv_timeout(PATIENCE).expect("the stream did not come so far");
    vec![stream, whole]
}

/// Waits for the seeded moment within `phase`.
fn reach(
    server: &mut Server,
    phase: Phase,
    (world, rank, victim): (usize, usize, u32),
    prng: &mut Prng,
) {
    let most = match phase {
        Phase::Start | Phase::Handshake => Duration::from_millis(4),
        Phase::Load => Duration::from_millis(120),
        Phase::Prefill => Duration::from_millis(1500),
        Phase::Collective | Phase::Decode => Duration::from_millis(60),
        Phase::Drain => Duration::from_millis(200),
    };
    match phase {
        Phase::Start | Phase::Load | Phase::Prefill | Phase::Decode => {}
        Phase::Handshake => {
            let first = server.worker(0);
            let made = poll(PATIENCE, || maps(first, "binfer-comm").then_some(()));
            assert!(made.is_some(), "no communicator: {}", server.log.text());
        }
        Phase::Collective => {
            let peer = server.worker((rank + 1) % world);
            assert!(send_signal(peer, Signal::STOP));
            wait_in_collective(victim);
        }
        Phase::Drain => server.signal(Signal::TERM),
    }
    thread::sleep(prng.delay(most));
}

/// While a step is in flight and a peer is stopped, a rank that sleeps, sleeps in a collective.
fn wait_in_collective(victim: u32) {
    let engine = newest_thread_named(victim, "engine").expect("no engine thread");
    let mut asleep = 0;
    let waits = poll(PATIENCE, || {
        asleep = if is_waiting(victim, engine) { asleep + 1 } else { 0 };
        (asleep >= 10).then_some(())
    });
    assert!(waits.is_some(), "the engine does not come to wait");
}

fn judge(seen: Seen, rank: usize, killed: Instant) {
    let took = killed.elapsed();
    let names = |message: &str| message.contains(&format!("rank {rank}: was killed by signal 9"));
    match &seen {
        Seen::Stream(stream) => {
            assert!(!(stream.done && stream.error.is_some()), "[DONE] beside an error: {seen:?}");
            assert!(!stream.words_after_end && stream.cut.is_none(), "{seen:?}");
            let good = stream.is_whole() || stream.error.as_deref().is_some_and(names);
            assert!(good, "neither whole nor named: {seen:?}");
            let ended = stream.ended.unwrap();
            assert!(ended < killed + LIMIT, "{:?}: {seen:?}", ended - killed);
        }
        Seen::Whole(reply) => {
            let good = reply.status == 200 || (reply.status == 503 && names(&reply.error().0));
            assert!(good, "neither whole nor named: {seen:?}");
        }
    }
    assert!(took < LIMIT, "{took:?}: {seen:?}");
}
