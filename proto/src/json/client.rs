//! What a client sends: errors keep the message's id, so that it can be answered.

use serde_json::value::RawValue;

use super::{
    JsonError, JsonValue as _,
    object::{JsonFields as _, Object},
};
use crate::v1::ClientMessage;

/// Why a client's text is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// Not a JSON object with a type.
    Malformed {
        /// What was wrong and what was expected.
        message: String,
    },
    /// A type that the protocol does not have.
    UnknownType {
        /// The message's id.
        id: Option<String>,
        /// Its type.
        kind: String,
    },
    /// A field of a known message is wrong.
    Invalid {
        /// The message's id.
        id: Option<String>,
        /// Where it is wrong and what was expected.
        message: String,
    },
}

/// Reads a client's message.
///
/// # Errors
/// Says what was wrong, with the message's id wherever it could be read.
pub fn parse_client(text: &[u8]) -> Result<ClientMessage, ClientError> {
    let malformed = |message: String| ClientError::Malformed { message };
    let raw: &RawValue =
        serde_json::from_slice(text).map_err(|error| malformed(format!("the message is not JSON: {error}")))?;
    let mut object = Object::read(raw, 0).map_err(|error| malformed(format!("the message: {error}")))?;
    let id = match object.take_some::<String>("id") {
        Ok(id) => id,
        Err(error) => return Err(ClientError::Invalid { id: None, message: error.to_string() }),
    };
    let invalid = |error: JsonError| ClientError::Invalid { id: id.clone(), message: error.to_string() };
    let Some(kind) = object.take_tag("type").map_err(invalid)? else {
        let message = "`type` is missing, expected the type of the message".to_owned();
        return Err(ClientError::Invalid { id, message });
    };
    ClientMessage::read_fields(&mut object).map_err(|error| {
        if error == JsonError::unknown_tag("type", &kind) {
            return ClientError::UnknownType { id: id.clone(), kind: kind.clone() };
        }
        ClientError::Invalid { id: id.clone(), message: error.to_string() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::client_message::Data;

    fn parse(text: &str) -> Result<ClientMessage, ClientError> {
        parse_client(text.as_bytes())
    }

    #[test]
    fn a_type_without_data_is_a_message() {
        let message = parse(r#"{"type":"ping"}"#).unwrap();
        assert!(matches!(message.data, Some(Data::Ping(_))));
        assert!(parse(r#"{"data":null,"type":"unread_count","later":[]}"#).is_ok());
    }

    #[test]
    fn errors_keep_the_id_and_name_the_field() {
        assert!(matches!(parse("{"), Err(ClientError::Malformed { .. })));
        assert!(matches!(parse("[]"), Err(ClientError::Malformed { .. })));
        assert_eq!(
            parse(r#"{"type":"nope","id":"7"}"#),
            Err(ClientError::UnknownType { id: Some("7".into()), kind: "nope".into() })
        );
        let text = r#"{"id":"8","data":{"channels":["a:b",{"channel":"a:c","since":{"epoch":"e","seq":"x"}}]},"type":"subscribe"}"#;
        let message = "`data.channels[1].since.seq`: expected an integer from 0 to 18446744073709551615, found \"x\"";
        assert_eq!(parse(text), Err(ClientError::Invalid { id: Some("8".into()), message: message.into() }));
        assert!(matches!(parse(r#"{"id":"9"}"#), Err(ClientError::Invalid { id: Some(_), .. })));
        assert!(matches!(parse(r#"{"id":9,"type":"ping"}"#), Err(ClientError::Invalid { id: None, .. })));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!(
            "{}{}{}",
            r#"{"type":"alert_register","data":{"condition":"#,
            r#"{"kind":"all","conditions":["#.repeat(10_000),
            "]}".repeat(10_000)
        ) + "}}";
        assert!(matches!(parse(&deep), Err(ClientError::Invalid { message, .. }) if message.contains("nested deeper")));
    }
}
