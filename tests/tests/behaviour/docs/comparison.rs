//! Comparison of server messages with the documentation.

use std::collections::HashMap;

use serde_json::Value;

/// Names that differ between runs. Each documented name stands for one real name, bound at its
/// first occurrence.
const NAMES: [&str; 3] = ["epoch", "connectionId", "postKey"];

/// Values that differ between runs. Only their types are compared.
const VOLATILE: [&str; 8] = [
    "serverTime",
    "timestamp",
    "expiresAt",
    "ageMs",
    "coveredMs",
    "version",
    "lastFiredAt",
    "time",
];

/// Names bound in a scene, documented to real.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, String>);

impl Names {
    /// Fails unless `real` equals the documentation.
    pub(super) fn compare(&mut self, place: &str, shown: &str, real: &str) {
        let (shown, real): (Value, Value) = (parse(place, shown), parse(place, real));
        if let Err(difference) = self.same("", &shown, &real) {
            panic!("{place}: {difference}\nshown: {shown}\ncame:  {real}");
        }
    }

    /// Replaces documented names by real ones.
    pub(super) fn real(&self, place: &str, shown: &str) -> Value {
        let mut message = parse(place, shown);
        self.replace(&mut message);
        message
    }

    /// Returns the real name of a documented one.
    pub(super) fn get(&self, shown: &str) -> Option<&str> {
        self.0.get(shown).map(String::as_str)
    }

    fn replace(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.values_mut().for_each(|value| self.replace(value)),
            Value::Array(items) => items.iter_mut().for_each(|value| self.replace(value)),
            Value::String(text) => {
                if let Some(real) = self.0.get(text) {
                    text.clone_from(real);
                }
            }
            _ => {}
        }
    }

    fn same(&mut self, path: &str, shown: &Value, real: &Value) -> Result<(), String> {
        let differs = || Err(format!("{path} is shown as {shown} and was {real}"));
        match (shown, real) {
            (Value::Object(shown), Value::Object(real)) => {
                let mut keys: Vec<_> = shown.keys().chain(real.keys()).collect();
                keys.sort_unstable();
                keys.dedup();
                for key in keys {
                    let path = format!("{path}.{key}");
                    let (Some(shown_value), Some(real_value)) = (shown.get(key), real.get(key))
                    else {
                        return Err(format!("only one of them has {path}"));
                    };
                    // Engines publish prices on arrival, so their sequence numbers vary.
                    let of_engine = key == "seq" && is_latest(shown);
                    if VOLATILE.contains(&key.as_str()) || of_engine {
                        same_type(&path, shown_value, real_value)?;
                    } else if NAMES.contains(&key.as_str()) {
                        self.bind(&path, shown_value, real_value)?;
                    } else {
                        self.same(&path, shown_value, real_value)?;
                    }
                }
                Ok(())
            }
            (Value::Array(shown_items), Value::Array(real_items)) => {
                if shown_items.len() != real_items.len() {
                    return differs();
                }
                let mut pairs = shown_items.iter().zip(real_items).enumerate();
                pairs.try_for_each(|(at, (shown, real))| {
                    self.same(&format!("{path}[{at}]"), shown, real)
                })
            }
            (Value::Number(a), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
                // The documentation rounds statistics.
                (Some(a), Some(b)) if (a - b).abs() <= a.abs() * 1e-9 => Ok(()),
                _ => differs(),
            },
            (Value::String(a), Value::String(b)) if is_id(a) && is_id(b) => {
                self.bind(path, shown, real)
            }
            // The documentation leaves out the text after `…`.
            (Value::String(shown), Value::String(real))
                if shown
                    .strip_suffix('…')
                    .is_some_and(|begin| real.starts_with(begin)) =>
            {
                Ok(())
            }
            (shown, real) if shown == real => Ok(()),
            _ => differs(),
        }
    }

    fn bind(&mut self, path: &str, shown: &Value, real: &Value) -> Result<(), String> {
        let (Some(shown), Some(real)) = (shown.as_str(), real.as_str()) else {
            return Err(format!("{path} is shown as {shown} and was {real}"));
        };
        let known = self.0.entry(shown.to_owned()).or_insert(real.to_owned());
        if known != real {
            return Err(format!(
                "{path}: {shown:?} was {known:?} before, and now {real:?}"
            ));
        }
        match self
            .0
            .iter()
            .find(|(other, name)| *other != shown && *name == real)
        {
            Some((other, _)) => Err(format!("{path}: {shown:?} is what was shown as {other:?}")),
            None => Ok(()),
        }
    }
}

fn parse(place: &str, text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{place}: {error} in {text}"))
}

/// Whether a text has the form of the id of a notification, an alert or a fire.
fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    matches!(text.len(), 13 | 26) && text.starts_with('0') && text.bytes().all(is_digit)
}

fn is_latest(message: &serde_json::Map<String, Value>) -> bool {
    let channel = message.get("channel").and_then(Value::as_str);
    channel.is_some_and(|name| name.starts_with("prices:") || name.starts_with("market:"))
}

fn same_type(path: &str, shown: &Value, real: &Value) -> Result<(), String> {
    if std::mem::discriminant(shown) == std::mem::discriminant(real) {
        return Ok(());
    }
    Err(format!("{path} is shown as {shown} and was {real}"))
}

/// Whether `read` contains all of `example`, and nothing else about the same items.
pub(super) fn holds(read: &Value, example: &Value) -> bool {
    match (read, example) {
        (Value::Object(read), Value::Object(example)) => example.iter().all(|(name, value)| {
            read.get(name)
                .map_or(value.is_null(), |read| holds(read, value))
        }),
        (Value::Array(read), Value::Array(example)) => {
            read.len() == example.len()
                && read
                    .iter()
                    .zip(example)
                    .all(|(read, example)| holds(read, example))
        }
        (Value::Number(read), Value::Number(example)) => read.as_f64() == example.as_f64(),
        (read, example) => read == example,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_finds_differences() {
        let mut names = Names::default();
        let mut differs = |shown: &str, real: &str| {
            let (shown, real) = (parse("", shown), parse("", real));
            names.same("", &shown, &real).is_err()
        };
        assert!(!differs(
            r#"{"epoch":"a","seq":1,"timestamp":5}"#,
            r#"{"epoch":"x","seq":1,"timestamp":6}"#
        ));
        assert!(!differs(r#"{"epoch":"a"}"#, r#"{"epoch":"x"}"#));
        let ids = |digit: &str| format!("{{\"ids\":[\"0{}\"]}}", digit.repeat(25));
        assert!(!differs(&ids("a"), &ids("b")));
        assert!(differs(&ids("a"), &ids("c")));
        assert!(!differs(r#""a…""#, r#""abc""#));
        assert!(!differs(
            r#"{"channel":"prices:A","seq":1}"#,
            r#"{"channel":"prices:A","seq":7}"#
        ));
        for (shown, real) in [
            (r#"{"epoch":"a"}"#, r#"{"epoch":"y"}"#),
            (r#"{"epoch":"b"}"#, r#"{"epoch":"x"}"#),
            (r#"{"timestamp":5}"#, r#"{"timestamp":"5"}"#),
            (
                r#"{"channel":"demo:a","seq":1}"#,
                r#"{"channel":"demo:a","seq":7}"#,
            ),
            (r#"{"a":1}"#, "{}"),
            ("{}", r#"{"a":1}"#),
            ("[1]", "[1,2]"),
            ("1.5", "1.50001"),
            (r#""a…""#, r#""bc""#),
        ] {
            assert!(differs(shown, real), "{shown} and {real}");
        }
    }
}
