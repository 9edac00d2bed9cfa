//! JSON options, read from the descriptors.

use std::error::Error;

use prost_reflect::{DescriptorPool, ExtensionDescriptor, FieldDescriptor, MessageDescriptor};

/// The extensions declared in `options.proto`.
pub(super) struct Options {
    union: ExtensionDescriptor,
    pub(super) shorthand: ExtensionDescriptor,
    pub(super) number: ExtensionDescriptor,
    nullable: ExtensionDescriptor,
    raw: ExtensionDescriptor,
    omit_default: ExtensionDescriptor,
    other_names: ExtensionDescriptor,
}

/// JSON form of a message's oneof.
#[derive(PartialEq, Eq)]
pub(super) enum Union {
    Plain,
    TypeData,
    Kind,
    NameOrObject,
    Merged,
}

impl Options {
    pub(super) fn new(pool: &DescriptorPool) -> Result<Self, Box<dyn Error>> {
        let find = |name: &str| {
            let full = format!("{}.{name}", super::PACKAGE);
            pool.get_extension_by_name(&full)
                .ok_or_else(|| format!("{full} is not declared"))
        };
        Ok(Self {
            union: find("json_union")?,
            shorthand: find("json_shorthand")?,
            number: find("json_number")?,
            nullable: find("json_nullable")?,
            raw: find("json_raw")?,
            omit_default: find("json_omit_default")?,
            other_names: find("json_other_names")?,
        })
    }

    pub(super) fn union(&self, message: &MessageDescriptor) -> Union {
        let option = message.options();
        match option.get_extension(&self.union).as_enum_number() {
            Some(1) => Union::TypeData,
            Some(2) => Union::Kind,
            Some(3) => Union::NameOrObject,
            Some(4) => Union::Merged,
            _ => Union::Plain,
        }
    }

    pub(super) fn text(
        message: &MessageDescriptor,
        option: &ExtensionDescriptor,
    ) -> Option<String> {
        let options = message.options();
        let value = options.get_extension(option).as_str().map(str::to_owned);
        value.filter(|text| !text.is_empty())
    }

    /// Whether the field is `null` when not set.
    pub(super) fn is_nullable(&self, field: &FieldDescriptor) -> bool {
        Self::flag(field, &self.nullable)
    }

    /// Whether the bytes are a JSON document.
    pub(super) fn is_raw(&self, field: &FieldDescriptor) -> bool {
        Self::flag(field, &self.raw)
    }

    /// Whether a default value is left out.
    pub(super) fn omits_default(&self, field: &FieldDescriptor) -> bool {
        Self::flag(field, &self.omit_default)
    }

    /// The field that holds the names which this field's enum lacks.
    pub(super) fn other_names(&self, field: &FieldDescriptor) -> Option<String> {
        let options = field.options();
        let name = options.get_extension(&self.other_names);
        let name = name.as_str().map(str::to_owned);
        name.filter(|text| !text.is_empty())
    }

    /// The field whose enum lacks the names that this field holds.
    pub(super) fn enum_of(&self, field: &FieldDescriptor) -> Option<FieldDescriptor> {
        let name = Some(field.name().to_owned());
        let mut fields = field.parent_message().fields();
        fields.find(|sibling| self.other_names(sibling) == name)
    }

    /// Whether output contains the field regardless of its value.
    pub(super) fn is_always_written(&self, field: &FieldDescriptor) -> bool {
        let is_shown = !self.omits_default(field) && self.enum_of(field).is_none();
        is_shown && (!super::is_option(field) || self.is_nullable(field))
    }

    fn flag(field: &FieldDescriptor, option: &ExtensionDescriptor) -> bool {
        let options = field.options();
        options.get_extension(option).as_bool().unwrap_or(false)
    }
}
