//! Explanation of errors in the configuration: the key, and the words of an operator for what was
//! expected.

use figment::error::{Actual, Kind};

/// Names of expected values in errors of deserialization, and the words for operators.
const EXPECTED: [(&str, &str); 13] = [
    (
        "a duration",
        "a duration such as \"500ms\", \"10s\" or \"5m\"",
    ),
    ("a sequence", "a list such as [\"a\", \"b\"]"),
    ("a map", "a table"),
    ("a boolean", "true or false"),
    ("a string", "a text in quotes"),
    ("path string", "a path in quotes"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number, 0 at least"),
    ("usize", "a whole number, 0 at least"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("option", "a value"),
];

/// The words of an operator for an expected value.
fn plain(expected: &str) -> &str {
    let mut words = EXPECTED.iter();
    let found = words.find(|(name, _)| *name == expected);
    found.map_or(expected, |(_, words)| words)
}

/// The words of an operator for a found value.
fn found(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => format!("the number {number}"),
        Actual::Signed(number) => format!("the number {number}"),
        Actual::Float(number) => format!("the number {number}"),
        Actual::Str(text) => format!("the text {text:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// The known name that is nearest to an unknown one, if one is near.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), *known))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// The errors of reading the configuration, one a line.
pub(super) fn explain_all(errors: figment::Error) -> anyhow::Error {
    let texts: Vec<_> = errors
        .into_iter()
        .map(|error| explain(&error, None))
        .collect();
    anyhow::anyhow!(texts.join("\n"))
}

/// The text of an error: the key, its place, and for an unknown key the nearest known one. Without
/// a line in a file, the place is the name of the source.
pub(super) fn explain(error: &figment::Error, line: Option<&str>) -> String {
    let path = error.path.join(".");
    let source = || error.metadata.as_ref().map(|metadata| &*metadata.name);
    let place = line.or_else(source);
    let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
    match &error.kind {
        Kind::UnknownField(name, known) => {
            let key = if path.is_empty() || path.ends_with(name.as_str()) {
                path
            } else {
                format!("{path}.{name}")
            };
            let key = if key.is_empty() { name.clone() } else { key };
            let hint = match nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            format!("unknown key `{key}`{place}: {hint}")
        }
        Kind::UnknownVariant(name, known) if !path.is_empty() => {
            let quoted: Vec<_> = known.iter().map(|known| format!("{known:?}")).collect();
            let expected = quoted.join(", ");
            format!("`{path}` is the text {name:?}{place}, expected one of {expected}")
        }
        Kind::MissingField(name) => {
            let dot = if path.is_empty() { "" } else { "." };
            format!("`{path}{dot}{name}` is missing{place}")
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected)
            if !path.is_empty() =>
        {
            let expected = match (actual, expected.as_str()) {
                (Actual::Map, "a sequence") => {
                    format!("a list of tables: `[[{path}]]`")
                }
                (_, expected) => plain(expected).to_owned(),
            };
            let found = found(actual);
            format!("`{path}` is {found}{place}, expected {expected}")
        }
        kind if path.is_empty() => format!("{kind}{place}"),
        kind => format!("`{path}`: {kind}{place}"),
    }
}
