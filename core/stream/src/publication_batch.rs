//! Publication batches: consecutive publications of one channel, delivered in one piece.
//!
//! In a burst all subscribers get the same publications in the same order. The batch joins
//! their frames once; each session queues, and each socket writes, the joined bytes. The cost
//! of a burst for one subscriber does not depend on the number of publications.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::{ChannelName, Position, Publication, Urgency, publication::FrameKind};

/// Length at which a batch is cut, encoded, in bytes: about the size of one write.
const MAX_BATCH_BYTES: usize = 64 << 10;

/// Consecutive publications of one channel and epoch, two at least.
#[derive(Debug)]
pub struct PublicationBatch {
    publications: Box<[Arc<Publication>]>,
    first: Position,
    last: Position,
    json_size: OnceLock<usize>,
    proto_size: OnceLock<usize>,
    frames: [OnceLock<Bytes>; FrameKind::SLOTS],
}

impl PublicationBatch {
    /// A batch of `publications`, if they are consecutive.
    fn of(publications: &[Arc<Publication>]) -> Option<Arc<Self>> {
        let follow = |pair: &[Arc<Publication>]| {
            let [one, next] = pair else { return false };
            one.position().epoch == next.position().epoch && one.seq() + 1 == next.seq()
        };
        let [first, .., last] = publications else {
            return None;
        };
        publications.windows(2).all(follow).then(|| {
            Arc::new(Self {
                publications: publications.into(),
                first: first.position().clone(),
                last: last.position().clone(),
                json_size: OnceLock::new(),
                proto_size: OnceLock::new(),
                frames: [const { OnceLock::new() }; FrameKind::SLOTS],
            })
        })
    }

    /// The publications, in order.
    #[must_use]
    pub fn publications(&self) -> &[Arc<Publication>] {
        &self.publications
    }

    /// The frames of all publications, joined. `frame` returns the frame of one, and is called
    /// on the first use of `kind` only.
    pub fn frames(
        &self,
        kind: FrameKind,
        frame: impl for<'a> Fn(&'a Publication) -> &'a Bytes,
    ) -> &Bytes {
        self.frames[kind.index()].get_or_init(|| {
            let frames = self
                .publications
                .iter()
                .map(|publication| frame(publication));
            let mut joined = Vec::with_capacity(frames.clone().map(Bytes::len).sum());
            for frame in frames {
                joined.extend_from_slice(frame);
            }
            joined.into()
        })
    }

    /// Position of the first publication.
    pub(crate) fn first(&self) -> &Position {
        &self.first
    }

    /// Position of the last publication.
    pub(crate) fn last(&self) -> &Position {
        &self.last
    }

    /// Length of all messages as JSON, in bytes.
    pub(crate) fn json_size(&self) -> usize {
        *self
            .json_size
            .get_or_init(|| self.publications.iter().map(|one| one.json_len()).sum())
    }

    /// Length of all messages as protobuf, in bytes.
    pub(crate) fn proto_size(&self) -> usize {
        *self
            .proto_size
            .get_or_init(|| self.publications.iter().map(|one| one.proto_len()).sum())
    }
}

/// Delivery of a shard to the subscribers of one channel: publications in order, and the batch
/// that joins them, made when the first session needs it.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    publications: &'a [Arc<Publication>],
    urgency: Urgency,
    batch: OnceLock<Option<Arc<PublicationBatch>>>,
}

impl<'a> Delivery<'a> {
    pub(crate) fn new(publications: &'a [Arc<Publication>]) -> Self {
        let is_urgent = |one: &Arc<Publication>| one.urgency() == Urgency::Urgent;
        Self {
            publications,
            urgency: match publications.iter().any(is_urgent) {
                true => Urgency::Urgent,
                false => Urgency::Ordinary,
            },
            batch: OnceLock::new(),
        }
    }

    /// Whether one of them is urgent.
    pub(crate) fn urgency(&self) -> Urgency {
        self.urgency
    }

    pub(crate) fn publications(&self) -> &'a [Arc<Publication>] {
        self.publications
    }

    /// The channel of all of them.
    pub(crate) fn channel(&self) -> Option<&'a ChannelName> {
        self.publications.first().map(|one| one.channel())
    }

    pub(crate) fn batch(&self) -> Option<&Arc<PublicationBatch>> {
        self.batch
            .get_or_init(|| PublicationBatch::of(self.publications))
            .as_ref()
    }
}

/// Splits the publications of a tick where the channel changes, and where a batch gets too
/// long.
pub(crate) fn deliveries(
    mut publications: &[Arc<Publication>],
) -> impl Iterator<Item = Delivery<'_>> {
    std::iter::from_fn(move || {
        let first = publications.first()?;
        let mut bytes = 0;
        let length = publications
            .iter()
            .take_while(|one| {
                bytes += one.encoded_size_hint();
                one.channel() == first.channel() && bytes <= MAX_BATCH_BYTES
            })
            .count();
        let (part, rest) = publications.split_at(length.max(1));
        publications = rest;
        Some(Delivery::new(part))
    })
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::server_message::Data;

    use super::*;
    use crate::Epoch;

    fn publication(channel: &str, epoch: &str, seq: u64, bytes: usize) -> Arc<Publication> {
        Publication::new(
            ChannelName::parse(channel).unwrap(),
            Position {
                epoch: Epoch::new(epoch),
                seq,
            },
            0,
            Data::Message(Bytes::from(vec![b'1'; bytes])),
        )
    }

    #[test]
    fn only_consecutive_publications_are_a_batch() {
        let is_batch = |ends: [(&str, u64); 2]| {
            let both = ends.map(|(epoch, seq)| publication("demo:a", epoch, seq, 1));
            Delivery::new(&both).batch().is_some()
        };
        assert!(is_batch([("e", 1), ("e", 2)]));
        assert!(!is_batch([("e", 1), ("e", 3)]));
        assert!(!is_batch([("e", 2), ("e", 1)]));
        assert!(!is_batch([("e", 1), ("f", 2)]));
        assert!(
            Delivery::new(&[publication("demo:a", "e", 1, 1)])
                .batch()
                .is_none()
        );
    }

    #[test]
    fn deliveries_are_split_by_channel_and_by_length() {
        let publications = [
            publication("demo:a", "e", 1, 1),
            publication("demo:a", "e", 2, 1),
            publication("demo:b", "e", 1, MAX_BATCH_BYTES / 2),
            publication("demo:b", "e", 2, MAX_BATCH_BYTES / 2),
            publication("demo:b", "e", 3, 2 * MAX_BATCH_BYTES),
            publication("demo:b", "e", 4, 1),
        ];
        let lengths: Vec<_> = deliveries(&publications)
            .map(|one| one.publications().len())
            .collect();
        assert_eq!(lengths, [2, 1, 1, 1, 1]);
    }

    #[test]
    fn frames_are_joined_in_order() {
        let both = [1, 2].map(|seq| publication("demo:a", "e", seq, 1));
        let delivery = Delivery::new(&both);
        let batch = delivery.batch().unwrap();
        let frame = |one: &Publication| {
            one.frame(FrameKind::new(0), |one| {
                Bytes::from(format!("<{}>", one.seq()))
            });
        };
        both.iter().for_each(|one| frame(one));
        let joined = batch.frames(FrameKind::new(0), |one| {
            one.frame(FrameKind::new(0), |_| unreachable!("made before"))
        });
        assert_eq!(joined, "<1><2>");
    }
}
