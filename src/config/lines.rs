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
    pub(super) fn names_of(&self, entry: &str) -> Vec<String> {
        let named = |key: &&str| self.names.get(&format!("{entry}.{key}")).cloned();
        NAMES.iter().filter_map(named).collect()
    }

    /// The line of a key or a table, or of the nearest table around it.
    pub(super) fn line_of(&self, path: &[String]) -> Option<usize> {
        (1..=path.len())
            .rev()
            .find_map(|length| self.lines.get(&path[..length].join(".")).copied())
    }

    /// The line that a problem's text is about: that of the key that it begins with, or of the
    /// entry of a list that it names, or of the nearest table around. Else of a key that it names
    /// further on. None if the file has none of them, or several.
    pub(super) fn line_of_text(&self, text: &str) -> Option<usize> {
        let subject = Subject::of(text);
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
        let only = || self.only_entry_with(path);
        let table = || self.line_of(&path.split('.').map(str::to_owned).collect::<Vec<_>>());
        let other = || {
            let mut words = text.split([' ', ',', ':', '`', '(', ')']);
            words.find_map(|word| self.lines.get(word).filter(|_| word.contains('.')).copied())
        };
        exact.or_else(only).or_else(other).or_else(table)
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
                let key = match rest.contains("the url ") {
                    true => "url",
                    false => "name",
                };
                subject.key = Some(key.to_owned());
                subject.name = first_quoted(rest);
            }
            list if list.starts_with("delivery.webhook") => {
                let list = "delivery.webhook".to_owned();
                subject.name = first_quoted(rest);
                let after = rest.split('"').nth(2).unwrap_or_default();
                let key = after.split_whitespace().next().unwrap_or("name");
                (subject.key, subject.list) = (Some(key.to_owned()), list);
            }
            _ => {}
        }
        subject
    }

    /// Whether a text about this is about a value that was taken out, or follows from that. An
    /// entry of a list is told by its names.
    pub(super) fn follows_from(&self, text: &str, removed: &str, entry: &[String]) -> bool {
        let root = |path: &str| path.split('.').next().unwrap_or_default().to_owned();
        let (_, last) = removed.rsplit_once('.').unwrap_or(("", removed));
        // A whole entry of a list was taken out because of a value of it, which is here too.
        let is_entry = last.parse::<usize>().is_ok();
        if is_entry || root(&self.path) != root(removed) {
            return false;
        }
        if let Some(name) = &self.name
            && !entry.is_empty()
            && !entry.contains(name)
        {
            return false;
        }
        // Another symbol's key of the same name.
        if self.path.split('.').count() > 2 && self.path.ends_with(&format!(".{last}")) {
            return self.path == removed;
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        text.split(|c| !is_word(c)).any(|word| word == last)
    }
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
            let entry: Vec<_> = entry.map(str::to_owned).into_iter().collect();
            Subject::of(text).follows_from(text, removed, &entry)
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
        assert!(follows(endpoints, "chain.0.endpoints", Some("5")));
        assert!(!follows(endpoints, "chain.1.endpoints", Some("1")));
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
            assert_eq!(lines.line_of_text(text), line, "{text}");
        }
    }
}
