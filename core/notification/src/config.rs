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
        let positive = [
            ("inbox_items", self.inbox_items as i64),
            ("max_age_ms", self.max_age_ms),
            ("broadcast_max_age_ms", self.broadcast_max_age_ms),
            ("max_broadcasts", self.max_broadcasts as i64),
        ];
        for (key, value) in positive {
            if value <= 0 {
                return Err(NotificationError::invalid(
                    key,
                    format!("{value}, expected at least 1"),
                ));
            }
        }
        if self.types.len() > MAX_CUSTOM_TYPES {
            let problem = format!(
                "{} types, expected at most {MAX_CUSTOM_TYPES}",
                self.types.len()
            );
            return Err(NotificationError::invalid("types", problem));
        }
        KindRegistry::new(HashMap::new(), &self.types)?;
        Ok(())
    }

    /// Checks that types exist: built-in ones, or those of [`types`](Self::types).
    ///
    /// # Errors
    /// `field` with the place of the unknown one, and the known types.
    pub fn check_types(&self, field: &str, names: &[String]) -> Result<(), NotificationError> {
        let (kinds, _) = KindRegistry::new(HashMap::new(), &self.types)?;
        kinds.find_all(field, &[], names).map(|_| ())
    }
}
