//! Health of the connections to Redis.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// The faults of the connections, each under the name of its user.
#[derive(Debug, Default)]
pub(super) struct LinkHealth(Mutex<BTreeMap<String, String>>);

impl LinkHealth {
    /// Notes a fault, and logs it if it is another than before.
    pub(super) fn fail(&self, link: &str, fault: &dyn std::fmt::Display) {
        let fault = fault.to_string();
        let before = self.0.lock().insert(link.to_owned(), fault.clone());
        if before.as_ref() != Some(&fault) {
            tracing::warn!(link, fault, "Redis does not work");
        }
    }

    /// Notes that a connection works.
    pub(super) fn recover(&self, link: &str) {
        if self.0.lock().remove(link).is_some() {
            tracing::info!(link, "Redis works again");
        }
    }

    /// A fault in words, if there is one.
    pub(super) fn fault(&self) -> Option<String> {
        self.0.lock().values().next().cloned()
    }
}
