//! Documentation tests: every example of `docs/` is played against a server.
//!
//! `page` reads the examples, `comparison` compares messages with the documentation, `play` sends
//! and receives. Each section of a page is a scene, with its own server that knows one price.

mod comparison;
mod page;
mod play;

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tidewire_proto::{json, v1::ServerMessage};

use self::{
    comparison::holds,
    page::{Kind, scenes},
    play::play,
};

/// A type that no message has.
const UNKNOWN: &str = r#""type":"sing""#;

#[test]
fn documented_messages_parse_as_protocol_messages() {
    let mut count = 0;
    for example in scenes().into_iter().flat_map(|scene| scene.examples) {
        // The example sends an unknown message to show the reply.
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
            // A field that the protocol does not have would be lost in the conversion.
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
async fn examples_match_the_documentation() {
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

/// Every key of the example configuration, with its table: `limits.frame_bytes`.
pub(crate) fn configuration_keys() -> Vec<String> {
    let mut table = "";
    let mut keys = Vec::new();
    let example = include_str!("../../../tidewire.example.toml");
    for line in example.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(header) = line.strip_prefix('[') {
            table = header
                .trim_start_matches('[')
                .split(']')
                .next()
                .unwrap_or("");
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.push(format!("{table}.{key}"));
        }
    }
    keys
}

/// The names that begin with `tidewire_` in a text.
pub(crate) fn metric_names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let rests = text.split("tidewire_").skip(1);
    let names = rests.map(|rest| rest.split(|c| !is_name(c)).next().unwrap_or_default());
    names.map(|name| format!("tidewire_{name}")).collect()
}

/// The names of the metrics in the Rust files below a folder, in quotes.
fn metrics_of(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir()
            && !["tests", "examples"]
                .iter()
                .any(|name| path.ends_with(name))
        {
            metrics_of(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let quoted = text.split("\"tidewire_").skip(1);
            let metrics = quoted.filter_map(|rest| {
                let (name, _) = rest.split_once('"')?;
                let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                is_name.then(|| format!("tidewire_{name}"))
            });
            names.extend(metrics);
        }
    }
}

#[test]
fn every_metric_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names = BTreeSet::new();
    for folder in ["src", "core", "adapters"] {
        metrics_of(&root.join(folder), &mut names);
    }
    let page = fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    assert!(names.len() > 50, "only {} were found", names.len());
    assert_eq!(metric_names(&page), names);
}

#[test]
fn documented_limits_are_configuration_keys() {
    let page = include_str!("../../../docs/limits.md");
    let configurable = page.split("\n## ").nth(1).unwrap();
    let keys = configuration_keys();
    let rows = configurable.lines().filter_map(|line| {
        let key = line.strip_prefix("| `")?;
        key.split('`').next()
    });
    let mut count = 0;
    for key in rows {
        assert!(keys.iter().any(|known| known == key), "{key} is no key");
        count += 1;
    }
    assert!(count > 20, "only {count} keys were found");
}
