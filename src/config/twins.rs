//! Twins: entries of a list that have the same name, told apart so that each is checked by itself.
//!
//! A problem names its entry, and the name gives its line in the file. Where two have the name, the
//! second one gets another for the checks, and texts have its own again. With twins no server starts,
//! so nothing runs under such a name.

use std::collections::HashSet;

use tidewire_chain::ConfigError as ChainError;
use tidewire_price::config::ConfigError as PriceError;
use tidewire_stream::Namespaces;

use super::Config;

/// An entry that has the name of an earlier one.
#[derive(Debug)]
pub(super) struct Twin {
    /// The list: `chain`.
    pub(super) list: &'static str,
    /// Its index in the list.
    pub(super) index: usize,
    /// The key of the name.
    pub(super) key: &'static str,
    /// The name.
    pub(super) name: String,
    /// The name that it has for the checks.
    pub(super) stand_in: String,
    /// The problem that the name is there twice.
    pub(super) problem: String,
}

/// Renames the entries that have the name of an earlier one.
pub(super) fn separate(config: &mut Config) -> Vec<Twin> {
    let mut twins = Vec::new();
    let mut seen = HashSet::new();
    for (index, chain) in config.chain.iter_mut().enumerate() {
        if !seen.insert(chain.id) {
            let id = u64::MAX / 2 - index as u64;
            twins.push(Twin {
                list: "chain",
                index,
                key: "id",
                name: chain.id.to_string(),
                stand_in: id.to_string(),
                problem: ChainError::Twice(chain.id).to_string(),
            });
            chain.id = id;
        }
    }
    let mut names = Names::of("namespaces");
    for (index, namespace) in config.namespace.iter_mut().enumerate() {
        let name = namespace.name.clone();
        // A built-in one may be restricted twice.
        if !Namespaces::is_built_in(&name)
            && let Some(stand_in) = names.stand_in(&name, index)
        {
            let problem = format!("namespace {name:?} is named twice, expected different names");
            namespace.name.clone_from(&stand_in);
            twins.push(Twin {
                list: "namespace",
                index,
                key: "name",
                name,
                stand_in,
                problem,
            });
        }
    }
    let mut names = Names::of("sources");
    for (index, source) in config.prices.source.iter_mut().enumerate() {
        let name = source.name.clone();
        let name = name.unwrap_or_else(|| source.kind.name().to_owned());
        if let Some(stand_in) = names.stand_in(&name, index) {
            source.name = Some(stand_in.clone());
            twins.push(Twin {
                list: "prices.source",
                index,
                key: "name",
                problem: PriceError::SourceTwice(name.clone()).to_string(),
                name,
                stand_in,
            });
        }
    }
    let mut names = Names::of("webhooks");
    for (index, webhook) in config.delivery.webhook.iter_mut().enumerate() {
        let name = webhook.name.clone();
        if let Some(stand_in) = names.stand_in(&name, index) {
            let problem =
                format!("delivery.webhook.name is {name:?} twice, expected different names");
            webhook.name.clone_from(&stand_in);
            twins.push(Twin {
                list: "delivery.webhook",
                index,
                key: "name",
                name,
                stand_in,
                problem,
            });
        }
    }
    twins
}

/// The names of a list so far.
#[derive(Debug)]
struct Names {
    list: &'static str,
    seen: HashSet<String>,
}

impl Names {
    fn of(list: &'static str) -> Self {
        Self {
            list,
            seen: HashSet::new(),
        }
    }

    /// Another name for an entry, if an earlier one has its name. No other list has it.
    fn stand_in(&mut self, name: &str, index: usize) -> Option<String> {
        let is_new = self.seen.insert(name.to_owned());
        (!is_new).then(|| format!("twin-{index}-of-{}", self.list))
    }
}
