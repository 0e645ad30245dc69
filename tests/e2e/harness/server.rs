//! A real `binfer serve`: coordinator and workers, killed when the test is over.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::log::Log;
use super::{Client, PATIENCE, Permit, binfer, is_alive, poll, send_signal, workers_of};

/// A server under test.
#[derive(Debug)]
pub(crate) struct Server {
    coordinator: Child,
    pub(crate) client: Client,
    pub(crate) log: Log,
    world: usize,
    seen: Vec<(usize, u32)>,
    _permit: Permit,
}

impl Server {
    /// Starts `binfer serve demo --dtype f32 --port 0 --tp TP ARGS`; [`Self::wait_until_listening`]
    /// or [`Self::wait_until_ready`] is needed before its client is of use.
    pub(crate) fn start(permit: Permit, tp: usize, args: &[&str]) -> Self {
        Self::of("demo", permit, tp, args)
    }

    /// The same with another model.
    pub(crate) fn of(model: &str, permit: Permit, tp: usize, args: &[&str]) -> Self {
        Self::with(model, permit, tp, (&[&["--dtype", "f32"], args].concat(), &[]))
    }

    /// The same in any type, with variables beside the arguments.
    pub(crate) fn with(
        model: &str,
        permit: Permit,
        tp: usize,
        (args, variables): (&[&str], &[(&str, &str)]),
    ) -> Self {
        let mut coordinator = binfer()
            .args(["serve", model, "--port", "0", "--tp", &tp.to_string()])
            .args(args)
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::of(coordinator.stderr.take().unwrap());
        let address = ([127, 0, 0, 1], 0).into();
        let client = Client { address, timeout: PATIENCE };
        Self { coordinator, client, log, world: tp, seen: Vec::new(), _permit: permit }
    }

    /// Starts a server and waits until it is ready.
    pub(crate) fn ready(permit: Permit, tp: usize, args: &[&str]) -> Self {
        let mut server = Self::start(permit, tp, args);
        server.wait_until_ready();
        server
    }

    /// Waits until it takes connections, and learns where.
    pub(crate) fn wait_until_listening(&mut self) {
        let line = self.log.wait_for("listening on http://", PATIENCE);
        let line = line.unwrap_or_else(|| panic!("it does not listen:\n{}", self.log.text()));
        self.client.address = line.split("http://").nth(1).unwrap().parse().unwrap();
    }

    pub(crate) fn wait_until_ready(&mut self) {
        self.wait_until_listening();
        let announced = self.log.wait_for(": ready in ", PATIENCE);
        assert!(announced.is_some(), "it does not become ready:\n{}", self.log.text());
        let ready = || self.client.get("/health").ok().filter(|reply| reply.status == 200);
        assert!(poll(PATIENCE, ready).is_some(), "no health:\n{}", self.log.text());
        self.workers();
    }

    /// Process of the coordinator.
    pub(crate) fn pid(&self) -> u32 {
        self.coordinator.id()
    }

    /// Ranks and processes of the workers that run now; remembered for [`Self::survivors`].
    pub(crate) fn workers(&mut self) -> Vec<(usize, u32)> {
        let workers = workers_of(self.pid());
        for worker in &workers {
            if !self.seen.contains(worker) {
                self.seen.push(*worker);
            }
        }
        workers
    }

    /// Waits until the process of `rank` runs.
    pub(crate) fn worker(&mut self, rank: usize) -> u32 {
        let find = || self.workers().iter().find(|(other, _)| *other == rank).map(|(_, pid)| *pid);
        let pid = poll(PATIENCE, find);
        pid.unwrap_or_else(|| panic!("no worker of rank {rank}:\n{}", self.log.text()))
    }

    /// Waits until every rank has a process.
    pub(crate) fn all_workers(&mut self) -> Vec<u32> {
        (0..self.world).map(|rank| self.worker(rank)).collect()
    }

    /// Sends a signal to the coordinator.
    pub(crate) fn signal(&self, signal: Signal) {
        assert!(send_signal(self.pid(), signal), "the coordinator is gone");
    }

    /// Waits for the end of the coordinator.
    pub(crate) fn exit(&mut self, limit: Duration) -> ExitStatus {
        let status = poll(limit, || self.coordinator.try_wait().unwrap());
        status.unwrap_or_else(|| panic!("it did not end in {limit:?}:\n{}", self.log.text()))
    }

    /// Workers that still live after `limit`: those seen, and any that were started unseen.
    pub(crate) fn survivors(&mut self, limit: Duration) -> Vec<(usize, u32)> {
        let start = Instant::now();
        loop {
            self.workers();
            let alive = self.seen.iter().filter(|(_, pid)| is_alive(*pid)).copied();
            let alive: Vec<_> = alive.collect();
            if alive.is_empty() || start.elapsed() >= limit {
                return alive;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes it down with SIGTERM; it must end well and leave nobody behind.
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.exit(Duration::from_secs(40));
        assert!(status.success(), "{status}:\n{}", self.log.text());
        assert_eq!(self.survivors(Duration::from_secs(1)), []);
        self.log.finish()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let workers = self.workers();
        let _ = self.coordinator.kill();
        let status = self.coordinator.wait();
        for (_, pid) in workers {
            // They end with the coordinator; this is for the case that they do not.
            if is_alive(pid) && workers_of(self.pid()).iter().any(|(_, other)| *other == pid) {
                send_signal(pid, Signal::KILL);
            }
        }
        if std::thread::panicking() {
            let signal = status.ok().and_then(|status| status.signal());
            eprintln!("stderr of the server (signal {signal:?}):\n{}", self.log.text());
        }
    }
}
