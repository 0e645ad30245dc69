//! gRPC of a real server: the gateway SMG in front of it, as `make test` installs it.

use std::process::Command;
use std::time::Duration;

use crate::harness::{PATIENCE, Permit, Scratch, Server, goldens, repository};

/// A server, and where it speaks gRPC.
fn server(tp: usize) -> (Server, String) {
    let server = Server::ready(Permit::one(), tp, &["--grpc-port", "0"]);
    let line = server.log.wait_for("listening for gRPC on ", PATIENCE).unwrap();
    let address = line.rsplit(' ').next().unwrap().to_owned();
    (server, address)
}

/// Runs a script of this folder, which must say last that its checks have passed.
fn passes(script: &str, args: &[&str], checks: usize) {
    let client = repository("target/python");
    assert!(client.join("smg").is_dir(), "the gateway is missing: run `make test` once");
    let scratch = Scratch::new(script);
    let output = Command::new("python3")
        .arg(repository("tests/e2e").join(script))
        .args(args)
        .env("PYTHONPATH", client)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{out}\n{err}");
    let last = format!("all {checks} checks passed");
    assert_eq!(out.lines().last(), Some(last.as_str()), "{out}\n{err}");
}

fn answer() -> String {
    let golden = goldens().into_iter().find(|golden| golden.name == "chat-stop").unwrap();
    golden.generated
}

/// The gateway's clients get what binfer's own get, and hear of a worker's end.
#[test]
fn the_gateway_smg_serves_its_apis_in_front_of_binfer() {
    let (mut server, address) = server(2);
    let worker = server.worker(1).to_string();
    passes("gateway.py", &[&address, &answer(), &worker], 12);
    assert_eq!(server.exit(Duration::from_secs(10)).code(), Some(70));
}
