//! Object fields, read and written by name.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{JsonError, JsonValue, MAX_DEPTH, value::write_name};

/// The fields of a message.
pub(super) trait JsonFields: Sized {
    fn write_fields(&self, o: &mut FieldWriter<'_>);
    fn read_fields(o: &Object<'_>) -> Result<Self, JsonError>;
}

/// A JSON object being read.
pub(super) struct Object<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    depth: u32,
}

impl<'a> Object<'a> {
    pub(super) fn read(raw: &'a RawValue, depth: u32) -> Result<Self, JsonError> {
        if depth >= MAX_DEPTH {
            return Err(JsonError::new(format!(
                "nested deeper than {MAX_DEPTH} levels"
            )));
        }
        let fields =
            serde_json::from_str(raw.get()).map_err(|_| JsonError::expected("an object", raw))?;
        Ok(Self {
            fields,
            depth: depth + 1,
        })
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.fields
            .get(name)
            .copied()
            .filter(|raw| raw.get() != "null")
    }

    /// Reads a field that has a default.
    pub(super) fn value<T: JsonValue + Default>(&self, name: &str) -> Result<T, JsonError> {
        self.some(name).map(Option::unwrap_or_default)
    }

    /// Reads an optional field. Null counts as missing.
    pub(super) fn some<T: JsonValue>(&self, name: &str) -> Result<Option<T>, JsonError> {
        let Some(raw) = self.get(name) else {
            return Ok(None);
        };
        T::read_value(raw, self.depth)
            .map(Some)
            .map_err(|error| error.within(name))
    }

    /// Reads a list. A missing list is empty.
    pub(super) fn list<T: JsonValue>(&self, name: &str) -> Result<Vec<T>, JsonError> {
        let Some(raw) = self.get(name) else {
            return Ok(Vec::new());
        };
        let items: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| JsonError::expected("a list", raw).within(name))?;
        let item = |(index, raw): (usize, &RawValue)| {
            T::read_value(raw, self.depth)
                .map_err(|error| error.within(&format!("[{index}]")).within(name))
        };
        items.into_iter().enumerate().map(item).collect()
    }

    /// Whether the object has all these fields.
    pub(super) fn has_all(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.fields.contains_key(*name))
    }

    /// Whether a field is an object with any of these fields, null or not.
    pub(super) fn nested_has_any(&self, name: &str, names: &[&str]) -> bool {
        let Some(nested) = self.get(name) else {
            return false;
        };
        Self::read(nested, self.depth)
            .is_ok_and(|nested| names.iter().any(|name| nested.fields.contains_key(*name)))
    }

    /// Returns the error for a second case of a union.
    pub(super) fn second_case(name: &str, cases: &str) -> JsonError {
        let problem =
            format!("given beside another field that excludes it, expected one of {cases}");
        JsonError::new(problem).within(name)
    }
}

/// A bare name, an object, or something else, which is no case of any union.
pub(super) enum NameOrObject<'a> {
    Name(String),
    Object(Object<'a>),
    Other,
}

impl<'a> NameOrObject<'a> {
    pub(super) fn read(raw: &'a RawValue, depth: u32) -> Result<Self, JsonError> {
        if raw.get().starts_with('{') {
            return Object::read(raw, depth).map(Self::Object);
        }
        if !raw.get().starts_with('"') {
            return Ok(Self::Other);
        }
        String::read_value(raw, depth).map(Self::Name)
    }
}

/// Writes the fields of a JSON object.
pub(super) struct FieldWriter<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl FieldWriter<'_> {
    /// Writes an object.
    pub(super) fn object(out: &mut Vec<u8>, fields: impl FnOnce(&mut FieldWriter<'_>)) {
        out.push(b'{');
        fields(&mut FieldWriter {
            out,
            is_first: true,
        });
        out.push(b'}');
    }

    /// Field names come from the generator and need no escape.
    fn name(&mut self, name: &str) {
        if !self.is_first {
            self.out.push(b',');
        }
        self.is_first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    pub(super) fn put<T: JsonValue>(&mut self, name: &str, value: &T) {
        self.name(name);
        value.write_value(self.out);
    }

    /// Writes the name of a union's case, which needs no escape.
    pub(super) fn put_tag(&mut self, tag: &str, case: &str) {
        self.name(tag);
        write_name(case, self.out);
    }

    /// Writes a boolean, only if it is true.
    pub(super) fn put_true(&mut self, name: &str, value: bool) {
        if value {
            self.put(name, &true);
        }
    }

    pub(super) fn put_some<T: JsonValue>(&mut self, name: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    pub(super) fn put_nullable<T: JsonValue>(&mut self, name: &str, value: Option<&T>) {
        self.name(name);
        match value {
            Some(value) => value.write_value(self.out),
            None => self.out.extend_from_slice(b"null"),
        }
    }

    pub(super) fn put_list<T: JsonValue>(&mut self, name: &str, values: &[T]) {
        self.name(name);
        self.out.push(b'[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            value.write_value(self.out);
        }
        self.out.push(b']');
    }

    pub(super) fn put_list_some<T: JsonValue>(&mut self, name: &str, values: &[T]) {
        if !values.is_empty() {
            self.put_list(name, values);
        }
    }
}
