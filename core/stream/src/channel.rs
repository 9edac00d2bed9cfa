//! Channel names: their form, and the namespace that each belongs to.
//!
//! [`namespace`](crate::namespace) decides whether a namespace exists and what it allows. The
//! engine behind a namespace checks the rest of a name, such as a symbol.

use std::{borrow::Borrow, fmt, sync::Arc};

/// Namespace of users' personal channels.
pub const PERSONAL: &str = "user";

/// Longest channel name, in bytes.
pub const MAX_CHANNEL_BYTES: usize = 255;

/// A validated channel name, `namespace:rest`. Cheap to clone.
///
/// The namespace is lower-case ASCII letters, digits, `-` and `_`, starting with
/// a letter. The rest is at least one printable ASCII character other than
/// space, `,`, `"` and `\`; so a name needs no escaping in JSON and no list of
/// names is ambiguous.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Reason for which a channel name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    /// The name is empty.
    #[error("channel name is empty, expected `namespace:name`")]
    Empty,
    /// The name is longer than [`MAX_CHANNEL_BYTES`].
    #[error("channel name is {0} bytes long, expected at most {MAX_CHANNEL_BYTES}")]
    TooLong(usize),
    /// There is no colon, or nothing before it.
    #[error("channel name {0:?} has no namespace, expected `namespace:name`")]
    NoNamespace(String),
    /// There is nothing after the colon.
    #[error("channel name {0:?} has nothing after its colon, expected `namespace:name`")]
    NoName(String),
    /// The part before the colon is malformed.
    #[error(
        "namespace {0:?} is malformed, expected a lower-case letter and then lower-case letters, digits, `-` or `_`"
    )]
    BadNamespace(String),
    /// The name has a character that is not allowed.
    #[error(
        "channel name holds {0:?}, expected printable ASCII other than space, `,`, `\"` and `\\`"
    )]
    BadCharacter(char),
}

/// Reason for which a text is no user id: it cannot name the user's channel. It speaks of the id
/// alone, because its reader gave no channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    /// The id is empty.
    #[error("it is empty")]
    Empty,
    /// The id is longer than its channel permits.
    #[error("it is {0} bytes long, expected at most {MAX_USER_BYTES}")]
    TooLong(usize),
    /// The id has a character that is not allowed.
    #[error("it holds {0:?}, expected printable ASCII other than space, `,`, `\"` and `\\`")]
    BadCharacter(char),
}

/// Length of a user id at most, in bytes: `user:` is before it in the name of the channel.
const MAX_USER_BYTES: usize = MAX_CHANNEL_BYTES - PERSONAL.len() - 1;

impl ChannelName {
    /// Checks a name. It is not changed.
    ///
    /// # Errors
    /// The rule that `name` breaks.
    pub fn parse(name: &str) -> Result<Self, ChannelNameError> {
        if name.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if name.len() > MAX_CHANNEL_BYTES {
            return Err(ChannelNameError::TooLong(name.len()));
        }
        if let Some(bad) = name.chars().find(|c| !is_allowed(*c)) {
            return Err(ChannelNameError::BadCharacter(bad));
        }
        let (namespace, rest) = name
            .split_once(':')
            .ok_or_else(|| ChannelNameError::NoNamespace(name.to_owned()))?;
        if namespace.is_empty() {
            return Err(ChannelNameError::NoNamespace(name.to_owned()));
        }
        if rest.is_empty() {
            return Err(ChannelNameError::NoName(name.to_owned()));
        }
        if !is_namespace(namespace) {
            return Err(ChannelNameError::BadNamespace(namespace.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// Name of a user's own channel.
    ///
    /// # Errors
    /// The user id has a character that is not allowed in a channel name, is too long, or empty.
    pub fn user(user: &str) -> Result<Self, UserIdError> {
        // Of each notification: `format` would take longer than all the rest.
        Self::parse(&[PERSONAL, ":", user].concat()).map_err(|error| match error {
            ChannelNameError::TooLong(_) => UserIdError::TooLong(user.len()),
            ChannelNameError::BadCharacter(bad) => UserIdError::BadCharacter(bad),
            // The namespace is right, so nothing is left that can be wrong.
            _ => UserIdError::Empty,
        })
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first colon.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0
            .split_once(':')
            .map_or("", |(namespace, _)| namespace)
    }

    /// The part after the first colon.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, rest)| rest)
    }
}

/// Whether `text` can be a namespace.
#[must_use]
pub fn is_namespace(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, ',' | '"' | '\\')
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_namespace_and_a_rest() {
        let name = ChannelName::parse("prices:BTC-USD@binance").unwrap();
        assert_eq!(name.namespace(), "prices");
        assert_eq!(name.rest(), "BTC-USD@binance");
        assert_eq!(ChannelName::parse("events:1:{a}").unwrap().rest(), "1:{a}");
    }

    #[test]
    fn each_rule_has_its_error() {
        use ChannelNameError as E;
        let parse = |name: &str| ChannelName::parse(name).unwrap_err();
        assert_eq!(parse(""), E::Empty);
        assert_eq!(parse(&format!("a:{}", "x".repeat(254))), E::TooLong(256));
        assert_eq!(parse("prices"), E::NoNamespace("prices".into()));
        assert_eq!(parse(":x"), E::NoNamespace(":x".into()));
        assert_eq!(parse("x:"), E::NoName("x:".into()));
        assert_eq!(parse("Prices:x"), E::BadNamespace("Prices".into()));
        assert_eq!(parse("a:b c"), E::BadCharacter(' '));
        assert_eq!(parse("a:b,c"), E::BadCharacter(','));
        assert_eq!(parse("a:é"), E::BadCharacter('é'));
        assert_eq!(parse("a:\n"), E::BadCharacter('\n'));
    }

    #[test]
    fn the_error_of_a_user_id_speaks_of_no_channel() {
        let refused = |id: &str| ChannelName::user(id).unwrap_err().to_string();
        assert!(refused("a b").starts_with("it holds ' ', expected printable ASCII"));
        let expected = "it is 251 bytes long, expected at most 250";
        assert_eq!(refused(&"x".repeat(251)), expected);
        assert_eq!(refused(""), "it is empty");
        assert!(ChannelName::user(&"x".repeat(250)).is_ok());
    }
}
