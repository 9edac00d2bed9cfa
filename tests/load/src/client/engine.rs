//! Event loop: all subscribers and the sender on one thread.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::ClientConfig;
use socket2::{Domain, Type};

use super::{
    connection::{Connection, End, OnFrame, Phase, Shared},
    dialect::{Dialect, Wanted},
    sender::Sender,
    socket::Socket,
};
use crate::{clock, tally::Tally};

/// Maximum bytes per read.
const READ_BYTES: usize = 1 << 20;
/// Readiness events per poll. Small, so that the sender keeps its schedule.
const EVENTS: usize = 256;
/// Receive buffer of a socket that never reads, in bytes. The kernel may raise it to its
/// minimum.
const SLOW_BUFFER: usize = 2_048;
/// Token of the sender. Subscribers count from 0.
const SENDER: Token = Token(usize::MAX - 1);

/// Connections to open.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Dialect,
    /// Subscriptions of each connection.
    pub(crate) wanted: Vec<Vec<Wanted>>,
    /// Connections opened concurrently.
    pub(crate) at_once: usize,
    /// Indices of the connections that stop reading once they are ready.
    pub(crate) slow: Vec<usize>,
    /// Whether clients offer compression.
    pub(crate) is_deflated: bool,
    /// How clients perform TLS handshakes. `None` is plain TCP.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// All subscribers and the sender.
pub(crate) struct Engine {
    poll: Poll,
    events: Option<Events>,
    buffer: Vec<u8>,
    plan: Plan,
    pub(crate) connections: Vec<Connection>,
    pub(crate) tally: Tally,
    pub(crate) sender: Option<Sender>,
    pending: usize,
    pub(crate) ready: usize,
    /// Why the first connection failed before it was ready.
    failure: Option<String>,
    /// Connections that ended after they were ready.
    pub(crate) ended: usize,
    /// Whether the sender's connection may end without failing the run.
    pub(crate) may_lose_sender: bool,
}

impl Engine {
    pub(crate) fn new(plan: Plan, tally: Tally) -> anyhow::Result<Self> {
        Ok(Self {
            poll: Poll::new().context("no event queue")?,
            events: Some(Events::with_capacity(EVENTS)),
            buffer: vec![0; READ_BYTES],
            connections: Vec::with_capacity(plan.wanted.len()),
            plan,
            tally,
            sender: None,
            pending: 0,
            ready: 0,
            failure: None,
            ended: 0,
            may_lose_sender: false,
        })
    }

    /// Registers the sender.
    pub(crate) fn add_sender(&mut self, mut sender: Sender) -> anyhow::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(sender.stream.source(), SENDER, interest)?;
        self.sender = Some(sender);
        Ok(())
    }

    /// Opens all connections, and returns how long it took, in nanoseconds.
    ///
    /// # Errors
    /// The server refused a connection, or not all were ready in time.
    pub(crate) fn open(&mut self, within: Duration) -> anyhow::Result<u64> {
        let start = clock::now();
        let deadline = start + within.as_nanos() as u64;
        while self.ready + self.ended < self.plan.wanted.len() {
            while self.pending < self.plan.at_once
                && self.connections.len() < self.plan.wanted.len()
            {
                self.open_next()?;
            }
            self.poll_once(deadline, &mut None)?;
            if let Some(failure) = &self.failure {
                anyhow::bail!("a connection was not opened: {failure}");
            }
            if clock::now() >= deadline {
                let unready = self.unready();
                let (ready, all) = (self.ready, self.plan.wanted.len());
                anyhow::bail!(
                    "only {ready} of {all} connections were ready within {within:?}: {unready}"
                );
            }
        }
        Ok(clock::now() - start)
    }

    /// Describes a connection that is not ready.
    fn unready(&mut self) -> String {
        let mut connections = self.connections.iter_mut();
        let unready = connections.find(|connection| connection.phase != Phase::Ready);
        unready.map_or_else(|| "none was opened".to_owned(), Connection::describe)
    }

    fn open_next(&mut self) -> anyhow::Result<()> {
        let key = self.connections.len();
        let stream = self
            .connect(key)
            .with_context(|| format!("connection {key}"))?;
        let wanted = self.plan.wanted[key].clone();
        let mut connection =
            Connection::new(stream, self.plan.dialect, wanted, self.plan.is_deflated);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(connection.stream.source(), Token(key), interest)?;
        self.connections.push(connection);
        self.pending += 1;
        Ok(())
    }

    fn connect(&self, key: usize) -> io::Result<Socket> {
        Socket::new(self.connect_tcp(key)?, self.plan.tls.as_ref())
    }

    fn connect_tcp(&self, key: usize) -> io::Result<TcpStream> {
        if !self.plan.slow.contains(&key) {
            return TcpStream::connect(self.plan.address);
        }
        let socket =
            socket2::Socket::new(Domain::for_address(self.plan.address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(SLOW_BUFFER)?;
        socket.connect(&self.plan.address.into())?;
        socket.set_nonblocking(true)?;
        Ok(TcpStream::from_std(socket.into()))
    }

    /// Runs for `time` nanoseconds.
    ///
    /// # Errors
    /// The sender's connection broke.
    pub(crate) fn run_for(&mut self, time: u64) -> anyhow::Result<()> {
        self.run_until(clock::now() + time, |_| false)
    }

    /// Runs until `is_enough` returns true, or until `deadline`.
    ///
    /// # Errors
    /// The sender's connection broke.
    pub(crate) fn run_until(
        &mut self,
        deadline: u64,
        is_enough: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        while clock::now() < deadline && !is_enough(self) {
            self.poll_once(deadline, &mut None)?;
        }
        Ok(())
    }

    /// Like [`run_until`](Self::run_until), and passes each subscriber frame to `on_frame`.
    ///
    /// # Errors
    /// The sender's connection broke.
    pub(crate) fn watch_until(
        &mut self,
        deadline: u64,
        mut on_frame: impl FnMut(usize, &[u8]),
        is_enough: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        while clock::now() < deadline && !is_enough(self) {
            self.poll_once(deadline, &mut Some(&mut on_frame))?;
        }
        Ok(())
    }

    /// Waits until nothing has arrived for 100 ms, at most for `limit`.
    ///
    /// # Errors
    /// The sender's connection broke.
    pub(crate) fn settle(&mut self, limit: u64) -> anyhow::Result<()> {
        let deadline = clock::now() + limit;
        loop {
            let before = self.tally.counts.ever;
            self.run_for(100 * clock::MILLISECOND)?;
            if self.tally.counts.ever == before || clock::now() >= deadline {
                return Ok(());
            }
        }
    }

    /// Polls once, at most until `deadline`, and handles the events.
    fn poll_once(&mut self, deadline: u64, on_frame: &mut OnFrame<'_>) -> anyhow::Result<()> {
        let now = clock::now();
        let due = self.pump(now)?.min(deadline);
        let wait = Duration::from_nanos(due.saturating_sub(now));
        // Only this function takes the events, and it is not re-entered.
        let mut events = self
            .events
            .take()
            .unwrap_or_else(|| Events::with_capacity(EVENTS));
        let polled = match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            polled => polled,
        };
        let mut done = polled.map_err(anyhow::Error::from);
        if done.is_ok() {
            for event in &events {
                done = self.event(event, on_frame);
                if done.is_err() {
                    break;
                }
            }
        }
        self.events = Some(events);
        done
    }

    /// Sends due messages, and returns when the next one is due.
    fn pump(&mut self, now: u64) -> anyhow::Result<u64> {
        let Some(sender) = &mut self.sender else {
            return Ok(u64::MAX);
        };
        if sender.due() <= now
            && let Err(error) = sender.pump(&mut self.tally.ledger)
        {
            self.lose_sender(error)?;
        }
        Ok(self.sender.as_ref().map_or(u64::MAX, Sender::due))
    }

    fn lose_sender(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        self.sender = None;
        if self.may_lose_sender {
            Ok(())
        } else {
            Err(error)
        }
    }

    fn event(
        &mut self,
        event: &mio::event::Event,
        on_frame: &mut OnFrame<'_>,
    ) -> anyhow::Result<()> {
        let now = clock::now();
        let Token(key) = event.token();
        if event.token() == SENDER {
            if let Some(sender) = &mut self.sender {
                let done = sender
                    .flush()
                    .and_then(|()| sender.receive(&mut self.buffer));
                if let Err(error) = done {
                    self.lose_sender(error)?;
                }
            }
            return Ok(());
        }
        let connection = &mut self.connections[key];
        let before = connection.phase;
        if event.is_writable() {
            connection.flush();
        }
        if event.is_readable() || event.is_error() {
            let mut shared = Shared {
                dialect: self.plan.dialect,
                tally: &mut self.tally,
                on_frame: match on_frame {
                    Some(on_frame) => Some(&mut **on_frame),
                    None => None,
                },
                now,
            };
            let to_end = event.is_read_closed();
            connection.receive(key, to_end, &mut self.buffer, &mut shared);
        }
        let after = connection.phase;
        if before != after {
            self.note(key, before, after)?;
        }
        self.pump(now)?;
        Ok(())
    }

    /// Records a phase change of a connection.
    fn note(&mut self, key: usize, before: Phase, after: Phase) -> anyhow::Result<()> {
        let connection = &mut self.connections[key];
        match after {
            Phase::Ready => {
                self.pending -= 1;
                self.ready += 1;
                if self.plan.slow.contains(&key) {
                    self.poll
                        .registry()
                        .deregister(connection.stream.source())?;
                }
            }
            Phase::Ended if before == Phase::Ready => {
                self.ready -= 1;
                self.ended += 1;
            }
            Phase::Ended => {
                self.pending -= 1;
                let end = match &connection.end {
                    Some(End::Lost(why)) => why.clone(),
                    Some(End::Closed(code)) => format!("closed with {code}"),
                    None => "it ended".to_owned(),
                };
                self.failure.get_or_insert(end);
            }
            Phase::Head | Phase::Subscribing => {}
        }
        Ok(())
    }

    /// Whether the server accepted compression.
    pub(crate) fn is_deflated(&self) -> bool {
        self.connections
            .iter()
            .any(|connection| connection.is_deflated)
    }
}
