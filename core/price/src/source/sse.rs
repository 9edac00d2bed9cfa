//! SSE: a venue's Server-Sent Events over HTTP/1.1.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio_util::task::AbortOnDropHandle;

use crate::{http_client, venue::Refusal};

/// The longest message of a venue, in bytes. The longest expected one, a snapshot of all tickers,
/// takes a few hundred bytes a symbol.
pub(super) const MESSAGE_BYTES: usize = 1 << 20;

/// The most bytes of a refusal or an error that are read. It may list all feeds of a stream.
const REASON_BYTES: usize = 16 << 10;

/// A stream of events. Dropping it closes its connection.
pub(super) struct SseStream {
    body: Incoming,
    parser: SseParser,
    events: VecDeque<SseItem>,
    _connection: AbortOnDropHandle<()>,
}

/// One item of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SseItem {
    /// The data of an event.
    Data(Bytes),
    /// An event named `error`, which is the last one.
    Error(String),
    /// A comment: the connection is alive.
    Comment,
}

/// Why a stream could not be opened.
#[derive(Debug)]
pub(super) enum SseError {
    /// The venue does not have what the URL requests.
    Refused(Refusal),
    /// Any other failure, as a text for the log.
    Failed(String),
}

/// Connects and requests the stream.
///
/// # Errors
/// The venue cannot be reached, or refuses the request.
pub(super) async fn connect(url: &str, tls: Arc<ClientConfig>) -> Result<SseStream, SseError> {
    let got = http_client::get(url, "text/event-stream", tls).await;
    let (response, connection) = got.map_err(SseError::Failed)?;
    let status = response.status();
    let reason = format!("the venue answers {status}, expected 200 OK");
    match status {
        StatusCode::OK => Ok(SseStream {
            body: response.into_body(),
            parser: SseParser::default(),
            events: VecDeque::new(),
            _connection: connection,
        }),
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
            let said = read_reason(response.into_body()).await;
            let reason = format!("{reason}: {said}");
            let reason = reason.trim_end_matches([':', ' ']);
            Err(SseError::Refused(Refusal::of_request(reason, None)))
        }
        _ => Err(SseError::Failed(reason)),
    }
}

/// The beginning of a body, as text.
async fn read_reason(mut body: Incoming) -> String {
    let mut bytes = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > REASON_BYTES {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl SseStream {
    /// The next item, or `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<SseItem, String>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            let frame = match self.body.frame().await? {
                Ok(frame) => frame,
                Err(error) => return Some(Err(error.to_string())),
            };
            if let Ok(data) = frame.into_data()
                && let Err(reason) = self.parser.push(&data, &mut self.events)
            {
                return Some(Err(reason));
            }
        }
    }
}

/// Joins chunks to lines, and lines to events.
#[derive(Debug, Default)]
struct SseParser {
    line: BytesMut,
    data: BytesMut,
    is_error: bool,
}

impl SseParser {
    fn push(&mut self, bytes: &[u8], events: &mut VecDeque<SseItem>) -> Result<(), String> {
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

    fn end_line(&mut self, line: &[u8], events: &mut VecDeque<SseItem>) {
        if line.is_empty() {
            let data = self.data.split().freeze();
            let is_error = std::mem::take(&mut self.is_error);
            if is_error {
                let said = &data[..data.len().min(REASON_BYTES)];
                let said = String::from_utf8_lossy(said).into_owned();
                events.push_back(SseItem::Error(said));
            } else if !data.is_empty() {
                events.push_back(SseItem::Data(data));
            }
            return;
        }
        let field = |name: &[u8]| {
            let value = line.strip_prefix(name)?;
            Some(value.strip_prefix(b" ").unwrap_or(value))
        };
        if line.starts_with(b":") {
            events.push_back(SseItem::Comment);
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

    fn read(chunks: &[&str]) -> Result<Vec<SseItem>, String> {
        let (mut parser, mut events) = (SseParser::default(), VecDeque::new());
        for chunk in chunks {
            parser.push(chunk.as_bytes(), &mut events)?;
        }
        Ok(events.into())
    }

    fn data(text: &'static str) -> SseItem {
        SseItem::Data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn events_are_parsed_from_any_chunks() {
        let text =
            ":\r\n\r\ndata:{\"a\":1}\n\ndata: b\ndata: c\n\nevent: error\ndata: slow\n\nid: 4\n\n";
        let expected = || {
            vec![
                SseItem::Comment,
                data("{\"a\":1}"),
                data("b\nc"),
                SseItem::Error("slow".to_owned()),
            ]
        };
        assert_eq!(read(&[text]), Ok(expected()));
        let letters: Vec<_> = text.split_inclusive(|_: char| true).collect();
        assert_eq!(read(&letters), Ok(expected()));
    }

    #[test]
    fn an_event_above_the_limit_is_refused() {
        let long = "data: ".to_owned() + &"x".repeat(1 << 19) + "\n";
        assert!(read(&[&long, &long, &long]).is_err());
    }
}
