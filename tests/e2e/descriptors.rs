//! A server that has no descriptor left.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::{PATIENCE, Permit, Server, poll, repository};

/// Connections that the server may still accept.
const LEFT: usize = 8;

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn a_server_without_descriptors_makes_room_for_the_next_client_and_gets_all_of_them_back() {
    let model = repository("tests/fixtures/tiny/qwen3");
    let mut server = Server::of(model.to_str().unwrap(), Permit::one(), 1, &[]);
    server.wait_until_ready();
    let settled = poll(PATIENCE, || {
        let before = open_files(server.pid());
        std::thread::sleep(Duration::from_millis(50));
        (open_files(server.pid()) == before).then_some(before)
    });
    let before = settled.unwrap();
    let limit = Some((before + LEFT) as u64);
    let pid = Pid::from_raw(server.pid().cast_signed());
    prlimit(pid, Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let client = server.client;
    let idle: Vec<_> = (0..4 * LEFT).map(|_| TcpStream::connect(client.address).unwrap()).collect();
    // All descriptors are taken, and more connections wait behind them.
    for _ in 0..3 {
        assert_eq!(client.get("/health").unwrap().status, 200);
    }
    drop(idle);
    let back = || (open_files(server.pid()) <= before).then_some(());
    assert!(poll(PATIENCE, back).is_some(), "{} of {before}", open_files(server.pid()));
    assert_eq!(client.get("/health").unwrap().status, 200);
    server.stop();
}
