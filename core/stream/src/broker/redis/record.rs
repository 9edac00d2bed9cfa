//! Records: publications as they are stored in Redis and sent to other nodes.
//!
//! A payload is one byte for the urgency, then the event as a `ServerMessage` without a position.
//! A message on a shard channel is a batch: a line `epoch first time mark lengths`, then the
//! payloads. Example of publications 5 and 6: `e7 5 1700000000000 n1:42 12,9\n`, then 21 bytes.
//! The mark names the write: its node and its number there. In a cluster, a sixth field names the server
//! whose script made the batch ([`server_id`](super::server_id)). Earlier releases ignore further fields.

use bytes::Bytes;
use prost::Message as _;
use tidewire_proto::v1::ServerMessage;

use crate::{ChannelName, Content, Epoch, Event, Position, Publication, Urgency, publication::Seq};

/// The payload of a publication.
pub(super) fn encode(content: &Content, urgency: Urgency) -> Bytes {
    let message = ServerMessage {
        data: Some(content.event().into_owned()),
        ..ServerMessage::default()
    };
    let mut payload = Vec::with_capacity(1 + message.encoded_len());
    payload.push(match urgency {
        Urgency::Ordinary => b'o',
        Urgency::Urgent => b'u',
    });
    // A vector grows as needed.
    let _ = message.encode(&mut payload);
    payload.into()
}

/// The publication of a payload. None if a newer version wrote it in another form.
pub(super) fn decode(
    channel: &ChannelName,
    position: Position,
    time_ms: i64,
    payload: &[u8],
) -> Option<std::sync::Arc<Publication>> {
    let (urgency, message) = payload.split_first()?;
    let urgency = match urgency {
        b'o' => Urgency::Ordinary,
        b'u' => Urgency::Urgent,
        _ => return None,
    };
    // A copy: the read buffer must not stay in memory with one publication.
    let message = ServerMessage::decode(Bytes::copy_from_slice(message)).ok()?;
    let event: Event = message.data?;
    let channel = channel.clone();
    Some(Publication::with_urgency(
        channel, position, time_ms, event, urgency,
    ))
}

/// A batch, as a shard channel carries it.
#[derive(Debug)]
pub(super) struct BatchMessage<'a> {
    pub(super) epoch: &'a str,
    /// Seq of the first publication.
    pub(super) first: Seq,
    pub(super) time_ms: i64,
    pub(super) mark: &'a str,
    /// Id of the server whose script made it, if it is named.
    pub(super) server: Option<&'a str>,
    pub(super) payloads: Vec<&'a [u8]>,
}

impl<'a> BatchMessage<'a> {
    /// Reads a message. None if a newer version wrote it in another form.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let end = message.iter().position(|byte| *byte == b'\n')?;
        let header = std::str::from_utf8(&message[..end]).ok()?;
        let mut fields = header.split(' ');
        let (epoch, first, time_ms) = (fields.next()?, fields.next()?, fields.next()?);
        let (mark, lengths) = (fields.next()?, fields.next()?);
        let server = fields.next().filter(|server| !server.is_empty());
        let mut rest = &message[end + 1..];
        let mut payloads = Vec::new();
        for length in lengths.split(',').filter(|length| !length.is_empty()) {
            let (payload, others) = rest.split_at_checked(length.parse().ok()?)?;
            payloads.push(payload);
            rest = others;
        }
        rest.is_empty().then_some(Self {
            epoch,
            first: first.parse().ok()?,
            time_ms: time_ms.parse().ok()?,
            mark,
            server,
            payloads,
        })
    }

    /// Seq of the last publication, or of the one before the first if there is none.
    pub(super) fn last(&self) -> Seq {
        self.first
            .saturating_add(self.payloads.len() as u64)
            .saturating_sub(1)
    }

    /// The newest position after the batch.
    pub(super) fn top(&self) -> Position {
        Position {
            epoch: Epoch::new(self.epoch),
            seq: self.last(),
        }
    }
}

/// Reads the id of an entry of a history.
pub(super) fn entry_seq(id: &[u8]) -> Option<Seq> {
    let id = std::str::from_utf8(id).ok()?;
    id.strip_suffix("-0")?.parse().ok()
}

/// Reads the mark of an entry: the time in ms, and the write.
pub(super) fn entry_mark(mark: &[u8]) -> Option<(i64, &str)> {
    let (time_ms, mark) = std::str::from_utf8(mark).ok()?.split_once(' ')?;
    Some((time_ms.parse().ok()?, mark))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_publication_is_the_same_after_it_was_stored() {
        let channel = ChannelName::parse("orders:1").unwrap();
        let event = Event::Message(Bytes::from_static(b"{\"a\":1}"));
        let payload = encode(&event.clone().into(), Urgency::Urgent);
        let position = Position {
            epoch: Epoch::new("e"),
            seq: u64::MAX,
        };
        let decoded = decode(&channel, position.clone(), 7, &payload).unwrap();
        assert_eq!(*decoded.event(), event);
        assert_eq!((decoded.position(), decoded.time_ms()), (&position, 7));
        assert_eq!(decoded.urgency(), Urgency::Urgent);
        for cut in 0..payload.len() {
            let _ = decode(&channel, position.clone(), 7, &payload[..cut]);
        }
    }

    #[test]
    fn a_batch_is_read_whole_or_not_at_all() {
        let message = b"e7 9007199254740993 1700000000000 n1:42 2,1\nabc";
        let batch = BatchMessage::parse(message).unwrap();
        assert_eq!((batch.epoch, batch.mark), ("e7", "n1:42"));
        assert_eq!(batch.payloads, [&b"ab"[..], b"c"]);
        assert_eq!(batch.top().seq, 9_007_199_254_740_994);
        for cut in 0..message.len() {
            assert!(BatchMessage::parse(&message[..cut]).is_none(), "{cut}");
        }
        let restart = BatchMessage::parse(b"e8 1 0 - \n").unwrap();
        assert_eq!((restart.top().seq, restart.payloads.len()), (0, 0));
        assert_eq!(restart.server, None);
        // In a cluster.
        let restart = BatchMessage::parse(b"e8 1 0 -  26abb1\n").unwrap();
        assert_eq!((restart.top().seq, restart.server), (0, Some("26abb1")));
    }

    proptest! {
        #[test]
        fn a_batch_is_read_as_it_was_sent(
            first in 1..u64::MAX / 2,
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4),
            // A later release may have further fields.
            further in prop::collection::vec("[0-9a-f]{1,40}", 0..3),
        ) {
            let lengths: Vec<_> = payloads.iter().map(|one| one.len().to_string()).collect();
            let header = format!("e7 {first} 7 n1:42 {}", lengths.join(","));
            let header = [&[header][..], &further].concat().join(" ");
            let message = [header.as_bytes(), b"\n", &payloads.concat()].concat();
            let batch = BatchMessage::parse(&message).unwrap();
            prop_assert_eq!((batch.epoch, batch.first, batch.time_ms, batch.mark), ("e7", first, 7, "n1:42"));
            prop_assert_eq!(batch.server, further.first().map(String::as_str));
            prop_assert_eq!(batch.payloads, payloads);
        }

        #[test]
        fn any_message_is_read_or_refused(message in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = BatchMessage::parse(&message);
        }
    }
}
