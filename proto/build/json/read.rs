//! Code generation from JSON to messages.

use std::fmt::Write as _;

use prost_reflect::{FieldDescriptor, Kind, OneofDescriptor};

use super::{Shape, Union, is_list, is_option, is_unit};
use crate::names;

impl Shape<'_> {
    pub(super) fn read_fields(&self, out: &mut String) {
        let oneof = self.oneof();
        if let Some(oneof) = &oneof {
            let _ = writeln!(out, "        let union = {};", self.read_oneof(oneof));
        }
        let _ = writeln!(out, "        Ok(Self {{");
        for field in self.plain_fields() {
            let (member, value) = (names::field(field.name()), self.read_field(&field));
            let _ = writeln!(out, "            {member}: {value},");
        }
        if let Some(oneof) = &oneof {
            let _ = writeln!(out, "            {}: union,", names::field(oneof.name()));
        }
        let _ = writeln!(out, "        }})");
    }

    fn read_field(&self, field: &FieldDescriptor) -> String {
        if let Some(of) = self.options.enum_of(field) {
            return read_open(&of, "other");
        }
        if self.options.other_names(field).is_some() {
            return read_open(field, "number");
        }
        let json = field.json_name().to_owned();
        let (kind, inner) = (self.value(field), inner(field));
        if is_list(field) {
            return match inner {
                "" => format!("o.list::<{kind}>({json:?})?"),
                _ => format!(
                    "o.list::<{kind}>({json:?})?.into_iter().map(|value| value.0).collect()"
                ),
            };
        }
        if is_option(field) {
            return match inner {
                "" => format!("o.some::<{kind}>({json:?})?"),
                _ => format!("o.some::<{kind}>({json:?})?.map(|value| value.0)"),
            };
        }
        format!("o.value::<{kind}>({json:?})?{inner}")
    }

    /// Returns the type that reads a field's value.
    fn value(&self, field: &FieldDescriptor) -> String {
        if matches!(field.kind(), Kind::Bytes) && !self.options.is_raw(field) {
            let name = field.full_name();
            panic!(
                "the JSON form has no rule for the bytes of {name}: expected the option json_raw"
            );
        }
        names::value(&field.kind())
    }

    fn read_oneof(&self, oneof: &OneofDescriptor) -> String {
        match self.union {
            Union::Plain => self.read_plain(oneof),
            Union::TypeData => self.read_tagged(oneof, "type", |field| {
                format!(
                    "o.value::<{}>(\"data\")?{}",
                    self.value(field),
                    inner(field)
                )
            }),
            Union::Kind => self.read_tagged(oneof, "kind", |field| {
                format!("<{} as JsonFields>::read_fields(o)?", self.value(field))
            }),
            Union::Merged => self.read_merged(oneof),
            Union::NameOrObject => String::new(),
        }
    }

    fn read_plain(&self, oneof: &OneofDescriptor) -> String {
        let mut code = String::from("{\n            let mut found = None;\n");
        let names: Vec<_> = oneof
            .fields()
            .map(|field| field.json_name().to_owned())
            .collect();
        let names = names.join(", ");
        for field in oneof.fields() {
            let (json, kind) = (field.json_name().to_owned(), self.value(&field));
            let (case, inner) = (self.case(oneof, &field), inner(&field));
            let _ = writeln!(
                code,
                "            if let Some(value) = o.some::<{kind}>({json:?})? {{\n                \
                 if found.is_some() {{ return Err(Object::second_case({json:?}, {names:?})); }}\n                \
                 found = Some({case}(value{inner}));\n            }}"
            );
        }
        code + "            found\n        }"
    }

    fn read_tagged(
        &self,
        oneof: &OneofDescriptor,
        tag: &str,
        value: impl Fn(&FieldDescriptor) -> String,
    ) -> String {
        let mut code =
            format!("match o.some::<String>({tag:?})?.as_deref() {{\n            None => None,\n");
        let mut expected = Vec::new();
        for field in oneof.fields() {
            let (name, case) = (field.name(), self.case(oneof, &field));
            let _ = writeln!(
                code,
                "            Some({name:?}) => Some({case}({})),",
                value(&field)
            );
            expected.push(name.to_owned());
        }
        let expected = expected.join(", ");
        let error = format!("JsonError::unknown_tag({tag:?}, other, {expected:?})");
        let _ = write!(
            code,
            "            Some(other) => return Err({error}),\n        }}"
        );
        code
    }

    fn read_merged(&self, oneof: &OneofDescriptor) -> String {
        let mut code = String::new();
        for field in oneof.fields() {
            let Kind::Message(message) = field.kind() else {
                panic!(
                    "{} is not a message, as the fields of a merged union must be",
                    field.full_name()
                );
            };
            let needed: Vec<_> = message
                .fields()
                .filter(|field| self.options.is_always_written(field))
                .map(|field| format!("{:?}", field.json_name()))
                .collect();
            let (needed, case) = (needed.join(", "), self.case(oneof, &field));
            let _ = write!(
                code,
                "if o.has_all(&[{needed}]) {{\n            \
                 Some({case}(JsonFields::read_fields(o)?))\n        }} else "
            );
        }
        code + "{\n            None\n        }"
    }

    pub(super) fn read_name_or_object(
        &self,
        oneof: &OneofDescriptor,
        member: &str,
        out: &mut String,
    ) {
        let _ = writeln!(
            out,
            "    fn read_value(raw: &RawValue, depth: u32) -> Result<Self, JsonError> {{\n        \
             let union = match NameOrObject::read(raw, depth)? {{"
        );
        let mut expected = Vec::new();
        for field in oneof.fields() {
            let (case, json) = (self.case(oneof, &field), field.json_name().to_owned());
            let (pattern, value) = if is_unit(&field) {
                expected.push(format!("{:?}", field.name()));
                let pattern = format!("NameOrObject::Name(name) if name == {:?}", field.name());
                (pattern, "v1::Unit {}".to_owned())
            } else {
                expected.push(format!("{{{json:?}: …}}"));
                let pattern = format!("NameOrObject::Object(o) if o.has_all(&[{json:?}])");
                let value = format!(
                    "o.value::<{}>({json:?})?{}",
                    self.value(&field),
                    inner(&field)
                );
                (pattern, value)
            };
            let _ = writeln!(out, "            {pattern} => {case}({value}),");
        }
        let expected = expected.join(", ");
        let _ = writeln!(
            out,
            "            _ => return Err(JsonError::expected({:?}, raw)),\n        }};",
            format!("one of {expected}")
        );
        let _ = writeln!(out, "        Ok(Self {{ {member}: Some(union) }})\n    }}");
    }
}

/// Returns the wrapper type that reads an enum or a document.
fn inner(field: &FieldDescriptor) -> &'static str {
    match field.kind() {
        Kind::Enum(_) | Kind::Bytes => ".0",
        _ => "",
    }
}

/// Returns the code that reads one part of an open enum: its numbers, or its other names.
fn read_open(field: &FieldDescriptor, part: &str) -> String {
    let json = field.json_name().to_owned();
    let kind = names::value(&field.kind()).replacen("EnumName", "OpenName", 1);
    match is_list(field) {
        true => {
            format!("o.list::<{kind}>({json:?})?.into_iter().filter_map({kind}::{part}).collect()")
        }
        false => format!("o.value::<{kind}>({json:?})?.{part}().unwrap_or_default()"),
    }
}
