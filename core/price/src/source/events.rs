//! Server-Sent Events of a venue, over HTTP/1.1.

use std::{collections::VecDeque, sync::Arc};

use ::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio_util::task::AbortOnDropHandle;

use super::{connection::MESSAGE_BYTES, http};

/// A stream of events. Dropped, its connection is closed.
pub(super) struct EventStream {
    body: Incoming,
    lines: Lines,
    events: VecDeque<Heard>,
    _connection: AbortOnDropHandle<()>,
}

/// What a stream says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The data of an event.
    Data(Bytes),
    /// An event named `error`, which is the last one.
    Error(String),
    /// A comment: the connection is there.
    Sign,
}

/// Connects and asks.
///
/// # Errors
/// Says what went wrong.
pub(super) async fn connect(url: &str, tls: Arc<ClientConfig>) -> Result<EventStream, String> {
    let (response, connection) = http::get(url, "text/event-stream", tls).await?;
    match response.status() {
        StatusCode::OK => Ok(EventStream {
            body: response.into_body(),
            lines: Lines::default(),
            events: VecDeque::new(),
            _connection: connection,
        }),
        status => Err(format!("the venue answers {status}, expected 200 OK")),
    }
}

impl EventStream {
    /// What comes next. None at the end. Nothing is lost if it is dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Result<Heard, String>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            let frame = match self.body.frame().await? {
                Ok(frame) => frame,
                Err(error) => return Some(Err(error.to_string())),
            };
            if let Ok(data) = frame.into_data()
                && let Err(reason) = self.lines.take(&data, &mut self.events)
            {
                return Some(Err(reason));
            }
        }
    }
}

/// Puts lines together, and events from them.
#[derive(Debug, Default)]
struct Lines {
    line: BytesMut,
    data: BytesMut,
    is_error: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], events: &mut VecDeque<Heard>) -> Result<(), String> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = self.line.split();
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            self.end_line(line, events);
        }
        self.line.extend_from_slice(rest);
        if self.line.len() + self.data.len() > MESSAGE_BYTES {
            return Err(format!("an event is longer than {MESSAGE_BYTES} bytes"));
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], events: &mut VecDeque<Heard>) {
        if line.is_empty() {
            let data = self.data.split().freeze();
            let is_error = std::mem::take(&mut self.is_error);
            if is_error {
                let reason = String::from_utf8_lossy(&data).chars().take(200).collect();
                events.push_back(Heard::Error(reason));
            } else if !data.is_empty() {
                events.push_back(Heard::Data(data));
            }
            return;
        }
        let field = |name: &[u8]| {
            let value = line.strip_prefix(name)?;
            Some(value.strip_prefix(b" ").unwrap_or(value))
        };
        if line.starts_with(b":") {
            events.push_back(Heard::Sign);
        } else if let Some(data) = field(b"data:") {
            if !self.data.is_empty() {
                self.data.extend_from_slice(b"\n");
            }
            self.data.extend_from_slice(data);
        } else if let Some(event) = field(b"event:") {
            self.is_error = event == b"error";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&str]) -> Result<Vec<Heard>, String> {
        let (mut lines, mut events) = (Lines::default(), VecDeque::new());
        for chunk in chunks {
            lines.take(chunk.as_bytes(), &mut events)?;
        }
        Ok(events.into())
    }

    fn data(text: &'static str) -> Heard {
        Heard::Data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text =
            ":\r\n\r\ndata:{\"a\":1}\n\ndata: b\ndata: c\n\nevent: error\ndata: slow\n\nid: 4\n\n";
        let expected = || {
            vec![
                Heard::Sign,
                data("{\"a\":1}"),
                data("b\nc"),
                Heard::Error("slow".to_owned()),
            ]
        };
        assert_eq!(read(&[text]), Ok(expected()));
        let letters: Vec<_> = text.split_inclusive(|_: char| true).collect();
        assert_eq!(read(&letters), Ok(expected()));
    }

    #[test]
    fn an_event_is_bounded() {
        let long = "data: ".to_owned() + &"x".repeat(1 << 19) + "\n";
        assert!(read(&[&long, &long, &long]).is_err());
    }
}
