//! Lines: where in a configuration file each key is, for the texts of errors.
//!
//! A scanner of lines, not of TOML: it knows table headers, and keys at the beginning of a line.
//! A key that it does not find has no line in the error, which names the key anyway.

use std::collections::HashMap;

/// Keys whose values name an entry of a list in the texts of errors.
const NAMES: [&str; 3] = ["name", "id", "kind"];

/// The line of each key and each table, by path. Entries of lists have their index, as in
/// `chain.0.id`.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: HashMap<String, usize>,
    /// The values of [`NAMES`], by path.
    names: HashMap<String, String>,
}

impl Lines {
    /// Scans a file.
    pub(super) fn of(text: &str) -> Self {
        let mut lines = HashMap::new();
        let mut names = HashMap::new();
        let mut counts = HashMap::<String, usize>::new();
        let mut table = String::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[') {
                let is_list = header.starts_with('[');
                let name = header.trim_start_matches('[').split(']').next();
                table = indexed(name.unwrap_or_default(), is_list, &mut counts);
                lines.entry(table.clone()).or_insert(number);
            } else if let Some((key, value)) = key_of(line) {
                let path = match table.is_empty() {
                    true => key.clone(),
                    false => format!("{table}.{key}"),
                };
                if NAMES.contains(&key.as_str()) {
                    names.insert(path.clone(), value);
                }
                lines.entry(path).or_insert(number);
            }
        }
        Self { lines, names }
    }

    /// The names of an entry of a list, one of which errors quote.
    fn names_of(&self, entry: &str) -> Vec<String> {
        let named = |key: &&str| self.names.get(&format!("{entry}.{key}")).cloned();
        NAMES.iter().filter_map(named).collect()
    }

    /// The line of a key or a table, or of the nearest table around it.
    pub(super) fn line_of(&self, path: &[String]) -> Option<usize> {
        (1..=path.len())
            .rev()
            .find_map(|length| self.lines.get(&path[..length].join(".")).copied())
    }

    /// As [`Self::line_of`], of a value that may be a list of tables: the line of its first one.
    pub(super) fn line_of_value(&self, path: &[String]) -> Option<usize> {
        let path_of_value = path.join(".");
        let first = || self.lines.get(&format!("{path_of_value}.0"));
        let exact = self.lines.get(&path_of_value).or_else(first).copied();
        exact.or_else(|| self.line_of(path))
    }

    /// The name by which texts are about an entry of a list.
    pub(super) fn name_of(&self, entry: &str) -> Option<String> {
        let keys: &[&str] = match entry.starts_with("chain.") {
            true => &["id"],
            false => &["name", "kind"],
        };
        let mut names = keys.iter().map(|key| format!("{entry}.{key}"));
        names.find_map(|path| self.names.get(&path)).cloned()
    }

    /// Gives an entry of a list another name in the place of all that it has.
    pub(super) fn rename(&mut self, entry: &str, key: &str, name: &str) {
        for key in NAMES {
            self.names.remove(&format!("{entry}.{key}"));
        }
        self.set_name(entry, key, name);
    }

    /// Gives an entry of a list a name, by which problems are about it.
    pub(super) fn set_name(&mut self, entry: &str, key: &str, name: &str) {
        self.names.insert(format!("{entry}.{key}"), name.to_owned());
    }

    /// The line that a problem's text is about: that of the key that it begins with, or of the
    /// entry of a list that it names. None if the file has none of them, or several.
    pub(super) fn line_of_subject(&self, subject: &Subject) -> Option<usize> {
        if let Some(name) = &subject.name {
            let entries = self.entries_of(&subject.list, name);
            let key = subject.key.as_deref().unwrap_or_default();
            let mut keys = entries.iter().rev().map(|entry| format!("{entry}.{key}"));
            let of_key = keys.find_map(|path| self.lines.get(&path));
            // Where two have the name, the second one is at fault.
            let of_entry = || self.lines.get(entries.last()?);
            if let Some(line) = of_key.or_else(of_entry) {
                return Some(*line);
            }
        }
        let path = &subject.path;
        let exact = self.lines.get(path).copied();
        exact.or_else(|| self.only_entry_with(path))
    }

    /// The paths of the entries that a problem's text may be about. Empty if it is about no entry, or
    /// about one that has no lines.
    pub(super) fn entries_of_subject(&self, subject: &Subject) -> Vec<String> {
        let name = subject.name.as_deref();
        name.map_or_else(Vec::new, |name| self.entries_of(&subject.list, name))
    }

    /// The line of a key that a text names further on, or of the nearest table around the subject.
    pub(super) fn line_near(&self, subject: &Subject, text: &str) -> Option<usize> {
        let mut words = keys_in(text);
        let other = words.find_map(|word| self.lines.get(word).copied());
        let path: Vec<_> = subject.path.split('.').map(str::to_owned).collect();
        let is_list = subject.name.is_none();
        let first_entry = || self.lines.get(&format!("{}.0", subject.path)).copied();
        let first_entry = || is_list.then(first_entry).flatten();
        other.or_else(first_entry).or_else(|| self.line_of(&path))
    }

    /// The entries of a list that have this name.
    fn entries_of(&self, list: &str, name: &str) -> Vec<String> {
        let all = (0..).map(|index| format!("{list}.{index}"));
        let all = all.take_while(|entry| self.lines.contains_key(entry));
        all.filter(|entry| self.names_of(entry).iter().any(|own| own == name))
            .collect()
    }

    /// The line of a key in the only entry of a list that has it.
    fn only_entry_with(&self, path: &str) -> Option<usize> {
        let (list, key) = path.split_once('.')?;
        let is_entry = |other: &&String| {
            let rest = other
                .strip_prefix(list)
                .and_then(|rest| rest.strip_prefix('.'));
            rest.and_then(|rest| rest.split_once('.'))
                .is_some_and(|(index, rest)| index.parse::<usize>().is_ok() && rest == key)
        };
        let mut entries = self.lines.keys().filter(is_entry);
        let only = entries.next().filter(|_| entries.next().is_none())?;
        self.lines.get(only).copied()
    }
}

/// The words of a text that may be keys with their table.
pub(super) fn keys_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split([' ', ',', ':', '`', '(', ')']);
    words.filter(|word| word.contains('.'))
}

/// The part of the configuration that a problem's text is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// The path that the text begins with: `limits.frame_bytes`.
    pub(super) path: String,
    /// The list that an entry is named of: `chain` in "chain 5: `agreement` is 3".
    list: String,
    /// The name of the entry.
    pub(super) name: Option<String>,
    /// The key of the entry.
    key: Option<String>,
}

impl Subject {
    /// Reads the beginning of a text: `limits.frame_bytes is …`, "chain 5: `agreement` is …",
    /// `namespace "a" …`, `namespace.class of "a" …`, `prices.source "a": …` or
    /// `delivery.webhook "a" url is …`.
    pub(super) fn of(text: &str) -> Self {
        let text = text.strip_prefix('`').unwrap_or(text);
        let first = text.split([' ', ':', '`', '[']).next().unwrap_or_default();
        let path = unquoted(first);
        let rest = &text[first.len()..];
        let mut subject = Self {
            list: path.clone(),
            path,
            name: None,
            key: None,
        };
        match subject.list.as_str() {
            "chain" => {
                let name = rest.split([' ', ':']).find(|word| !word.is_empty());
                subject.name = name.map(str::to_owned);
                subject.key = rest.split('`').nth(1).map(str::to_owned);
            }
            list if list.starts_with("namespace") => {
                let (list, key) = list.split_once('.').unwrap_or((list, "name"));
                (subject.key, subject.list) = (Some(key.to_owned()), list.to_owned());
                subject.name = first_quoted(rest);
            }
            "prices.source" => {
                let after = rest.split('"').nth(2).unwrap_or_default();
                let key = match first_word(after) {
                    "the" => "url",
                    key @ ("ids" | "contracts") => key,
                    _ => "name",
                };
                subject.key = Some(key.to_owned());
                subject.name = first_quoted(rest);
            }
            list if list.starts_with("delivery.webhook") => {
                subject.name = first_quoted(rest);
                let after = rest.split('"').nth(2).unwrap_or_default();
                let key = match list.ends_with(".name") {
                    true => "name",
                    false => first_word(after),
                };
                subject.key = Some(key.to_owned());
                subject.list = "delivery.webhook".to_owned();
            }
            _ => {}
        }
        subject
    }

    /// Whether a text about this, or about one of these entries of a list, is about a value that was
    /// taken out, or follows from that.
    ///
    /// A value follows from another one of its table, whose text names that one. Those of other
    /// tables follow from [`OF_OTHER_TABLES`] alone.
    pub(super) fn follows_from(&self, text: &str, removed: &str, entries: &[String]) -> bool {
        if self.path == removed {
            return true;
        }
        // The name may have the word of any key.
        let name = self.name.as_deref().unwrap_or_default();
        let text = &text.replacen(&format!("{name:?}"), "", 1);
        let is_index = |part: &str| part.parse::<usize>().is_ok();
        let (table, last) = removed.rsplit_once('.').unwrap_or(("", removed));
        // A whole entry of a list was taken out because of a value of it, which is here too.
        if is_index(last) {
            return false;
        }
        if let Some((_, list, key)) = OF_OTHER_TABLES.iter().find(|(of, ..)| *of == removed) {
            let is_key = key.is_empty() || self.key.as_deref() == Some(*key);
            let is_said = !key.is_empty() || names_key(text, last);
            return is_key && is_said && self.list.starts_with(*list);
        }
        let table: Vec<_> = table.split('.').filter(|part| !is_index(part)).collect();
        let own = match &self.name {
            Some(_) => self.list.as_str(),
            None => self.path.rsplit_once('.').map_or("", |(table, _)| table),
        };
        if own != table.join(".") {
            return false;
        }
        let is_in = |entry: &String| {
            let rest = removed.strip_prefix(entry.as_str());
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        if !entries.is_empty() && !entries.iter().any(is_in) {
            return false;
        }
        self.key.as_deref() == Some(last) || names_key(text, last)
    }
}

/// Values that decide about values of other tables: its path, the beginning of their tables, and
/// their key, if it is always the same.
const OF_OTHER_TABLES: [(&str, &str, &str); 2] = [
    ("prices.symbols", "prices", ""),
    ("notifications.types", "delivery.webhook", "types"),
];

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether a text names a key: `key`, table.key, or key = value. Most keys are common words too.
fn names_key(text: &str, key: &str) -> bool {
    text.match_indices(key).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + key.len()..]);
        let is_marked = before.ends_with(['.', '`']) || after.starts_with(" = ");
        is_marked && !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// The first word, without what is around it.
fn first_word(text: &str) -> &str {
    let mut words = text.split(|c| !is_word(c));
    words.find(|word| !word.is_empty()).unwrap_or_default()
}

/// The first text in quotes.
fn first_quoted(text: &str) -> Option<String> {
    text.split('"').nth(1).map(str::to_owned)
}

/// The path of a table, with the index of each list on the way.
fn indexed(name: &str, is_list: bool, counts: &mut HashMap<String, usize>) -> String {
    let mut path = String::new();
    let name = unquoted(name);
    let parts: Vec<_> = name.split('.').collect();
    for (index, part) in parts.iter().enumerate() {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(part.trim());
        let is_last = index + 1 == parts.len();
        if is_last && is_list {
            *counts.entry(path.clone()).or_default() += 1;
        }
        if let Some(count) = counts.get(&path).filter(|_| !is_last || is_list) {
            path.push_str(&format!(".{}", count - 1));
        }
    }
    path
}

/// The key of a line and its value, if it has one.
fn key_of(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c);
    let is_key = !key.is_empty() && key.chars().all(is_part);
    let value = value.split('#').next().unwrap_or_default().trim();
    is_key.then(|| (unquoted(key), unquoted(value)))
}

fn unquoted(name: &str) -> String {
    name.replace(['"', '\''], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
# a comment = 1
[server]
listen = "127.0.0.1:8080"
drain = "10s"

[[chain]]
id = 1
[[chain]]
id = 5
agreement = 3

[prices.symbol."BTC-USD"]
window = "1m"

[[namespace]]
name = "a"
history_size = 5
[[prices.source]]
kind = "kraken"
url = "x"
[[prices.source]]
kind = "kraken" # again
[[delivery.webhook]]
name = "w"
"#;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn keys_and_tables_are_found() {
        let lines = Lines::of(FILE);
        for (key, line) in [
            ("server.drain", 5),
            ("server.unknown", 3),
            ("chain.0.id", 8),
            ("chain.1.id", 10),
            ("chain.1", 9),
            ("prices.symbol.BTC-USD.window", 14),
        ] {
            assert_eq!(lines.line_of(&path(key)), Some(line), "{key}");
        }
        assert_eq!(lines.line_of(&path("log.format")), None);
    }

    #[test]
    fn a_problem_follows_from_a_value_that_was_taken_out() {
        let follows = |text: &str, removed: &str, entry: Option<&str>| {
            let entries: Vec<_> = entry.map(str::to_owned).into_iter().collect();
            Subject::of(text).follows_from(text, removed, &entries)
        };
        let bytes = "limits.history_bytes is 1, expected four times limits.frame_bytes";
        assert!(follows(bytes, "limits.frame_bytes", None));
        assert!(!follows(bytes, "limits.outbox_bytes", None));
        // A key of the same name in another table, symbol or chain.
        assert!(!follows(
            "broker.kind = \"redis\" is not",
            "prices.source.0.kind",
            None
        ));
        let window = "prices.symbol.\"ETH-USD\".window is 2h";
        assert!(!follows(window, "prices.symbol.BTC-USD.window", None));
        assert!(follows(window, "prices.symbol.ETH-USD.window", None));
        let endpoints = "chain 5: `endpoints` is empty";
        assert!(follows(endpoints, "chain.0.endpoints", Some("chain.0")));
        assert!(!follows(endpoints, "chain.1.endpoints", Some("chain.0")));
        assert!(!follows(endpoints, "chain.10.endpoints", Some("chain.1")));
        // A key of the same name in the table around, and one that decides about another table.
        assert!(!follows(
            "prices.window is 2h",
            "prices.symbol.BTC-USD.window",
            None
        ));
        // A word that is also a key, and a name that is.
        let id = "prices.source \"a\": ids.\"BTC-USD\" is \"!\", expected the venue's name";
        assert!(!follows(
            id,
            "prices.source.0.name",
            Some("prices.source.0")
        ));
        let chat =
            "delivery.webhook \"a\" chat_id is set, expected only with template = \"telegram\"";
        assert!(follows(
            chat,
            "delivery.webhook.0.template",
            Some("delivery.webhook.0")
        ));
        let secrets = "delivery.webhook \"url\" secrets is empty";
        assert!(!follows(
            secrets,
            "delivery.webhook.0.url",
            Some("delivery.webhook.0")
        ));
        let types = "`delivery.webhook \"w\" types[0]`: \"a\" is none of these types";
        assert!(follows(
            types,
            "notifications.types",
            Some("delivery.webhook.0")
        ));
    }

    #[test]
    fn a_problems_key_is_found() {
        let lines = Lines::of(FILE);
        for (text, line) in [
            ("server.drain is 2h, expected 0s to 1h", Some(5)),
            ("namespace.history_size of \"a\" is 7", Some(18)),
            ("chain 5: `agreement` is 3, expected 1 to 1", Some(11)),
            // Two chains have an id.
            ("chain.id is 0", None),
            ("chain 1: `endpoints` is empty", Some(7)),
            ("namespace \"a\" is built in", Some(17)),
            ("namespace \"b\" is built in", None),
            ("prices.source: two sources are named \"kraken\"", Some(22)),
            ("prices.source \"kraken\": the url \"x\" is not", Some(21)),
            ("delivery.webhook \"w\" secrets is empty", Some(24)),
            // The nearest table, and a key that the text names.
            ("prices.symbol.\"BTC-USD\".method is", Some(13)),
            (
                "auth.hmac_secret is missing (server.listen is 0.0.0.0:1)",
                Some(4),
            ),
            ("prices.symbol.\"BTC-USD\".window is 0s", Some(14)),
            ("there is nothing", None),
        ] {
            let subject = Subject::of(text);
            let near = || lines.line_near(&subject, text);
            let found = lines.line_of_subject(&subject).or_else(near);
            assert_eq!(found, line, "{text}");
        }
    }
}
