//! What a token says, written and read.
//!
//! Written it is plain. Read it is lenient where issuers differ: dates may have
//! fractions, `aud` may be one text or a list, `scope` a text or a list.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// What a token says.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: String,
    /// When it expires, in seconds since the Unix epoch.
    #[serde(deserialize_with = "date")]
    pub exp: i64,
    /// Not before, in seconds since the Unix epoch.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_date"
    )]
    pub nbf: Option<i64>,
    /// When it was issued, in seconds since the Unix epoch.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_date"
    )]
    pub iat: Option<i64>,
    /// Who issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Whom it is for.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub aud: Vec<String>,
    /// Its own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// What it allows, separated by spaces.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "words"
    )]
    pub scope: Option<String>,
    /// Further channels that it may read: names, in which `*` stands for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// The user's wallets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wallets: Vec<String>,
}

/// A NumericDate (RFC 7519, section 2): seconds, perhaps with a fraction.
fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    match (number.as_i64(), number.as_f64()) {
        (Some(seconds), _) => Ok(seconds),
        // Saturates at the ends, which are far from any date.
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
#[serde(untagged, expecting = "expected a text or a list of texts")]
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
    fn what_issuers_write_differently_is_read_alike() {
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
