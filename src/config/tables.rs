//! Tables: the keys that stand for one table each, and those that are above other keys.
//!
//! A table that is written as a list would be read by the places of its values, and its faults would
//! be about keys that nobody has written.

use figment::{
    Provider as _,
    error::{Error, Kind},
    value::Value,
};

use super::{entries, environment::variable_of, millisecond_keys::PresentNames};

/// The keys that are one table.
const TABLES: [&str; 15] = [
    "server",
    "auth",
    "broker",
    "store",
    "stream",
    "limits",
    "prices",
    "prices.supply",
    "prices.supply_source",
    "notifications",
    "delivery",
    "delivery.push",
    "delivery.email",
    "alerts",
    "log",
];

/// The errors of values that are no table, and have to be one.
pub(super) fn faults(sources: &[PresentNames]) -> Vec<Error> {
    let faults = sources.iter().flat_map(|source| {
        let metadata = source.metadata();
        let is_of_environment = metadata.name.contains("environment");
        TABLES.iter().filter_map(move |table| {
            let path: Vec<_> = table.split('.').map(str::to_owned).collect();
            let value = source.value(&path)?;
            if let Value::Dict(..) = value {
                return None;
            }
            let expected = match is_of_environment {
                true => format!("one table: {}='{{…}}'", variable_of(table)),
                false => format!("one table: [{table}]"),
            };
            let mut error = Error::from(Kind::InvalidType(value.to_actual(), expected));
            error.path = path;
            error.metadata = Some(metadata.clone());
            Some(error)
        })
    });
    faults.collect()
}

/// Whether other keys are below this one: a text in its place may hold the secrets among them.
pub(super) fn is_above_keys(path: &[String]) -> bool {
    let key = path.join(".");
    TABLES.contains(&key.as_str()) || entries::is_list_or_entry(path)
}
