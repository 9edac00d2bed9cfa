//! Configuration: limits of users, the log, and restarts.

use crate::{AlertError, Limits};

/// A minute, in milliseconds.
pub(crate) const MINUTE_MS: i64 = 60_000;

/// A day, in milliseconds.
pub(crate) const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// Configuration of the alert engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertConfig {
    /// Rules of one user at most.
    pub rules_per_user: usize,
    /// Fires of one user in a minute that have a notification of their own. Further ones share one.
    pub fires_per_minute: u32,
    /// Longest absence over which a last value is still compared with the next, in milliseconds.
    pub catch_up_ms: u64,
    /// Fires in the log of one user at most. Beyond it, the oldest twentieth is removed.
    pub log_items: usize,
    /// Age at which a fire leaves the log, in milliseconds.
    pub log_max_age_ms: i64,
    /// Bounds of one rule.
    pub limits: Limits,
}

impl Default for AlertConfig {
    fn default() -> Self {
        Self {
            rules_per_user: 1_000,
            fires_per_minute: 60,
            catch_up_ms: 5 * 60 * 1_000,
            log_items: 1_000,
            log_max_age_ms: 90 * DAY_MS,
            limits: Limits::default(),
        }
    }
}

impl AlertConfig {
    /// Checks the configuration.
    ///
    /// # Errors
    /// The key at fault, and what was expected.
    pub fn check(&self) -> Result<(), AlertError> {
        let positive = [
            ("rules_per_user", self.rules_per_user as i64),
            ("fires_per_minute", i64::from(self.fires_per_minute)),
            ("log_items", self.log_items as i64),
            ("log_max_age", self.log_max_age_ms),
        ];
        for (key, value) in positive {
            if value <= 0 {
                let problem = format!("{value}, expected at least 1");
                return Err(AlertError::invalid(key, problem));
            }
        }
        Ok(())
    }
}
