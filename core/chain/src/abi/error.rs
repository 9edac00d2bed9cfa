//! Error ABI: decodes the data of a custom error by its signature.

use std::fmt::Write as _;

use alloy::json_abi::Error;

use super::{
    abi_type::{AbiError, Field, PreparedSignature, check_names, error_field, prepare, syntax},
    value::decode_fields,
};

const EXAMPLE: &str = "error InsufficientBalance(uint256 available, uint256 required)";

/// A custom error, which decodes revert data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorAbi {
    name: String,
    selector: [u8; 4],
    fields: Vec<Field>,
}

impl ErrorAbi {
    /// Parses a signature such as `error InsufficientBalance(uint256 available, uint256
    /// required)`. The word `error` may be left out.
    ///
    /// # Errors
    /// The signature is invalid. The error names the reason and an example.
    pub fn parse(signature: &str) -> Result<Self, AbiError> {
        let PreparedSignature { text, names } = prepare(signature, EXAMPLE)?;
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

    /// The first four bytes of the error's data.
    #[must_use]
    pub fn selector(&self) -> [u8; 4] {
        self.selector
    }

    /// The error as text, such as `InsufficientBalance(available: 1, required: 2)`. None if
    /// `data` belongs to another error or does not fit the signature.
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
            // Only strings keep their quotes, as numbers and hex read better without.
            let is_string = field.ty == super::abi_type::AbiType::String;
            out.push_str(if is_string {
                json
            } else {
                json.trim_matches('"')
            });
        })?;
        out.push(')');
        Some(out)
    }
}
