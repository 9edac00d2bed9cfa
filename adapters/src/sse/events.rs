//! The event stream of one connection.

use std::{convert::Infallible, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use tidewire_proto::v1::{self, Heartbeat, ServerMessage, server_message::Data};
use tidewire_stream::{ChannelName, Connection, FrameKind, Outgoing, publication::Position};
use tokio::time::{Instant, timeout};

use super::Cursor;

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
}

impl Events {
    /// The next events, and whether more follow.
    async fn next(&mut self) -> (Bytes, bool) {
        let heartbeat = Duration::from_millis(self.connection.heartbeat_ms().into());
        let mut taken = Vec::new();
        let next = timeout(
            self.wait(heartbeat),
            self.connection.next(TAKE_BYTES, &mut taken),
        );
        let mut out = BytesMut::new();
        match next.await {
            Ok(Ok(())) => {
                self.write(&taken, &mut out);
                self.tell_cursor(&mut out);
            }
            Ok(Err(_)) => return (Bytes::new(), false),
            Err(_) => {
                self.tell_cursor(&mut out);
                if out.is_empty() {
                    let now = self.connection.now_ms();
                    write_message(
                        &mut out,
                        None,
                        &message(Data::Ping(Heartbeat { server_time: now })),
                    );
                }
            }
        }
        (out.freeze(), true)
    }

    /// Silence lasts until the heartbeat, or until the cursor is due.
    fn wait(&self, heartbeat: Duration) -> Duration {
        match self.told {
            None => heartbeat,
            Some(_) => heartbeat.min(CURSOR_INTERVAL),
        }
    }

    fn write(&mut self, taken: &[Outgoing], out: &mut BytesMut) {
        // With one history channel every event carries its place.
        let only = match &self.connection.taken()[..] {
            [(channel, _)] => Some(channel.clone()),
            _ => None,
        };
        for outgoing in taken {
            match outgoing {
                Outgoing::Publication(publication) => {
                    let is_only = only.as_ref() == Some(publication.channel());
                    if is_only {
                        let position = publication.position().clone();
                        let cursor = encode(publication.channel().clone(), position);
                        write_id(out, &cursor);
                    }
                    out.put_slice(publication.frame(FrameKind::Sse, |publication| {
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
        let taken = self.connection.taken();
        if taken.len() < 2 {
            self.told = None;
            return;
        }
        if self.told.is_some() && self.told_at.elapsed() < CURSOR_INTERVAL {
            return;
        }
        let cursor = Cursor::new(taken).encode();
        if self.told.as_ref() == Some(&cursor) {
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
    let outgoing = Outgoing::Direct(message.clone().into());
    out.put_slice(&event(outgoing.event_type(), &outgoing.json()));
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
