//! SSE transport: an event stream parsed by the HTML standard, and POST requests towards the
//! server.

use std::{collections::VecDeque, pin::Pin};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::{Incoming, Outgoing, Refusal, Sent, Wire};
use crate::{Close, Endpoint, Message, within};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type, `message` by default.
    pub kind: String,
    /// Its data lines, joined.
    pub data: String,
    /// The last event id received so far.
    pub last_id: Option<String>,
    /// Whether this event carried an id.
    pub has_id: bool,
}

impl Event {
    /// Parses the message in the event.
    ///
    /// # Panics
    /// The event holds no message.
    #[must_use]
    pub fn message(&self) -> Message {
        Message::parse(&self.data)
    }
}

/// An event stream.
pub struct SseStream {
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffer: Vec<u8>,
    events: VecDeque<Event>,
    lines: Pending,
}

/// The lines of an incomplete event.
#[derive(Debug, Default)]
struct Pending {
    kind: String,
    data: Option<String>,
    last_id: Option<String>,
    has_id: bool,
}

impl std::fmt::Debug for SseStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SseStream")
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl SseStream {
    /// Opens `/v1/sse` with this query and these headers.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    ///
    /// # Panics
    /// The request is never answered, or not with an event stream.
    pub async fn open(
        server: &Endpoint,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refusal> {
        // A separate HTTP client, so that dropping it closes the connection.
        let mut request = server
            .new_http()
            .get(server.url(&format!("/v1/sse{query}")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = within("an event stream", request.send()).await;
        let response = response.map_err(Refusal::unreachable)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(Refusal::Http(
                status,
                response.text().await.unwrap_or_default(),
            ));
        }
        let kind = response
            .headers()
            .get("content-type")
            .and_then(|kind| kind.to_str().ok());
        assert_eq!(kind, Some("text/event-stream"));
        Ok(Self {
            body: Box::pin(response.bytes_stream()),
            buffer: Vec::new(),
            events: VecDeque::new(),
            lines: Pending::default(),
        })
    }

    /// Returns the next event, including heartbeats and cursors, or `None` at the end.
    ///
    /// # Panics
    /// Neither an event nor the end comes.
    pub async fn next(&mut self) -> Option<Event> {
        within("an event", self.receive()).await
    }

    /// Returns the next event of this type and drops the others.
    ///
    /// # Panics
    /// The stream ends first.
    pub async fn next_of(&mut self, kind: &str) -> Event {
        loop {
            let event = self
                .next()
                .await
                .unwrap_or_else(|| panic!("the end came before a `{kind}`"));
            if event.kind == kind {
                return event;
            }
        }
    }

    async fn receive(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let chunk = self.body.next().await?.ok()?;
            self.buffer.extend_from_slice(&chunk);
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8(line).expect("an event stream is UTF-8");
                self.take_line(line.trim_end_matches(['\n', '\r']));
            }
        }
    }

    fn take_line(&mut self, line: &str) {
        let lines = &mut self.lines;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                let kind = std::mem::take(&mut lines.kind);
                let has_id = std::mem::take(&mut lines.has_id);
                if let Some(data) = lines.data.take() {
                    self.events.push_back(Event {
                        kind: if kind.is_empty() {
                            "message".to_owned()
                        } else {
                            kind
                        },
                        data,
                        last_id: lines.last_id.clone(),
                        has_id,
                    });
                }
            }
            "event" => value.clone_into(&mut lines.kind),
            "id" => {
                lines.last_id = Some(value.to_owned());
                lines.has_id = true;
            }
            "data" => match &mut lines.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => lines.data = Some(value.to_owned()),
            },
            // Comments, `retry`, and unknown fields are ignored.
            _ => {}
        }
    }
}

pub(super) async fn open(
    server: &Endpoint,
    token: Option<&str>,
) -> Result<(Wire, Message), Refusal> {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer
        .iter()
        .map(|bearer| ("authorization", bearer.as_str()))
        .collect();
    let mut stream = SseStream::open(server, "", &headers).await?;
    let welcome = loop {
        let event = stream.next().await;
        let event = event.ok_or_else(|| Refusal::unreachable("the end, no `welcome`"))?;
        if event.kind == "welcome" {
            break event.message();
        }
    };
    let text = |name: &str| {
        welcome.data[name]
            .as_str()
            .expect("`welcome` names it")
            .to_owned()
    };
    let url = server.url(&format!(
        "/v1/sse/{}?key={}",
        text("connectionId"),
        text("postKey")
    ));
    let (sender, incoming) = mpsc::unbounded_channel();
    let reader = tokio::spawn(listen(stream, sender)).abort_handle();
    let outgoing = Box::new(Side {
        http: server.http().clone(),
        url,
    });
    Ok((
        Wire {
            incoming,
            outgoing,
            reader,
        },
        welcome,
    ))
}

struct Side {
    http: reqwest::Client,
    url: String,
}

impl Outgoing for Side {
    fn send(&mut self, text: String) -> Sent<'_> {
        async move {
            let request = self
                .http
                .post(&self.url)
                .header("content-type", "application/json");
            let response = request
                .body(text)
                .send()
                .await
                .map_err(|error| error.to_string())?;
            let is_gone = response.status() == http::StatusCode::NOT_FOUND;
            let body = response.text().await.map_err(|error| error.to_string())?;
            if is_gone {
                return Err(body);
            }
            Ok(Some(Message::parse(&body)))
        }
        .boxed()
    }
}

async fn listen(mut stream: SseStream, sender: mpsc::UnboundedSender<Incoming>) {
    while let Some(event) = stream.receive().await {
        if event.kind == "cursor" || event.kind == "ping" {
            continue;
        }
        let message = event.message();
        let expected = if message.kind == "error" {
            "server_error"
        } else {
            &message.kind
        };
        assert_eq!(event.kind, expected, "the event's type is the message's");
        if sender.send(Incoming::Message(message)).is_err() {
            return;
        }
    }
    // Fails only if the client was dropped.
    let _ = sender.send(Incoming::Close(Close::Sse));
}
