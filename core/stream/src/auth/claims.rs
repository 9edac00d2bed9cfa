//! Token claims: the JSON payload of a JWT.
//!
//! Issuers write claims differently, so reading is lenient: dates may have fractions, and
//! `aud` and `scope` may be a string or a list.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

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
}
