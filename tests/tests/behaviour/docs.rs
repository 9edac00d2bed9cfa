//! The documentation, held against the server: every example of `docs/` is played.
//!
//! `page` reads the examples, `shown` compares what comes with what is shown, `play`
//! sends and receives. Each section of a page is a scene: it begins with a server
//! that knows nothing but one price.

mod page;
mod play;
mod shown;

use serde_json::Value;
use tidewire_proto::{json, v1::ServerMessage};

use self::{
    page::{Kind, scenes},
    play::play,
    shown::holds,
};

/// A type that no message has.
const UNKNOWN: &str = r#""type":"sing""#;

#[test]
fn messages_are_those_of_the_protocol() {
    let mut count = 0;
    for example in scenes().into_iter().flat_map(|scene| scene.examples) {
        // What the protocol does not know is sent, for the answer.
        let known = example
            .messages
            .iter()
            .filter(|text| !text.contains(UNKNOWN));
        for text in known {
            let again = match example.kind {
                Kind::Client | Kind::Post => json::to_vec(
                    &json::parse_client(text.as_bytes())
                        .unwrap_or_else(|error| panic!("{}: {error}", example.place)),
                ),
                Kind::Server | Kind::Example => json::to_vec(
                    &json::from_slice::<ServerMessage>(text.as_bytes())
                        .unwrap_or_else(|error| panic!("{}: {error}", example.place)),
                ),
                _ => continue,
            };
            count += 1;
            let again: Value = serde_json::from_slice(&again).unwrap();
            let example_value: Value = serde_json::from_str(text).unwrap();
            // A field that the protocol does not have would be lost on the way.
            assert!(
                holds(&again, &example_value),
                "{}: {text} is read as {again}",
                example.place
            );
        }
    }
    assert!(count > 20, "only {count} examples were found");
}

#[tokio::test]
async fn examples_come_as_they_are_shown() {
    for scene in scenes() {
        if scene
            .examples
            .iter()
            .any(|example| example.kind.is_played())
        {
            play(&scene).await;
        }
    }
}
