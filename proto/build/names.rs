//! Rust names of generated items, as prost derives them.

use prost_reflect::{Kind, MessageDescriptor};

/// Converts `price_batch` to `PriceBatch`.
pub(crate) fn camel(snake: &str) -> String {
    let mut out = String::new();
    for part in snake.split('_') {
        let mut chars = part.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.extend(chars);
    }
    out
}

/// Converts `ServerMessage` to `server_message`.
pub(crate) fn snake(camel: &str) -> String {
    let mut out = String::new();
    for (index, c) in camel.char_indices() {
        if c.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Returns a field's name in Rust.
pub(crate) fn field(name: &str) -> String {
    match name {
        "type" | "ref" | "match" | "move" | "use" => format!("r#{name}"),
        _ => name.to_owned(),
    }
}

/// Returns a message's type in Rust.
pub(crate) fn message(descriptor: &MessageDescriptor) -> String {
    format!("v1::{}", descriptor.name())
}

/// Returns the Rust type of a singular scalar, enum or message.
pub(crate) fn value(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => format!("v1::{}", message.name()),
        Kind::Enum(descriptor) => format!("EnumName::<v1::{}>", descriptor.name()),
        Kind::Bytes => "RawJson".to_owned(),
        Kind::String => "String".to_owned(),
        Kind::Bool => "bool".to_owned(),
        Kind::Double => "f64".to_owned(),
        Kind::Uint32 => "u32".to_owned(),
        Kind::Uint64 => "u64".to_owned(),
        Kind::Int64 => "i64".to_owned(),
        other => panic!("the JSON form has no rule for {other:?}: add one to proto/build/names.rs"),
    }
}
