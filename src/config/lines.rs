//! Lines: where in a configuration file each key is, for the texts of errors.
//!
//! A scanner of lines, not of TOML: it knows table headers, and keys at the beginning of a line.
//! A key that it does not find has no line in the error, which names the key anyway.

use std::collections::HashMap;

/// The line of each key and each table, by path. Entries of lists have their index, as in
/// `chain.0.id`.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<String, usize>);

impl Lines {
    /// Scans a file.
    pub(super) fn of(text: &str) -> Self {
        let mut lines = HashMap::new();
        let mut counts = HashMap::<String, usize>::new();
        let mut table = String::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[') {
                let is_list = header.starts_with('[');
                let name = header.trim_start_matches('[').split(']').next();
                table = indexed(name.unwrap_or_default(), is_list, &mut counts);
                lines.entry(table.clone()).or_insert(number);
            } else if let Some(key) = key_of(line) {
                let path = match table.is_empty() {
                    true => key,
                    false => format!("{table}.{key}"),
                };
                lines.entry(path).or_insert(number);
            }
        }
        Self(lines)
    }

    /// The line of a key or a table, or of the nearest table around it.
    pub(super) fn line_of(&self, path: &[String]) -> Option<usize> {
        (1..=path.len())
            .rev()
            .find_map(|length| self.0.get(&path[..length].join(".")).copied())
    }

    /// The line of the key that a problem's text begins with: `limits.frame_bytes is …`, or in a
    /// list `namespace.history_size of …` and "chain 1: `agreement` is …". None if several lines
    /// have such a key.
    pub(super) fn line_of_text(&self, text: &str) -> Option<usize> {
        let first = text.split([' ', ':']).next().unwrap_or_default();
        let path = match first {
            "chain" => format!("chain.{}", text.split('`').nth(1)?),
            path => unquoted(path),
        };
        if let Some(line) = self.0.get(&path) {
            return Some(*line);
        }
        let (list, key) = path.split_once('.')?;
        let is_entry = |other: &&String| {
            let rest = other
                .strip_prefix(list)
                .and_then(|rest| rest.strip_prefix('.'));
            rest.and_then(|rest| rest.split_once('.'))
                .is_some_and(|(index, rest)| index.parse::<usize>().is_ok() && rest == key)
        };
        let mut entries = self.0.keys().filter(is_entry);
        let only = entries.next().filter(|_| entries.next().is_none())?;
        self.0.get(only).copied()
    }
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

/// The key of a line, if it has one.
fn key_of(line: &str) -> Option<String> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c);
    (!key.is_empty() && key.chars().all(is_part)).then(|| unquoted(key))
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
    fn a_problems_key_is_found() {
        let lines = Lines::of(FILE);
        for (text, line) in [
            ("server.drain is 2h, expected 0s to 1h", Some(5)),
            ("namespace.history_size of \"a\" is 7", Some(18)),
            ("chain 5: `agreement` is 3, expected 1 to 1", Some(11)),
            // Two chains have an id.
            ("chain.id is 0", None),
            ("prices.symbol.\"BTC-USD\".window is 0s", Some(14)),
            ("there is nothing", None),
        ] {
            assert_eq!(lines.line_of_text(text), line, "{text}");
        }
    }
}
