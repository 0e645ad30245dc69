//! Real worker processes and no coordinator: a test speaks the protocol with them itself.
//!
//! Deliberately absent: any knowledge of what a right answer is. No wait is without an end.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use binfer_proto::cluster::cluster_server::{Cluster, ClusterServer};
use binfer_proto::cluster::{
    Allocate, Beat, Comm, Cuda, Down, KvDtype, Load, Stop, Up, Welcome, down, up,
};
use binfer_proto::{Rank, StepResult};
use binfer_shard::Checkpoint;
use tokio::net::UnixListener;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::harness::{Scratch, binfer, poll};

/// Slots of each worker.
pub(crate) const SLOTS: u32 = 8;
/// Blocks of its one KV group.
pub(crate) const BLOCKS: u32 = 16;
/// Longest that a worker may say nothing of what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const INSTANCE: &str = "of the test";

type Downlink = UnboundedSender<Result<Down, Status>>;

/// What comes of a worker.
enum Event {
    /// It dialled in.
    Attached(usize, Downlink),
    /// It said something.
    Said(usize, up::Message),
}

/// Workers of one model; killed when it is dropped.
pub(crate) struct Workers {
    children: Vec<Child>,
    links: Vec<Downlink>,
    events: mpsc::Receiver<Event>,
    /// What nobody has looked at, by rank.
    said: Vec<VecDeque<up::Message>>,
    /// Ends the server, and with it all connections.
    close: Option<oneshot::Sender<()>>,
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.children.iter_mut().for_each(|child| _ = child.kill());
        self.children.iter_mut().for_each(|child| _ = child.wait());
    }
}

impl Workers {
    /// Starts `world` workers on the CPU and brings them to `Ready`.
    pub(crate) fn start(model: &Path, world: usize) -> Self {
        Self::with(world, &Load { kv_dtype: KvDtype::F32.into(), ..load(model) })
    }

    /// Starts one on a GPU.
    pub(crate) fn start_on_gpu(model: &Path) -> Self {
        let libraries = std::env::var("BINFER_CUDA_LIBRARIES").unwrap_or_default();
        let libraries = libraries.split(':').map(str::to_owned).collect();
        let cuda = Cuda { graphs: true, memory_utilization: 0.5, libraries, ..Cuda::default() };
        Self::with(1, &Load { kv_dtype: KvDtype::Bf16.into(), cuda: Some(cuda), ..load(model) })
    }

    fn with(world: usize, load: &Load) -> Self {
        // Tests run beside each other, a thread each.
        let scratch = Scratch::new(&format!("workers-{:?}", thread::current().id()));
        let socket = scratch.file("cluster.sock");
        let (tell, events) = mpsc::channel();
        let (close, closed) = oneshot::channel();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        thread::spawn(move || serve(listener, tell, closed));
        let start = |rank: usize| {
            let mut command = binfer();
            command.arg("worker").arg("--attach").arg(&socket);
            command.args(["--rank", &rank.to_string()]);
            command.stdin(binfer_coordinator::fleet::through_pipe(INSTANCE).unwrap());
            command.args(["--parent", &std::process::id().to_string()]).spawn().unwrap()
        };
        let children = (0..world).map(start).collect();
        let (links, said) = (Vec::new(), vec![VecDeque::new(); world]);
        let mut workers = Self { children, links, events, said, close: Some(close) };
        workers.attach(world);
        workers.load(load);
        workers
    }

    fn attach(&mut self, world: usize) {
        let mut attached: Vec<Option<Downlink>> = vec![None; world];
        while attached.iter().any(Option::is_none) {
            match self.next() {
                Event::Attached(rank, link) => attached[rank] = Some(link),
                Event::Said(rank, message) => self.said[rank].push_back(message),
            }
        }
        self.links = attached.into_iter().flatten().collect();
    }

    fn load(&mut self, load: &Load) {
        let world = u32::try_from(self.links.len()).unwrap();
        for (rank, link) in (0..).zip(&self.links) {
            let welcome = Welcome { replica: 0, rank, world, epoch: 1 };
            send(link, down::Message::Welcome(welcome));
            send(link, down::Message::Load(load.clone()));
        }
        if world > 1 {
            let id = self.says(0, |message| match message {
                up::Message::CommId(comm) => Some(comm.id),
                _ => None,
            });
            self.send(&down::Message::Comm(Comm { id }));
        }
        self.send(&down::Message::Allocate(Allocate { blocks: vec![BLOCKS] }));
        self.all_say(|message| match message {
            up::Message::Ready(_) => Some(()),
            _ => None,
        });
    }

    /// Tells all workers.
    pub(crate) fn send(&self, message: &down::Message) {
        self.links.iter().for_each(|link| send(link, message.clone()));
    }

    /// One result of each worker, by rank.
    pub(crate) fn results(&mut self) -> Vec<StepResult> {
        let results = self.all_say(|message| match message {
            up::Message::Result(result) => Some(StepResult::try_from(result).unwrap()),
            _ => None,
        });
        (0..).zip(&results).for_each(|(rank, result)| assert_eq!(result.rank, Rank(rank)));
        results
    }

    /// Waits until each worker says, twice in a row, that it is in this step, at this operation; it
    /// may have no result meanwhile.
    pub(crate) fn wait_until_all_at(&mut self, step: u64, operation: &str) {
        for rank in 0..self.links.len() {
            let mut in_a_row = 0;
            self.says(rank, |message| {
                let Beat { step_launched, operation: at, .. } = beat(message)?;
                let is_there = (step_launched, &*at) == (step, operation);
                in_a_row = if is_there { in_a_row + 1 } else { 0 };
                (in_a_row == 2).then_some(())
            });
        }
    }

    /// Why rank 0 failed.
    pub(crate) fn failure(&mut self) -> String {
        self.says(0, |message| match message {
            up::Message::Failed(failed) => Some(failed.cause),
            _ => None,
        })
    }

    /// Tells all workers to end.
    pub(crate) fn stop(&self) {
        self.send(&down::Message::Stop(Stop { reason: "the test is over".into() }));
    }

    /// Cuts all connections.
    pub(crate) fn hang_up(&mut self) {
        self.close.take();
    }

    /// How the workers ended, which they must within this time.
    pub(crate) fn statuses(&mut self, limit: Duration) -> Vec<ExitStatus> {
        let ended = |child: &mut Child| poll(limit, || child.try_wait().unwrap());
        let ended = self.children.iter_mut().map(ended).collect::<Option<Vec<_>>>();
        ended.expect("a worker that goes on")
    }

    /// What each worker says next that `wanted` takes, by rank.
    fn all_say<T>(&mut self, wanted: impl Fn(up::Message) -> Option<T>) -> Vec<T> {
        (0..self.links.len()).map(|rank| self.says(rank, &wanted)).collect()
    }

    /// What this worker says next that `wanted` takes; all before it is passed over.
    fn says<T>(&mut self, rank: usize, mut wanted: impl FnMut(up::Message) -> Option<T>) -> T {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let Some(message) = self.said[rank].pop_front() else {
                if let Event::Said(rank, message) = self.next() {
                    self.said[rank].push_back(message);
                }
                continue;
            };
            if let Some(found) = wanted(message) {
                return found;
            }
        }
        panic!("rank {rank} does not say what is waited for");
    }

    fn next(&mut self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("workers that say nothing")
    }
}

/// What workers of a model are told, but for the device.
fn load(model: &Path) -> Load {
    Load {
        model: model.to_str().unwrap().to_owned(),
        model_digest: Checkpoint::open(model).unwrap().digest().to_le_bytes().to_vec(),
        threads: 1,
        slots_max: SLOTS,
        tokens_per_step_max: 64,
        context_max: 128,
        kv_bytes: Some(1 << 26),
        ..Load::default()
    }
}

/// A heartbeat; a result may not be.
fn beat(message: up::Message) -> Option<Beat> {
    match message {
        up::Message::Beat(beat) => Some(beat),
        up::Message::Result(result) => panic!("a result of step {}", result.step),
        _ => None,
    }
}

fn send(link: &Downlink, message: down::Message) {
    let _ = link.send(Ok(Down { message: Some(message) }));
}

/// Serves until `closed`.
fn serve(
    listener: std::os::unix::net::UnixListener,
    events: mpsc::Sender<Event>,
    closed: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let sockets = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
        let service = ClusterServer::new(Service { events });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::select! {
            served = server.serve_with_incoming(sockets) => served.unwrap(),
            _ = closed => {}
        }
    });
}

struct Service {
    events: mpsc::Sender<Event>,
}

#[tonic::async_trait]
impl Cluster for Service {
    type AttachStream = UnboundedReceiverStream<Result<Down, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<Up>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (down, outgoing) = unbounded_channel();
        let (mut link, mut rank) = (Some(down), 0);
        let events = self.events.clone();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(Up { message: Some(message) })) = incoming.message().await {
                if let (up::Message::Hello(hello), Some(link)) = (&message, link.take()) {
                    rank = hello.wanted_rank.unwrap() as usize;
                    let _ = events.send(Event::Attached(rank, link));
                }
                let _ = events.send(Event::Said(rank, message));
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(outgoing)))
    }
}
