//! Code generation from messages to JSON.

use std::fmt::Write as _;

use prost_reflect::{FieldDescriptor, Kind, OneofDescriptor};

use super::{Shape, Union, is_list, is_option, is_unit};
use crate::names;

impl Shape<'_> {
    /// Writes the tag first, then the fields, the union, and the time last.
    pub(super) fn write_fields(&self, out: &mut String) {
        let (before, after): (Vec<_>, Vec<_>) = self
            .plain_fields()
            .partition(|field| field.name() != "timestamp" || self.union == Union::Plain);
        if self.union == Union::TypeData {
            self.write_oneof(out, "_", |field| {
                format!("o.put_tag(\"type\", {:?})", field.name())
            });
        }
        for field in &before {
            self.write_field(field, out);
        }
        match self.union {
            Union::Plain => self.write_oneof(out, "value", |field| {
                format!("o.put({:?}, {})", field.json_name(), from_ref(field))
            }),
            Union::TypeData => self.write_oneof(out, "value", |field| {
                format!("o.put(\"data\", {})", from_ref(field))
            }),
            Union::Kind => self.write_oneof(out, "value", |field| {
                let tag = field.name();
                format!("{{ o.put_tag(\"kind\", {tag:?}); value.write_fields(o); }}")
            }),
            Union::Merged => {
                self.write_oneof(out, "value", |_| "value.write_fields(o)".to_owned());
            }
            // Such a message is no object: see `write_name_or_object`.
            Union::NameOrObject => {}
        }
        for field in &after {
            self.write_field(field, out);
        }
    }

    fn write_oneof(&self, out: &mut String, bind: &str, arm: impl Fn(&FieldDescriptor) -> String) {
        let Some(oneof) = self.oneof() else { return };
        let _ = writeln!(out, "        match &self.{} {{", names::field(oneof.name()));
        for field in oneof.fields() {
            let case = self.case(&oneof, &field);
            let _ = writeln!(out, "            Some({case}({bind})) => {},", arm(&field));
        }
        let _ = writeln!(out, "            None => {{}}\n        }}");
    }

    fn write_field(&self, field: &FieldDescriptor, out: &mut String) {
        let (member, json) = (names::field(field.name()), field.json_name().to_owned());
        let omits = self.options.omits_default(field);
        if self.options.enum_of(field).is_some() {
            // Shown with the enum.
            return;
        }
        if let (Some(other), Kind::Enum(descriptor)) =
            (self.options.other_names(field), field.kind())
        {
            let (name, other) = (descriptor.name(), names::field(&other));
            let line = match (is_list(field), omits) {
                (true, true) => format!(
                    "o.put_list_some({json:?}, &OpenName::<v1::{name}>::list(&self.{member}, &self.{other}))"
                ),
                (true, false) => format!(
                    "o.put_list({json:?}, &OpenName::<v1::{name}>::list(&self.{member}, &self.{other}))"
                ),
                (false, _) => format!(
                    "o.put({json:?}, &OpenName::<v1::{name}>::one(self.{member}, &self.{other}))"
                ),
            };
            let _ = writeln!(out, "        {line};");
            return;
        }
        let line = if is_list(field) {
            let put = if omits { "put_list_some" } else { "put_list" };
            let values = match field.kind() {
                Kind::Enum(descriptor) => {
                    let name = format!("EnumName::<v1::{}>::new", descriptor.name());
                    format!("&self.{member}.iter().copied().map({name}).collect::<Vec<_>>()")
                }
                _ => format!("&self.{member}"),
            };
            format!("o.{put}({json:?}, {values})")
        } else if is_option(field) {
            let put = match self.options.is_nullable(field) {
                true => "put_nullable",
                false => "put_some",
            };
            let value = match field.kind() {
                Kind::Enum(descriptor) => {
                    let name = format!("EnumName::<v1::{}>::new", descriptor.name());
                    format!("self.{member}.map({name}).as_ref()")
                }
                Kind::Bytes => format!("self.{member}.clone().map(RawJson).as_ref()"),
                _ => format!("self.{member}.as_ref()"),
            };
            format!("o.{put}({json:?}, {value})")
        } else if omits {
            format!("o.put_true({json:?}, self.{member})")
        } else {
            let value = match field.kind() {
                Kind::Enum(descriptor) => {
                    format!("&EnumName::<v1::{}>::new(self.{member})", descriptor.name())
                }
                Kind::Bytes => format!("&RawJson(self.{member}.clone())"),
                _ => format!("&self.{member}"),
            };
            format!("o.put({json:?}, {value})")
        };
        let _ = writeln!(out, "        {line};");
    }

    pub(super) fn write_name_or_object(
        &self,
        oneof: &OneofDescriptor,
        member: &str,
        out: &mut String,
    ) {
        let _ = writeln!(
            out,
            "    fn write_value(&self, out: &mut Vec<u8>) {{\n        match &self.{member} {{"
        );
        for field in oneof.fields() {
            let (case, json) = (self.case(oneof, &field), field.json_name().to_owned());
            let _ = if is_unit(&field) {
                writeln!(
                    out,
                    "            Some({case}(_)) => write_name({:?}, out),",
                    field.name()
                )
            } else {
                let put = format!(
                    "FieldWriter::object(out, |o| o.put({json:?}, {}))",
                    from_ref(&field)
                );
                writeln!(out, "            Some({case}(value)) => {put},")
            };
        }
        let _ = writeln!(
            out,
            "            None => out.extend_from_slice(b\"null\"),\n        }}\n    }}"
        );
    }
}

/// Returns the code that writes a oneof's case, bound as the reference `value`.
pub(super) fn from_ref(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Enum(descriptor) => format!("&EnumName::<v1::{}>::new(*value)", descriptor.name()),
        Kind::Bytes => "&RawJson(value.clone())".to_owned(),
        _ => "value".to_owned(),
    }
}
