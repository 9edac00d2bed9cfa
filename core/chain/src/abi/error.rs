//! Custom errors by signature.

use std::fmt::Write as _;

use alloy::json_abi::Error;

use super::{
    shape::{AbiError, Field, Prepared, check_names, error_field, prepare, syntax},
    value::decode_fields,
};

const EXAMPLE: &str = "error InsufficientBalance(uint256 available, uint256 required)";

/// An error that revert data can be decoded by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorAbi {
    name: String,
    selector: [u8; 4],
    fields: Vec<Field>,
}

impl ErrorAbi {
    /// Takes a signature such as `error InsufficientBalance(uint256 available, uint256
    /// required)`; the word `error` may be left out.
    ///
    /// # Errors
    /// Says what is wrong with the signature and shows one that is right.
    pub fn parse(signature: &str) -> Result<Self, AbiError> {
        let Prepared { text, names } = prepare(signature, EXAMPLE)?;
        let error =
            Error::parse(&text).map_err(|error| syntax(signature, &error.to_string(), EXAMPLE))?;
        let mut names = names.into_iter();
        let fields = error
            .inputs
            .iter()
            .map(|input| error_field(&error.name, input, &mut names));
        let fields = fields.collect::<Result<Vec<_>, AbiError>>()?;
        check_names(&error.name, fields.iter().map(|field| field.name.as_str()))?;
        Ok(Self {
            selector: error.selector().0,
            name: error.name,
            fields,
        })
    }

    /// The first four bytes of its data.
    #[must_use]
    pub fn selector(&self) -> [u8; 4] {
        self.selector
    }

    /// The error as text, such as `InsufficientBalance(available: 1, required: 2)`; none
    /// if `data` is of another error or breaks the signature.
    #[must_use]
    pub fn decode(&self, data: &[u8]) -> Option<String> {
        let arguments = data.strip_prefix(&self.selector)?;
        let mut out = format!("{}(", self.name);
        let mut separator = "";
        decode_fields(self.fields.iter(), arguments, |field, json| {
            out.push_str(separator);
            separator = ", ";
            if !field.name.is_empty() {
                // Writing to a string does not fail.
                let _ = write!(out, "{}: ", field.name);
            }
            // Quotes are for texts; numbers and hex read better without.
            let is_text = field.shape == super::shape::Shape::String;
            out.push_str(if is_text {
                json
            } else {
                json.trim_matches('"')
            });
        })?;
        out.push(')');
        Some(out)
    }
}
