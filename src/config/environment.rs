//! Environment: variables that look like settings and are none, and the filter of the log.
//!
//! Such a variable is a fault of the configuration, and no reason for a server not to start: it may be
//! somebody else's.

use std::collections::HashMap;

/// The prefix of the server's variables.
pub(super) const PREFIX: &str = "TIDEWIRE_";

/// Variables with the prefix that are no keys: the log's filter, those of the tests, and those of
/// the example applications.
const OTHERS: [&str; 7] = [
    "TIDEWIRE_LOG",
    "TIDEWIRE_URL",
    "TIDEWIRE_SECRET",
    "TIDEWIRE_PROTO",
    "TIDEWIRE_BIN",
    "TIDEWIRE_FUZZ_ITERATIONS",
    "TIDEWIRE_UPDATE_VECTORS",
];

/// The tables of the configuration.
const TABLES: [&str; 11] = [
    "SERVER",
    "AUTH",
    "BROKER",
    "STORE",
    "STREAM",
    "LIMITS",
    "PRICES",
    "NOTIFICATIONS",
    "DELIVERY",
    "ALERTS",
    "LOG",
];

/// The lists that are no part of a table: one variable sets each.
const LISTS: [&str; 2] = ["CHAIN", "NAMESPACE"];

/// Tables whose keys are upper-case names: symbols and assets.
const OF_SYMBOLS: [&str; 2] = ["prices.symbol.", "prices.supply."];

/// Variables without `__`, and their likely meaning.
const LIKELY: [(&str, &str); 15] = [
    ("LISTEN", "TIDEWIRE_SERVER__LISTEN"),
    ("PORT", "TIDEWIRE_SERVER__LISTEN"),
    ("HOST", "TIDEWIRE_SERVER__LISTEN"),
    ("SERVER_PORT", "TIDEWIRE_SERVER__LISTEN"),
    ("SERVER_HOST", "TIDEWIRE_SERVER__LISTEN"),
    ("HMAC_SECRET", "TIDEWIRE_AUTH__HMAC_SECRET"),
    ("SYMBOLS", "TIDEWIRE_PRICES__SYMBOLS"),
    ("STORE_PATH", "TIDEWIRE_STORE__PATH"),
    ("LOG_FORMAT", "TIDEWIRE_LOG__FORMAT"),
    ("LOG_LEVEL", "TIDEWIRE_LOG"),
    ("CHAINS", "TIDEWIRE_CHAIN"),
    ("NAMESPACES", "TIDEWIRE_NAMESPACE"),
    ("CONFIG", "the option --config"),
    ("CONFIG_FILE", "the option --config"),
    ("SOURCES", "TIDEWIRE_PRICES__SOURCE"),
];

/// The levels of the log.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The variables that set keys, by the path of the key in lower case. Where a file has the key too,
/// the variable's value counts.
#[derive(Debug, Default)]
pub(super) struct Variables(HashMap<String, String>);

impl Variables {
    /// The variables of this process.
    pub(super) fn of_process() -> Self {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        Self::of(names)
    }

    fn of(names: impl Iterator<Item = String>) -> Self {
        let mut variables = HashMap::new();
        for name in names {
            let upper = name.to_ascii_uppercase();
            let Some(rest) = upper.strip_prefix(PREFIX).filter(|rest| is_setting(rest)) else {
                continue;
            };
            let path = rest.replace("__", ".").to_ascii_lowercase();
            // A key with an earlier name in milliseconds sets the one of today.
            if let Some(present) = path.strip_suffix("_ms") {
                variables.insert(present.to_owned(), name.clone());
            }
            variables.insert(path, name);
        }
        Self(variables)
    }

    /// The variable that sets this key, or the whole table or list that it is in.
    pub(super) fn setting(&self, path: &str) -> Option<&str> {
        let path = path.to_ascii_lowercase();
        let ends = path.match_indices('.').map(|(at, _)| at);
        let mut ends: Vec<_> = ends.chain([path.len()]).collect();
        ends.reverse();
        let mut keys = ends.into_iter().map(|end| &path[..end]);
        keys.find_map(|key| self.0.get(key)).map(String::as_str)
    }

    /// The variable that sets this key, and no table or list around it.
    pub(super) fn setting_alone(&self, path: &str) -> Option<&str> {
        self.0.get(&path.to_ascii_lowercase()).map(String::as_str)
    }

    /// A variable that sets a part of this table or list.
    pub(super) fn within(&self, path: &str) -> Option<&str> {
        let start = format!("{}.", path.to_ascii_lowercase());
        let mut parts: Vec<_> = self
            .0
            .iter()
            .filter(|(key, _)| key.starts_with(&start))
            .collect();
        parts.sort();
        parts.first().map(|(_, name)| name.as_str())
    }
}

/// Whether a variable sets a key, by its name without the prefix. Every key is in a table or a list.
pub(super) fn is_setting(name: &str) -> bool {
    name.contains("__") || LISTS.iter().any(|list| list.eq_ignore_ascii_case(name))
}

/// The path of the key that a variable sets, by its name without the prefix. Names of symbols and
/// assets are in upper case.
pub(super) fn path_of_variable(name: &str) -> String {
    let path = name.replace("__", ".").to_ascii_lowercase();
    let table = OF_SYMBOLS.iter().find(|table| path.starts_with(*table));
    let Some(table) = table else {
        return path;
    };
    let (symbol, key) = match path[table.len()..].split_once('.') {
        Some((symbol, key)) => (symbol, format!(".{key}")),
        None => (&path[table.len()..], String::new()),
    };
    format!("{table}{}{key}", symbol.to_ascii_uppercase())
}

/// The faults of variables that set nothing. Variables that Kubernetes makes for a service named
/// `tidewire` are left out.
pub(crate) fn unknown_variables<'a>(
    variables: impl Iterator<Item = (&'a str, &'a str)>,
) -> Vec<String> {
    let mut hints: Vec<_> = variables
        .filter(|(name, value)| name.starts_with(PREFIX) && !is_of_kubernetes(name, value))
        .filter(|(name, _)| !OTHERS.contains(name) && !is_setting(&name[PREFIX.len()..]))
        .map(|(name, _)| {
            let rest = &name[PREFIX.len()..];
            let likely = LIKELY.iter().find(|(likely, _)| *likely == rest);
            let guess = likely.map(|(_, meant)| (*meant).to_owned());
            let guess = guess.or_else(|| {
                // `TIDEWIRE_SERVER_LISTEN`: one underscore where two are needed.
                let (table, key) = rest.split_once('_')?;
                if LISTS.contains(&table) {
                    return Some(format!("{PREFIX}{table}='[{{…}}, {{…}}]'"));
                }
                let is_table = TABLES.contains(&table);
                is_table.then(|| format!("{PREFIX}{table}__{}", key.trim_start_matches('_')))
            });
            let guess = match guess {
                Some(guess) => format!("did you mean {guess}?"),
                None => format!("expected {PREFIX}TABLE__KEY, such as {PREFIX}SERVER__LISTEN"),
            };
            format!("the environment variable {name} sets nothing: {guess}")
        })
        .collect();
    hints.sort();
    hints
}

/// The variable that sets a key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn is_of_kubernetes(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.starts_with("TIDEWIRE_PORT_")
        || (name == "TIDEWIRE_PORT" && value.contains("://"))
}

/// Checks the filter of the log: `info`, or `info,tidewire_chain=debug`. The library takes an
/// unknown level for the name of a module, and would log nothing.
///
/// # Errors
/// Names the part that is no level, and what was expected.
pub(crate) fn check_log_filter(filter: &str) -> Result<(), String> {
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
    for part in filter
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        // A filter on spans or fields, which is the library's to judge.
        if part.contains('[') {
            continue;
        }
        let is_good = match part.split_once('=') {
            Some((_, level)) => is_level(level.trim()),
            None => is_level(part) || part.contains("::") || part.starts_with("tidewire"),
        };
        if !is_good {
            return Err(format!(
                "TIDEWIRE_LOG is {filter:?}, in which {part:?} is no level, expected one of {}, or levels of modules such as \"info,tidewire_chain=debug\"",
                LEVELS.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_sets_nothing_is_named() {
        let hints = |name: &str, value: &str| unknown_variables([(name, value)].into_iter());
        for quiet in [
            "TIDEWIRE_LOG",
            "TIDEWIRE_SECRET",
            "TIDEWIRE_SERVER__LISTEN",
            "PATH",
        ] {
            assert_eq!(hints(quiet, "info"), [""; 0], "{quiet}");
        }
        for (name, guess) in [
            ("TIDEWIRE_LISTEN", "TIDEWIRE_SERVER__LISTEN"),
            ("TIDEWIRE_SERVER_LISTEN", "TIDEWIRE_SERVER__LISTEN"),
            ("TIDEWIRE_PORT", "TIDEWIRE_SERVER__LISTEN"),
            ("TIDEWIRE_SERVER_PORT", "TIDEWIRE_SERVER__LISTEN"),
            ("TIDEWIRE_LOG_LEVEL", "did you mean TIDEWIRE_LOG?"),
            ("TIDEWIRE_CONFIG", "the option --config"),
            ("TIDEWIRE_CHAIN_0_ID", "TIDEWIRE_CHAIN='[{…}, {…}]'"),
            ("TIDEWIRE_COLOUR", "expected TIDEWIRE_TABLE__KEY"),
        ] {
            let hints = hints(name, "1");
            assert!(
                hints[0].contains(name) && hints[0].contains(guess),
                "{hints:?}"
            );
        }
        for (name, value) in [
            ("TIDEWIRE_PORT", "tcp://10.0.0.1:8080"),
            ("TIDEWIRE_SERVICE_HOST", "10.0.0.1"),
            ("TIDEWIRE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ] {
            assert_eq!(hints(name, value), [""; 0], "{name}");
        }
    }

    #[test]
    fn a_variable_is_found_by_the_key_that_it_sets() {
        let names = [
            "TIDEWIRE_LIMITS__FRAME_BYTES",
            "TIDEWIRE_PRICES__SOURCE",
            "TIDEWIRE_PRICES__SYMBOL__BTC-USD__WINDOW_MS",
            "TIDEWIRE_LOG",
            "PATH",
        ];
        let variables = Variables::of(names.into_iter().map(str::to_owned));
        for (path, variable) in [
            ("limits.frame_bytes", Some(names[0])),
            ("limits.history_bytes", None),
            ("limits", None),
            ("prices.source.0.url", Some(names[1])),
            ("prices.symbol.BTC-USD.window", Some(names[2])),
            ("prices.symbol.BTC-USD.window_ms", Some(names[2])),
            ("log", None),
        ] {
            assert_eq!(variables.setting(path), variable, "{path}");
        }
    }

    #[test]
    fn a_variable_has_the_path_of_its_key() {
        for (name, path) in [
            ("SERVER__LISTEN", "server.listen"),
            (
                "prices__symbol__btc-usd__Window",
                "prices.symbol.BTC-USD.window",
            ),
            ("PRICES__SUPPLY__BTC", "prices.supply.BTC"),
            ("PRICES__SUPPLY_SOURCE__URL", "prices.supply_source.url"),
            ("CHAIN", "chain"),
        ] {
            assert_eq!(path_of_variable(name), path);
        }
    }

    #[test]
    fn an_unknown_log_level_is_refused() {
        for good in [
            "",
            "info",
            "DEBUG",
            "info,tidewire_chain=debug",
            "off,hyper=trace",
            "tidewire",
            "tower::buffer",
            "info,[conn{id=5}]=trace",
        ] {
            assert_eq!(check_log_filter(good), Ok(()), "{good}");
        }
        for bad in ["inof", "info,tidewire_chain=dbug", "verbose", "5"] {
            let error = check_log_filter(bad).unwrap_err();
            assert!(error.contains("expected one of off, error"), "{error}");
        }
    }
}
