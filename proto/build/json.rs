//! The JSON form of every message, after the options of `options.proto`.

use std::{error::Error, fmt::Write as _};

use prost_reflect::{
    Cardinality, DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
};

use crate::names;

/// The options that shape the JSON form.
struct Options {
    union: ExtensionDescriptor,
    shorthand: ExtensionDescriptor,
    number: ExtensionDescriptor,
    nullable: ExtensionDescriptor,
    omit_default: ExtensionDescriptor,
}

/// How a message's oneof appears.
#[derive(PartialEq, Eq)]
enum Union {
    Plain,
    TypeData,
    Kind,
    NameOrObject,
    Merged,
}

impl Options {
    fn new(pool: &DescriptorPool) -> Result<Self, Box<dyn Error>> {
        let find = |name: &str| {
            let full = format!("tidewire.v1.{name}");
            pool.get_extension_by_name(&full).ok_or_else(|| format!("{full} is not declared"))
        };
        Ok(Self {
            union: find("json_union")?,
            shorthand: find("json_shorthand")?,
            number: find("json_number")?,
            nullable: find("json_nullable")?,
            omit_default: find("json_omit_default")?,
        })
    }

    fn union(&self, message: &MessageDescriptor) -> Union {
        match message.options().get_extension(&self.union).as_enum_number() {
            Some(1) => Union::TypeData,
            Some(2) => Union::Kind,
            Some(3) => Union::NameOrObject,
            Some(4) => Union::Merged,
            _ => Union::Plain,
        }
    }

    fn text(message: &MessageDescriptor, option: &ExtensionDescriptor) -> Option<String> {
        let value = message.options().get_extension(option).as_str().map(str::to_owned);
        value.filter(|text| !text.is_empty())
    }

    fn flag(field: &FieldDescriptor, option: &ExtensionDescriptor) -> bool {
        field.options().get_extension(option).as_bool().unwrap_or(false)
    }
}

/// The implementations for all messages and enums of the package.
pub(crate) fn generate(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let options = Options::new(pool)?;
    let mut out = String::new();
    for descriptor in pool.all_enums().filter(|e| e.package_name() == "tidewire.v1") {
        let prefix = names::snake(descriptor.name()).to_ascii_uppercase() + "_";
        let name = descriptor.name();
        let _ = writeln!(out, "impl JsonEnum for v1::{name} {{\n    const NAMES: &'static [(i32, &'static str)] = &[");
        for value in descriptor.values().filter(|value| value.number() != 0) {
            let short = value.name().strip_prefix(&prefix).unwrap_or(value.name()).to_ascii_lowercase();
            let _ = writeln!(out, "        ({}, {short:?}),", value.number());
        }
        let _ = writeln!(out, "    ];\n}}");
    }
    for message in pool.all_messages().filter(|message| message.package_name() == "tidewire.v1") {
        Message { options: &options, message: &message }.write(&mut out);
    }
    for name in ["ServerMessage", "ClientMessage"] {
        let message = pool.get_message_by_name(&format!("tidewire.v1.{name}")).ok_or("no such message")?;
        fragments(&message, &mut out);
    }
    Ok(out)
}

struct Message<'a> {
    options: &'a Options,
    message: &'a MessageDescriptor,
}

impl Message<'_> {
    fn write(&self, out: &mut String) {
        let name = names::message(self.message);
        let union = self.options.union(self.message);
        if let Some(field) = Options::text(self.message, &self.options.number) {
            let _ = writeln!(out, "number_value!({name}, {field});");
            return;
        }
        if union == Union::NameOrObject {
            self.name_or_object(&name, out);
            return;
        }
        match Options::text(self.message, &self.options.shorthand) {
            Some(field) => { let _ = writeln!(out, "shorthand_value!({name}, {field});"); }
            None => { let _ = writeln!(out, "object_value!({name});"); }
        }
        let _ = writeln!(out, "impl JsonFields for {name} {{");
        let _ = writeln!(out, "    #[allow(unused_variables)]\n    fn write_fields(&self, o: &mut FieldWriter<'_>) {{");
        self.write_fields(&union, out);
        let _ = writeln!(out, "    }}\n    #[allow(unused_variables)]\n    fn read_fields(o: &mut Object<'_>) -> Result<Self, JsonError> {{");
        self.read_fields(&union, out);
        let _ = writeln!(out, "    }}\n}}");
    }

    fn plain_fields(&self) -> impl Iterator<Item = FieldDescriptor> {
        self.message
            .fields()
            .filter(|field| field.containing_oneof().is_none_or(|oneof| oneof.is_synthetic()))
    }

    fn oneof(&self) -> Option<OneofDescriptor> {
        self.message.oneofs().find(|oneof| !oneof.is_synthetic())
    }

    /// The path of a case of the oneof.
    fn case(&self, oneof: &OneofDescriptor, field: &FieldDescriptor) -> String {
        let module = names::snake(self.message.name());
        format!("v1::{module}::{}::{}", names::camel(oneof.name()), names::camel(field.name()))
    }

    fn write_fields(&self, union: &Union, out: &mut String) {
        let (before, after): (Vec<_>, Vec<_>) = self.plain_fields().partition(|field| field.name() != "timestamp");
        if *union == Union::TypeData {
            self.write_oneof(out, |field| format!("o.put(\"type\", &{:?}.to_owned())", field.name()));
        }
        for field in &before {
            self.write_field(field, out);
        }
        match union {
            Union::Plain => self.write_oneof(out, |field| format!("o.put({:?}, {})", field.json_name(), wrap(field, "value"))),
            Union::TypeData => self.write_oneof(out, |field| format!("o.put(\"data\", {})", wrap(field, "value"))),
            Union::Kind => self.write_oneof(out, |field| {
                format!("{{ o.put(\"kind\", &{:?}.to_owned()); value.write_fields(o); }}", field.name())
            }),
            Union::Merged => self.write_oneof(out, |_| "value.write_fields(o)".to_owned()),
            Union::NameOrObject => {}
        }
        for field in &after {
            self.write_field(field, out);
        }
    }

    fn write_oneof(&self, out: &mut String, arm: impl Fn(&FieldDescriptor) -> String) {
        let Some(oneof) = self.oneof() else { return };
        let _ = writeln!(out, "        match &self.{} {{", names::field(oneof.name()));
        for field in oneof.fields() {
            let _ = writeln!(out, "            Some({}(value)) => {},", self.case(&oneof, &field), arm(&field));
        }
        let _ = writeln!(out, "            None => {{}}\n        }}");
    }

    fn write_field(&self, field: &FieldDescriptor, out: &mut String) {
        let (name, json) = (names::field(field.name()), field.json_name().to_owned());
        let nullable = Options::flag(field, &self.options.nullable);
        let omits = Options::flag(field, &self.options.omit_default);
        let line = if field.cardinality() == Cardinality::Repeated {
            let values = match field.kind() {
                Kind::Enum(_) => format!("&self.{name}.iter().map(|value| {}).collect::<Vec<_>>()", wrap(field, "value").trim_start_matches('&')),
                _ => format!("&self.{name}"),
            };
            let put = if omits { "put_list_some" } else { "put_list" };
            format!("o.{put}({json:?}, {values})")
        } else if is_option(field) {
            let put = if nullable { "put_nullable" } else { "put_some" };
            format!("o.{put}({json:?}, self.{name}.as_ref().map(|value| {}).as_ref())", wrap(field, "value").trim_start_matches('&'))
        } else if omits {
            format!("if self.{name} {{ o.put({json:?}, &true) }}")
        } else {
            format!("o.put({json:?}, {})", wrap(field, &format!("&self.{name}")))
        };
        let line = match field.kind() {
            // Borrowed: no copy is made of what can be large.
            Kind::Message(_) | Kind::String if is_option(field) => {
                let put = if nullable { "put_nullable" } else { "put_some" };
                format!("o.{put}({json:?}, self.{name}.as_ref())")
            }
            _ => line,
        };
        let _ = writeln!(out, "        {line};");
    }

    fn read_fields(&self, union: &Union, out: &mut String) {
        let oneof = self.oneof();
        if let Some(oneof) = &oneof {
            let _ = writeln!(out, "        let union = {};", self.read_oneof(union, oneof));
        }
        let _ = writeln!(out, "        Ok(Self {{");
        for field in self.plain_fields() {
            let (name, json) = (names::field(field.name()), field.json_name().to_owned());
            let kind = names::value(&field.kind());
            let inner = match field.kind() {
                Kind::Enum(_) | Kind::Bytes => ".0",
                _ => "",
            };
            let value = if field.cardinality() == Cardinality::Repeated {
                match inner {
                    "" => format!("o.take_list::<{kind}>({json:?})?"),
                    _ => format!("o.take_list::<{kind}>({json:?})?.into_iter().map(|value| value.0).collect()"),
                }
            } else if is_option(&field) {
                match inner {
                    "" => format!("o.take_some::<{kind}>({json:?})?"),
                    _ => format!("o.take_some::<{kind}>({json:?})?.map(|value| value.0)"),
                }
            } else {
                format!("o.take::<{kind}>({json:?})?{inner}")
            };
            let _ = writeln!(out, "            {name}: {value},");
        }
        if let Some(oneof) = &oneof {
            let _ = writeln!(out, "            {}: union,", names::field(oneof.name()));
        }
        let _ = writeln!(out, "        }})");
    }

    fn read_oneof(&self, union: &Union, oneof: &OneofDescriptor) -> String {
        let mut code = String::new();
        let inner = |field: &FieldDescriptor| match field.kind() {
            Kind::Enum(_) | Kind::Bytes => ".0",
            _ => "",
        };
        match union {
            Union::Plain => {
                code.push_str("{ let mut found = None;");
                for field in oneof.fields() {
                    let (json, kind) = (field.json_name().to_owned(), names::value(&field.kind()));
                    let _ = write!(
                        code,
                        " if let Some(value) = o.take_some::<{kind}>({json:?})? {{ if found.is_some() {{ return Err(o.two_cases({json:?})); }} found = Some({}(value{})); }}",
                        self.case(oneof, &field),
                        inner(&field)
                    );
                }
                code.push_str(" found }");
            }
            Union::TypeData | Union::Kind => {
                let tag = if *union == Union::TypeData { "type" } else { "kind" };
                let _ = write!(code, "match o.take_tag({tag:?})?.as_deref() {{ None => None,");
                for field in oneof.fields() {
                    let kind = names::value(&field.kind());
                    let value = match union {
                        Union::TypeData => format!("o.take::<{kind}>(\"data\")?{}", inner(&field)),
                        _ => format!("<{kind} as JsonFields>::read_fields(o)?"),
                    };
                    let _ = write!(code, " Some({:?}) => Some({}({value})),", field.name(), self.case(oneof, &field));
                }
                let _ = write!(code, " Some(other) => return Err(JsonError::unknown_tag({tag:?}, other)) }}");
            }
            Union::Merged => {
                for field in oneof.fields() {
                    let Kind::Message(message) = field.kind() else { continue };
                    let needed: Vec<_> = message
                        .fields()
                        .filter(|f| !is_option(f) && f.cardinality() != Cardinality::Repeated)
                        .map(|f| format!("{:?}", f.json_name()))
                        .collect();
                    let _ = write!(
                        code,
                        "if o.has_all(&[{}]) {{ Some({}(JsonFields::read_fields(o)?)) }} else ",
                        needed.join(", "),
                        self.case(oneof, &field)
                    );
                }
                code.push_str("{ None }");
            }
            Union::NameOrObject => {}
        }
        code
    }

    fn name_or_object(&self, name: &str, out: &mut String) {
        let Some(oneof) = self.oneof() else { return };
        let member = names::field(oneof.name());
        let is_unit = |field: &FieldDescriptor| matches!(field.kind(), Kind::Message(m) if m.name() == "Unit");
        let _ = writeln!(out, "impl JsonValue for {name} {{\n    fn write_value(&self, out: &mut Vec<u8>) {{\n        match &self.{member} {{");
        for field in oneof.fields() {
            let case = self.case(&oneof, &field);
            let json = field.json_name().to_owned();
            let _ = if is_unit(&field) {
                writeln!(out, "            Some({case}(_)) => {:?}.to_owned().write_value(out),", field.name())
            } else {
                writeln!(out, "            Some({case}(value)) => FieldWriter::object(out, |o| o.put({json:?}, value)),")
            };
        }
        let _ = writeln!(out, "            None => out.extend_from_slice(b\"null\"),\n        }}\n    }}");
        let _ = writeln!(out, "    fn read_value(raw: &RawValue, depth: u32) -> Result<Self, JsonError> {{\n        let union = match NameOrObject::read(raw, depth)? {{");
        let mut expected = Vec::new();
        for field in oneof.fields() {
            let case = self.case(&oneof, &field);
            let json = field.json_name().to_owned();
            if is_unit(&field) {
                let _ = writeln!(out, "            NameOrObject::Name(name) if name == {:?} => {case}(v1::Unit {{}}),", field.name());
                expected.push(format!("{:?}", field.name()));
            } else {
                let kind = names::value(&field.kind());
                let _ = writeln!(out, "            NameOrObject::Object(mut o) if o.has_all(&[{json:?}]) => {case}(o.take::<{kind}>({json:?})?),");
                expected.push(format!("{{{json:?}: …}}"));
            }
        }
        let expected = expected.join(", ");
        let _ = writeln!(out, "            _ => return Err(JsonError::expected({expected:?}, raw)),\n        }};\n        Ok(Self {{ {member}: Some(union) }})\n    }}\n}}");
    }
}

/// Whether prost makes an `Option` of a field.
fn is_option(field: &FieldDescriptor) -> bool {
    field.cardinality() != Cardinality::Repeated
        && (matches!(field.kind(), Kind::Message(_)) || field.containing_oneof().is_some_and(|oneof| oneof.is_synthetic()))
}

/// The expression for a reference to something that can be written; `value` is a
/// reference.
fn wrap(field: &FieldDescriptor, value: &str) -> String {
    match field.kind() {
        Kind::Enum(descriptor) => format!("&EnumName::<v1::{}>::new(*{value})", descriptor.name()),
        Kind::Bytes => format!("&RawJson(bytes::Bytes::clone({value}))"),
        Kind::Message(_) | Kind::String => value.to_owned(),
        _ if value.starts_with('&') => value.to_owned(),
        _ => format!("&*{value}"),
    }
}

/// The parts of a conversation's message, each alone.
fn fragments(message: &MessageDescriptor, out: &mut String) {
    let Some(oneof) = message.oneofs().find(|oneof| !oneof.is_synthetic()) else { return };
    let module = names::snake(message.name());
    let side = module.trim_end_matches("_message");
    let path = format!("v1::{module}::{}", names::camel(oneof.name()));
    let arms = |arm: &dyn Fn(&FieldDescriptor) -> String| {
        oneof.fields().map(|field| format!("        {path}::{}(value) => {},\n", names::camel(field.name()), arm(&field))).collect::<String>()
    };
    let _ = writeln!(
        out,
        "/// The `type` of a {side} message.\n#[must_use]\n#[allow(unused_variables)]\npub fn {side}_data_type(data: &{path}) -> &'static str {{\n    match data {{\n{}    }}\n}}",
        arms(&|field| format!("{:?}", field.name()))
    );
    if side != "server" {
        return;
    }
    let _ = writeln!(
        out,
        "/// The `data` of a server message as JSON, without the message around it.\n#[must_use]\npub fn fragment(data: &{path}) -> Vec<u8> {{\n    let mut out = Vec::new();\n    match data {{\n{}    }}\n    out\n}}",
        arms(&|field| format!("({}).write_value(&mut out)", wrap(field, "value")))
    );
    let _ = writeln!(
        out,
        "/// The `data` of a server message as protobuf: its field's number and its bytes.\n#[must_use]\npub fn proto_fragment(data: &{path}) -> (u32, Vec<u8>) {{\n    use prost::Message as _;\n    match data {{\n{}    }}\n}}",
        arms(&|field| match field.kind() {
            Kind::Bytes => format!("({}, value.to_vec())", field.number()),
            _ => format!("({}, value.encode_to_vec())", field.number()),
        })
    );
}
