//! Client messages in JSON. Errors carry the message's id, so that the reply can name it.

use serde_json::value::RawValue;

use super::{
    JsonError,
    object::{JsonFields as _, Object},
};
use crate::v1::ClientMessage;

/// Why a client's text is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The text is not a JSON object.
    #[error("{message}")]
    Malformed {
        /// The fault, and what was expected.
        message: String,
    },
    /// The protocol has no such message type.
    #[error("there is no message type {kind:?}")]
    UnknownType {
        /// The message's id.
        id: Option<String>,
        /// Its type.
        kind: String,
    },
    /// A field is invalid, or the type is missing.
    #[error("{message}")]
    Invalid {
        /// The message's id.
        id: Option<String>,
        /// The path of the fault, and what was expected.
        message: String,
    },
}

/// Parses a client message. Missing or null `data` means all defaults.
///
/// # Errors
/// The text is not a valid message. The error carries the message's id if it could be read.
pub fn parse_client(text: &[u8]) -> Result<ClientMessage, ClientError> {
    let malformed = |error: JsonError| ClientError::Malformed {
        message: format!("the message is {error}"),
    };
    let raw: &RawValue =
        serde_json::from_slice(text).map_err(|error| malformed(JsonError::syntax(&error)))?;
    let object = Object::read(raw, 0).map_err(|error| ClientError::Malformed {
        message: format!("the message is wrong: {error}"),
    })?;
    let id = object
        .some::<String>("id")
        .map_err(|error| ClientError::Invalid {
            id: None,
            message: error.to_string(),
        })?;
    let invalid = |message: String| ClientError::Invalid {
        id: id.clone(),
        message,
    };
    let kind = object
        .some::<String>("type")
        .map_err(|error| invalid(error.to_string()))?
        .ok_or_else(|| invalid("`type` is missing, expected the message's type".to_owned()))?;
    match ClientMessage::read_fields(&object) {
        Ok(message) => Ok(message),
        Err(error) if error.is_unknown_type() => Err(ClientError::UnknownType { id, kind }),
        Err(error) => Err(invalid(error.to_string())),
    }
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
            Err(ClientError::UnknownType {
                id: Some("7".into()),
                kind: "nope".into()
            })
        );
        let text = r#"{"id":"8","data":{"channels":["a:b",{"channel":"a:c","since":{"epoch":"e","seq":"x"}}]},"type":"subscribe"}"#;
        let message = "`data.channels[1].since.seq`: expected an integer from 0 to 18446744073709551615, found \"x\"";
        assert_eq!(
            parse(text),
            Err(ClientError::Invalid {
                id: Some("8".into()),
                message: message.into()
            })
        );
        assert!(matches!(
            parse(r#"{"id":"9"}"#),
            Err(ClientError::Invalid { id: Some(_), .. })
        ));
        assert!(matches!(
            parse(r#"{"id":9,"type":"ping"}"#),
            Err(ClientError::Invalid { id: None, .. })
        ));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!(
            "{}{}{}",
            r#"{"type":"alert_register","data":{"condition":"#,
            r#"{"kind":"all","conditions":["#.repeat(10_000),
            "]}".repeat(10_000)
        ) + "}}";
        assert!(
            matches!(parse(&deep), Err(ClientError::Invalid { message, .. }) if message.contains("nested deeper"))
        );
    }
}
