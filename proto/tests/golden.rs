//! Golden vectors: the JSON form and the protobuf encoding of every message match the files in
//! `tests/vectors` of the repository. The TypeScript client reads the same files.
//!
//! Their JSON is written by hand after the wire contract. With `TIDEWIRE_UPDATE_VECTORS=1`
//! set, the test fills in the `proto` of new cases.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};
use serde::Deserialize;
use serde_json::value::RawValue;
use support::{Entry, exact::Exact, from_hex, pool, to_hex};

/// A vector file.
#[derive(Deserialize)]
struct Vectors {
    message: String,
    cases: Vec<Case>,
}

/// One message and its forms.
#[derive(Deserialize)]
struct Case {
    name: String,
    json: Box<RawValue>,
    /// Other texts that parse to the same message.
    #[serde(default)]
    also: Vec<Box<RawValue>>,
    /// The protobuf encoding, in hex.
    proto: String,
}

impl Case {
    fn decode(&self, descriptor: &MessageDescriptor) -> DynamicMessage {
        DynamicMessage::decode(descriptor.clone(), from_hex(&self.proto).as_slice()).unwrap()
    }
}

fn read_all() -> Vec<(PathBuf, Vectors)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), read(&path)))
        .collect()
}

fn read(path: &PathBuf) -> Vectors {
    let text = fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn entry(name: &str) -> Entry {
    let found = support::entries()
        .into_iter()
        .find(|entry| entry.name == name);
    found.unwrap_or_else(|| panic!("there is no message {name}"))
}

fn exact(json: &str) -> Exact {
    Exact::parse(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn json_and_protobuf_are_equivalent() {
    let update = env::var_os("TIDEWIRE_UPDATE_VECTORS").is_some();
    for (path, mut vectors) in read_all() {
        let entry = entry(&vectors.message);
        for case in &mut vectors.cases {
            let at = format!("{}, {:?}", path.display(), case.name);
            let text = case.json.get();
            let proto =
                (entry.to_proto)(text.as_bytes()).unwrap_or_else(|error| panic!("{at}: {error}"));
            if update {
                case.proto = to_hex(&proto);
            }
            assert_eq!(to_hex(&proto), case.proto, "{at}: JSON to protobuf");
            let json = (entry.to_json)(&from_hex(&case.proto)).unwrap();
            assert_eq!(exact(&json), exact(text), "{at}: protobuf to JSON");
            for also in &case.also {
                let proto = (entry.to_proto)(also.get().as_bytes());
                assert_eq!(
                    proto.map(|proto| to_hex(&proto)).as_ref(),
                    Ok(&case.proto),
                    "{at}: {also}"
                );
            }
        }
        if update {
            fs::write(&path, layout(&vectors)).unwrap();
        }
    }
}

/// Formats the file with one member per line. The JSON stays as written.
fn layout(vectors: &Vectors) -> String {
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let case = |case: &Case| {
        let also: Vec<_> = case
            .also
            .iter()
            .map(|also| format!("        {also}"))
            .collect();
        let also = match also.is_empty() {
            true => String::new(),
            false => format!("      \"also\": [\n{}\n      ],\n", also.join(",\n")),
        };
        format!(
            "    {{\n      \"name\": {},\n      \"json\": {},\n{also}      \"proto\": {}\n    }}",
            quoted(&case.name),
            case.json,
            quoted(&case.proto)
        )
    };
    let cases: Vec<_> = vectors.cases.iter().map(case).collect();
    let message = quoted(&vectors.message);
    format!(
        "{{\n  \"message\": {message},\n  \"cases\": [\n{}\n  ]\n}}\n",
        cases.join(",\n")
    )
}

/// Fields and enum values that the vectors cover.
#[derive(Default)]
struct Coverage {
    /// `Message.field`, with a value.
    fields: BTreeSet<String>,
    /// `VALUE_OF_AN_ENUM`.
    values: BTreeSet<String>,
}

impl Coverage {
    fn message(&mut self, message: &DynamicMessage) {
        for (field, value) in message.fields() {
            self.fields.insert(field.full_name().to_owned());
            self.value(&field.kind(), value);
        }
    }

    fn value(&mut self, kind: &Kind, value: &Value) {
        match (kind, value) {
            (kind, Value::List(values)) => values.iter().for_each(|value| self.value(kind, value)),
            (_, Value::Message(message)) => self.message(message),
            (Kind::Enum(descriptor), Value::EnumNumber(number)) => {
                let value = descriptor.get_value(*number).unwrap();
                self.values.insert(value.full_name().to_owned());
            }
            _ => {}
        }
    }
}

#[test]
fn every_message_every_field_and_every_enum_value_has_a_vector() {
    let (mut coverage, mut tops) = (Coverage::default(), BTreeSet::new());
    for (_, vectors) in read_all() {
        let descriptor = entry(&vectors.message).descriptor();
        for case in &vectors.cases {
            coverage.message(&case.decode(&descriptor));
        }
        tops.insert(vectors.message);
    }
    let ours = |package: &str| package == "tidewire.v1";
    let messages = pool()
        .all_messages()
        .filter(|message| ours(message.package_name()));
    let missing: Vec<_> = messages
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .map(|field| field.full_name().to_owned())
        .filter(|field| !coverage.fields.contains(field))
        .collect();
    assert!(missing.is_empty(), "in no vector: {missing:#?}");
    let values = pool()
        .all_enums()
        .filter(|descriptor| ours(descriptor.package_name()));
    let missing: Vec<_> = values
        // `JsonUnion` is an option, not part of a message.
        .filter(|descriptor| descriptor.name() != "JsonUnion")
        .flat_map(|descriptor| descriptor.values().collect::<Vec<_>>())
        .filter(|value| value.number() != 0)
        .map(|value| value.full_name().to_owned())
        .filter(|value| !coverage.values.contains(value))
        .collect();
    assert!(missing.is_empty(), "in no vector: {missing:#?}");
    let methods = pool()
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut expected: BTreeSet<_> = methods
        .flat_map(|method| [method.input(), method.output()])
        .map(|message| message.full_name().to_owned())
        .collect();
    expected.extend(["ClientMessage", "ServerMessage"].map(|name| format!("tidewire.v1.{name}")));
    let missing: Vec<_> = expected.difference(&tops).collect();
    assert!(
        missing.is_empty(),
        "without a file of vectors: {missing:#?}"
    );
}

#[test]
fn names_of_cases_are_unique() {
    let mut names = BTreeSet::new();
    for (_, vectors) in read_all() {
        for case in vectors.cases {
            let name = format!("{}: {}", vectors.message, case.name);
            assert!(names.insert(name.clone()), "{name}");
        }
    }
}

#[test]
fn the_descriptors_know_every_message() {
    for entry in support::entries() {
        assert_eq!(entry.descriptor().full_name(), entry.name);
        let empty = DynamicMessage::new(entry.descriptor());
        assert_eq!(empty.descriptor().full_name(), entry.name);
    }
}
