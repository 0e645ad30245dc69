//! Who dials in at the workers' socket and is no worker of this cluster.

use std::path::PathBuf;
use std::thread::JoinHandle;

use binfer_coordinator::fleet::{Fleet, FleetError};
use binfer_proto::Rank;
use binfer_proto::cluster::{Hello, down};

use crate::scripted::{dial, fleet_config, hello, rendezvous, runtime};

/// A coordinator that waits for one worker, and where that is to dial in, with what token.
fn waiting() -> (JoinHandle<Result<(), FleetError>>, PathBuf, String) {
    let rendezvous = rendezvous();
    let (socket, instance) = (rendezvous.address(), rendezvous.instance().to_owned());
    let start = async { Fleet::start(fleet_config(1), rendezvous, |_| ()).await.map(|_| ()) };
    (std::thread::spawn(move || runtime().block_on(start)), socket, instance)
}

#[test]
fn a_worker_of_another_build_is_refused_with_both_versions() {
    let (fleet, socket, instance) = waiting();
    let other =
        Hello { version: "0.0.1".into(), build: "older".into(), ..hello(Rank(0), instance) };
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
    let (fleet, socket, instance) = waiting();
    runtime().block_on(async {
        let (_up, mut down) = dial(&socket, hello(Rank(0), "guessed".into())).await;
        let answer = down.message().await;
        assert!(matches!(answer, Ok(None) | Err(_)), "a stranger is told: {answer:?}");
        // The place that the stranger wanted is still free for the cluster's own worker.
        let (up, mut down) = dial(&socket, hello(Rank(0), instance)).await;
        let welcome = down.message().await.unwrap().and_then(|down| down.message);
        assert!(matches!(welcome, Some(down::Message::Welcome(_))), "{welcome:?}");
        drop((up, down));
    });
    fleet.join().unwrap().expect_err("the worker left before it was ready");
}
