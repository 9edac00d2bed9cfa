//! Fuzz targets: whatever comes from outside is parsed without a panic, and what
//! is accepted keeps the promises of its type.
//!
//! Inputs are valid examples with random edits, and random bytes. Each target runs
//! `TIDEWIRE_FUZZ_ITERATIONS` times, 2,000 if not set. A target that accepts next to
//! nothing, or refuses next to nothing, tests nothing, and fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod venues;

use std::sync::atomic::{AtomicUsize, Ordering};

use bolero::TypeGenerator;
use tidewire_adapters::{
    sse::Cursor,
    websocket::frame::{FrameError, FrameReader, Incoming},
};
use tidewire_proto::{
    json,
    prost::Message as _,
    v1::{ClientMessage, ServerMessage},
};
use tidewire_stream::ChannelName;
use tidewire_tests::fuzz::{iterations, masked_frame};

/// A valid example, and what is done to it.
#[derive(Debug, Clone, TypeGenerator)]
struct Case {
    seed: u8,
    count: u8,
    edits: [Edit; MOST_EDITS],
}

/// More edits than a few leave nothing that a parser would look into.
const MOST_EDITS: usize = 4;

/// An edit. Places are taken modulo the length.
#[derive(Debug, Clone, TypeGenerator)]
enum Edit {
    Flip {
        at: u16,
        bits: u8,
    },
    Insert {
        at: u16,
        byte: u8,
    },
    Remove {
        at: u16,
        length: u8,
    },
    Repeat {
        at: u16,
        length: u8,
        times: u8,
    },
    Token {
        at: u16,
        which: u8,
    },
    /// Another value for a field: what comes out is JSON still.
    Value {
        at: u16,
        which: u8,
    },
    Cut {
        at: u16,
    },
}

/// What breaks parsers.
const TOKENS: [&[u8]; 18] = [
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"NaN",
    b"\"\"",
    b"[]",
    b"{}",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b",",
    b":",
    b"\"",
    b"[[[[[[[[",
    b"{\"type\":",
    b"\x00",
];

/// What fields can have for a value.
const VALUES: [&[u8]; 16] = [
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1.5",
    b"1e-7",
    b"1e999",
    b"18446744073709551616",
    b"\"\"",
    b"\"0\"",
    b"\"-0.5\"",
    b"\"1e-30\"",
    b"\"79228162514264337593543950336\"",
    b"\"NaN\"",
    b"[]",
    b"{}",
];

impl Case {
    /// The bytes: no edits give a valid example, now and then.
    fn bytes(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[usize::from(self.seed) % seeds.len()].clone();
        let count = usize::from(self.count) % (MOST_EDITS + 1);
        for edit in &self.edits[..count] {
            edit.apply(&mut bytes);
        }
        bytes
    }
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: u16, length: usize| usize::from(at) % (length + 1);
        let range = |at: u16, length: u8, of: usize| {
            let start = place(at, of);
            start..of.min(start + usize::from(length))
        };
        let total = bytes.len();
        match *self {
            Self::Flip { at, bits } => {
                if let Some(byte) = bytes.get_mut(place(at, total)) {
                    *byte ^= bits;
                }
            }
            Self::Insert { at, byte } => bytes.insert(place(at, total), byte),
            Self::Remove { at, length } => drop(bytes.drain(range(at, length, total))),
            Self::Repeat { at, length, times } => {
                let range = range(at, length, total);
                let part = bytes[range.clone()].repeat(usize::from(times));
                bytes.splice(range, part);
            }
            Self::Token { at, which } => {
                let at = place(at, total);
                let token = TOKENS[usize::from(which) % TOKENS.len()];
                bytes.splice(at..at, token.iter().copied());
            }
            Self::Value { at, which } => {
                let begins: Vec<_> = (0..total).filter(|at| bytes[*at] == b':').collect();
                let Some(begin) = begins.get(usize::from(at) % begins.len().max(1)) else {
                    return;
                };
                let begin = begin + 1;
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
                let length = bytes[begin..].iter().position(is_end);
                let end = length.map_or(total, |length| begin + length);
                let value = VALUES[usize::from(which) % VALUES.len()];
                bytes.splice(begin..end, value.iter().copied());
            }
            Self::Cut { at } => bytes.truncate(place(at, total)),
        }
    }
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Whether a target took its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Refused,
}

/// Runs a target on edited examples and on bytes without any sense.
fn fuzz(seeds: &[Vec<u8>], target: impl Fn(&[u8]) -> Verdict + std::panic::RefUnwindSafe) {
    for seed in seeds {
        let text = String::from_utf8_lossy(seed);
        assert_eq!(target(seed), Verdict::Accepted, "the example {text}");
    }
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<Case>()
        .for_each(|case| {
            let verdict = target(&case.bytes(seeds));
            counts[verdict as usize].fetch_add(1, Ordering::Relaxed);
        });
    let counts = counts.map(AtomicUsize::into_inner);
    let few = iterations() / 20;
    assert!(
        counts.iter().all(|count| *count > few),
        "{counts:?} edited examples were accepted and refused, expected more than {few} of each"
    );
    bolero::check!()
        .with_iterations(iterations() / 4)
        .with_type::<Vec<u8>>()
        .for_each(|bytes| {
            target(bytes);
        });
}

const CLIENT_MESSAGES: [&str; 8] = [
    r#"{"type":"subscribe","id":"1","data":{"channels":["demo:a",{"channel":"demo:b","since":{"epoch":"e","seq":7}},{"channel":"prices:BTC-USD","minIntervalMs":250}]}}"#,
    r#"{"type":"publish","id":"2","data":{"channel":"demo:a","data":{"a":[1.50,"\u00e9",null]},"idempotencyKey":"k"}}"#,
    r#"{"type":"history","data":{"channel":"demo:a","since":{"epoch":"e","seq":0},"limit":10}}"#,
    r#"{"type":"auth","data":{"token":"a.b.c"}}"#,
    r#"{"type":"visibility","id":"3","data":{"state":"background"}}"#,
    r#"{"type":"ping","id":"4","data":{"t":17.25}}"#,
    r#"{"type":"watch","data":{"chain":1,"events":{"addresses":["0xab"],"topics":["0x01","0x02"],"abi":["event A(uint256)"]}}}"#,
    r#"{"type":"alert_register","data":{"condition":{"kind":"all","conditions":[{"kind":"price_above","symbol":"BTC-USD","threshold":1.5}]},"repeat":{"times":3},"enabled":true}}"#,
];

#[test]
fn client_messages() {
    fuzz(&texts(&CLIENT_MESSAGES), |bytes| {
        let Ok(message) = json::parse_client(bytes) else {
            return Verdict::Refused;
        };
        // What is understood is understood again, in both of its forms.
        let text = json::to_vec(&message);
        assert_eq!(json::parse_client(&text).as_ref(), Ok(&message));
        assert_eq!(
            ClientMessage::decode(&message.encode_to_vec()[..]).as_ref(),
            Ok(&message)
        );
        Verdict::Accepted
    });
}

#[test]
fn binary_client_messages() {
    let seeds: Vec<_> = CLIENT_MESSAGES
        .iter()
        .map(|text| json::parse_client(text.as_bytes()).unwrap().encode_to_vec())
        .collect();
    fuzz(&seeds, |bytes| {
        let Ok(message) = ClientMessage::decode(bytes) else {
            return Verdict::Refused;
        };
        assert_eq!(
            ClientMessage::decode(&message.encode_to_vec()[..]).as_ref(),
            Ok(&message)
        );
        Verdict::Accepted
    });
}

#[test]
fn server_messages() {
    let seeds = texts(&[
        r#"{"type":"price","channel":"prices:BTC-USD","seq":1,"data":{"symbol":"BTC-USD","price":61837.63,"change24h":null,"volume24h":1e9,"timestamp":1,"source":"aggregate","confidence":0.5,"sources":3,"stale":false,"twap":null},"timestamp":1}"#,
        r#"{"type":"subscribed","id":"1","data":{"channels":[{"channel":"demo:a","epoch":"e","seq":9,"recovered":true}]}}"#,
        r#"{"type":"message","channel":"demo:a","seq":1,"data":{"a":[1.50]},"timestamp":1}"#,
        r#"{"type":"error","id":"1","data":{"code":"invalid_argument","message":"no","retryAfterMs":5}}"#,
    ]);
    fuzz(&seeds, |bytes| {
        let Ok(message) = json::from_slice::<ServerMessage>(bytes) else {
            return Verdict::Refused;
        };
        let text = json::to_vec(&message);
        assert_eq!(
            json::from_slice::<ServerMessage>(&text).as_ref(),
            Ok(&message)
        );
        Verdict::Accepted
    });
}

#[test]
fn channel_names() {
    let seeds = texts(&[
        "demo:a",
        "prices:BTC-USD@kraken",
        "user:ada",
        "events:1:{a}",
        "my-name_1:~",
    ]);
    fuzz(&seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(name) = ChannelName::parse(&text) else {
            return Verdict::Refused;
        };
        assert_eq!(name.as_str(), text);
        assert_eq!(format!("{}:{}", name.namespace(), name.rest()), text);
        // A list of names is never ambiguous, and JSON needs no escape.
        assert!(!text.contains([',', '"', '\\', ' ']));
        assert_eq!(
            serde_json::to_string(name.as_str()).unwrap(),
            format!("\"{text}\"")
        );
        Verdict::Accepted
    });
}

#[test]
fn cursors() {
    // `e 7 demo:a`, and two lines of it.
    let seeds = texts(&["ZSA3IGRlbW86YQ", "ZSA3IGRlbW86YQplIDggZGVtbzpi", ""]);
    fuzz(&seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(cursor) = Cursor::decode(&text) else {
            return Verdict::Refused;
        };
        assert_eq!(Cursor::decode(&cursor.encode()).as_ref(), Ok(&cursor));
        assert!(
            cursor
                .iter()
                .all(|(channel, position)| cursor.get(channel.as_str()) == Some(position))
        );
        Verdict::Accepted
    });
}

/// The longest message in the fuzzed frames.
const LIMIT: usize = 200;

/// All that a reader makes of bytes that come in pieces of this length.
fn read_frames(bytes: &[u8], piece: usize) -> (Vec<Incoming>, Option<FrameError>) {
    let mut reader = FrameReader::new(LIMIT);
    let mut read = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.next_message() {
                Ok(Some(incoming)) => read.push(incoming),
                Ok(None) => break,
                Err(error) => return (read, Some(error)),
            }
        }
    }
    (read, None)
}

#[test]
fn websocket_frames() {
    let text = masked_frame(0x81, b"{\"type\":\"ping\"}");
    let parts = [
        masked_frame(0x01, b"{\"ty"),
        masked_frame(0x89, b"are you there"),
        masked_frame(0x80, b"pe\":1}"),
    ]
    .concat();
    let long = masked_frame(0x82, &[0xff; 150]);
    let control = [
        masked_frame(0x8a, b""),
        masked_frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']),
    ]
    .concat();
    let seeds = [
        text.clone(),
        parts,
        long.clone(),
        control,
        [text, long].concat(),
    ];
    fuzz(&seeds, |bytes| {
        let (read, error) = read_frames(bytes, usize::MAX);
        // How the bytes are cut into pieces changes nothing.
        assert_eq!(read_frames(bytes, 1), (read.clone(), error));
        assert_eq!(read_frames(bytes, 7), (read.clone(), error));
        let verdict = match error {
            None => Verdict::Accepted,
            Some(_) => Verdict::Refused,
        };
        for incoming in read {
            match incoming {
                Incoming::Text(text) => {
                    assert!(text.len() <= LIMIT);
                    std::str::from_utf8(&text).unwrap();
                }
                Incoming::Binary(bytes) => assert!(bytes.len() <= LIMIT),
                Incoming::Ping(bytes) | Incoming::Pong(bytes) => assert!(bytes.len() <= 125),
                Incoming::Close(_) => {}
            }
        }
        verdict
    });
}
