//! Support of the JSON tests: all messages by name, with their descriptors.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod arbitrary;
pub mod exact;

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};
use tidewire_proto::{FILE_DESCRIPTOR_SET, json, prost::Message, v1};

/// A message type, selected by name.
pub struct Entry {
    pub name: &'static str,
    pub to_proto: fn(&[u8]) -> Result<Vec<u8>, String>,
    pub to_json: fn(&[u8]) -> Result<String, String>,
    /// Decodes and encodes with prost.
    pub to_canonical: fn(&[u8]) -> Result<Vec<u8>, String>,
    /// Converts JSON to JSON through serde.
    pub serde: fn(&str) -> Result<String, String>,
}

impl Entry {
    pub fn descriptor(&self) -> MessageDescriptor {
        message(self.name)
    }
}

pub fn message(name: &str) -> MessageDescriptor {
    pool().get_message_by_name(name).unwrap()
}

fn entry<T>(name: &'static str) -> Entry
where
    T: Message + Default + json::JsonValue + serde::Serialize + serde::de::DeserializeOwned,
{
    Entry {
        name,
        to_proto: |text| {
            let message: T = json::from_slice(text).map_err(|error| error.to_string())?;
            Ok(message.encode_to_vec())
        },
        to_json: |bytes| {
            let message = T::decode(bytes).map_err(|error| error.to_string())?;
            String::from_utf8(json::to_vec(&message)).map_err(|error| error.to_string())
        },
        to_canonical: |bytes| {
            let message = T::decode(bytes).map_err(|error| error.to_string())?;
            Ok(message.encode_to_vec())
        },
        serde: |text| {
            let message: T = serde_json::from_str(text).map_err(|error| error.to_string())?;
            serde_json::to_string(&message).map_err(|error| error.to_string())
        },
    }
}

/// Returns every message of the package.
pub fn entries() -> Vec<Entry> {
    Vec::from(include!(concat!(env!("OUT_DIR"), "/messages.rs")))
}

pub fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap());
    &POOL
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex(text: &str) -> Vec<u8> {
    assert!(
        text.len().is_multiple_of(2),
        "{text} has an odd number of digits"
    );
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
