//! JSON errors: the fault and its path.

use serde_json::value::RawValue;

/// Characters of an invalid value that an error quotes.
const SHOWN: usize = 40;

/// Why a text is not the JSON form of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{}{message}", if path.is_empty() { "" } else { "`" }, path, if path.is_empty() { "" } else { "`: " })]
pub struct JsonError {
    /// Path of the fault, from the outside in: `data.channels[0].since.seq`.
    path: String,
    message: String,
    kind: Kind,
}

/// Words of the JSON parser that only its readers understand, and the words for users.
const PARSER_WORDS: [(&str, &str); 6] = [
    ("expected ident", "expected `true`, `false` or `null`"),
    ("EOF while parsing a value", "the text ends before a value"),
    ("EOF while parsing a list", "the text ends within a list"),
    (
        "EOF while parsing an object",
        "the text ends within an object",
    ),
    (
        "EOF while parsing a string",
        "the text ends within a string",
    ),
    ("key must be a string", "expected a name in quotes"),
];

/// The text of a parser's error, in plain words. It keeps its line and column.
fn plain(error: &str) -> String {
    let known = PARSER_WORDS
        .iter()
        .find_map(|(words, plain)| Some((plain, error.strip_prefix(words)?)));
    known.map_or_else(
        || error.to_owned(),
        |(plain, rest)| format!("{plain}{rest}"),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syntax,
    Value,
    UnknownTag,
}

impl JsonError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        let (path, message) = (String::new(), message.into());
        Self {
            path,
            message,
            kind: Kind::Value,
        }
    }

    /// The text is not JSON.
    pub(super) fn syntax(error: &serde_json::Error) -> Self {
        Self {
            kind: Kind::Syntax,
            ..Self::new(format!("not JSON: {}", plain(&error.to_string())))
        }
    }

    /// The value is not of the expected kind.
    pub(super) fn expected(what: &str, raw: &RawValue) -> Self {
        let text = raw.get();
        let found: String = text.chars().take(SHOWN).collect();
        let more = if found.len() < text.len() { "…" } else { "" };
        Self::new(format!("expected {what}, found {found}{more}"))
    }

    /// The union's tag names none of its cases.
    pub(super) fn unknown_tag(tag: &str, found: &str, expected: &str) -> Self {
        let found: String = found.chars().take(SHOWN).collect();
        Self {
            kind: Kind::UnknownTag,
            ..Self::new(format!(
                "there is no `{tag}` {found:?}, expected one of {expected}"
            ))
        }
    }

    /// Prefixes the path with `name`.
    pub(super) fn within(mut self, name: &str) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{name}{joint}{}", self.path);
        self
    }

    /// The end of the text: what was expected. Empty if the text does not say.
    pub(super) fn cases(&self) -> &str {
        // The value before it may contain the word.
        let parts = self.message.rsplit_once(", expected ");
        parts.map_or("", |(_, expected)| expected)
    }

    /// Whether the text is not JSON.
    #[must_use]
    pub fn is_syntax(&self) -> bool {
        self.kind == Kind::Syntax
    }

    /// Whether the text is a message of a type unknown to this version. A newer peer may send
    /// one.
    #[must_use]
    pub fn is_unknown_type(&self) -> bool {
        self.kind == Kind::UnknownTag && self.path.is_empty()
    }

    /// Returns the path of the fault, from the outside in. Empty for the whole text.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}
