//! Stored form of users' states and of notifications: compact, and versioned.
//!
//! Each value begins with its version. Numbers are varints, which are short for small numbers;
//! places of notifications are stored as differences, since neighbours are close in time. So an
//! entry of an inbox takes about eight bytes, and a state some tens of bytes.
//!
//! Texts are stored apart from inboxes, in chunks in the order of their places: a batch of
//! notifications to many users appends to one part of the file, whoever the users are.

use crate::{
    NotificationError,
    id::Order,
    inbox::{BroadcastMark, Entry, UserState},
    kind::{Class, Kind},
};

/// Version of all records here.
const VERSION: u8 = 1;

/// Bytes of a chunk: a page of the store holds one, nearly full.
pub(crate) const CHUNK_BYTES: usize = 3_900;

const READ: u8 = 1;
const EXPIRES: u8 = 2;
const COLLAPSES: u8 = 4;

/// Appends values to a record.
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self(vec![VERSION])
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// A number near zero, of either sign.
    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    fn entries<'a>(&mut self, entries: impl ExactSizeIterator<Item = &'a Entry>) {
        self.number(entries.len() as u64);
        let mut before = 0;
        for entry in entries {
            self.number(entry.order.0 - before);
            before = entry.order.0;
            let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
            let flags = flag(READ, entry.is_marked_read)
                | flag(EXPIRES, entry.expires_at_ms.is_some())
                | flag(COLLAPSES, entry.collapse.is_some());
            self.0.push(flags);
            self.number(entry.class.0.into());
            if let Some(expires_at_ms) = entry.expires_at_ms {
                self.signed(expires_at_ms - entry.order.time_ms());
            }
            if let Some(hash) = entry.collapse {
                self.0.extend_from_slice(&hash.to_le_bytes());
            }
        }
    }
}

/// Reads the values of a record. None once it is cut off.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(record: &'a [u8]) -> Option<Self> {
        let (version, rest) = record.split_first()?;
        (*version == VERSION).then_some(Self(rest))
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        self.number()?.try_into().ok()
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The length of a list whose items take a byte or more.
    fn len(&mut self) -> Option<usize> {
        self.small().filter(|len: &usize| *len <= self.0.len())
    }

    fn entries(&mut self) -> Option<Vec<Entry>> {
        let len = self.len()?;
        let (mut entries, mut before) = (Vec::with_capacity(len), 0_u64);
        for _ in 0..len {
            before = before.checked_add(self.number()?)?;
            let order = Order(before);
            let flags = self.byte()?;
            let class = Class(self.small()?);
            let expires_at_ms = match flags & EXPIRES {
                0 => None,
                _ => Some(order.time_ms().checked_add(self.signed()?)?),
            };
            let collapse = match flags & COLLAPSES {
                0 => None,
                _ => Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?)),
            };
            entries.push(Entry {
                order,
                class,
                is_marked_read: flags & READ != 0,
                expires_at_ms,
                collapse,
            });
        }
        Some(entries)
    }
}

/// Encodes a user's state.
pub(crate) fn encode_state(state: &UserState) -> Vec<u8> {
    let mut out = Writer::new();
    out.number(state.first_contact_ms.cast_unsigned());
    out.number(state.items.into());
    out.number(state.blocks.into());
    out.number(state.read_watermark.0);
    out.number(state.broadcast_watermark.0);
    // The latest time of all stands for "never".
    out.number(state.next_due_ms.cast_unsigned());
    out.number(state.min_priority.into());
    out.number(state.muted.len() as u64);
    for kind in &state.muted {
        out.number(kind.0.into());
    }
    out.number(state.unread.len() as u64);
    for (class, count) in &state.unread {
        out.number(class.0.into());
        out.number((*count).into());
    }
    out.number(state.marks.len() as u64);
    for mark in &state.marks {
        out.number(mark.order.0);
        out.0.push(mark.is_dismissal.into());
    }
    out.entries(state.head.iter());
    out.0
}

/// Decodes a user's state.
pub(crate) fn decode_state(record: &[u8]) -> Result<UserState, NotificationError> {
    read_state(record, true).ok_or(NotificationError::Damaged("state of a user"))
}

/// Decodes a user's state without the newest entries, which no count needs.
pub(crate) fn decode_counts(record: &[u8]) -> Result<UserState, NotificationError> {
    read_state(record, false).ok_or(NotificationError::Damaged("state of a user"))
}

fn read_state(record: &[u8], with_entries: bool) -> Option<UserState> {
    let mut from = Reader::new(record)?;
    let mut state = UserState {
        first_contact_ms: from.number()?.cast_signed(),
        items: from.small()?,
        blocks: from.small()?,
        read_watermark: Order(from.number()?),
        broadcast_watermark: Order(from.number()?),
        next_due_ms: from.number()?.cast_signed(),
        min_priority: from.small()?,
        ..UserState::default()
    };
    for _ in 0..from.len()? {
        state.muted.push(Kind(from.small()?));
    }
    for _ in 0..from.len()? {
        state.unread.push((Class(from.small()?), from.small()?));
    }
    for _ in 0..from.len()? {
        state.marks.push(BroadcastMark {
            order: Order(from.number()?),
            is_dismissal: from.byte()? != 0,
        });
    }
    if with_entries {
        state.head = from.entries()?;
    }
    Some(state)
}

/// Encodes a block of older entries of an inbox.
pub(crate) fn encode_block(entries: &[Entry]) -> Vec<u8> {
    let mut out = Writer::new();
    out.entries(entries.iter());
    out.0
}

/// Decodes a block.
pub(crate) fn decode_block(record: &[u8]) -> Result<Vec<Entry>, NotificationError> {
    let entries = Reader::new(record).and_then(|mut from| from.entries());
    entries.ok_or(NotificationError::Damaged("block of an inbox"))
}

/// The text of a notification, and how many inboxes list it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) order: Order,
    pub(crate) inboxes: u32,
    pub(crate) text: Vec<u8>,
}

/// Encodes bodies with rising places as chunks, each with the place of its first body.
///
/// A body is found in the chunk with the greatest place up to its own. Another operation may have
/// taken a place in between, and its chunk would be found instead: so the places of a chunk have
/// no gap.
pub(crate) fn encode_chunks<'a>(
    bodies: impl IntoIterator<Item = &'a Body>,
) -> Vec<(Order, Vec<u8>)> {
    let mut chunks: Vec<(Order, Vec<u8>)> = Vec::new();
    let mut next = Order::default();
    for body in bodies {
        // A body has up to 15 bytes of numbers.
        let needed = body.text.len() + 15;
        let has_room = |(_, chunk): &(Order, Vec<u8>)| chunk.len() + needed <= CHUNK_BYTES;
        if body.order != next || !chunks.last().is_some_and(has_room) {
            chunks.push((body.order, Writer::new().0));
        }
        next = Order(body.order.0.saturating_add(1));
        let Some((first, chunk)) = chunks.last_mut() else {
            continue;
        };
        let mut out = Writer(std::mem::take(chunk));
        out.number(body.order.0 - first.0);
        out.number(body.inboxes.into());
        out.number(body.text.len() as u64);
        out.0.extend_from_slice(&body.text);
        *chunk = out.0;
    }
    chunks
}

/// Decodes a chunk whose first body has this place.
pub(crate) fn decode_chunk(first: Order, chunk: &[u8]) -> Result<Vec<Body>, NotificationError> {
    let read = || {
        let (mut from, mut bodies) = (Reader::new(chunk)?, Vec::new());
        while !from.0.is_empty() {
            let order = Order(first.0.checked_add(from.number()?)?);
            let inboxes = from.small()?;
            let len = from.len()?;
            let text = from.bytes(len)?.to_vec();
            bodies.push(Body {
                order,
                inboxes,
                text,
            });
        }
        Some(bodies)
    };
    read().ok_or(NotificationError::Damaged("chunk of notifications"))
}

/// The text of one body of a chunk. None if the chunk does not hold it.
pub(crate) fn find_body(first: Order, chunk: &[u8], order: Order) -> Option<&[u8]> {
    let mut from = Reader::new(chunk)?;
    while !from.0.is_empty() {
        let found = first.0.checked_add(from.number()?)?;
        from.number()?;
        let len = from.len()?;
        let text = from.bytes(len)?;
        if found == order.0 {
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Operations take places in turns, and each stores its own chunks.
        #[test]
        fn every_body_is_found_whoever_took_the_places_between(
            writers in proptest::collection::vec((0..4_usize, 0..20_usize), 1..300),
        ) {
            let mut operations = vec![Vec::new(); 4];
            for (place, (writer, len)) in writers.iter().enumerate() {
                let (order, text) = (Order(place as u64), vec![place as u8; len * 40]);
                operations[*writer].push(Body { order, inboxes: 1, text });
            }
            let chunks = operations.iter().flat_map(encode_chunks);
            let stored: std::collections::BTreeMap<_, _> = chunks.collect();
            for body in operations.iter().flatten() {
                let (first, chunk) = stored.range(..=body.order).next_back().unwrap();
                prop_assert_eq!(find_body(*first, chunk, body.order), Some(body.text.as_slice()));
            }
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (
            1_u64..1 << 40,
            0_u16..400,
            any::<bool>(),
            proptest::option::of(0_i64..1 << 44),
            proptest::option::of(any::<u64>()),
        );
        prop::collection::vec(entry, 0..40).prop_map(|parts| {
            let mut order = 1_732_300_000_000 << 16;
            let entry = |(delta, class, is_marked_read, expires_at_ms, collapse)| {
                order += delta;
                Entry {
                    order: Order(order),
                    class: Class(class),
                    is_marked_read,
                    expires_at_ms,
                    collapse,
                }
            };
            parts.into_iter().map(entry).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn records_decode_to_what_was_encoded(
            head in entries(),
            numbers in any::<[u64; 3]>(),
            marks in prop::collection::vec((any::<u64>(), any::<bool>()), 0..5),
            unread in prop::collection::vec((0_u16..400, any::<u32>()), 0..5),
        ) {
            let state = UserState {
                first_contact_ms: numbers[0].cast_signed(),
                items: numbers[0] as u32,
                blocks: numbers[1] as u32,
                read_watermark: Order(numbers[1]),
                broadcast_watermark: Order(numbers[2]),
                next_due_ms: i64::MAX,
                min_priority: 3,
                muted: [Kind(1), Kind(319)].into_iter().collect(),
                unread: unread.into_iter().map(|(class, count)| (Class(class), count)).collect(),
                marks: marks.into_iter().map(|(order, is_dismissal)| BroadcastMark { order: Order(order), is_dismissal }).collect(),
                head,
            };
            let record = encode_state(&state);
            prop_assert_eq!(&decode_state(&record).unwrap(), &state);
            let counts = UserState { head: Vec::new(), ..state.clone() };
            prop_assert_eq!(decode_counts(&record).unwrap(), counts);
            for len in 0..record.len() {
                prop_assert!(decode_state(&record[..len]).is_err(), "{}", len);
            }
            prop_assert_eq!(decode_block(&encode_block(&state.head)).unwrap(), state.head);
        }

        #[test]
        fn chunks_hold_all_bodies(lens in prop::collection::vec(0_usize..6_000, 1..40)) {
            let bodies: Vec<_> = (1..).zip(lens).map(|(order, len)| Body {
                order: Order(order * 3),
                inboxes: order as u32,
                text: vec![order as u8; len],
            }).collect();
            let chunks = encode_chunks(&bodies);
            let decoded: Vec<_> = chunks.iter().flat_map(|(first, chunk)| decode_chunk(*first, chunk).unwrap()).collect();
            prop_assert_eq!(&decoded, &bodies);
            for body in &bodies {
                let (first, chunk) = chunks.iter().rfind(|(first, _)| *first <= body.order).unwrap();
                prop_assert!(chunk.len() <= CHUNK_BYTES || find_body(*first, chunk, Order(first.0 + 1)).is_none());
                prop_assert_eq!(find_body(*first, chunk, body.order), Some(body.text.as_slice()));
            }
        }
    }

    #[test]
    fn an_entry_takes_few_bytes() {
        let entry = |number: u64| Entry {
            // One a second.
            order: Order((1_732_300_000_000 + number * 1_000) << 16),
            class: Class(7),
            is_marked_read: false,
            expires_at_ms: None,
            collapse: None,
        };
        let entries: Vec<_> = (0..16).map(entry).collect();
        let bytes = encode_block(&entries).len();
        assert!(bytes <= 16 * 6 + 8, "{bytes}");
    }
}
