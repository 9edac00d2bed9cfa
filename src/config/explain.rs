//! Explanation of errors in the configuration: the key, and the words of an operator for what was
//! expected.

use figment::error::{Actual, Kind};

use super::{
    entries::{is_list, key_words},
    environment::variable_of,
    tables::is_above_keys,
    toml_texts,
};

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
    match found {
        Some((_, words)) => words,
        None if is_table(expected) => "a table",
        None => expected,
    }
}

/// Whether the expected value is a table.
fn is_table(expected: &str) -> bool {
    expected == "a map" || expected.starts_with("struct ")
}

/// Keys whose values are secrets, or addresses that may hold one: an error quotes none of them.
const SECRETS: [&str; 11] = [
    "hmac_secret",
    "hmac_secret_previous",
    "vapid_private_key",
    "secrets",
    "unsubscribe_secrets",
    "password",
    "url",
    "jwks_url",
    "sentinels",
    "cluster",
    "endpoints",
];

/// Longest text that an error quotes, in characters.
const MOST_QUOTED: usize = 64;

/// Keys that other servers have, and what this one has in their place.
const ELSEWHERE: [(&str, &str); 12] = [
    ("server.port", LISTEN),
    ("server.host", LISTEN),
    ("server.address", LISTEN),
    ("server.bind", LISTEN),
    ("port", LISTEN_OF_SERVER),
    ("host", LISTEN_OF_SERVER),
    ("listen", LISTEN_OF_SERVER),
    ("log.level", LOG_LEVEL),
    ("log.filter", LOG_LEVEL),
    ("chains", "did you mean `[[chain]]`?"),
    ("namespaces", "did you mean `[[namespace]]`?"),
    ("symbols", "did you mean `prices.symbols`?"),
];

const LISTEN: &str =
    "expected `listen`, which has the address and the port, such as \"127.0.0.1:8080\"";
const LISTEN_OF_SERVER: &str =
    "expected `listen` in [server], which has the address and the port, such as \"127.0.0.1:8080\"";
const LOG_LEVEL: &str =
    "expected the environment variable TIDEWIRE_LOG, such as TIDEWIRE_LOG=debug: no key sets it";

/// A text as an error quotes it: in quotes, and not longer than [`MOST_QUOTED`].
fn quoted(text: &str) -> String {
    match text.char_indices().nth(MOST_QUOTED) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

/// Whether the value at a path may be or hold a secret, also where it has the wrong type.
fn may_hold_secret(path: &[String], expected: &str) -> bool {
    let is_secret = |part: &String| SECRETS.contains(&part.as_str());
    path.iter().any(is_secret) || is_above_keys(path) || is_table(expected)
}

/// The words of an operator for a found value of a key.
fn found(actual: &Actual, is_secret: bool, about: &Found) -> String {
    match actual {
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) if is_secret => {
            "a number".to_owned()
        }
        Actual::Str(_) if is_secret => match &about.toml_fault {
            Some(place) => format!("a text that is no TOML value, wrong at {place}"),
            None => "a text".to_owned(),
        },
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => format!("the number {number}"),
        Actual::Signed(number) => format!("the number {number}"),
        Actual::Float(number) => format!("the number {number}"),
        Actual::Str(text) => format!("the text {}", quoted(text)),
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
        .map(|error| {
            let key = key_words(&path_of_key(&error), |_| None);
            explain(&error, &key, &Found::default())
        })
        .collect();
    anyhow::anyhow!(texts.join("\n"))
}

/// The path of the key that an error is about, also of one that is unknown or missing.
pub(super) fn path_of_key(error: &figment::Error) -> Vec<String> {
    let mut path = error.path.clone();
    match &error.kind {
        Kind::UnknownField(name, _) if path.last() != Some(name) => path.push(name.clone()),
        Kind::MissingField(name) => path.push(name.to_string()),
        _ => {}
    }
    path
}

/// Facts about the value that an error is about.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its place: a line of the file, or a variable. Without one, it is the name of the source.
    pub(super) place: Option<String>,
    /// The value itself.
    pub(super) value: Option<Actual>,
    /// The variable of the environment that has it, or a part of it.
    pub(super) variable: Option<String>,
    /// The place at which the variable's text is no TOML value.
    pub(super) toml_fault: Option<String>,
}

/// The text of an error: the words for the key, its place, and for an unknown key the nearest known
/// one.
pub(super) fn explain(error: &figment::Error, key: &str, about: &Found) -> String {
    let path = error.path.join(".");
    let source = || error.metadata.as_ref().map(|metadata| &*metadata.name);
    let place = about.place.as_deref().or_else(source);
    let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
    match &error.kind {
        Kind::UnknownField(name, known) => {
            let full = match path.is_empty() || path.ends_with(name.as_str()) {
                true => path,
                false => format!("{path}.{name}"),
            };
            let full = if full.is_empty() { name.clone() } else { full };
            let elsewhere = ELSEWHERE.iter().find(|(key, _)| *key == full);
            let hint = match (elsewhere, nearest(name, known)) {
                (Some((_, hint)), _) => (*hint).to_owned(),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => format!("expected one of {}", known.join(", ")),
            };
            format!("unknown key {key}{place}: {hint}")
        }
        Kind::UnknownVariant(name, known) if !path.is_empty() => {
            let names: Vec<_> = known.iter().map(|known| format!("{known:?}")).collect();
            let expected = names.join(", ");
            format!(
                "{key} is the text {}{place}, expected one of {expected}",
                quoted(name)
            )
        }
        Kind::MissingField(_) => format!("{key} is missing{place}"),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected)
            if !path.is_empty() =>
        {
            let is_secret = may_hold_secret(&error.path, expected);
            let is_of_tables = matches!(actual, Actual::Map) || is_list(&error.path);
            let expected = match (expected.as_str(), &about.variable) {
                ("a sequence", Some(_)) if is_of_tables => format!(
                    "the whole list in one variable: {}='[{{…}}, {{…}}]'",
                    variable_of(&path)
                ),
                ("a sequence", None) if is_of_tables => format!("a list of tables: `[[{path}]]`"),
                (expected, _) => plain(expected).to_owned(),
            };
            let found = found(actual, is_secret, about);
            format!("{key} is {found}{place}, expected {expected}")
        }
        kind if path.is_empty() => {
            format!("{}{place}", toml_texts::without_source(&kind.to_string()))
        }
        kind => {
            let text = kind.to_string();
            let value = about.value.as_ref();
            match value.filter(|_| text.starts_with("expected ")) {
                Some(value) => {
                    let found = found(value, may_hold_secret(&error.path, ""), about);
                    format!("{key} is {found}{place}, {text}")
                }
                None => format!("{key}: {text}{place}"),
            }
        }
    }
}
