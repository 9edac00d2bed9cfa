//! Venue stand-in: the server under test connects to it as to Binance, and the sender trades
//! on that connection.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use socket2::SockRef;

use crate::wire::{
    http1,
    websocket::{self, opcode},
};

/// Time limit for the server to connect and subscribe.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// A listening venue.
#[derive(Debug)]
pub(crate) struct Venue {
    listener: TcpListener,
}

impl Venue {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port for the venue")?;
        Ok(Self { listener })
    }

    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Returns `count` symbols, as `BASE-QUOTE`.
    pub(crate) fn symbols(count: usize) -> Vec<String> {
        (0..count)
            .map(|number| format!("T{number:03}-USDT"))
            .collect()
    }

    /// Accepts the server's connection, waits until it has subscribed to all `names`, and
    /// sends the state of each market.
    ///
    /// # Errors
    /// The server does not connect, or does not subscribe.
    pub(crate) fn accept(&self, names: &[String]) -> anyhow::Result<TcpStream> {
        let start = Instant::now();
        // On a listener, the read timeout limits `accept`.
        SockRef::from(&self.listener).set_read_timeout(Some(CONNECT_LIMIT))?;
        let accepted = self.listener.accept();
        let (mut stream, _) = accepted.context("the server does not connect to the venue")?;
        stream.set_nodelay(true)?;
        let mut read = Vec::new();
        let head = loop {
            if let Some(length) = http1::head_length(&read) {
                break read.drain(..length).collect::<Vec<_>>();
            }
            more(&mut stream, &mut read, start)?;
        };
        stream.write_all(&http1::grant(&head))?;
        let mut wanted = 0;
        while wanted < names.len() {
            while let Some(request) = next_text(&mut read) {
                let request: serde_json::Value =
                    serde_json::from_slice(&request).context("the server sent no JSON")?;
                let params = request["params"]
                    .as_array()
                    .context("a request has `params`")?;
                let is_trade = |name: &&serde_json::Value| {
                    name.as_str().is_some_and(|name| name.ends_with("@trade"))
                };
                wanted += params.iter().filter(is_trade).count();
                let answer = serde_json::json!({"result": null, "id": request["id"]});
                send(&mut stream, &answer.to_string())?;
            }
            if wanted < names.len() {
                more(&mut stream, &mut read, start)?;
            }
        }
        for name in names {
            send(&mut stream, &ticker(name))?;
        }
        stream.set_read_timeout(None)?;
        Ok(stream)
    }
}

fn more(stream: &mut TcpStream, read: &mut Vec<u8>, start: Instant) -> anyhow::Result<()> {
    let left = CONNECT_LIMIT
        .saturating_sub(start.elapsed())
        .max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    let mut buffer = [0; 8 << 10];
    let count = stream
        .read(&mut buffer)
        .context("the server does not subscribe to the venue")?;
    anyhow::ensure!(count > 0, "the server left the venue");
    read.extend_from_slice(&buffer[..count]);
    Ok(())
}

/// Returns the next complete text message.
fn next_text(read: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        let frame = websocket::frame(read)?;
        let mut payload = read.get(frame.payload..frame.end)?.to_vec();
        websocket::unmask(&mut payload, frame.mask.unwrap_or_default());
        read.drain(..frame.end);
        if frame.opcode == opcode::TEXT {
            return Some(payload);
        }
    }
}

fn send(stream: &mut TcpStream, text: &str) -> anyhow::Result<()> {
    let mut out = Vec::new();
    websocket::server(&mut out, opcode::TEXT, text.as_bytes());
    stream.write_all(&out).context("the server left the venue")
}

/// Returns the state of a market, which gives updates their change and volume.
fn ticker(name: &str) -> String {
    let now = crate::clock::wall_ms();
    let stream = format!("{}@ticker", name.to_ascii_lowercase());
    let data = serde_json::json!({
        "e": "24hrTicker", "E": now, "s": name, "p": "128.10", "P": "1.840", "w": "7021.5",
        "x": "6961.9", "c": "7090.0", "Q": "0.01", "b": "7089.9", "B": "1.2", "a": "7090.1",
        "A": "0.8", "o": "6961.9", "h": "7120.4", "l": "6902.3", "v": "15023.11",
        "q": "106513849.22", "O": now - 86_400_000, "C": now, "F": 1, "L": 1, "n": 1,
    });
    serde_json::json!({"stream": stream, "data": data}).to_string()
}
