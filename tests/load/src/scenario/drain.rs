//! Drain scenario: SIGTERM with many connections. Measures which clients get the notice, over
//! what time, and whether they recover after reconnecting.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Context as _;
use memchr::memmem;

use crate::{
    cli::Drain,
    client::{Dialect, End, Engine, Plan, Transport, dialect::Wanted, socket},
    clock::{self, MILLISECOND, SECOND},
    lab::Lab,
    mark::{Ledger, MarkKind, Marks},
    report,
    rig::{Rig, Shape, Subject},
    server::{Program, Programs, Server, ServerConfig, config::NAMESPACE},
    tally::Tally,
    wire::http1,
};

/// Drains the binary under test, restarts it on the same data, and reconnects all clients.
///
/// # Errors
/// The server could not be measured.
pub(crate) fn run(lab: &Lab, options: &Drain) -> anyhow::Result<()> {
    lab.check_files(options.connections)?;
    let config = ServerConfig {
        drain: Duration::from_secs_f64(options.window),
        ..ServerConfig::default()
    };
    let shape = Shape::fanout(options.connections);
    let subject = Subject::Tidewire(Transport::WsJson);
    let mut rig = Rig::set_up_with(&lab.programs, subject, &shape, config.clone())?;
    let channel = format!("{NAMESPACE}:c0");
    let epoch = epoch(&lab.programs, rig.server.address, &channel)?;
    let mut clients = Clients::new(options.connections);
    let mut row = rig.row("drain");

    rig.sender()?.start(options.rate);
    let engine = &mut rig.engine;
    engine.may_lose_sender = true;
    engine.watch_until(
        clock::now() + SECOND,
        |key, said| clients.hear(key, said),
        |_| false,
    )?;
    rig.server.terminate()?;
    clients.start = clock::now();
    let deadline = clients.start + (options.window * 2.0 + 5.0) as u64 * SECOND;
    let mut exit = None;
    while exit.is_none() && clock::now() < deadline {
        let slice = clock::now() + 20 * MILLISECOND;
        rig.engine
            .watch_until(slice, |key, said| clients.hear(key, said), |_| false)?;
        exit = rig.server.ended()?;
    }
    let took = clock::now() - clients.start;
    let closed = rig
        .engine
        .connections
        .iter()
        .filter(|connection| connection.end == Some(End::Closed(4003)));
    let closed = closed.count();
    let exit = exit.map_or("did not exit".to_owned(), |exit| format!("{exit}"));

    let folder = rig.server.into_folder()?;
    let again = Server::start_in(folder, &lab.programs, Program::Tidewire, &config)?;
    let recovered = reconnect_all(&lab.programs, &again, &channel, &epoch, &clients.last)?;
    let all = options.connections;
    row.note = format!(
        "notified {}/{all}, closed with 4003 {closed}/{all}, {}, exit after {:.1} s ({exit}), gaps {}, \
         behind at the end {}, recovered after the restart {recovered}/{all}",
        clients.notified,
        clients.spread(),
        took as f64 / SECOND as f64,
        clients.gaps,
        clients.behind(),
    );
    lab.note(&row)?;
    report::print(&[row])?;
    Ok(())
}

/// State of all clients.
struct Clients {
    /// Last number received by each client.
    last: Vec<u64>,
    notified: usize,
    gaps: usize,
    start: u64,
    /// Time of the notice, and the advised delay before reconnecting, in milliseconds.
    first_notice_ms: u64,
    last_notice_ms: u64,
    least_wait_ms: u64,
    most_wait_ms: u64,
}

impl Clients {
    fn new(count: usize) -> Self {
        Self {
            last: vec![0; count],
            notified: 0,
            gaps: 0,
            start: 0,
            first_notice_ms: u64::MAX,
            last_notice_ms: 0,
            least_wait_ms: u64::MAX,
            most_wait_ms: 0,
        }
    }

    fn hear(&mut self, key: usize, said: &[u8]) {
        if let Some(seq) = number_after(said, br#""seq":"#) {
            let last = &mut self.last[key];
            if *last > 0 && seq != *last + 1 {
                self.gaps += 1;
            }
            *last = seq;
        } else if memmem::find(said, br#""type":"reconnect""#).is_some() {
            self.notified += 1;
            let at = clock::now().saturating_sub(self.start) / MILLISECOND;
            self.first_notice_ms = self.first_notice_ms.min(at);
            self.last_notice_ms = self.last_notice_ms.max(at);
            let wait = number_after(said, br#""afterMs":"#).unwrap_or(0);
            self.least_wait_ms = self.least_wait_ms.min(wait);
            self.most_wait_ms = self.most_wait_ms.max(wait);
        }
    }

    fn spread(&self) -> String {
        if self.notified == 0 {
            return "no client got the notice".to_owned();
        }
        format!(
            "after {}-{} ms, to wait {}-{} ms",
            self.first_notice_ms, self.last_notice_ms, self.least_wait_ms, self.most_wait_ms
        )
    }

    /// Counts clients that lack a message which another client received.
    fn behind(&self) -> usize {
        let top = self.last.iter().copied().max().unwrap_or(0);
        self.last.iter().filter(|&&last| last < top).count()
    }
}

fn number_after(text: &[u8], before: &[u8]) -> Option<u64> {
    let start = memmem::find(text, before)? + before.len();
    let digits = text[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let digits: String = digits.map(|&byte| char::from(byte)).collect();
    digits.parse().ok()
}

/// Reconnects all clients from their positions. Returns how many recovered.
fn reconnect_all(
    programs: &Programs,
    server: &Server,
    channel: &str,
    epoch: &str,
    last: &[u64],
) -> anyhow::Result<usize> {
    let wanted = |&seq: &u64| {
        vec![Wanted {
            channel: channel.to_owned(),
            since: Some((epoch.to_owned(), seq)),
        }]
    };
    let plan = Plan {
        address: server.address,
        dialect: Dialect::Tidewire(Transport::WsJson),
        wanted: last.iter().map(wanted).collect(),
        at_once: 64,
        slow: Vec::new(),
        is_deflated: false,
        tls: programs.client(),
    };
    let tally = Tally::new(Marks::new(MarkKind::Text), Ledger::new(vec![0]), last.len());
    let mut engine = Engine::new(plan, tally)?;
    engine.open(Duration::from_secs(60))?;
    Ok(engine
        .connections
        .iter()
        .filter(|connection| connection.is_recovered)
        .count())
}

/// Returns the epoch of a channel.
fn epoch(programs: &Programs, address: SocketAddr, channel: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    match programs.client() {
        Some(config) => {
            let connection = socket::connection(&config)?;
            epoch_over(rustls::StreamOwned::new(connection, stream), channel)
        }
        None => epoch_over(stream, channel),
    }
}

fn epoch_over(mut stream: impl Read + Write, channel: &str) -> anyhow::Result<String> {
    let body = serde_json::json!({"channel": channel}).to_string();
    let head = format!(
        "POST /v1/rpc/StreamService/GetHistory HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let start = http1::head_length(&answer).context("the server does not answer")?;
    let answer: serde_json::Value =
        serde_json::from_slice(&answer[start..]).context("the answer is no JSON")?;
    let epoch = answer["epoch"]
        .as_str()
        .with_context(|| format!("no epoch in {answer}"))?;
    Ok(epoch.to_owned())
}
