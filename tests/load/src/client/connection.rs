//! Subscriber connection: opens, subscribes, then counts deliveries.

use std::io::{self, Read as _, Write as _};

use memchr::memmem;

use super::{
    dialect::{Dialect, Framing, Progress, Wanted},
    socket::Socket,
    tail::Tail,
};
use crate::{
    tally::Tally,
    wire::{
        http1, http2,
        websocket::{self, opcode},
    },
};

/// Phase of a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for the response head.
    Head,
    /// Waiting for the welcome and the subscription.
    Subscribing,
    /// Receiving publications.
    Ready,
    /// Closed.
    Ended,
}

/// Why a subscriber's connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The server closed it with this code.
    Closed(u16),
    /// Any other reason.
    Lost(String),
}

/// Callback for each frame of a ready connection.
pub(crate) type OnFrame<'a> = Option<&'a mut dyn FnMut(usize, &[u8])>;

/// State shared by the subscribers of a run.
pub(crate) struct Shared<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) tally: &'a mut Tally,
    pub(crate) on_frame: OnFrame<'a>,
    pub(crate) now: u64,
}

/// One subscriber.
pub(crate) struct Connection {
    pub(crate) stream: Socket,
    pub(crate) phase: Phase,
    pub(crate) end: Option<End>,
    /// Whether the server compresses.
    pub(crate) is_deflated: bool,
    /// Whether the server recovered everything missed.
    pub(crate) is_recovered: bool,
    wanted: Vec<Wanted>,
    /// Bytes of an incomplete frame.
    left: Vec<u8>,
    out: Vec<u8>,
    /// The last bytes of a stream, which may hold the first half of a mark.
    tail: Tail,
    /// Bytes of a stream before it was ready.
    said: Vec<u8>,
    /// Bytes received since the last HTTP/2 window update.
    consumed: u32,
}

impl Connection {
    pub(crate) fn new(
        stream: Socket,
        dialect: Dialect,
        wanted: Vec<Wanted>,
        is_deflated: bool,
    ) -> Self {
        // HTTP/2 has no head before its frames.
        let phase = match dialect.framing() {
            Framing::Http2 => Phase::Subscribing,
            Framing::WebSocket | Framing::Text => Phase::Head,
        };
        Self {
            stream,
            phase,
            end: None,
            is_deflated: false,
            is_recovered: false,
            out: dialect.hello(&wanted, is_deflated),
            wanted,
            left: Vec::new(),
            tail: Tail::default(),
            said: Vec::new(),
            consumed: 0,
        }
    }

    /// Writes queued bytes.
    pub(crate) fn flush(&mut self) {
        if self.phase == Phase::Ended {
            return;
        }
        if !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) if written == self.out.len() => self.out = Vec::new(),
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if is_for_later(&error) => return,
                Err(error) => return self.lose(error.to_string()),
            }
        }
        match self.stream.flush() {
            Err(error) if !is_for_later(&error) => self.lose(error.to_string()),
            _ => {}
        }
    }

    /// Reads once, or to the end of the stream.
    pub(crate) fn receive(
        &mut self,
        key: usize,
        to_end: bool,
        buffer: &mut [u8],
        shared: &mut Shared<'_>,
    ) {
        while self.phase != Phase::Ended {
            let kept = self.left.len();
            buffer[..kept].copy_from_slice(&self.left);
            let read = match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => return self.lose("the server ended the stream".to_owned()),
                Ok(read) => read,
                // A TLS handshake may have ended with this read.
                Err(error) if is_for_later(&error) => return self.flush(),
                Err(error) => return self.lose(error.to_string()),
            };
            shared.tally.read(read);
            let whole = &buffer[..kept + read];
            let done = self.consume(key, whole, shared);
            self.left.clear();
            self.left.extend_from_slice(&whole[done..]);
            if self.left.is_empty() && self.left.capacity() > 1 << 12 {
                self.left = Vec::new();
            }
            self.flush();
            if self.left.len() == buffer.len() {
                return self.lose("a frame is too long".to_owned());
            }
            // A read that did not fill the buffer emptied the socket.
            if !to_end && self.stream.reads_whole() && kept + read < buffer.len() {
                return;
            }
        }
    }

    /// Describes the phase and the unread and unwritten bytes.
    pub(crate) fn describe(&mut self) -> String {
        let unread = self.stream.read(&mut [0; 4_096]);
        format!(
            "{:?}, {} bytes to write, {} of a frame, {} before ready, unread {unread:?}",
            self.phase,
            self.out.len(),
            self.left.len(),
            self.said.len(),
        )
    }

    /// Closes the connection.
    pub(crate) fn leave(&mut self) {
        self.stream.close();
        self.phase = Phase::Ended;
    }

    pub(crate) fn lose(&mut self, why: String) {
        self.finish(End::Lost(why));
    }

    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.leave();
    }

    /// Handles read bytes, and returns how many were consumed.
    fn consume(&mut self, key: usize, bytes: &[u8], shared: &mut Shared<'_>) -> usize {
        let mut done = 0;
        if self.phase == Phase::Head {
            let Some(length) = http1::head_length(bytes) else {
                return 0;
            };
            let expected = match shared.dialect.framing() {
                Framing::WebSocket => 101,
                Framing::Text | Framing::Http2 => 200,
            };
            let status = http1::status(&bytes[..length]);
            if status != expected {
                self.lose(format!("HTTP status {status}, expected {expected}"));
                return bytes.len();
            }
            let extensions = http1::header(&bytes[..length], "sec-websocket-extensions");
            self.is_deflated = extensions.is_some_and(|value| value.contains("permessage-deflate"));
            self.phase = Phase::Subscribing;
            done = length;
        }
        let rest = &bytes[done..];
        done + match shared.dialect.framing() {
            Framing::WebSocket => self.take_frames(key, rest, shared),
            Framing::Text => {
                self.take_stream(key, rest, shared);
                rest.len()
            }
            Framing::Http2 => self.take_http2(key, rest, shared),
        }
    }

    fn take_frames(&mut self, key: usize, bytes: &[u8], shared: &mut Shared<'_>) -> usize {
        let (mut at, mut unscanned) = (0, 0);
        while let Some(frame) = websocket::frame(&bytes[at..]) {
            let Some(payload) = bytes[at..].get(frame.payload..frame.end) else {
                break;
            };
            match frame.opcode {
                opcode::PING => websocket::client(&mut self.out, opcode::PONG, payload),
                opcode::CLOSE => {
                    let code = payload
                        .first_chunk()
                        .map_or(1005, |code| u16::from_be_bytes(*code));
                    at += frame.end;
                    shared.tally.scan(key, &bytes[unscanned..at], shared.now);
                    self.finish(End::Closed(code));
                    return bytes.len();
                }
                _ if frame.is_changed => {
                    shared.tally.scan(key, &bytes[unscanned..at], shared.now);
                    unscanned = at + frame.end;
                    match websocket::inflated(payload) {
                        Ok(payload) => {
                            if !self.handle_payload(key, &payload, shared) {
                                shared.tally.scan(key, &payload, shared.now);
                            }
                        }
                        Err(error) => self.lose(format!("a frame does not inflate: {error}")),
                    }
                }
                _ => {
                    if self.handle_payload(key, payload, shared) {
                        unscanned = at + frame.end;
                    }
                }
            }
            if self.phase == Phase::Ended {
                return bytes.len();
            }
            at += frame.end;
        }
        // All frames of a read are scanned together: no frame head looks like a mark.
        shared.tally.scan(key, &bytes[unscanned..at], shared.now);
        at
    }

    /// Handles one message. Returns true if it came before the connection was ready.
    fn handle_payload(&mut self, key: usize, payload: &[u8], shared: &mut Shared<'_>) -> bool {
        if self.phase == Phase::Subscribing {
            self.is_recovered |= memmem::find(payload, br#""recovered":true"#).is_some();
            self.advance(shared.dialect.progress(payload), shared.dialect);
            return true;
        }
        if let Some(on_frame) = &mut shared.on_frame {
            on_frame(key, payload);
        }
        false
    }

    fn take_http2(&mut self, key: usize, bytes: &[u8], shared: &mut Shared<'_>) -> usize {
        let mut at = 0;
        while let Some(frame) = http2::frame(&bytes[at..]) {
            at += frame.end;
            match frame.kind {
                http2::kind::DATA => {
                    self.consumed += frame.payload.len() as u32;
                    if self.consumed >= http2::REOPEN_AFTER {
                        http2::reopen(&mut self.out, self.consumed);
                        self.consumed = 0;
                    }
                    self.take_stream(key, frame.payload, shared);
                }
                http2::kind::SETTINGS | http2::kind::PING if frame.flags & http2::ACK == 0 => {
                    let payload: &[u8] = if frame.kind == http2::kind::PING {
                        frame.payload
                    } else {
                        &[]
                    };
                    http2::put(&mut self.out, frame.kind, http2::ACK, 0, payload);
                }
                http2::kind::HEADERS if frame.flags & http2::END_STREAM != 0 => {
                    self.lose("the call ended".to_owned());
                }
                http2::kind::RESET | http2::kind::GO_AWAY => {
                    self.lose(format!("HTTP/2 frame of kind {}", frame.kind));
                }
                _ => {}
            }
            if self.phase == Phase::Ended {
                return bytes.len();
            }
        }
        at
    }

    fn take_stream(&mut self, key: usize, bytes: &[u8], shared: &mut Shared<'_>) {
        if self.phase == Phase::Subscribing {
            self.said.extend_from_slice(bytes);
            self.advance(shared.dialect.progress(&self.said), shared.dialect);
            return;
        }
        let Shared { tally, now, .. } = shared;
        let mark = tally.mark_length();
        self.tail
            .feed(bytes, mark, |bytes| tally.scan(key, bytes, *now));
    }

    fn advance(&mut self, progress: Result<Progress, String>, dialect: Dialect) {
        match progress {
            Ok(Progress::Wait) => return,
            Ok(Progress::Subscribed) => self.phase = Phase::Ready,
            Ok(Progress::Welcome) if self.wanted.is_empty() => self.phase = Phase::Ready,
            Ok(Progress::Welcome) => {
                if let Some(frame) = dialect.subscribe(&self.wanted) {
                    self.out.extend_from_slice(&frame);
                }
                return;
            }
            Err(refused) => return self.lose(format!("refused: {refused}")),
        }
        self.said = Vec::new();
        self.wanted = Vec::new();
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected
    )
}
