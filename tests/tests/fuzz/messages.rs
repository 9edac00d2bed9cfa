//! Client and server messages, channel names and SSE cursors.

use tidewire_adapters::sse::Cursor;
use tidewire_proto::{
    json,
    prost::Message as _,
    v1::{ClientMessage, ServerMessage},
};
use tidewire_stream::ChannelName;

use super::edits::{Verdict, fuzz, texts};

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
        // A parsed message parses again from both of its encodings.
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
        // Names in a list are unambiguous, and JSON strings need no escape.
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
