//! Explanation of errors in the configuration: the key, and the words of an operator for what was
//! expected.

use figment::error::Kind;

/// Names of expected values in errors of deserialization, and the words for operators.
const EXPECTED: [(&str, &str); 12] = [
    (
        "a duration",
        "a duration such as \"500ms\", \"10s\" or \"5m\"",
    ),
    ("a sequence", "a list such as [\"a\", \"b\"]"),
    ("a map", "a table"),
    ("a boolean", "true or false"),
    ("a string", "a text in quotes"),
    ("path string", "a path in quotes"),
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

/// The errors of reading the configuration, one a line.
pub(super) fn explain_all(errors: figment::Error) -> anyhow::Error {
    let texts: Vec<_> = errors.into_iter().map(|error| explain(&error)).collect();
    anyhow::anyhow!(texts.join("\n"))
}

/// The text of an error: the key, and for an unknown key the nearest known one.
fn explain(error: &figment::Error) -> String {
    let path = error.path.join(".");
    let place = error
        .metadata
        .as_ref()
        .map(|metadata| format!(" ({})", metadata.name))
        .unwrap_or_default();
    match &error.kind {
        Kind::UnknownField(name, known) => {
            let key = if path.is_empty() || path.ends_with(name.as_str()) {
                path
            } else {
                format!("{path}.{name}")
            };
            let key = if key.is_empty() { name.clone() } else { key };
            let near = known
                .iter()
                .map(|known| (strsim::jaro_winkler(name, known), known))
                .filter(|(score, _)| *score > 0.7)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = match near {
                Some((_, near)) => format!("did you mean `{near}`?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            format!("unknown key `{key}`{place}: {hint}")
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected)
            if !path.is_empty() =>
        {
            format!("`{path}` is {found}{place}, expected {}", plain(expected))
        }
        kind if path.is_empty() => format!("{kind}{place}"),
        kind => format!("`{path}`: {kind}{place}"),
    }
}
