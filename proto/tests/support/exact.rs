//! JSON values with exact comparison: fields in any order, numbers by all their digits.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use tidewire_proto::v1::Decimal;

#[derive(Debug, PartialEq)]
pub enum Exact {
    /// `null`, `true` or `false`.
    Word(String),
    /// In canonical notation, or as written if it is too large for that.
    Number(String),
    Text(String),
    List(Vec<Exact>),
    Object(BTreeMap<String, Exact>),
}

impl Exact {
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        let raw: &RawValue = serde_json::from_str(text)?;
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
                let field = |(name, raw): (String, &RawValue)| Ok((name, Self::parse(raw.get())?));
                Self::Object(
                    fields
                        .into_iter()
                        .map(field)
                        .collect::<serde_json::Result<_>>()?,
                )
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text)?;
                let item = |raw: &RawValue| Self::parse(raw.get());
                Self::List(
                    items
                        .into_iter()
                        .map(item)
                        .collect::<serde_json::Result<_>>()?,
                )
            }
            Some(b'"') => Self::Text(serde_json::from_str(text)?),
            Some(b'n' | b't' | b'f') => Self::Word(text.to_owned()),
            _ => {
                let number = Decimal::parse(text);
                Self::Number(number.map_or_else(|_| text.to_owned(), |number| number.value))
            }
        })
    }
}
