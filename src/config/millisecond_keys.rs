//! Millisecond keys: the earlier names of durations, such as `watchdog_ms = 20000` for
//! `watchdog = "20s"`.
//!
//! They stay accepted. Each file, and the environment, is brought to the present names before
//! the settings are merged: so the environment overrides a file whichever name either uses,
//! and the engines know one name for each setting.

use figment::{
    Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::reading::remove;

/// The earlier keys. `*` stands for every name or entry.
const KEYS: [&str; 13] = [
    "stream.batch_interval_ms",
    "stream.busy_batch_interval_ms",
    "stream.gather_ms",
    "prices.stale_after_ms",
    "prices.watchdog_ms",
    "prices.window_ms",
    "prices.symbol.*.stale_after_ms",
    "prices.symbol.*.window_ms",
    "prices.supply_source.interval_ms",
    "prices.supply_source.timeout_ms",
    "chain.*.block_time_ms",
    "chain.*.call_timeout_ms",
    "chain.*.drop_after_ms",
];

/// Settings that were given under their earlier names.
#[derive(Debug, Default)]
pub(super) struct EarlierNames {
    pub(super) renamed: Vec<Renamed>,
    pub(super) faults: Vec<String>,
}

/// A setting that was given under its earlier name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Renamed {
    /// The last part of the present name, as errors quote it.
    present: String,
    /// The earlier name in full.
    earlier: String,
}

impl Renamed {
    /// An error's text, with the names that the operator has written.
    pub(super) fn explain(all: &[Self], error: &anyhow::Error) -> anyhow::Error {
        let mut text = format!("{error:#}");
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let quoted = text.clone();
        let named = |present: &str| quoted.split(|c| !is_word(c)).any(|word| word == present);
        for Self { present, earlier } in all.iter().filter(|one| named(&one.present)) {
            text.push_str(&format!(" (`{present}` was given as `{earlier}`)"));
        }
        anyhow::anyhow!(text)
    }
}

/// The settings of one source, under their present names.
pub(super) struct PresentNames {
    metadata: Metadata,
    data: Map<Profile, Dict>,
}

impl PresentNames {
    /// Reads a source. Adds its keys with earlier names to `names`, and as faults those that have
    /// no whole number of milliseconds, or that are given under both names.
    ///
    /// # Errors
    /// The source cannot be read.
    pub(super) fn read(source: &impl Provider, names: &mut EarlierNames) -> anyhow::Result<Self> {
        let mut data = source.data().map_err(super::explain_all)?;
        for dict in data.values_mut() {
            let mut root = Value::from(std::mem::take(dict));
            for key in KEYS {
                let steps: Vec<_> = key.split('.').collect();
                rename(&mut root, &steps, "", names);
            }
            *dict = root.into_dict().unwrap_or_default();
        }
        Ok(Self {
            metadata: source.metadata(),
            data,
        })
    }

    /// Names the source in errors.
    pub(super) fn rename_source(&mut self, name: &'static str) {
        self.metadata = Metadata::named(name);
    }

    /// Changes the table at `path`. False if this source has none.
    pub(super) fn edit_table(&mut self, path: &[String], change: impl FnOnce(&mut Dict)) -> bool {
        let mut change = Some(change);
        for dict in self.data.values_mut() {
            let mut root = Value::from(std::mem::take(dict));
            if let Some(table) = table_at(&mut root, path)
                && let Some(change) = change.take()
            {
                change(table);
            }
            *dict = root.into_dict().unwrap_or_default();
        }
        change.is_none()
    }

    /// The value at `path`.
    pub(super) fn value(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut roots = self.data.values().filter_map(|dict| dict.get(first));
        roots.find_map(|root| value_at(root, rest))
    }

    /// Removes the value at `path`. False if this source has none.
    pub(super) fn remove(&mut self, path: &[String]) -> bool {
        remove(&mut self.data, path)
    }

    /// The text of `server.listen`.
    pub(super) fn listen(&self) -> Option<String> {
        let mut dicts = self.data.values();
        let found = dicts.find_map(|dict| dict.get("server")?.find_ref("listen").cloned());
        found.and_then(Value::into_string)
    }

    /// Whether it sets anything but the address, and the form of the log.
    pub(super) fn sets_more(&self) -> bool {
        let is_more = |(table, value): (&String, &Value)| match (table.as_str(), value) {
            ("log", _) => false,
            ("server", Value::Dict(_, keys)) => keys.keys().any(|key| key != "listen"),
            _ => true,
        };
        self.data.values().flatten().any(is_more)
    }
}

impl Provider for &PresentNames {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(self.data.clone())
    }
}

/// The value at a path.
fn value_at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    match (value, path) {
        (value, []) => Some(value),
        (Value::Dict(_, dict), [step, rest @ ..]) => value_at(dict.get(step)?, rest),
        (Value::Array(_, entries), [step, rest @ ..]) => {
            value_at(entries.get(step.parse::<usize>().ok()?)?, rest)
        }
        _ => None,
    }
}

/// The table at a path.
fn table_at<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Dict> {
    match (value, path) {
        (Value::Dict(_, dict), []) => Some(dict),
        (Value::Dict(_, dict), [step, rest @ ..]) => table_at(dict.get_mut(step)?, rest),
        (Value::Array(_, entries), [step, rest @ ..]) => {
            table_at(entries.get_mut(step.parse::<usize>().ok()?)?, rest)
        }
        _ => None,
    }
}

/// Renames the key at the end of `steps`, wherever below `value` they lead.
fn rename(value: &mut Value, steps: &[&str], path: &str, names: &mut EarlierNames) {
    match (value, steps) {
        (Value::Dict(_, dict), [key]) => rename_key(dict, key, path, names),
        (Value::Dict(_, dict), ["*", rest @ ..]) => {
            for (name, value) in dict.iter_mut() {
                rename(value, rest, &format!("{path}{name}."), names);
            }
        }
        (Value::Array(_, entries), ["*", rest @ ..]) => {
            for (index, entry) in entries.iter_mut().enumerate() {
                rename(entry, rest, &format!("{path}{index}."), names);
            }
        }
        (Value::Dict(_, dict), [step, rest @ ..]) => {
            if let Some(value) = dict.get_mut(*step) {
                rename(value, rest, &format!("{path}{step}."), names);
            }
        }
        _ => {}
    }
}

fn rename_key(dict: &mut Dict, earlier: &str, path: &str, names: &mut EarlierNames) {
    let Some(given) = dict.remove(earlier) else {
        return;
    };
    let present = earlier.trim_end_matches("_ms");
    if dict.contains_key(present) {
        names.faults.push(format!(
            "`{path}{present}` is also given as `{path}{earlier}`, expected one of the two: `{present}` is the present name"
        ));
        return;
    }
    let Ok(milliseconds) = given.deserialize::<u64>() else {
        names.faults.push(format!(
            "`{path}{earlier}` is {}, expected a whole number of milliseconds, or a duration such as `{present} = \"10s\"`",
            given.to_actual()
        ));
        return;
    };
    dict.insert(present.to_owned(), format!("{milliseconds}ms").into());
    names.renamed.push(Renamed {
        present: present.to_owned(),
        earlier: format!("{path}{earlier}"),
    });
}

#[cfg(test)]
mod tests {
    use figment::{
        Figment,
        providers::{Format as _, Toml},
    };

    use super::*;

    fn read(text: &str) -> anyhow::Result<(Figment, Vec<Renamed>)> {
        let mut names = EarlierNames::default();
        let present = PresentNames::read(&Toml::string(text), &mut names)?;
        match names.faults.first() {
            Some(fault) => Err(anyhow::anyhow!("{fault}")),
            None => Ok((Figment::from(&present), names.renamed)),
        }
    }

    fn refused(text: &str) -> String {
        read(text).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn earlier_names_give_the_same_settings() {
        let earlier = "[stream]\ngather_ms = 15\n[prices]\nwindow_ms = 300000\n\
            [prices.symbol.\"BTC-USD\"]\nstale_after_ms = 5000\n\
            [[chain]]\nid = 1\n[[chain]]\nid = 2\nblock_time_ms = 250\n";
        let (settings, renamed) = read(earlier).unwrap();
        let text = |key: &str| settings.extract_inner::<String>(key).unwrap();
        assert_eq!(text("stream.gather"), "15ms");
        assert_eq!(text("prices.window"), "300000ms");
        assert_eq!(text("prices.symbol.BTC-USD.stale_after"), "5000ms");
        let chains: Vec<Dict> = settings.extract_inner("chain").unwrap();
        assert_eq!(chains[1]["block_time"].as_str(), Some("250ms"));
        assert_eq!(renamed.len(), 4);
    }

    #[test]
    fn every_key_is_renamed() {
        for key in KEYS {
            // An entry of a list for `chain.*`, a table for all else.
            let (table, leaf) = key.rsplit_once('.').unwrap();
            let header = match table.strip_suffix(".*") {
                Some("chain") => "[[chain]]".to_owned(),
                Some(table) => format!("[{table}.one]"),
                None => format!("[{table}]"),
            };
            let (_, renamed) = read(&format!("{header}\n{leaf} = 7")).unwrap();
            assert_eq!(renamed.len(), 1, "{key}");
        }
    }

    #[test]
    fn both_names_at_once_are_refused() {
        let text = refused("[prices]\nwatchdog = \"20s\"\nwatchdog_ms = 20000");
        assert!(text.contains("`prices.watchdog` is also given as `prices.watchdog_ms`"));
    }

    #[test]
    fn an_earlier_name_takes_whole_milliseconds() {
        for wrong in ["\"20s\"", "-1", "0.5", "true"] {
            let text = refused(&format!("[[chain]]\ncall_timeout_ms = {wrong}"));
            assert!(text.contains("`chain.0.call_timeout_ms` is"), "{text}");
            assert!(text.contains("call_timeout = \"10s\""), "{text}");
        }
    }

    #[test]
    fn the_later_source_wins_under_either_name() {
        let mut names = EarlierNames::default();
        let mut read = |text: &str| PresentNames::read(&Toml::string(text), &mut names).unwrap();
        let file = read("[stream]\nbatch_interval = \"50ms\"");
        let environment = read("[stream]\nbatch_interval_ms = 20");
        let merged = Figment::from(&file).merge(&environment);
        let text: String = merged.extract_inner("stream.batch_interval").unwrap();
        assert_eq!(text, "20ms");
    }

    #[test]
    fn an_error_quotes_the_name_that_was_given() {
        let (_, renamed) = read("[prices]\nwatchdog_ms = 0\nwindow_ms = 5").unwrap();
        let error = anyhow::anyhow!("prices.watchdog is 0s, expected 1ms at least");
        let text = Renamed::explain(&renamed, &error).to_string();
        assert!(text.contains("(`watchdog` was given as `prices.watchdog_ms`)"));
        assert!(!text.contains("window"), "{text}");
    }
}
