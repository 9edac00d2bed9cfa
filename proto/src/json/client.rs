//! Client messages in JSON. Errors carry the message's id, so that the reply can name it.

use serde_json::value::RawValue;

use super::{
    JsonError,
    object::{JsonFields as _, Object},
};
use crate::v1::{ClientMessage, Preferences, Priority, client_message::Data};

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

/// The types of client messages, for the texts of errors.
pub const CLIENT_TYPES: [&str; 24] = [
    "auth",
    "subscribe",
    "unsubscribe",
    "history",
    "publish",
    "watch",
    "unwatch",
    "get_price",
    "get_block",
    "get_candles",
    "notifications",
    "mark_read",
    "dismiss",
    "mark_all_read",
    "unread_count",
    "preferences",
    "alert_register",
    "alert_update",
    "alerts",
    "alert_delete",
    "alert_explain",
    "alert_log",
    "visibility",
    "ping",
];

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
    match read(&object) {
        Ok(message) => Ok(message),
        Err(error) if error.is_unknown_type() => Err(ClientError::UnknownType { id, kind }),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// Fields of preferences in JSON.
const PREFERENCES: [&str; 5] = [
    "minPriority",
    "mutedTypes",
    "quietHours",
    "digest",
    "channels",
];

/// Reads a message. Preferences without any field read the stored ones, and preferences with a
/// field replace them, also where its value is empty. Protobuf cannot tell the two apart, so the
/// latter get the minimum priority `low`, which hides nothing.
fn read(object: &Object<'_>) -> Result<ClientMessage, JsonError> {
    let mut message = ClientMessage::read_fields(object)?;
    if let Some(Data::Preferences(preferences)) = &mut message.data {
        let empty = Preferences {
            user: preferences.user.clone(),
            ..Preferences::default()
        };
        if *preferences == empty && object.nested_has_any("data", &PREFERENCES) {
            preferences.min_priority = Some(Priority::Low.into());
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClientMessage, ClientError> {
        parse_client(text.as_bytes())
    }

    #[test]
    fn every_type_is_listed() {
        let proto = include_str!("../../tidewire/v1/message.proto");
        let message = proto.split("message ClientMessage").nth(1).unwrap();
        let data = message.split("oneof data").nth(1).unwrap();
        let fields = data.split('}').next().unwrap().lines();
        let fields = fields.filter_map(|line| line.trim().split(" = ").next()?.split_once(' '));
        let mut names: Vec<_> = fields
            .filter(|(kind, _)| *kind != "//")
            .map(|(_, name)| name)
            .collect();
        let mut listed = CLIENT_TYPES.to_vec();
        names.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, names);
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
        let message =
            "`data.channels[1].since.seq`: expected a whole number, not negative, found \"x\"";
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
    fn preferences_with_an_empty_field_are_written() {
        let preferences = |data: &str| {
            let text = format!(r#"{{"type":"preferences","data":{data}}}"#);
            let message = parse(&text).unwrap();
            // The JSON form keeps the difference.
            assert_eq!(
                parse_client(&crate::json::to_vec(&message)).as_ref(),
                Ok(&message)
            );
            match message.data {
                Some(Data::Preferences(preferences)) => preferences,
                other => panic!("{other:?}"),
            }
        };
        for read in ["null", "{}", r#"{"later":[]}"#] {
            assert_eq!(preferences(read), Preferences::default(), "{read}");
        }
        for written in [
            r#"{"mutedTypes":[]}"#,
            r#"{"minPriority":null}"#,
            r#"{"quietHours":null,"mutedTypes":[]}"#,
            r#"{"user":"u1","mutedTypes":[]}"#,
        ] {
            let low = Some(Priority::Low.into());
            assert_eq!(preferences(written).min_priority, low, "{written}");
        }
        assert_eq!(preferences(r#"{"digest":false}"#).min_priority, None);
        assert_eq!(preferences(r#"{"user":"u1"}"#).min_priority, None);
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
