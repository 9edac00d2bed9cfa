//! Configuration: custom types, retention, and limits of requests.

use std::collections::HashMap;

use crate::{
    NotificationError,
    kind::{KindRegistry, MAX_CUSTOM_TYPES},
};

/// A day, in milliseconds.
pub(crate) const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Configuration of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationConfig {
    /// Types beyond the eight built-in ones: lower-case letters, digits and `_`.
    pub types: Vec<String>,
    /// Notifications that a user's inbox holds at most. A newer one then replaces the oldest:
    /// a twentieth of the inbox is removed at once.
    pub inbox_items: usize,
    /// Age at which a notification to users is removed, in milliseconds.
    pub max_age_ms: i64,
    /// Age at which a broadcast is removed, in milliseconds.
    pub broadcast_max_age_ms: i64,
    /// Broadcasts that are in the lists at most. A newer one then recalls the oldest.
    pub max_broadcasts: usize,
    /// Users see the broadcasts of this time before they were first seen, in milliseconds.
    pub first_contact_window_ms: i64,
    /// Bytes that cached states of users may take.
    pub cache_bytes: usize,
    /// Whether notifications also go to delivery channels outside of the application. Each is
    /// then noted in the table of [outgoing](crate::outgoing) notifications.
    pub has_delivery: bool,
}

impl Default for NotificationConfig {
    fn default() -> Self {
        Self {
            types: Vec::new(),
            inbox_items: 10_000,
            max_age_ms: 90 * DAY_MS,
            broadcast_max_age_ms: 30 * DAY_MS,
            max_broadcasts: 1_000,
            first_contact_window_ms: 30 * DAY_MS,
            cache_bytes: 64 << 20,
            has_delivery: false,
        }
    }
}

impl NotificationConfig {
    /// Checks the configuration.
    ///
    /// # Errors
    /// The key at fault, and what was expected.
    pub fn check(&self) -> Result<(), NotificationError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// All that is wrong.
    #[must_use]
    pub fn problems(&self) -> Vec<NotificationError> {
        let positive = [
            ("inbox_items", self.inbox_items as i64),
            ("max_age_ms", self.max_age_ms),
            ("broadcast_max_age_ms", self.broadcast_max_age_ms),
            ("max_broadcasts", self.max_broadcasts as i64),
        ];
        let wrong = positive.into_iter().filter(|(_, value)| *value <= 0);
        let mut problems: Vec<_> = wrong
            .map(|(key, value)| {
                NotificationError::invalid(key, format!("{value}, expected at least 1"))
            })
            .collect();
        if self.types.len() > MAX_CUSTOM_TYPES {
            let problem = format!(
                "{} types, expected at most {MAX_CUSTOM_TYPES}",
                self.types.len()
            );
            problems.push(NotificationError::invalid("types", problem));
        }
        problems.extend(KindRegistry::name_problems(&self.types));
        problems
    }

    /// Checks that types exist: built-in ones, or those of [`types`](Self::types). Of these, one at
    /// fault counts as well.
    ///
    /// # Errors
    /// `field` with the place of each unknown one, and the known types.
    pub fn check_types(&self, field: &str, names: &[String]) -> Result<(), Vec<NotificationError>> {
        let mut known = self.types.clone();
        known.retain(|name| KindRegistry::name_problems(std::slice::from_ref(name)).is_empty());
        known.sort_unstable();
        known.dedup();
        let is_meant = |name: &&String| self.types.contains(name);
        let (kinds, _) = KindRegistry::new(HashMap::new(), &known).map_err(|error| vec![error])?;
        let places = names.iter().enumerate();
        let places = places.filter(|(_, name)| !is_meant(name));
        let unknown: Vec<_> = places
            .filter_map(|(place, name)| kinds.find(&format!("{field}[{place}]"), 0, name).err())
            .collect();
        match unknown.is_empty() {
            true => Ok(()),
            false => Err(unknown),
        }
    }
}
