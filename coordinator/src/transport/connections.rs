//! All connections. They are accepted up to a limit, and ended when they are without a request for
//! too long or when another one needs the place.

use super::client_state::{ClientState, Lateness};
use super::config::TransportConfig;
use super::connection::Connection;
use super::held_body::HeldAnswers;
use axum::Router;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, Interval, interval, sleep};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1024;
/// How long to wait before the next attempt to accept when descriptors or memory have run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(20);

/// The connections that are open.
pub(super) struct Connections {
    router: Router,
    config: Arc<TransportConfig>,
    tasks: JoinSet<()>,
    open: BTreeMap<Id, OpenConnection>,
    /// The connection that was accepted and waits for room.
    next: Option<TcpStream>,
    sweep: Interval,
}

/// What is known of a connection that is open.
struct OpenConnection {
    client: Arc<ClientState>,
    answers: Arc<HeldAnswers>,
    task: AbortHandle,
}

impl Connections {
    /// No connections yet.
    pub(super) fn new(router: Router, config: Arc<TransportConfig>) -> Self {
        let shortest = config.head_timeout.min(config.idle_timeout).min(config.write_timeout);
        let sweep = (shortest / 4).clamp(Duration::from_millis(10), Duration::from_millis(500));
        Self {
            router,
            config,
            tasks: JoinSet::new(),
            open: BTreeMap::new(),
            next: None,
            sweep: interval(sweep),
        }
    }

    /// Waits for the next event of a connection or of the listener, and handles it.
    pub(super) async fn handle_next(&mut self, listener: &TcpListener) {
        if self.has_room()
            && let Some(socket) = self.next.take()
        {
            self.open(socket);
        }
        tokio::select! {
            biased;
            Some(ended) = self.tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                self.open.remove(&id);
            }
            _ = self.sweep.tick() => self.end_late(),
            accepted = listener.accept(), if self.next.is_none() => match accepted {
                Ok((socket, _)) => self.next = Some(socket),
                Err(error) => self.refused(&error).await,
            },
        }
    }

    /// Errors of `accept` belong to one client, or to this process, which then makes room.
    async fn refused(&self, error: &io::Error) {
        let spent = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        if Errno::from_io_error(error).is_some_and(|errno| spent.contains(&errno)) {
            self.make_room();
            sleep(ACCEPT_RETRY).await;
        }
    }

    fn open(&mut self, socket: TcpStream) {
        if self.is_full() {
            self.make_room();
        }
        let client = Arc::new(ClientState::new(&self.config));
        let answers = Arc::<HeldAnswers>::default();
        let connection = Connection {
            client: Arc::clone(&client),
            answers: Arc::clone(&answers),
            router: self.router.clone(),
            config: Arc::clone(&self.config),
        };
        let task = self.tasks.spawn(connection.serve(socket));
        self.open.insert(task.id(), OpenConnection { client, answers, task });
    }

    /// Ends the connections that have let the time for their next request pass, and the answers
    /// that their clients do not take.
    fn end_late(&self) {
        let now = Instant::now();
        for OpenConnection { client, answers, task } in self.open.values() {
            match client.lateness(now) {
                Lateness::InTime => answers.drop_stalled(now, self.config.write_timeout),
                Lateness::Told => client.close(),
                Lateness::Over => task.abort(),
            }
        }
    }

    /// Lets the connections that are open end after their current answers.
    pub(super) fn end_open(&self) {
        self.open.values().for_each(|open| open.client.close());
    }

    /// Lets answers be written for `linger`, and cuts off what is left.
    pub(super) async fn close(mut self, linger: Duration) {
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(linger, all_ended).await;
        self.tasks.shutdown().await;
    }

    fn has_room(&self) -> bool {
        !self.is_full() || self.longest_waiting().is_some()
    }

    fn is_full(&self) -> bool {
        self.open.len() >= self.config.connections_max
    }

    /// Ends the connection that has been without a request longest.
    fn make_room(&self) {
        if let Some(task) = self.longest_waiting() {
            task.abort();
        }
    }

    fn longest_waiting(&self) -> Option<&AbortHandle> {
        let alive = self.open.values().filter(|open| !open.task.is_finished());
        let waiting = alive.filter_map(|open| Some((open.client.waiting_since()?, &open.task)));
        waiting.min_by_key(|(since, _)| *since).map(|(_, task)| task)
    }
}

/// Takes over a listening socket.
pub(super) fn listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    // The standard library's backlog is too short for many clients at once. A second listen sets
    // it.
    rustix::net::listen(&listener, BACKLOG)?;
    TcpListener::from_std(listener)
}
