//! Client messages in JSON. Errors carry the message's id, so that the reply can name it.

use serde_json::value::RawValue;

use super::{
    JsonError,
    object::{JsonFields as _, Object},
};
use crate::v1::{AlertRule, ClientMessage, Preferences, Priority, client_message::Data};

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
    #[error("there is no message type {kind:?}, expected {expected}")]
    UnknownType {
        /// The message's id.
        id: Option<String>,
        /// Its type.
        kind: String,
        /// The types that there are.
        expected: String,
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
    match read(&object) {
        Ok(message) => Ok(message),
        Err(error) if error.is_unknown_type() => Err(ClientError::UnknownType {
            id,
            kind,
            expected: error.cases().to_owned(),
        }),
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
    if let Some(Data::AlertRegister(rule) | Data::AlertUpdate(rule)) = &message.data
        && is_empty(rule)
        && object.nested_has_any("data", &["rule"])
    {
        // The RPCs have such a field. Here it would be ignored, as an unknown one.
        let problem = "given, expected the fields of the rule in `data` itself";
        return Err(JsonError::new(problem).within("rule").within("data"));
    }
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

/// Whether a rule has no fields but those that name it.
fn is_empty(rule: &AlertRule) -> bool {
    let names = AlertRule {
        id: rule.id.clone(),
        user: rule.user.clone(),
        idempotency_key: rule.idempotency_key.clone(),
        ..AlertRule::default()
    };
    *rule == names
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let Err(ClientError::UnknownType { id, kind, expected }) =
            parse(r#"{"type":"nope, expected more","id":"7"}"#)
        else {
            panic!("it is unknown");
        };
        assert_eq!(
            (id.as_deref(), kind.as_str()),
            (Some("7"), "nope, expected more")
        );
        assert!(
            expected.starts_with("one of auth, subscribe, "),
            "{expected}"
        );
        let wrapped = parse(r#"{"type":"alert_register","data":{"user":"ada","rule":{}}}"#);
        let message = "`data.rule`: given, expected the fields of the rule in `data` itself";
        assert_eq!(wrapped.unwrap_err().to_string(), message);
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
