//! Stand-ins: values in the place of missing ones, so that one missing key hides no other fault.
//!
//! A table without a key that it must have cannot be read. With a stand-in it can, and its other
//! keys are checked. The server never runs with a stand-in: the missing key is a fault.

use figment::value::{Dict, Value};

use super::entries::entry_words;

/// The keys that a table must have, by the path of the table. `*` stands for the index of an entry.
const REQUIRED: [(&str, &[&str]); 7] = [
    ("namespace.*", &["name"]),
    ("chain.*", &["id"]),
    ("prices.source.*", &["kind"]),
    ("prices.supply_source", &["url"]),
    ("delivery.webhook.*", &["name", "url"]),
    ("delivery.push", &["vapid_private_key", "subject"]),
    (
        "delivery.email",
        &["host", "from", "unsubscribe_url", "unsubscribe_secrets"],
    ),
];

/// The names that were given to entries without one, and their places.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    /// The keys that have a stand-in, so that each gets one only.
    keys: Vec<String>,
    /// The name of an entry, and its path.
    names: Vec<(String, String)>,
    /// The names given to entries with the name of another one, and their own.
    twins: Vec<(String, String)>,
}

/// The values that stand in for a missing key.
#[derive(Debug, Clone)]
pub(super) struct Values {
    key: String,
    /// A name for the entry, if texts about it need one.
    name: Option<String>,
}

impl StandIns {
    /// The stand-in for a key of the table at `path`. None if a table can be read without the key,
    /// or if the stand-in did not help.
    pub(super) fn values(&mut self, path: &str, key: &str) -> Option<Values> {
        let is_index = |part: &str| part.parse::<usize>().is_ok();
        let pattern = path.split('.');
        let pattern: Vec<_> = pattern
            .map(|part| if is_index(part) { "*" } else { part })
            .collect();
        let (_, keys) = REQUIRED
            .iter()
            .find(|(table, _)| *table == pattern.join("."))?;
        let full = format!("{path}.{key}");
        if !keys.contains(&key) || self.keys.contains(&full) {
            return None;
        }
        let number = self.keys.len() as u64;
        self.keys.push(full);
        let name = match key {
            "id" => Some((u64::MAX - number).to_string()),
            "name" | "kind" => Some(format!("nameless-{number}")),
            _ => None,
        };
        let named = name.iter().map(|name| (name.clone(), path.to_owned()));
        self.names.extend(named);
        Some(Values {
            key: key.to_owned(),
            name,
        })
    }

    /// Whether a name was given to an entry without one.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|(own, _)| own == name)
    }

    /// Adds the name given to an entry that has the name of another one, and its own.
    pub(super) fn add_twin(&mut self, stand_in: String, name: String) {
        self.twins.push((stand_in, name));
    }

    /// A text in which entries with such a name are named by their place: "the first `[[chain]]`".
    pub(super) fn named_by_place(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (stand_in, name) in &self.twins {
            text = text.replace(stand_in, name);
        }
        for (name, path) in &self.names {
            let (list, index) = path.rsplit_once('.').unwrap_or((path, ""));
            let words = entry_words(list, index.parse().unwrap_or_default());
            for (named, placed) in [
                (format!("{list} {name}"), words.clone()),
                (format!("{list} {name:?}"), words.clone()),
                (format!(" of {name:?}"), format!(" of {words}")),
                (format!("{name:?}"), words.clone()),
            ] {
                text = text.replace(&named, &placed);
            }
        }
        text
    }
}

impl Values {
    /// Puts the values into the table. Returns the key and the name by which texts are about the
    /// entry now, if it had none.
    pub(super) fn put_into(&self, table: &mut Dict) -> Option<(&'static str, &str)> {
        let name = self.name.as_deref();
        let (value, named) = match (self.key.as_str(), name) {
            ("id", Some(name)) => {
                let id = name.parse::<u64>().unwrap_or(u64::MAX);
                (Value::from(id), Some(("id", name)))
            }
            ("name", Some(name)) => (Value::from(name), Some(("name", name))),
            ("kind", Some(name)) => {
                let is_nameless = !table.contains_key("name");
                if is_nameless {
                    table.insert("name".to_owned(), Value::from(name));
                }
                (kind_of(table), is_nameless.then_some(("name", name)))
            }
            // Each is one that its check accepts, where other values depend on it.
            ("host", _) => (Value::from("example.com"), None),
            ("unsubscribe_secrets", _) => (Value::from(Vec::<Value>::new()), None),
            _ => (Value::from("https://example.com"), None),
        };
        table.insert(self.key.clone(), value);
        named
    }
}

/// A kind of source that the rest of its table fits, as far as that can be told.
fn kind_of(table: &mut Dict) -> Value {
    let is_http = table
        .get("url")
        .and_then(Value::as_str)
        .is_some_and(|url| url.starts_with("http"));
    // The venue's names of symbols are judged by the kind.
    table.remove("ids");
    Value::from(match is_http {
        true => "pyth",
        false => "binance",
    })
}
