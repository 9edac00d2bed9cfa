//! Round trips: arbitrary messages of every type survive conversion to JSON and back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use proptest::{collection::vec, prelude::any, prop_assert, prop_assert_eq, proptest};
use support::{Entry, arbitrary::Supply, entries, exact::Exact, to_hex};
use tidewire_proto::{
    json::{data_type, fragment, proto_fragment},
    prost::{Message as _, encoding},
    v1::ServerMessage,
};

/// Covers all message types evenly.
fn messages_of_every_type(bytes: &[u8]) -> impl Iterator<Item = (Entry, Vec<u8>)> {
    entries().into_iter().map(|entry| {
        let message = Supply(bytes).message(&entry.descriptor(), 0);
        (entry, message.encode_to_vec())
    })
}

proptest! {
    #[test]
    fn json_round_trips_lose_nothing(bytes in vec(any::<u8>(), 0..400)) {
        for (entry, proto) in messages_of_every_type(&bytes) {
            let json = (entry.to_json)(&proto).unwrap();
            let back = (entry.to_proto)(json.as_bytes());
            let canonical = (entry.to_canonical)(&proto).unwrap();
            prop_assert_eq!(back.map(|back| to_hex(&back)), Ok(to_hex(&canonical)), "{}: {}", entry.name, json);
        }
    }

    #[test]
    fn serde_matches_the_json_form(bytes in vec(any::<u8>(), 0..200)) {
        for (entry, proto) in messages_of_every_type(&bytes) {
            let json = (entry.to_json)(&proto).unwrap();
            prop_assert_eq!((entry.serde)(&json), Ok(json.clone()), "{}", entry.name);
        }
    }

    #[test]
    fn reading_anything_never_panics(text in "[\\[\\]{}\":,a-z0-9.\\-\\\\ ]{0,60}", bytes in vec(any::<u8>(), 0..60)) {
        let mut damaged = br#"{"type":"subscribe","id":"1","data":{"channels":[{"channel":"a:b"}]}}"#.to_vec();
        for pair in bytes.chunks_exact(2) {
            let at = usize::from(pair[0]) % damaged.len();
            damaged[at] = pair[1];
        }
        let _ = tidewire_proto::json::parse_client(&damaged);
        for entry in entries() {
            let _ = (entry.to_proto)(text.as_bytes());
            let _ = (entry.to_proto)(&bytes);
        }
    }

    #[test]
    fn parts_make_up_the_whole(bytes in vec(any::<u8>(), 0..400)) {
        let descriptor = support::message("tidewire.v1.ServerMessage");
        let proto = Supply(&bytes).message(&descriptor, 0).encode_to_vec();
        let message = ServerMessage::decode(proto.as_slice()).unwrap();
        let Some(data) = &message.data else { return Ok(()) };
        let only = ServerMessage { data: message.data.clone(), ..Default::default() };

        let json = format!(r#"{{"type":"{}","data":{}}}"#, data_type(data), String::from_utf8(fragment(data)).unwrap());
        prop_assert_eq!(json.as_bytes(), tidewire_proto::json::to_vec(&only));
        prop_assert!(Exact::parse(&json).is_ok());

        let (field, part) = proto_fragment(data);
        let mut whole = Vec::new();
        encoding::encode_key(field, encoding::WireType::LengthDelimited, &mut whole);
        encoding::encode_varint(part.len() as u64, &mut whole);
        whole.extend(part);
        prop_assert_eq!(whole, only.encode_to_vec());
    }
}

#[test]
fn the_tag_comes_first_and_the_time_last() {
    let text = r#"{"timestamp":4,"data":{"text":"hi"},"seq":3,"channel":"demo:a","id":"1","type":"message"}"#;
    let message: ServerMessage = tidewire_proto::json::from_slice(text.as_bytes()).unwrap();
    let expected = r#"{"type":"message","id":"1","channel":"demo:a","seq":3,"data":{"text":"hi"},"timestamp":4}"#;
    assert_eq!(
        String::from_utf8(tidewire_proto::json::to_vec(&message)).unwrap(),
        expected
    );
}
