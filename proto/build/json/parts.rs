//! Code generation for one part of a session message: its type name, or its data alone.

use std::fmt::Write as _;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::write::from_ref;
use crate::names;

pub(super) fn generate(message: &MessageDescriptor, out: &mut String) {
    let Some(oneof) = message.oneofs().find(|oneof| !oneof.is_synthetic()) else {
        return;
    };
    let module = names::snake(message.name());
    let path = format!("v1::{module}::{}", names::camel(oneof.name()));
    let arms = |bind: &str, arm: &dyn Fn(&FieldDescriptor) -> String| -> String {
        let arm = |field: FieldDescriptor| {
            let case = names::camel(field.name());
            format!("        {path}::{case}({bind}) => {},\n", arm(&field))
        };
        oneof.fields().map(arm).collect()
    };
    let names = arms("_", &|field| format!("{:?}", field.name()));
    if message.name() == "ClientMessage" {
        let _ = writeln!(
            out,
            "/// The `type` of a client's message.\n#[must_use]\n\
             pub fn client_data_type(data: &{path}) -> &'static str {{\n    match data {{\n{names}    }}\n}}"
        );
        return;
    }
    let json = arms("value", &|field| {
        let value = from_ref(field);
        format!("{}.write_value(&mut out)", value.trim_start_matches('&'))
    });
    let proto = arms("value", &|field| match field.kind() {
        Kind::Bytes => format!("({}, value.to_vec())", field.number()),
        _ => format!("({}, value.encode_to_vec())", field.number()),
    });
    let _ = writeln!(
        out,
        "/// The `type` of a server's message.\n#[must_use]\n\
         pub fn data_type(data: &{path}) -> &'static str {{\n    match data {{\n{names}    }}\n}}\n\
         /// The `data` of a server's message as JSON, without the message around it.\n#[must_use]\n\
         pub fn fragment(data: &{path}) -> Vec<u8> {{\n    let mut out = Vec::new();\n    \
         match data {{\n{json}    }}\n    out\n}}\n\
         /// The `data` of a server's message as protobuf: its field's number, and its bytes\n\
         /// without key and length.\n#[must_use]\n\
         pub fn proto_fragment(data: &{path}) -> (u32, Vec<u8>) {{\n    match data {{\n{proto}    }}\n}}"
    );
}
