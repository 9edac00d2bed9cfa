//! Rig: one server with its subscribers and its sender, ready to be measured.

use std::{
    io::{Read, Write},
    time::Duration,
};

use anyhow::Context as _;
use mio::net::TcpStream;

use crate::{
    client::{
        Dialect, Engine, Order, Plan, Route, Sender, Transport,
        dialect::Wanted,
        socket::{self, Socket},
    },
    clock::{self, MILLISECOND, SECOND},
    machine::{self, Memory},
    mark::{Ledger, MarkKind, Marks},
    report::Row,
    server::{Program, Programs, Server, ServerConfig, Venue, config::NAMESPACE},
    tally::Tally,
    wire::http1,
};

/// Time limit for opening all connections.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// Connections opened concurrently.
const AT_ONCE: usize = 64;
/// Highest p99 that counts as keeping up, in milliseconds.
const KEPT_UP_MS: f64 = 100.0;

/// A server to measure, and its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Tidewire(Transport),
    Bare,
    Gather,
    Bun,
}

impl Subject {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Tidewire(transport) => format!("tidewire {}", transport.name()),
            Self::Bare => "bare loop".to_owned(),
            Self::Gather => "bare gather".to_owned(),
            Self::Bun => "uWebSockets".to_owned(),
        }
    }

    fn program(self) -> Program {
        match self {
            Self::Tidewire(_) => Program::Tidewire,
            Self::Bare => Program::Bare,
            Self::Gather => Program::Gather,
            Self::Bun => Program::Bun,
        }
    }

    fn dialect(self) -> Dialect {
        match self {
            Self::Tidewire(transport) => Dialect::Tidewire(transport),
            Self::Bare | Self::Gather | Self::Bun => Dialect::Reference,
        }
    }
}

/// Source of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A publishing client.
    Messages,
    /// Trades of a venue, which become prices.
    Prices,
    /// No messages.
    Nothing,
}

/// Subscriptions and messages of a rig.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    pub(crate) channels: usize,
    /// Channels per connection.
    pub(crate) per_connection: usize,
    pub(crate) order: Order,
    /// Payload, in bytes.
    pub(crate) size: usize,
    pub(crate) source: Source,
    /// One in this number of connections never reads.
    pub(crate) slow_every: Option<usize>,
    pub(crate) is_deflated: bool,
}

impl Shape {
    /// One channel with all connections subscribed.
    pub(crate) fn fanout(connections: usize) -> Self {
        Self {
            connections,
            channels: 1,
            per_connection: 1,
            order: Order::Rotation,
            size: 200,
            source: Source::Messages,
            slow_every: None,
            is_deflated: false,
        }
    }

    /// Returns the channels of a connection, spread evenly.
    fn channels_of(&self, connection: usize) -> impl Iterator<Item = usize> {
        let (channels, count) = (self.channels, self.per_connection);
        let stride = (channels / count.max(1)).max(1);
        (0..count).map(move |turn| (connection * 7 + turn * stride) % channels)
    }

    fn slow(&self) -> Vec<usize> {
        let every = self.slow_every.unwrap_or(usize::MAX);
        (0..self.connections)
            .filter(|connection| connection % every == every - 1)
            .collect()
    }
}

/// One server, its subscribers and the sender.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) engine: Engine,
    subject: Subject,
    pub(crate) shape: Shape,
    /// Server memory before the first connection.
    before: Memory,
    /// Time until all connections were open, in nanoseconds.
    opening: u64,
    /// Time after a window in which its messages may still arrive.
    grace: u64,
    /// Holds the venue's port.
    _venue: Option<Venue>,
}

impl Rig {
    /// Starts the server, opens all connections, and sends one message on each channel, so
    /// that every lazy allocation exists.
    ///
    /// # Errors
    /// The server does not start, or refuses a connection.
    pub(crate) fn set_up(
        programs: &Programs,
        subject: Subject,
        shape: &Shape,
    ) -> anyhow::Result<Self> {
        Self::set_up_with(programs, subject, shape, ServerConfig::default())
    }

    /// Like [`set_up`](Self::set_up), with a configuration.
    ///
    /// # Errors
    /// The server does not start, or refuses a connection.
    pub(crate) fn set_up_with(
        programs: &Programs,
        subject: Subject,
        shape: &Shape,
        mut config: ServerConfig,
    ) -> anyhow::Result<Self> {
        let mut names: Vec<_> = (0..shape.channels)
            .map(|channel| format!("{NAMESPACE}:c{channel}"))
            .collect();
        let mut venue = None;
        if shape.source == Source::Prices {
            let symbols = Venue::symbols(shape.channels);
            let listening = Venue::listen()?;
            names = symbols
                .iter()
                .map(|symbol| format!("prices:{symbol}"))
                .collect();
            config.prices = Some((listening.address()?, symbols));
            venue = Some(listening);
        }
        let server = Server::start(programs, subject.program(), &config)?;
        let plan = Plan {
            address: server.address,
            dialect: subject.dialect(),
            wanted: wanted(shape, &names),
            at_once: AT_ONCE,
            slow: shape.slow(),
            is_deflated: shape.is_deflated,
            tls: programs.client(),
        };
        let tally = Tally::new(
            Marks::new(mark_kind(subject, shape)),
            ledger(shape),
            shape.connections,
        );
        let mut engine = Engine::new(plan, tally)?;
        if let Some(sender) = sender(programs, &server, subject, shape, names, venue.as_ref())? {
            engine.add_sender(sender)?;
        }
        let before = server.memory();
        let opening = engine.open(OPEN_LIMIT).with_context(|| subject.name())?;
        let mut rig = Self {
            server,
            engine,
            subject,
            shape: shape.clone(),
            before,
            opening,
            grace: programs.grace,
            _venue: venue,
        };
        if let Some(sender) = &mut rig.engine.sender {
            sender.one_each(&mut rig.engine.tally.ledger)?;
        }
        rig.engine.settle(5 * SECOND)?;
        Ok(rig)
    }

    /// A row for this rig, without figures.
    pub(crate) fn row(&self, scenario: &str) -> Row {
        Row {
            scenario: scenario.to_owned(),
            subject: self.subject.name(),
            connections: self.shape.connections,
            ended: self.engine.ended,
            windows: 1,
            load_average: machine::load_average(),
            rss_mib: Some(self.server.memory().rss as f64 / f64::from(1 << 20)),
            ..Row::default()
        }
    }

    /// A row with memory per connection and connections per second.
    pub(crate) fn connections_row(&self, scenario: &str) -> Row {
        let after = self.server.memory();
        let count = self.shape.connections as f64;
        Row {
            rss_per_connection: Some(after.rss.saturating_sub(self.before.rss) as f64 / count),
            pss_per_connection: Some(after.pss.saturating_sub(self.before.pss) as f64 / count),
            connects: Some(count * SECOND as f64 / self.opening as f64),
            ..self.row(scenario)
        }
    }

    /// Sends at a rate, warms up, and measures for `seconds`.
    ///
    /// # Errors
    /// The server exited.
    pub(crate) fn window(
        &mut self,
        scenario: &str,
        rate: f64,
        seconds: f64,
    ) -> anyhow::Result<Row> {
        let length = (seconds * SECOND as f64) as u64;
        let warm_up = (length / 4).clamp(200 * MILLISECOND, SECOND);
        let ended = self.engine.ended;
        self.sender()?.start(rate);
        self.engine.run_for(warm_up)?;
        self.sender()?.reset();
        let (cpu, own, start) = (self.server.cpu(), clock::own_cpu(), clock::now());
        self.engine.tally.open();
        self.engine.run_for(length)?;
        self.engine.tally.close();
        let took = (clock::now() - start) as f64;
        let (cpu, own) = (self.server.cpu().since(cpu), clock::own_cpu() - own);
        self.sender()?.stop();
        let deadline = clock::now() + self.grace;
        self.engine
            .run_until(deadline, |engine| engine.tally.is_complete())?;
        let tally = &self.engine.tally;
        let (counts, ledger) = (tally.counts, &tally.ledger);
        let milliseconds = |quantile| tally.latency.quantile(quantile) as f64 / MILLISECOND as f64;
        let arrived = counts.arrived.max(1) as f64;
        let per_delivery = |time: u64| Some(time as f64 / 1e3 / arrived);
        let p99_ms = milliseconds(0.99);
        let (lag, refused) = self
            .engine
            .sender
            .as_ref()
            .map_or((0, 0), |sender| (sender.lag.quantile(0.99), sender.refused));
        let is_sent = ledger.messages as f64 >= 0.98 * rate * took / SECOND as f64;
        let is_delivered = counts.delivered as f64 >= 0.99 * ledger.expected as f64;
        let kept_up = is_sent
            && is_delivered
            && refused == 0
            && p99_ms <= KEPT_UP_MS
            && counts.disorder == 0
            && self.engine.ended == ended;
        let row = Row {
            rate: Some(rate),
            deliveries: Some(counts.arrived as f64 * SECOND as f64 / took),
            cpu_us: per_delivery(cpu.total()),
            user_us: per_delivery(cpu.user),
            system_us: per_delivery(cpu.system),
            p50_ms: Some(milliseconds(0.5)),
            p99_ms: Some(p99_ms),
            max_ms: Some(tally.latency.max() as f64 / MILLISECOND as f64),
            server_share: Some(cpu.total() as f64 / took),
            own_share: Some(own as f64 / took),
            lag_p99_ms: Some(lag as f64 / MILLISECOND as f64),
            bytes: Some(counts.bytes as f64 / arrived),
            per_read: Some(arrived / counts.reads.max(1) as f64),
            delivered: counts.delivered,
            expected: ledger.expected,
            disorder: counts.disorder,
            kept_up: Some(kept_up),
            ..self.row(scenario)
        };
        self.engine.settle(2 * SECOND)?;
        Ok(row)
    }

    pub(crate) fn sender(&mut self) -> anyhow::Result<&mut Sender> {
        self.engine
            .sender
            .as_mut()
            .context("this rig has no sender")
    }
}

fn mark_kind(subject: Subject, shape: &Shape) -> MarkKind {
    match (shape.source, subject) {
        (Source::Prices, Subject::Tidewire(Transport::WsProto | Transport::Grpc)) => {
            MarkKind::ProtoPrice
        }
        (Source::Prices, _) => MarkKind::JsonPrice,
        (Source::Messages | Source::Nothing, _) => MarkKind::Text,
    }
}

fn wanted(shape: &Shape, names: &[String]) -> Vec<Vec<Wanted>> {
    let of = |connection| {
        let channels_of = shape.channels_of(connection).map(|channel| Wanted {
            channel: names[channel].clone(),
            since: None,
        });
        channels_of.collect()
    };
    (0..shape.connections).map(of).collect()
}

/// Slow connections read nothing, so no delivery is expected on them.
fn ledger(shape: &Shape) -> Ledger {
    let mut subscribers = vec![0; shape.channels];
    let slow = shape.slow();
    for connection in (0..shape.connections).filter(|connection| !slow.contains(connection)) {
        for channel in shape.channels_of(connection) {
            subscribers[channel] += 1;
        }
    }
    Ledger::new(subscribers)
}

fn sender(
    programs: &Programs,
    server: &Server,
    subject: Subject,
    shape: &Shape,
    names: Vec<String>,
    venue: Option<&Venue>,
) -> anyhow::Result<Option<Sender>> {
    let (route, names, stream) = match (shape.source, venue) {
        (Source::Nothing, _) => return Ok(None),
        (Source::Prices, Some(venue)) => {
            let name = |name: &String| name.trim_start_matches("prices:").replace('-', "");
            let names: Vec<_> = names.iter().map(name).collect();
            let stream = venue.accept(&names)?;
            stream.set_nonblocking(true)?;
            (
                Route::Venue,
                names,
                Socket::Plain(TcpStream::from_std(stream)),
            )
        }
        (Source::Prices, None) => anyhow::bail!("prices need a venue"),
        (Source::Messages, _) => {
            let (route, path) = match subject {
                Subject::Tidewire(_) => (Route::Publish, "/v1/ws"),
                Subject::Bare | Subject::Gather | Subject::Bun => (Route::Reference, "/pub"),
            };
            (route, names, open_websocket(programs, server, path)?)
        }
    };
    Ok(Some(Sender::new(
        stream,
        route,
        names,
        shape.order,
        shape.size,
    )))
}

/// Opens the sender's WebSocket, and waits for the response head.
fn open_websocket(programs: &Programs, server: &Server, path: &str) -> anyhow::Result<Socket> {
    let mut stream = std::net::TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let Some(config) = programs.client() else {
        exchange_heads(&mut stream, path)?;
        stream.set_nonblocking(true)?;
        return Ok(Socket::Plain(TcpStream::from_std(stream)));
    };
    let mut tls = rustls::StreamOwned::new(socket::connection(&config)?, stream);
    exchange_heads(&mut tls, path)?;
    let (connection, stream) = tls.into_parts();
    stream.set_nonblocking(true)?;
    Ok(Socket::joined(connection, TcpStream::from_std(stream)))
}

fn exchange_heads(stream: &mut (impl Read + Write), path: &str) -> anyhow::Result<()> {
    stream.write_all(&http1::upgrade(path, ""))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while http1::head_length(&head).is_none() {
        stream
            .read_exact(&mut byte)
            .context("the server does not answer the sender")?;
        head.extend_from_slice(&byte);
    }
    let status = http1::status(&head);
    anyhow::ensure!(
        status == 101,
        "the sender got HTTP status {status}, expected 101"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_over_channels() {
        let shape = Shape {
            channels: 200,
            per_connection: 50,
            ..Shape::fanout(1_000)
        };
        let ledger = ledger(&shape);
        assert_eq!(ledger.subscribers.iter().sum::<u64>(), 50_000);
        assert!(
            ledger
                .subscribers
                .iter()
                .all(|&subscribers| subscribers == 250)
        );
        let first: std::collections::HashSet<_> = shape.channels_of(3).collect();
        assert_eq!(first.len(), 50);
    }

    #[test]
    fn slow_connections_are_counted_out() {
        let shape = Shape {
            slow_every: Some(100),
            ..Shape::fanout(1_000)
        };
        assert_eq!(shape.slow().len(), 10);
        assert_eq!(ledger(&shape).subscribers, [990]);
        assert!(Shape::fanout(10).slow().is_empty());
    }
}
