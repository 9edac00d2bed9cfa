//! The examples of the documentation: parsed, compared, and sent.

use std::{fs, path::Path};

use serde_json::Value;
use tidewire_proto::{json, v1::ServerMessage};
use tidewire_tests::{Client, Server, Transport};

/// Whose message an example is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Client,
    Server,
}

/// An example, and where it stands.
struct Example {
    place: String,
    speaker: Speaker,
    text: String,
}

/// The blocks that begin with three backticks and `json client` or `json server`, in
/// every page of `docs/`. A block can hold several messages, each on a line.
fn examples() -> Vec<Example> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut examples = Vec::new();
    for entry in fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            collect(&name, &fs::read_to_string(&path).unwrap(), &mut examples);
        }
    }
    examples
}

fn collect(name: &str, page: &str, examples: &mut Vec<Example>) {
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let speaker = match line.trim().strip_prefix("```json") {
            Some(marker) if marker.contains("client") => Speaker::Client,
            Some(marker) if marker.contains("server") => Speaker::Server,
            _ => continue,
        };
        let block: Vec<_> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| !line.trim().starts_with("```"))
            .collect();
        let block = block.join("\n");
        for message in serde_json::Deserializer::from_str(&block).into_iter::<Value>() {
            let message = message.unwrap_or_else(|error| panic!("{name}:{}: {error}", number + 1));
            examples.push(Example {
                place: format!("{name}:{}", number + 1),
                speaker,
                text: message.to_string(),
            });
        }
    }
}

/// Whether `shown` says all that `example` says, and nothing else of the same things.
fn holds(shown: &Value, example: &Value) -> bool {
    match (shown, example) {
        (Value::Object(shown), Value::Object(example)) => example.iter().all(|(name, value)| {
            shown
                .get(name)
                .map_or(value.is_null(), |shown| holds(shown, value))
        }),
        (Value::Array(shown), Value::Array(example)) => {
            shown.len() == example.len()
                && shown
                    .iter()
                    .zip(example)
                    .all(|(shown, example)| holds(shown, example))
        }
        (Value::Number(shown), Value::Number(example)) => shown.as_f64() == example.as_f64(),
        (shown, example) => shown == example,
    }
}

#[test]
fn examples_are_messages() {
    let examples = examples();
    assert!(!examples.is_empty(), "the documentation has no examples");
    for Example {
        place,
        speaker,
        text,
    } in examples
    {
        let again = match speaker {
            Speaker::Client => json::to_vec(
                &json::parse_client(text.as_bytes())
                    .unwrap_or_else(|error| panic!("{place}: {error}")),
            ),
            Speaker::Server => json::to_vec(
                &json::from_slice::<ServerMessage>(text.as_bytes())
                    .unwrap_or_else(|error| panic!("{place}: {error}")),
            ),
        };
        let again: Value = serde_json::from_slice(&again).unwrap();
        let example: Value = serde_json::from_str(&text).unwrap();
        // A field that the protocol does not have would be lost on the way.
        assert!(
            holds(&again, &example),
            "{place}: {example} is read as {again}"
        );
    }
}

#[tokio::test]
async fn examples_of_clients_are_answered() {
    let server = Server::builder().set("prices", "symbols = [\"BTC-USD\"]");
    let server = server
        .source("coinbase", "coinbase", "ws://127.0.0.1:1")
        .start()
        .await;
    for Example {
        place,
        speaker,
        text,
    } in examples()
    {
        let example: Value = serde_json::from_str(&text).unwrap();
        // A made-up token or another server's connection cannot be good here.
        if speaker == Speaker::Server || example["type"] == "auth" {
            continue;
        }
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.send_text(text).await;
        let reply = match example["id"].as_str() {
            Some(id) => client.reply(id).await,
            None => client.next().await,
        };
        if reply.kind == "error" {
            assert_ne!(
                reply.error_code(),
                "invalid_argument",
                "{place}: {}",
                reply.text
            );
        }
    }
}
