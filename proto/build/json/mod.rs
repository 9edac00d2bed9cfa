//! JSON code generation for every message, directed by the options of `options.proto`.
//!
//! `write` and `read` generate the two directions. `parts` generates functions for one part of
//! a session message. `src/json` holds the functions that generated code calls.

mod options;
mod parts;
mod read;
mod write;

use std::{error::Error, fmt::Write as _};

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    OneofDescriptor,
};

use crate::names;
use options::{Options, Union};

/// The package whose messages get a JSON form.
const PACKAGE: &str = "tidewire.v1";

fn messages(pool: &DescriptorPool) -> impl Iterator<Item = MessageDescriptor> {
    pool.all_messages()
        .filter(|message| message.package_name() == PACKAGE)
}

/// Generates the implementations for all messages and enums of the package.
pub(crate) fn generate(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let options = Options::new(pool)?;
    let mut out = String::new();
    for descriptor in pool.all_enums() {
        if descriptor.package_name() == PACKAGE {
            enum_names(&descriptor, &mut out);
        }
    }
    for message in messages(pool) {
        Shape::new(&options, &message)?.generate(&mut out);
    }
    for name in ["ServerMessage", "ClientMessage"] {
        let full = format!("{PACKAGE}.{name}");
        let message = pool.get_message_by_name(&full);
        parts::generate(
            &message.ok_or_else(|| format!("{full} is not declared"))?,
            &mut out,
        );
    }
    Ok(out)
}

/// Generates an array with an `entry` for each message, for tests that cover all messages.
pub(crate) fn registry(pool: &DescriptorPool) -> String {
    let entries: String = messages(pool)
        .map(|message| {
            let name = message.name();
            format!("    entry::<v1::{name}>(\"{PACKAGE}.{name}\"),\n")
        })
        .collect();
    format!("[\n{entries}]\n")
}

/// Generates an enum's names: `PRIORITY_URGENT` becomes `urgent`.
fn enum_names(descriptor: &EnumDescriptor, out: &mut String) {
    let name = descriptor.name();
    let prefix = names::snake(name).to_ascii_uppercase() + "_";
    let _ = writeln!(
        out,
        "impl JsonEnum for v1::{name} {{\n    const NAMES: &'static [(i32, &'static str)] = &["
    );
    for value in descriptor.values().filter(|value| value.number() != 0) {
        let short = value.name().strip_prefix(&prefix).unwrap_or(value.name());
        let short = short.to_ascii_lowercase();
        let _ = writeln!(out, "        ({}, {short:?}),", value.number());
    }
    let _ = writeln!(out, "    ];\n}}");
}

/// A message with its JSON shape.
struct Shape<'a> {
    options: &'a Options,
    message: &'a MessageDescriptor,
    union: Union,
}

impl<'a> Shape<'a> {
    fn new(options: &'a Options, message: &'a MessageDescriptor) -> Result<Self, String> {
        let union = options.union(message);
        let oneofs = message.oneofs().filter(|oneof| !oneof.is_synthetic());
        if oneofs.count() > 1 {
            let name = message.full_name();
            return Err(format!(
                "{name} has several oneofs, the JSON form expects at most one"
            ));
        }
        Ok(Self {
            options,
            message,
            union,
        })
    }

    fn generate(&self, out: &mut String) {
        let name = names::message(self.message);
        let _ = writeln!(out, "serde_value!({name});");
        if let Some(field) = Options::text(self.message, &self.options.number) {
            let _ = writeln!(out, "number_value!({name}, {field});");
            return;
        }
        if self.union == Union::NameOrObject {
            self.name_or_object(&name, out);
            return;
        }
        let _ = match Options::text(self.message, &self.options.shorthand) {
            Some(field) => writeln!(out, "shorthand_value!({name}, {field});"),
            None => writeln!(out, "object_value!({name});"),
        };
        let _ = writeln!(out, "impl JsonFields for {name} {{");
        let _ = writeln!(
            out,
            "    #[allow(unused_variables)]\n    fn write_fields(&self, o: &mut FieldWriter<'_>) {{"
        );
        self.write_fields(out);
        let _ = writeln!(out, "    }}\n    #[allow(unused_variables)]");
        let _ = writeln!(
            out,
            "    fn read_fields(o: &Object<'_>) -> Result<Self, JsonError> {{"
        );
        self.read_fields(out);
        let _ = writeln!(out, "    }}\n}}");
    }

    /// Returns the fields outside of the oneof.
    fn plain_fields(&self) -> impl Iterator<Item = FieldDescriptor> {
        self.message.fields().filter(|field| {
            let oneof = field.containing_oneof();
            oneof.is_none_or(|oneof| oneof.is_synthetic())
        })
    }

    fn oneof(&self) -> Option<OneofDescriptor> {
        self.message.oneofs().find(|oneof| !oneof.is_synthetic())
    }

    /// Returns the Rust path of a oneof's case.
    fn case(&self, oneof: &OneofDescriptor, field: &FieldDescriptor) -> String {
        let module = names::snake(self.message.name());
        let (oneof, case) = (names::camel(oneof.name()), names::camel(field.name()));
        format!("v1::{module}::{oneof}::{case}")
    }

    fn name_or_object(&self, name: &str, out: &mut String) {
        let Some(oneof) = self.oneof() else { return };
        let member = names::field(oneof.name());
        let _ = writeln!(out, "impl JsonValue for {name} {{");
        self.write_name_or_object(&oneof, &member, out);
        self.read_name_or_object(&oneof, &member, out);
        let _ = writeln!(out, "}}");
    }
}

/// Whether a case has no content and is written as its bare name.
fn is_unit(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(message) if message.name() == "Unit")
}

/// Whether prost generates a `Vec` for a field.
fn is_list(field: &FieldDescriptor) -> bool {
    field.cardinality() == Cardinality::Repeated
}

/// Whether prost generates an `Option` for a field.
fn is_option(field: &FieldDescriptor) -> bool {
    let is_optional = field
        .containing_oneof()
        .is_some_and(|oneof| oneof.is_synthetic());
    !is_list(field) && (matches!(field.kind(), Kind::Message(_)) || is_optional)
}
