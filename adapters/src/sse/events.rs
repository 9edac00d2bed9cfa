//! SSE event stream: encodes the messages of a session as events.

use std::{convert::Infallible, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use tidewire_proto::{
    json,
    v1::{self, Heartbeat, ServerMessage, server_message::Data},
};
use tidewire_stream::{ChannelName, Connection, OutgoingMessage, publication::Position};
use tokio::time::Instant;

use super::{Cursor, MAX_CURSOR_BYTES};
use crate::frame_kind;

/// Size of one chunk of the response, in bytes. hyper takes a chunk while it has unsent bytes,
/// beyond the outbox, so a chunk is small.
const BATCH_BYTES: usize = 16 << 10;

/// The shortest time between cursor events of a connection with several history channels.
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);

/// The events of a session. The stream ends with the session.
pub(super) fn events(
    connection: Connection,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let events = EventStream {
        // Before anything is delivered: a client that breaks off after `welcome` misses nothing.
        first_id: connection.delivered_positions().and_then(encode),
        connection,
        sent_cursor: None,
        cursor_sent_at: Instant::now(),
        is_cursor_pending: false,
        event_at: Instant::now(),
        written_at: Instant::now(),
    };
    stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        let (bytes, goes_on) = events.next().await;
        Some((Ok(bytes), goes_on.then_some(events)))
    })
    .filter(|chunk| std::future::ready(!matches!(chunk, Ok(bytes) if bytes.is_empty())))
}

/// A comment, which is no event.
const COMMENT: &[u8] = b":\n\n";

struct EventStream {
    connection: Connection,
    /// The cursor of the first event.
    first_id: Option<String>,
    /// The last cursor that was sent.
    sent_cursor: Option<String>,
    cursor_sent_at: Instant,
    /// Whether a newer cursor waits for [`CURSOR_INTERVAL`].
    is_cursor_pending: bool,
    /// When an event was last written.
    event_at: Instant,
    /// When an event or a comment was last written.
    written_at: Instant,
}

impl EventStream {
    /// The next events, and whether the stream continues.
    async fn next(&mut self) -> (Bytes, bool) {
        let mut batch = Vec::new();
        let (connection, event_at, written_at) = (&self.connection, self.event_at, self.written_at);
        let cursor_at = self
            .is_cursor_pending
            .then(|| self.cursor_sent_at + CURSOR_INTERVAL);
        // The heartbeat interval can change while this waits.
        let wake_at = || {
            let ping_at = event_at + heartbeat(connection);
            let comment_at = written_at + keepalive(connection);
            cursor_at.into_iter().chain([ping_at, comment_at]).min()
        };
        let next = connection.next_until(wake_at, BATCH_BYTES, &mut batch);
        if next.await.is_err() {
            return (Bytes::new(), false);
        }
        let mut out = BytesMut::new();
        self.write(&batch, &mut out);
        self.write_cursor(&mut out);
        let now = Instant::now();
        if out.is_empty() && now >= self.event_at + heartbeat(&self.connection) {
            let ping = Heartbeat {
                server_time: self.connection.now_ms(),
            };
            write_message(&mut out, None, &message(Data::Ping(ping)));
        }
        if !out.is_empty() {
            self.event_at = now;
        } else if now >= self.written_at + keepalive(&self.connection) {
            // For what is between the two: a client does not see it.
            out.put_slice(COMMENT);
        }
        if !out.is_empty() {
            self.written_at = now;
            self.connection.record_sent(out.len());
        }
        (out.freeze(), true)
    }

    /// Writes the events of a batch.
    fn write(&mut self, batch: &[OutgoingMessage], out: &mut BytesMut) {
        if batch.is_empty() {
            return;
        }
        // With one history channel, the id of each event is its cursor.
        let only = match self.connection.delivered_positions().as_deref() {
            Some([(channel, _)]) => Some(channel.clone()),
            _ => None,
        };
        if let Some(id) = self.first_id.take() {
            write_id(out, &id);
        }
        for outgoing in batch {
            match outgoing {
                OutgoingMessage::Publication(publication) => {
                    let is_only = only.as_ref() == Some(publication.channel());
                    if is_only {
                        let position = publication.position().clone();
                        let channel = publication.channel().clone();
                        if let Some(cursor) = encode([(channel, position)]) {
                            write_id(out, &cursor);
                        }
                    }
                    out.put_slice(publication.frame(frame_kind::SSE, |publication| {
                        event(publication.event_type(), &publication.json())
                    }));
                }
                outgoing => {
                    let name = match outgoing.event_type() {
                        // `EventSource` uses "error" for its own events.
                        "error" => "server_error",
                        name => name,
                    };
                    out.put_slice(&event(name, &outgoing.json()));
                }
            }
        }
    }

    /// With several history channels, the cursor is an event of its own.
    fn write_cursor(&mut self, out: &mut BytesMut) {
        self.is_cursor_pending = false;
        // A cursor with an unknown position could not be resumed from. The client keeps its last
        // one until the history of every channel has been read.
        let Some(positions) = self.connection.delivered_positions() else {
            return;
        };
        if positions.len() < 2 {
            self.sent_cursor = None;
            return;
        }
        let Some(cursor) = encode(positions) else {
            return;
        };
        if self.sent_cursor.as_ref() == Some(&cursor) {
            return;
        }
        if self.sent_cursor.is_some() && self.cursor_sent_at.elapsed() < CURSOR_INTERVAL {
            self.is_cursor_pending = true;
            return;
        }
        self.cursor_sent_at = Instant::now();
        write_message(
            out,
            Some(&cursor),
            &message(Data::Cursor(v1::Cursor {
                cursor: cursor.clone(),
            })),
        );
        self.sent_cursor = Some(cursor);
    }
}

/// The silence after which a comment keeps the connection from being taken for idle.
fn keepalive(connection: &Connection) -> Duration {
    connection.keep_alive_timeouts(Instant::now()).silence
}

/// The heartbeat interval that was last sent to the client.
fn heartbeat(connection: &Connection) -> Duration {
    Duration::from_millis(connection.heartbeat_ms().into())
}

/// The cursor of these positions. None if there are none, or too many: a cursor that the
/// server would not accept is not sent.
fn encode(positions: impl IntoIterator<Item = (ChannelName, Position)>) -> Option<String> {
    let cursor = Cursor::new(positions);
    let text = (!cursor.is_empty()).then(|| cursor.encode());
    text.filter(|text| text.len() <= MAX_CURSOR_BYTES)
}

fn message(data: Data) -> ServerMessage {
    ServerMessage {
        data: Some(data),
        ..ServerMessage::default()
    }
}

fn write_message(out: &mut BytesMut, id: Option<&str>, message: &ServerMessage) {
    if let Some(id) = id {
        write_id(out, id);
    }
    let name = message.data.as_ref().map_or("", json::data_type);
    out.put_slice(&event(name, &json::to_vec(message)));
}

fn write_id(out: &mut BytesMut, id: &str) {
    out.put_slice(b"id: ");
    out.put_slice(id.as_bytes());
    out.put_u8(b'\n');
}

/// An event without an id. A published document may have line breaks between its tokens.
/// Each line becomes a `data:` line, and the client joins them again.
fn event(name: &str, json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len() + name.len() + 24);
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    for line in json.split(|byte| *byte == b'\n') {
        out.put_slice(b"\ndata: ");
        // A carriage return would end the line too. JSON ignores it between tokens.
        out.extend(line.iter().filter(|byte| **byte != b'\r'));
    }
    out.put_slice(b"\n\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_document_is_a_data_line() {
        assert_eq!(
            event("message", b"{\"a\":\r\n1}"),
            &b"event: message\ndata: {\"a\":\ndata: 1}\n\n"[..]
        );
    }
}
