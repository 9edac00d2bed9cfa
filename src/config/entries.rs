//! Entries: the words for values of lists, such as "`id` of the first `[[chain]]`".
//!
//! A path counts the entries of a list from 0, and a reader of a file from 1. An entry is therefore
//! named by its own name where it has one, and else by its place.

/// The lists of tables, and whether their names are numbers.
const LISTS: [(&str, Naming); 4] = [
    ("chain", Naming::Number),
    ("namespace", Naming::Text),
    ("prices.source", Naming::Text),
    ("delivery.webhook", Naming::Text),
];

const ORDINALS: [&str; 10] = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
];

/// Keys that name an entry.
const NAMES: [&str; 3] = ["id", "name", "kind"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    Number,
    Text,
}

/// The words for the value at a path: "`server.drain`", "`agreement` of chain 5". `name_of` is the
/// name of the entry of a list at a path such as `chain.0`.
pub(super) fn key_words(path: &[String], name_of: impl Fn(&str) -> Option<String>) -> String {
    let list = LISTS.iter().find_map(|(list, naming)| {
        let length = list.split('.').count();
        let is_it = path.len() > length && path[..length].join(".") == *list;
        let index = is_it
            .then(|| path[length].parse::<usize>().ok())
            .flatten()?;
        Some((*list, *naming, length, index))
    });
    let Some((list, naming, length, index)) = list else {
        return values_words(path);
    };
    let named = name_of(&path[..=length].join("."));
    // A fault of the name itself.
    let is_name = path[length + 1..]
        .first()
        .is_some_and(|key| NAMES.contains(&key.as_str()));
    let named = named.filter(|_| !is_name);
    let entry = match (naming, named) {
        (Naming::Number, Some(name)) if name.parse::<u64>().is_ok() => format!("{list} {name}"),
        (Naming::Text, Some(name)) => format!("{list} {name:?}"),
        _ => entry_words(list, index),
    };
    match &path[length + 1..] {
        [] => entry,
        rest => format!("{} of {entry}", values_words(rest)),
    }
}

/// A text with words in the place of the paths in it: those in backquotes that lead into a list of
/// tables.
pub(super) fn in_words(text: &str, name_of: impl Fn(&str) -> Option<String>) -> String {
    let mut words = String::with_capacity(text.len());
    for (index, part) in text.split('`').enumerate() {
        let path: Vec<_> = part.split('.').map(str::to_owned).collect();
        let is_quoted = index % 2 == 1;
        let is_entry = |(list, _): &(&str, Naming)| {
            let rest = part.strip_prefix(list);
            rest.and_then(|rest| rest.strip_prefix('.'))
                .and_then(|rest| rest.split('.').next())
                .is_some_and(|index| index.parse::<usize>().is_ok())
        };
        match is_quoted {
            true if LISTS.iter().any(is_entry) => words.push_str(&key_words(&path, &name_of)),
            true => {
                words.push('`');
                words.push_str(part);
                words.push('`');
            }
            false => words.push_str(part),
        }
    }
    words
}

/// Whether a path leads to a list of tables.
pub(super) fn is_list(path: &[String]) -> bool {
    let path = path.join(".");
    LISTS.iter().any(|(list, _)| *list == path)
}

/// Whether a path leads to a list of tables, or to an entry of one.
pub(super) fn is_list_or_entry(path: &[String]) -> bool {
    let is_entry =
        |(last, list): (&String, &[String])| last.parse::<usize>().is_ok() && is_list(list);
    is_list(path) || path.split_last().is_some_and(is_entry)
}

/// The words for an entry of a list of tables.
pub(super) fn entry_words(list: &str, index: usize) -> String {
    format!("the {} `[[{list}]]`", ordinal(index))
}

/// The words for a value that may be one of a list.
fn values_words(path: &[String]) -> String {
    let at = path.iter().position(|part| part.parse::<usize>().is_ok());
    match at.filter(|at| *at > 0) {
        Some(at) => {
            let index = path[at].parse::<usize>().unwrap_or_default();
            let list = path[..at].join(".");
            match &path[at + 1..] {
                [] => format!("the {} value of `{list}`", ordinal(index)),
                rest => format!(
                    "`{}` in the {} value of `{list}`",
                    rest.join("."),
                    ordinal(index)
                ),
            }
        }
        None => format!("`{}`", path.join(".")),
    }
}

/// The number of an entry in words, counted from 0.
fn ordinal(index: usize) -> String {
    match ORDINALS.get(index) {
        Some(word) => (*word).to_owned(),
        None => {
            let number = index + 1;
            let is_teen = (11..=13).contains(&(number % 100));
            let ending = match number % 10 {
                1 if !is_teen => "st",
                2 if !is_teen => "nd",
                3 if !is_teen => "rd",
                _ => "th",
            };
            format!("{number}{ending}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_a_text_become_words() {
        let text = "`chain.0.call_timeout_ms` is 5, expected `a.b` of chain.0";
        let words = "`call_timeout_ms` of the first `[[chain]]` is 5, expected `a.b` of chain.0";
        assert_eq!(in_words(text, |_| None), words);
    }

    #[test]
    fn an_entry_has_its_name_or_its_place() {
        let words = |path: &str, name: Option<&str>| {
            let path: Vec<_> = path.split('.').map(str::to_owned).collect();
            key_words(&path, |_| name.map(str::to_owned))
        };
        for (path, name, expected) in [
            ("server.drain", None, "`server.drain`"),
            ("chain.0.id", None, "`id` of the first `[[chain]]`"),
            ("chain.0.id", Some("5"), "`id` of the first `[[chain]]`"),
            ("chain.1.agreement", Some("5"), "`agreement` of chain 5"),
            ("chain.11", None, "the 12th `[[chain]]`"),
            ("chain.20", None, "the 21st `[[chain]]`"),
            (
                "chain.1.tokens.1",
                Some("5"),
                "the second value of `tokens` of chain 5",
            ),
            (
                "delivery.webhook.2.url",
                Some("shop"),
                "`url` of delivery.webhook \"shop\"",
            ),
            (
                "prices.symbols.1",
                None,
                "the second value of `prices.symbols`",
            ),
        ] {
            assert_eq!(words(path, name), expected, "{path}");
        }
    }
}
