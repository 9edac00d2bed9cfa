//! Sender: publishes at a fixed rate, whether or not the server keeps up.
//!
//! It belongs to the reading loop: between two reads it sends the messages that are due. It
//! never waits for a reply. It records how late each message leaves. Messages that the server
//! does not accept are dropped and counted, not queued without limit.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
};

use super::socket::Socket;
use crate::{
    clock,
    histogram::Histogram,
    mark::{self, Ledger},
    wire::websocket::{self, opcode},
};

/// Bytes queued for a server that reads too slowly.
const BACKLOG: usize = 4 << 20;

/// Receiver of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Tidewire, through a publishing client.
    Publish,
    /// A reference server. A frame holds the channel, a line feed and the payload.
    Reference,
    /// Tidewire, through the venue stand-in that it is connected to.
    Venue,
}

/// Order of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Rotation.
    Rotation,
    /// Random, with the same sequence in each run.
    Random,
}

/// The sender.
pub(crate) struct Sender {
    pub(crate) stream: Socket,
    route: Route,
    names: Vec<String>,
    order: Order,
    /// Payload length, in bytes.
    size: usize,
    random: u64,
    turn: usize,
    out: Vec<u8>,
    read: Vec<u8>,
    plan: Option<Schedule>,
    /// Lateness of messages, in nanoseconds.
    pub(crate) lag: Histogram,
    /// Due messages that the server did not accept.
    pub(crate) refused: u64,
}

struct Schedule {
    start: u64,
    /// Messages per second.
    rate: f64,
    sent: u64,
}

impl Schedule {
    fn due(&self) -> u64 {
        self.start + (self.sent as f64 * clock::SECOND as f64 / self.rate) as u64
    }
}

impl Sender {
    pub(crate) fn new(
        stream: Socket,
        route: Route,
        names: Vec<String>,
        order: Order,
        size: usize,
    ) -> Self {
        Self {
            stream,
            route,
            names,
            order,
            size,
            random: 0x9e37_79b9_7f4a_7c15,
            turn: 0,
            out: Vec::new(),
            read: Vec::new(),
            plan: None,
            lag: Histogram::default(),
            refused: 0,
        }
    }

    /// Sends `rate` messages per second from now on.
    pub(crate) fn start(&mut self, rate: f64) {
        self.plan = Some(Schedule {
            start: clock::now(),
            rate,
            sent: 0,
        });
    }

    pub(crate) fn stop(&mut self) {
        self.plan = None;
    }

    /// Resets the recorded lateness.
    pub(crate) fn reset(&mut self) {
        self.lag.clear();
        self.refused = 0;
    }

    /// Returns when the next message is due.
    pub(crate) fn due(&self) -> u64 {
        self.plan.as_ref().map_or(u64::MAX, Schedule::due)
    }

    /// Sends due messages.
    ///
    /// # Errors
    /// The server closed the connection.
    pub(crate) fn pump(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        let now = clock::now();
        let mut is_new = false;
        while let Some(plan) = &mut self.plan {
            let due = plan.due();
            if due > now {
                break;
            }
            plan.sent += 1;
            self.lag.record(now - due);
            if self.out.len() > BACKLOG {
                self.refused += 1;
                continue;
            }
            let channel = self.next_channel();
            let number = ledger.enter(channel)?;
            self.put(channel, number);
            is_new = true;
        }
        if is_new { self.flush() } else { Ok(()) }
    }

    /// Sends one message on every channel.
    ///
    /// # Errors
    /// The server closed the connection.
    pub(crate) fn one_each(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        for channel in 0..self.names.len() {
            let number = ledger.enter(channel)?;
            self.put(channel, number);
        }
        self.flush()
    }

    /// Writes queued bytes.
    ///
    /// # Errors
    /// The server closed the connection.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => anyhow::bail!("the server does not take messages: {error}"),
            }
        }
        match self.stream.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                anyhow::bail!("the server does not take messages: {error}")
            }
            _ => Ok(()),
        }
    }

    /// Reads and drops replies, and answers pings.
    ///
    /// # Errors
    /// The server closed the connection.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => anyhow::bail!("the server closed the sender's connection"),
                Ok(read) => self.read.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.flush(),
                Err(error) => anyhow::bail!("the sender's connection broke: {error}"),
            }
            let mut at = 0;
            while let Some(frame) = websocket::frame(&self.read[at..]) {
                let Some(payload) = self.read[at..].get(frame.payload..frame.end) else {
                    break;
                };
                if frame.opcode == opcode::PING && self.route != Route::Venue {
                    websocket::client(&mut self.out, opcode::PONG, payload);
                } else if frame.opcode == opcode::PING {
                    let mut payload = payload.to_vec();
                    websocket::unmask(&mut payload, frame.mask.unwrap_or_default());
                    websocket::server(&mut self.out, opcode::PONG, &payload);
                } else if memchr::memmem::find(payload, br#""type":"error""#).is_some() {
                    anyhow::bail!(
                        "the server refuses messages: {}",
                        String::from_utf8_lossy(payload)
                    );
                }
                at += frame.end;
            }
            self.read.drain(..at);
        }
    }

    fn next_channel(&mut self) -> usize {
        match self.order {
            Order::Rotation => {
                self.turn = (self.turn + 1) % self.names.len();
                self.turn
            }
            Order::Random => {
                // xorshift64
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                (self.random % self.names.len() as u64) as usize
            }
        }
    }

    fn put(&mut self, channel: usize, number: u32) {
        let name = &self.names[channel];
        match self.route {
            Route::Publish => {
                let payload = payload(number, self.size);
                let message = format!(
                    r#"{{"type":"publish","data":{{"channel":"{name}","data":{payload}}}}}"#
                );
                websocket::client(&mut self.out, opcode::TEXT, message.as_bytes());
            }
            Route::Reference => {
                let message = format!("{name}\n{}", payload(number, self.size));
                websocket::client(&mut self.out, opcode::TEXT, message.as_bytes());
            }
            Route::Venue => {
                let frame = trade(name, number);
                websocket::server(&mut self.out, opcode::TEXT, frame.as_bytes());
            }
        }
    }
}

/// Returns a JSON document of `size` bytes, or the smallest that holds a mark.
fn payload(number: u32, size: usize) -> String {
    let mut text = format!(
        r#"{{"symbol":"BTC-USD","price":61837.64,"change24h":1.84,"mark":"{}","pad":""#,
        mark::text(number)
    );
    let missing = size.saturating_sub(text.len() + 2);
    text.extend(std::iter::repeat_n('x', missing));
    text + "\"}"
}

/// Returns a trade of `BASEQUOTE` in Binance's format.
fn trade(name: &str, number: u32) -> String {
    let now = clock::wall_ms();
    let mut text = String::with_capacity(224);
    // Writing to a string does not fail.
    let _ = write!(
        text,
        r#"{{"stream":"{}@trade","data":{{"e":"trade","E":{now},"s":"{name}","t":{},"p":"{}","q":"0.01500000","T":{now},"m":true,"M":true}}}}"#,
        name.to_ascii_lowercase(),
        number + 1,
        mark::price(number),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_documents_of_their_size() {
        for size in [0, 120, 200, 4_000] {
            let text = payload(5, size);
            assert!(text.len() == size.max(text.len()) && text.contains("tw#00000005"));
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
        let trade: serde_json::Value = serde_json::from_str(&trade("T001USDT", 3)).unwrap();
        assert_eq!(trade["data"]["p"], "7090.000000037");
    }

    #[test]
    fn a_schedule_does_not_drift() {
        let mut plan = Schedule {
            start: 5,
            rate: 3.0,
            sent: 0,
        };
        assert_eq!(plan.due(), 5);
        plan.sent = 3_000_000;
        assert_eq!(plan.due(), 5 + 1_000_000 * clock::SECOND);
    }
}
