//! Agreement: compares the settings of this node with those of the others that share its channels.
//!
//! Nodes that disagree all work, and answer the same request differently: a token that one node refuses,
//! a notification that another one does not find. A change of the configuration, one node after the
//! other, is such a time too. A difference is therefore logged, and a degraded part that clients
//! are not told of: no node stops for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_stream::{Disclosure, HealthFault, NodeSettings, StreamCore};
use tokio_util::sync::CancellationToken;

use crate::shared_settings::NAMESPACE;

/// Time from the start to the first comparison. The other nodes know this one by then.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Time between two comparisons.
const LOOK: Duration = Duration::from_secs(10);

/// Differences that a text names at most.
const NAMED: usize = 8;

/// The value of a namespace that a node does not have.
const ABSENT: &str = "absent";

/// The settings of this node, and the nodes that have others.
pub(crate) struct Agreement {
    own: NodeSettings,
    /// The differences in words, by the node.
    differing: Mutex<BTreeMap<String, Difference>>,
}

/// Difference between this node and another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    place: String,
    /// Each setting with both values.
    settings: Vec<String>,
}

impl Agreement {
    pub(crate) fn new(own: NodeSettings) -> Arc<Self> {
        Arc::new(Self {
            own,
            differing: Mutex::default(),
        })
    }

    /// Compares until cancelled.
    pub(crate) async fn run(self: Arc<Self>, stream: Arc<StreamCore>, cancel: CancellationToken) {
        let start = tokio::time::Instant::now() + FIRST_LOOK;
        let mut ticks = tokio::time::interval_at(start, LOOK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = cancel.cancelled() => return,
            }
            if stream.broker().other_nodes() == 0 {
                self.note(&[], 0);
                continue;
            }
            let asked = cancel.run_until_cancelled(stream.settings_of_others());
            if let Some(Some(others)) = asked.await {
                self.note(&others.nodes, others.missing);
            }
        }
    }

    /// Notes what the others told. A node that is missing keeps what is known of it.
    fn note(&self, others: &[NodeSettings], missing: usize) {
        let mut differing = self.differing.lock();
        let had_any = !differing.is_empty();
        if missing == 0 {
            differing.retain(|node, _| others.iter().any(|other| other.node == *node));
        }
        for other in others {
            let settings = differences(&self.own, other);
            if settings.is_empty() {
                differing.remove(&other.node);
                continue;
            }
            let difference = Difference {
                place: other.place.clone(),
                settings,
            };
            let before = differing.insert(other.node.clone(), difference.clone());
            if before.as_ref() != Some(&difference) {
                tracing::warn!(
                    node = other.node,
                    place = other.place,
                    settings = difference.settings.join("; "),
                    "another node has other settings: expected the same on all nodes"
                );
            }
        }
        if had_any && differing.is_empty() {
            tracing::info!("all nodes have the same settings");
        }
    }

    /// How many other nodes have other settings.
    pub(crate) fn differing(&self) -> usize {
        self.differing.lock().len()
    }

    /// The differences. None if there are none.
    pub(crate) fn fault(&self) -> Option<HealthFault> {
        let differing = self.differing.lock();
        let texts = differing.iter().map(|(node, difference)| {
            let Difference { place, settings } = difference;
            format!("node {node} ({place}) differs: {}", named(settings))
        });
        let texts: Vec<_> = texts.collect();
        (!texts.is_empty()).then(|| HealthFault {
            text: named(&texts),
            disclosure: Disclosure::Operators("other nodes have other settings"),
        })
    }
}

/// The first of these texts, and how many more there are.
fn named(texts: &[String]) -> String {
    let mut text = texts[..texts.len().min(NAMED)].join("; ");
    if let Some(more) = texts.len().checked_sub(NAMED).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// The settings that differ. One that only one of the nodes tells is compared if it is a namespace: the
/// other node has no such role, or is of another release.
fn differences(own: &NodeSettings, other: &NodeSettings) -> Vec<String> {
    let names: std::collections::BTreeSet<_> =
        own.values.keys().chain(other.values.keys()).collect();
    let differing = names.into_iter().filter_map(|name| {
        let value = |node: &NodeSettings| match node.values.get(name) {
            Some(value) => Some(value.clone()),
            None => name.starts_with(NAMESPACE).then(|| ABSENT.to_owned()),
        };
        let (here, there) = (value(own)?, value(other)?);
        (here != there).then(|| format!("{name} is {there} there, and {here} here"))
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, values: &[(&str, &str)]) -> NodeSettings {
        let values = values.iter();
        NodeSettings {
            node: name.to_owned(),
            place: "host, 10.0.0.1:8080".to_owned(),
            values: values
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_difference_names_the_node_and_the_setting_until_they_agree() {
        let own = [("store.kind", "redis"), ("namespace orders", "x")];
        let agreement = Agreement::new(node("a", &own));
        let other = [("store.kind", "embedded"), ("only.there", "1")];
        agreement.note(&[node("b", &other)], 0);
        let fault = agreement.fault().unwrap();
        assert_eq!(
            fault.text,
            "node b (host, 10.0.0.1:8080) differs: namespace orders is absent there, and x here; store.kind is embedded there, and redis here"
        );
        assert_eq!(fault.summary(), "other nodes have other settings");
        // It does not answer: it may still differ.
        agreement.note(&[], 1);
        assert_eq!(agreement.differing(), 1);
        agreement.note(&[node("b", &own)], 0);
        assert_eq!(agreement.fault(), None);
        agreement.note(&[node("b", &other)], 0);
        // It is gone.
        agreement.note(&[node("c", &own)], 0);
        assert_eq!(agreement.differing(), 0);
    }
}
