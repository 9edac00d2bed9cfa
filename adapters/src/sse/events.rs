//! The event stream of one connection.

use std::{convert::Infallible, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use tidewire_proto::{
    json,
    v1::{self, Heartbeat, ServerMessage, server_message::Data},
};
use tidewire_stream::{ChannelName, Connection, OutgoingMessage, publication::Position};
use tokio::time::Instant;

use super::Cursor;
use crate::frame_kind;

/// What is taken from the session at a time, in bytes.
const TAKE_BYTES: usize = 64 << 10;

/// With several history channels, the cursor is told this often at most.
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);

/// All that the session has to say, as events. Ends with the session.
pub(super) fn events(
    connection: Connection,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let events = Events {
        connection,
        told: None,
        told_at: Instant::now(),
        owes_cursor: false,
        heard_at: Instant::now(),
    };
    stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        let (bytes, goes_on) = events.next().await;
        Some((Ok(bytes), goes_on.then_some(events)))
    })
    .filter(|chunk| std::future::ready(!matches!(chunk, Ok(bytes) if bytes.is_empty())))
}

struct Events {
    connection: Connection,
    /// The cursor that the client knows.
    told: Option<String>,
    told_at: Instant,
    /// Whether there is a newer cursor, which is not due yet.
    owes_cursor: bool,
    /// When the client last heard anything.
    heard_at: Instant,
}

impl Events {
    /// The next events, and whether more follow.
    async fn next(&mut self) -> (Bytes, bool) {
        let mut taken = Vec::new();
        let (connection, heard_at) = (&self.connection, self.heard_at);
        let cursor_at = self.owes_cursor.then(|| self.told_at + CURSOR_INTERVAL);
        // What the heartbeat is can change meanwhile.
        let quiet_at = || {
            let ping_at = heard_at + heartbeat(connection);
            Some(cursor_at.map_or(ping_at, |cursor_at| cursor_at.min(ping_at)))
        };
        let next = connection.next_until(quiet_at, TAKE_BYTES, &mut taken);
        if next.await.is_err() {
            return (Bytes::new(), false);
        }
        let mut out = BytesMut::new();
        self.write(&taken, &mut out);
        self.tell_cursor(&mut out);
        let now = Instant::now();
        if out.is_empty() && now >= self.heard_at + heartbeat(&self.connection) {
            let ping = Heartbeat {
                server_time: self.connection.now_ms(),
            };
            write_message(&mut out, None, &message(Data::Ping(ping)));
        }
        if !out.is_empty() {
            self.heard_at = now;
            self.connection.record_sent(out.len());
        }
        (out.freeze(), true)
    }

    fn write(&mut self, taken: &[OutgoingMessage], out: &mut BytesMut) {
        // With one history channel every event carries its place.
        let only = match &self.connection.delivered_positions()[..] {
            [(channel, _)] => Some(channel.clone()),
            _ => None,
        };
        for outgoing in taken {
            match outgoing {
                OutgoingMessage::Publication(publication) => {
                    let is_only = only.as_ref() == Some(publication.channel());
                    if is_only {
                        let position = publication.position().clone();
                        let cursor = encode(publication.channel().clone(), position);
                        write_id(out, &cursor);
                    }
                    out.put_slice(publication.frame(frame_kind::SSE, |publication| {
                        event(publication.event_type(), &publication.json())
                    }));
                }
                outgoing => {
                    let name = match outgoing.event_type() {
                        // `EventSource` keeps "error" for itself.
                        "error" => "server_error",
                        name => name,
                    };
                    out.put_slice(&event(name, &outgoing.json()));
                }
            }
        }
    }

    /// With several history channels the cursor has an event of its own.
    fn tell_cursor(&mut self, out: &mut BytesMut) {
        let taken = self.connection.delivered_positions();
        self.owes_cursor = false;
        if taken.len() < 2 {
            self.told = None;
            return;
        }
        let cursor = Cursor::new(taken).encode();
        if self.told.as_ref() == Some(&cursor) {
            return;
        }
        if self.told.is_some() && self.told_at.elapsed() < CURSOR_INTERVAL {
            self.owes_cursor = true;
            return;
        }
        self.told_at = Instant::now();
        write_message(
            out,
            Some(&cursor),
            &message(Data::Cursor(v1::Cursor {
                cursor: cursor.clone(),
            })),
        );
        self.told = Some(cursor);
    }
}

/// What the client was told last.
fn heartbeat(connection: &Connection) -> Duration {
    Duration::from_millis(connection.heartbeat_ms().into())
}

fn encode(channel: ChannelName, position: Position) -> String {
    Cursor::new([(channel, position)]).encode()
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

/// An event without an id. A published document may hold line breaks between its
/// tokens: each line is a `data:` line, and the client joins them again.
fn event(name: &str, json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len() + name.len() + 24);
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    for line in json.split(|byte| *byte == b'\n') {
        out.put_slice(b"\ndata: ");
        // A carriage return would end the line too; between tokens it means nothing.
        out.extend(line.iter().filter(|byte| **byte != b'\r'));
    }
    out.put_slice(b"\n\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_lines_together() {
        assert_eq!(
            event("message", b"{\"a\":\r\n1}"),
            &b"event: message\ndata: {\"a\":\ndata: 1}\n\n"[..]
        );
    }
}
