//! Token claims: the JSON payload of a JWT.
//!
//! Issuers write claims differently, so reading is lenient: dates may have fractions, and
//! `aud` and `scope` may be a string or a list.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

/// The claims of a token (RFC 7519, section 4).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claims {
    /// The user id.
    pub sub: String,
    /// The expiry, in seconds since the Unix epoch.
    #[serde(deserialize_with = "date")]
    pub exp: i64,
    /// The start of validity, in seconds since the Unix epoch.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_date"
    )]
    pub nbf: Option<i64>,
    /// The time of issue, in seconds since the Unix epoch.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_date"
    )]
    pub iat: Option<i64>,
    /// The issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The audience.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub aud: Vec<String>,
    /// The token id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Scopes, separated by spaces.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "words"
    )]
    pub scope: Option<String>,
    /// Patterns of further channels that the token may read; `*` matches any characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// The wallet addresses of the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wallets: Vec<String>,
}

/// A NumericDate (RFC 7519, section 2): seconds, with an optional fraction.
fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    match (number.as_i64(), number.as_f64()) {
        (Some(seconds), _) => Ok(seconds),
        // The cast saturates at the limits of `i64`, which are far from any date.
        (None, Some(seconds)) => Ok(seconds as i64),
        (None, None) => Err(D::Error::custom(
            "expected a date in seconds since the Unix epoch",
        )),
    }
}

fn some_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    date(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    one_or_many(deserializer).map(|words| Some(words.join(" ")))
}

/// The form of a claim.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Date,
    TextOrList,
    List,
}

/// Every claim, with its form. The first two are required.
const CLAIMS: [(&str, Form); 10] = [
    ("sub", Form::Text),
    ("exp", Form::Date),
    ("nbf", Form::Date),
    ("iat", Form::Date),
    ("iss", Form::Text),
    ("aud", Form::TextOrList),
    ("jti", Form::Text),
    ("scope", Form::TextOrList),
    ("channels", Form::List),
    ("wallets", Form::List),
];

impl Form {
    fn holds(self, value: &Value) -> bool {
        let is_list = || {
            let texts = value.as_array();
            texts.is_some_and(|texts| texts.iter().all(Value::is_string))
        };
        match self {
            Self::Text => value.is_string(),
            Self::Date => value.is_number(),
            Self::TextOrList => value.is_string() || is_list(),
            Self::List => is_list(),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Date => "a number of seconds since 1970",
            Self::TextOrList => "a text or a list of texts",
            Self::List => "a list of texts",
        }
    }
}

/// Explains why the claims of a token cannot be read. `None` stands for a payload that is not
/// JSON. The text quotes no claim.
pub(super) fn fault(payload: Option<&Value>) -> String {
    let Some(claims) = payload.and_then(Value::as_object) else {
        return "its payload is not a JSON object of claims".to_owned();
    };
    for (index, (name, form)) in CLAIMS.into_iter().enumerate() {
        let expected = form.expected();
        match claims.get(name) {
            // An optional text may be null.
            Some(Value::Null) if index >= 2 && matches!(form, Form::Text) => {}
            None if index < 2 => return format!("`{name}` is missing, expected {expected}"),
            Some(value) if !form.holds(value) => {
                return format!("`{name}` has another form, expected {expected}");
            }
            _ => {}
        }
    }
    "a claim is there twice".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_different_issuers_are_read() {
        let read = |text: &str| serde_json::from_str::<Claims>(text);
        let claims =
            read(r#"{"sub":"a","exp":1.9,"aud":"x","scope":["service","admin"]}"#).unwrap();
        assert_eq!((claims.exp, claims.aud.len()), (1, 1));
        assert_eq!(claims.scope.as_deref(), Some("service admin"));
        let claims = read(r#"{"sub":"a","exp":1e300,"aud":["x","y"],"scope":"service"}"#).unwrap();
        assert_eq!((claims.exp, claims.aud.len()), (i64::MAX, 2));
        assert!(read(r#"{"sub":"a","exp":"1"}"#).is_err());
        assert!(read(r#"{"sub":"a"}"#).is_err());
        assert!(read(r#"{"exp":1}"#).is_err());
    }

    #[test]
    fn a_fault_names_the_claim_and_the_expected_form() {
        let text = |payload: &str| fault(serde_json::from_str(payload).ok().as_ref());
        for (payload, expected) in [
            ("{", "its payload is not a JSON object of claims"),
            ("[]", "its payload is not a JSON object of claims"),
            ("{}", "`sub` is missing, expected a text"),
            (r#"{"sub":5}"#, "`sub` has another form, expected a text"),
            (
                r#"{"sub":"a"}"#,
                "`exp` is missing, expected a number of seconds since 1970",
            ),
            (
                r#"{"sub":"a","exp":"1"}"#,
                "`exp` has another form, expected a number of seconds since 1970",
            ),
            (
                r#"{"sub":"a","exp":1,"aud":[5]}"#,
                "`aud` has another form, expected a text or a list of texts",
            ),
            (
                r#"{"sub":"a","exp":1,"channels":"a"}"#,
                "`channels` has another form, expected a list of texts",
            ),
            (
                r#"{"sub":"a","exp":1,"iss":null,"scope":5}"#,
                "`scope` has another form, expected a text or a list of texts",
            ),
            (r#"{"sub":"a","exp":1,"exp":1}"#, "a claim is there twice"),
        ] {
            // Only claims that cannot be read are explained.
            assert!(
                serde_json::from_str::<Claims>(payload).is_err(),
                "{payload}"
            );
            assert_eq!(text(payload), expected, "{payload}");
        }
    }
}
