//! Who dials in at the workers' socket and is no worker of this cluster.

use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

use binfer_coordinator::fleet::{Fleet, FleetConfig, FleetError, Spawn};
use binfer_proto::Rank;
use binfer_proto::cluster::{Hello, down};

use crate::harness::Scratch;
use crate::scripted::{dial, fleet_config, hello, runtime};

const INSTANCE: &str = "of the test";

/// A coordinator that waits for one worker.
fn waiting(config: FleetConfig) -> JoinHandle<Result<(), FleetError>> {
    std::thread::spawn(move || {
        runtime().block_on(async { Fleet::start(config, |_| ()).await.map(|_| ()) })
    })
}

/// The cluster's socket in a folder that is not there yet.
fn config(scratch: &Scratch) -> (FleetConfig, std::path::PathBuf) {
    let socket = scratch.file("cluster").join("cluster.sock");
    let mut config = fleet_config(1, socket.clone());
    config.spawn = Spawn::Elsewhere { instance: INSTANCE.into(), socket: socket.clone() };
    (config, socket)
}

#[test]
fn a_worker_of_another_build_is_refused_with_both_versions() {
    let scratch = Scratch::new("strangers-build");
    let (config, socket) = config(&scratch);
    let fleet = waiting(config);
    let other =
        Hello { version: "0.0.1".into(), build: "older".into(), ..hello(Rank(0), INSTANCE.into()) };
    let mut link = None;
    runtime().block_on(async { link = Some(dial(&socket, other).await) });
    let error = fleet.join().unwrap().expect_err("it starts with a worker of another build");
    let message = error.to_string();
    for word in ["0.0.1", "older", binfer_proto::VERSION, binfer_proto::PROTOCOL_DIGEST] {
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn a_stranger_without_the_instance_token_gets_no_answer_and_harms_nobody() {
    let scratch = Scratch::new("strangers-token");
    let (config, socket) = config(&scratch);
    let fleet = waiting(config);
    runtime().block_on(async {
        let (_up, mut down) = dial(&socket, hello(Rank(0), "guessed".into())).await;
        let answer = down.message().await;
        assert!(matches!(answer, Ok(None) | Err(_)), "a stranger is told: {answer:?}");
        let mode = std::fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "others may reach the socket");
        // The place that the stranger wanted is still free for the cluster's own worker.
        let (up, mut down) = dial(&socket, hello(Rank(0), INSTANCE.into())).await;
        let welcome = down.message().await.unwrap().and_then(|down| down.message);
        assert!(matches!(welcome, Some(down::Message::Welcome(_))), "{welcome:?}");
        drop((up, down));
    });
    fleet.join().unwrap().expect_err("the worker left before it was ready");
}
